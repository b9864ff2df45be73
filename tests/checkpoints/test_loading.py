"""Loading by name, and the task of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import elir_deploy.checkpoints
from elir_deploy.checkpoints import load_checkpoint, loading, save_checkpoint
from elir_deploy.errors import CheckpointError, UsageError
from elir_deploy.model import Elir
from elir_deploy.tasks import TASKS, TaskSpec
from tests import official


def test_public_names() -> None:
    for name in elir_deploy.checkpoints.__all__:
        assert getattr(elir_deploy.checkpoints, name).__doc__


def test_fields_of_a_checkpoint(tmp_path: Path, bsr_pth: Path) -> None:
    import hashlib

    checkpoint = load_checkpoint(str(bsr_pth), "bsr")
    assert checkpoint.task == TASKS["bsr"]
    assert checkpoint.name == "bsr.pth"
    assert checkpoint.sha256 == hashlib.sha256(bsr_pth.read_bytes()).hexdigest()
    assert not checkpoint.random


def test_wrong_task_lists_the_differences(bsr_pth: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(bsr_pth, "bfr")
    assert str(caught.value) == (
        f"{bsr_pth}: --task bfr has vector_field_width 128 and middle_blocks 3; "
        "this file has 96 and 1: it fits bsr"
    )


@contextmanager
def zeros(path: Path, layout: str) -> Iterator[Path]:
    """A temporary released file with the right shapes and zeros."""
    shapes = official.layout(layout)
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    yield path
    path.unlink()


def test_tasks_with_the_same_shapes(tmp_path: Path) -> None:
    with zeros(tmp_path / "model.pth", "sr_denoise_inpaint.pth") as path:
        with pytest.raises(CheckpointError, match=r"fit sr, denoise, inpaint: .*--task"):
            load_checkpoint(path)
        for task in ("sr", "denoise", "inpaint"):
            assert load_checkpoint(path, task).task == TASKS[task]
        with pytest.raises(CheckpointError, match="it fits sr, denoise, inpaint"):
            load_checkpoint(path, "bfr")


def test_the_name_of_a_released_file_determines_its_task(tmp_path: Path) -> None:
    with zeros(tmp_path / "elir_inpainting.pth", "sr_denoise_inpaint.pth") as path:
        assert load_checkpoint(path).task == TASKS["inpaint"]
        assert load_checkpoint(path, "sr").task == TASKS["sr"]


def test_bfr_is_recognised(tmp_path: Path) -> None:
    with zeros(tmp_path / "model.pth", "bfr.pth") as path:
        checkpoint = load_checkpoint(path)
    assert checkpoint.task == TASKS["bfr"]


def test_shapes_of_two_tasks(
    tmp_path: Path,
    small_flat: dict[str, Any],
    small_task: TaskSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.save(small_flat, tmp_path / "model.pth")
    monkeypatch.setitem(TASKS, "other", replace(small_task, name="other"))
    with pytest.raises(CheckpointError, match=r"fit small, other: .*--task"):
        load_checkpoint(tmp_path / "model.pth")
    assert load_checkpoint(tmp_path / "model.pth", "other").task.name == "other"


def test_shapes_of_no_task(tmp_path: Path, small_flat: dict[str, Any]) -> None:
    torch.save(small_flat, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="fits no task; the closest, tiny, has"):
        load_checkpoint(tmp_path / "model.pth")
    # A model of the user's own: --task names the task, shapes determine the architecture.
    task = load_checkpoint(tmp_path / "model.pth", "bfr").task
    assert task.architecture == official.SMALL
    assert (task.name, task.image_size, task.paper_fps) == ("bfr", 512, None)


def test_unknown_task(small_file: Path) -> None:
    with pytest.raises(UsageError, match="unknown task 'deblur'"):
        load_checkpoint(small_file, "deblur")


def test_unknown_name() -> None:
    with pytest.raises(CheckpointError, match=r"elir_brf: .*random, tiny, elir_bfr, elir_sr"):
        load_checkpoint("elir_brf")


def test_random_weights() -> None:
    state = torch.random.get_rng_state()
    first = load_checkpoint("random", "tiny")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.random
    assert (first.name, first.layout, first.sha256) == ("random", "random", None)
    assert first.task == TASKS["tiny"]
    same, other = load_checkpoint("random", "tiny"), load_checkpoint("random", "tiny", seed=1)
    weight = first.model.encoder.layers[0].weight
    assert torch.equal(weight, same.model.encoder.layers[0].weight)
    assert not torch.equal(weight, other.model.encoder.layers[0].weight)
    assert not weight.requires_grad
    assert not first.model.training


def test_random_weights_give_pictures() -> None:
    """Neither one colour nor all clipped, so that outputs can be compared."""
    checkpoint = load_checkpoint("random", "tiny")
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    restored = checkpoint.model(image, checkpoint.task.steps)
    assert 0.05 < restored.std() < 0.5
    assert ((restored > 0) & (restored < 1)).float().mean() > 0.5


def test_random_weights_need_a_task() -> None:
    with pytest.raises(UsageError, match="random weights need --task"):
        load_checkpoint("random")


def test_file_of_a_known_name_comes_first(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_model: Elir,
    small_task: TaskSpec,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("random", "tiny", "elir_bfr"):
        save_checkpoint(name, small_model, small_task)
        assert load_checkpoint(name).task == small_task
    (tmp_path / "sub" / "random").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "sub")
    assert load_checkpoint("random", "tiny").random


def test_tiny(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_model: Elir, small_task: TaskSpec
) -> None:
    monkeypatch.setattr(loading.resources, "files", lambda package: tmp_path)
    (tmp_path / "data").mkdir()
    save_checkpoint(tmp_path / "data" / "tiny.safetensors", small_model, small_task)
    checkpoint = load_checkpoint("tiny")
    assert (checkpoint.name, checkpoint.task) == ("tiny.safetensors", small_task)


def test_released_name_knows_its_task(
    tmp_path: Path,
    small_flat: dict[str, Any],
    small_task: TaskSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ELIR_CACHE", str(tmp_path))
    for name in ("sr", "denoise"):
        spec = replace(TASKS[name], architecture=small_task.architecture)
        monkeypatch.setitem(TASKS, name, spec)
    torch.save(small_flat, tmp_path / "elir_sr.pth")
    checkpoint = load_checkpoint("elir_sr")
    assert (checkpoint.task.name, checkpoint.name) == ("sr", "elir_sr.pth")
    with pytest.raises(CheckpointError, match="elir_sr is for task sr, not denoise"):
        load_checkpoint("elir_sr", "denoise")
