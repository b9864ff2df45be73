"""This project's format."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from elir_deploy.checkpoints import load_checkpoint, save_checkpoint
from elir_deploy.errors import CheckpointError, OutputError
from elir_deploy.model import Elir, collapse_convolutions
from elir_deploy.tasks import TASKS, Architecture, TaskSpec
from tests.checkpoints.conftest import SMALL_TASK


@pytest.mark.parametrize("collapsible", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vector_field_multipliers": (1,)},
        {"vector_field_multipliers": (2, 1, 3)},
        {"middle_blocks": 0},
        {"middle_blocks": 2, "estimator_blocks": 1, "estimator_growth": 3},
        {"autoencoder_blocks": 1, "latent_channels": 5, "autoencoder_width": 7},
        {"time_frequencies": 4, "time_width": 3, "vector_field_width": 64},
    ],
)
def test_every_architecture_comes_back(
    tmp_path: Path, changes: dict[str, Any], collapsible: bool
) -> None:
    architecture = replace(SMALL_TASK.architecture, **changes)
    model = Elir(architecture, collapsible)
    spec = replace(TASKS["denoise"], image_size=128, steps=7, sigma_s=0.5)
    save_checkpoint(tmp_path / "model.safetensors", model, spec)
    checkpoint = load_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.task == replace(spec, architecture=architecture)
    assert (checkpoint.layout, checkpoint.random) == ("elir", False)
    assert checkpoint.model.arch == architecture
    assert checkpoint.model.collapsible == collapsible
    actual, expected = checkpoint.model.state_dict(), model.state_dict()
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_bytes_are_the_same_twice(tmp_path: Path, small_model: Elir, small_task: TaskSpec) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, small_model, small_task)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_collapsed_after_training(tmp_path: Path, small_task: TaskSpec) -> None:
    torch.manual_seed(0)
    model = Elir(small_task.architecture, collapsible=True).double()
    collapse_convolutions(model)
    save_checkpoint(tmp_path / "model", model, small_task)
    checkpoint = load_checkpoint(tmp_path / "model")
    assert not checkpoint.model.collapsible
    assert next(checkpoint.model.parameters()).dtype == torch.float32


def test_contradicting_task(small_file: Path) -> None:
    assert load_checkpoint(small_file, "small").task.name == "small"
    with pytest.raises(CheckpointError, match="was saved for task small, not bsr"):
        load_checkpoint(small_file, "bsr")


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, small_task: TaskSpec) -> None:
    model = Elir(small_task.architecture)
    with torch.no_grad():
        model.decoder.layers[0].bias[0] = float("inf")
    with pytest.raises(CheckpointError, match=r"decoder\.layers\.0\.bias"):
        save_checkpoint(tmp_path / "model", model, small_task)
    assert not list(tmp_path.iterdir())


def test_unwritable_paths(tmp_path: Path, small_model: Elir, small_task: TaskSpec) -> None:
    with pytest.raises(OutputError, match=r"none.* cannot be written: No such file"):
        save_checkpoint(tmp_path / "none" / "model", small_model, small_task)
    with pytest.raises(OutputError, match="Is a directory"):
        save_checkpoint(tmp_path, small_model, small_task)
    assert not list(tmp_path.iterdir())


def test_interrupted_write_leaves_nothing(
    tmp_path: Path, small_model: Elir, small_task: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    path.write_text("older")

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, small_model, small_task)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]


def edit_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the JSON header of a safetensors file by hand."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def edit_configuration(path: Path, **entries: Any) -> None:
    """Change entries of the configuration; None removes one."""

    def change(header: dict[str, Any]) -> None:
        configuration = json.loads(header["__metadata__"]["elir"]) | entries
        entries_left = {name: value for name, value in configuration.items() if value is not None}
        header["__metadata__"]["elir"] = json.dumps(entries_left)

    edit_header(path, change)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"sigma_s": 0.25}, "is damaged: its SHA-256"),
        ({"format": 2}, "has format 2, this version reads 1: update"),
        ({"task": "deblur"}, "unknown task 'deblur', expected one of bfr"),
        ({"task": ["bfr"]}, "configuration is damaged"),
        ({"form": "folded"}, "configuration is damaged"),
        ({"form": "over-parametrised"}, "SHA-256"),
        ({"steps": 0}, "expected a positive integer"),
        ({"steps": True}, "expected a positive integer"),
        ({"image_size": 1.5}, "expected a positive integer"),
        ({"sigma_s": -1}, "expected a number >= 0"),
        ({"sigma_s": float("nan")}, "expected a number >= 0"),
        ({"sigma_s": "0.1"}, "expected a number >= 0"),
        ({"architecture": {"width": 1}}, "unknown entry 'width'"),
        ({"architecture": []}, "configuration is damaged"),
        ({"architecture": {"vector_field_width": 33}}, "vector_field_width is 33"),
        ({"sha256": None}, "configuration is damaged"),
    ],
)
def test_wrong_configurations(small_file: Path, entries: dict[str, Any], message: str) -> None:
    edit_configuration(small_file, **entries)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(small_file)


@pytest.mark.parametrize("text", ["", "[]", "1", "{", "{}", "[" * 100_000])
def test_malformed_configurations(small_file: Path, text: str) -> None:
    edit_header(small_file, lambda header: header["__metadata__"].update(elir=text))
    with pytest.raises(CheckpointError, match="configuration is damaged"):
        load_checkpoint(small_file)


def test_without_configuration(small_file: Path) -> None:
    edit_header(small_file, lambda header: header.pop("__metadata__"))
    with pytest.raises(CheckpointError, match="no configuration"):
        load_checkpoint(small_file)


def test_recorded_architecture_must_be_that_of_the_tensors(
    tmp_path: Path, small_model: Elir, small_task: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_model, "arch", Architecture(middle_blocks=2))
    save_checkpoint(tmp_path / "model", small_model, small_task)
    with pytest.raises(CheckpointError, match=r"recorded architecture.*middle_blocks 2"):
        load_checkpoint(tmp_path / "model")
