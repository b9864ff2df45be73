"""Whatever happens to a file, it loads as it was or is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from elir_deploy.checkpoints import load_checkpoint, save_checkpoint
from elir_deploy.checkpoints.containers import open_container
from elir_deploy.errors import CheckpointError
from elir_deploy.model import Elir
from elir_deploy.tasks import TaskSpec

Writer = Callable[[Path], None]


@pytest.fixture(params=["released", "training", "elir"])
def written(
    request: pytest.FixtureRequest,
    small_flat: dict[str, Any],
    small_parts: dict[str, Any],
    small_model: Elir,
    small_task: TaskSpec,
    tmp_path: Path,
) -> Path:
    path = tmp_path / "model"
    if request.param == "elir":
        save_checkpoint(path, small_model, small_task)
    else:
        torch.save(small_flat if request.param == "released" else small_parts, path)
    return path


def loads_as(path: Path, expected: dict[str, torch.Tensor], task: TaskSpec) -> bool:
    """Whether it loads; then it must be what it was."""
    try:
        checkpoint = load_checkpoint(path)
    except CheckpointError as error:
        message = str(error)
        assert message.count("\n") <= 1
        assert len(message) < 1000
        return False
    assert checkpoint.task == task
    actual = checkpoint.model.state_dict()
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    return True


def test_cut_short(written: Path, small_task: TaskSpec) -> None:
    data = written.read_bytes()
    expected = load_checkpoint(written).model.state_dict()
    rng = random.Random(0)
    lengths = [*range(0, 40, 3), *(len(data) - n for n in (1, 2, 21, 22, 100, 5000))]
    lengths += [rng.randrange(len(data)) for _ in range(25)]
    for length in lengths:
        written.write_bytes(data[:length])
        assert not loads_as(written, expected, small_task), length


def offsets_in(data: bytes, count: int) -> list[int]:
    """Offsets all over the file, and more where structure rather than weights lies."""
    rng = random.Random(1)
    near = min(20_000, len(data))
    offsets = [rng.randrange(len(data)) for _ in range(count)]
    offsets += [rng.randrange(near) for _ in range(count)]
    offsets += [len(data) - 1 - rng.randrange(near) for _ in range(count)]
    return [*offsets, *range(8), *range(len(data) - 22, len(data), 3)]


def test_flipped_bits(written: Path, small_task: TaskSpec) -> None:
    data = written.read_bytes()
    expected = load_checkpoint(written).model.state_dict()
    rng = random.Random(2)
    for offset in offsets_in(data, 10):
        bad = bytearray(data)
        bad[offset] ^= 1 << rng.randrange(8)
        written.write_bytes(bad)
        loads_as(written, expected, small_task)


def test_every_flipped_bit_of_an_archive(tmp_path: Path) -> None:
    """The container alone, which is what must notice: names, numbers and their order."""
    path = tmp_path / "model.pth"
    state = {"a": {"b": torch.arange(6.0).view(2, 3)}, "c": torch.ones(2, dtype=torch.bfloat16)}
    torch.save(state, path)
    data = path.read_bytes()
    refused = 0
    for offset in range(len(data)):
        bad = bytearray(data)
        bad[offset] ^= 1 << (offset % 8)
        path.write_bytes(bad)
        try:
            with open_container(path) as container:
                assert container.entries.keys() == {"a", "c"}
                torch.testing.assert_close(container.entries["a"]["b"].read(), state["a"]["b"])
                torch.testing.assert_close(container.entries["c"].read(), state["c"])
        except CheckpointError:
            refused += 1
    assert refused > len(data) / 4  # the rest is padding, dates and the like


def test_zeroed_blocks(written: Path, small_task: TaskSpec) -> None:
    data = written.read_bytes()
    expected = load_checkpoint(written).model.state_dict()
    for start in range(0, len(data), max(4096, len(data) // 12)):
        bad = bytearray(data)
        bad[start : start + 4096] = bytes(len(bad[start : start + 4096]))
        written.write_bytes(bad)
        loads_as(written, expected, small_task)
