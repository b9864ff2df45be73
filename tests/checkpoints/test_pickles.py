"""Nothing in a file is executed, and other objects do not prevent loading the tensors."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import decimal
import functools
import io
import os
import pathlib
import pickle
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elir_deploy.checkpoints import load_checkpoint
from elir_deploy.checkpoints.pickles import FOREIGN, TensorReference, read_pickle
from elir_deploy.errors import CheckpointError
from elir_deploy.tasks import TaskSpec


class Runs:
    """Pickles to a call of a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


class Trainer:
    """A class that is not installed where the file is read."""

    class Nested:
        pass

    def __init__(self) -> None:
        self.loss = torch.zeros(3)
        self.nested = Trainer.Nested()
        self.history = [1, 2, 3]


class Slotted(dict):
    __slots__ = ("extra",)


def trainers_entries() -> dict[str, Any]:
    """Objects that trainers save beside the weights."""
    slotted = Slotted(a=1)
    slotted.extra = torch.zeros(2)
    return {
        "args": argparse.Namespace(lr=1e-4, path=pathlib.PurePosixPath("/data")),
        "counts": collections.defaultdict(list, {"a": [1]}),
        "partial": functools.partial(print, "x", end=""),
        "trainer": Trainer(),
        "slotted": slotted,
        "set": {1, 2},
        "frozenset": frozenset({(1, 2)}),
        "deque": collections.deque([1, 2]),
        "counter": collections.Counter("abc"),
        "numpy": [np.float64(1.5), np.arange(3), np.dtype("f4")],
        "when": datetime.datetime(2024, 1, 1),
        "decimal": decimal.Decimal("1.5"),
        "complex": 1j,
        "bytes": [b"x", bytearray(b"y")],
        "numbers": [0, -1, 255, 2**16, 2**40, 2**100, -(2**100), 1.5, True, None, ...],
        "dtype": [torch.float16, torch.device("cpu"), torch.Size([1])],
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1}]},
        "cycle": (lambda d: d.update(me=d) or d)({}),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_foreign_entries_are_ignored(
    tmp_path: Path, small_parts: dict[str, Any], small_task: TaskSpec, protocol: int
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(trainers_entries() | small_parts, path, pickle_protocol=protocol)
    if protocol == 2:
        with pytest.raises(pickle.UnpicklingError):
            torch.load(path, weights_only=True)
    model = load_checkpoint(path).model
    torch.testing.assert_close(
        model.encoder.layers[0].weight,
        small_parts["state_dict_enc"]["layers.0.weight"],
        rtol=0,
        atol=0,
    )


def test_code_beside_the_weights_does_not_run(
    tmp_path: Path, small_flat: dict[str, Any], small_task: TaskSpec
) -> None:
    witness = tmp_path / "witness"
    path = tmp_path / "model.pth"
    torch.save(small_flat | {"hook": Runs(f"touch {witness}")}, path)
    assert load_checkpoint(path).task.name == "small"
    assert not witness.exists()
    torch.load(path, weights_only=False)
    assert witness.exists()  # the file does contain the command


def test_code_in_place_of_the_weights_does_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = tmp_path / "model.pth"
    torch.save(Runs(f"touch {witness}"), path)
    with pytest.raises(CheckpointError, match="not a dictionary"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Runs(f"touch {witness}")))
    with pytest.raises(CheckpointError, match=r"a pickle that torch\.save did not write"):
        load_checkpoint(path)
    assert not witness.exists()


@pytest.mark.parametrize("hook", ["a reduce in place of a tensor", "a foreign class"])
def test_foreign_object_under_a_tensors_name(
    tmp_path: Path, small_flat: dict[str, Any], small_task: TaskSpec, hook: str
) -> None:
    witness = tmp_path / "witness"
    value = Runs(f"touch {witness}") if "reduce" in hook else Trainer()
    torch.save(small_flat | {"enc.layers.0.bias": value}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"missing tensors: 'enc\.layers\.0\.bias'"):
        load_checkpoint(tmp_path / "model.pth")
    assert not witness.exists()


def test_plain_values() -> None:
    value = {"a": [1, 2.5, "x", None, True, (1, 2, 3, 4)], "b": {"c": b"y"}}
    for protocol in range(6):
        assert read_pickle(pickle.dumps(value, protocol))["a"] == value["a"]


def test_keys_that_are_not_strings_are_skipped() -> None:
    assert read_pickle(pickle.dumps({1: "x", (2,): "y", "z": "z"})) == {"z": "z"}


def test_globals_are_not_imported() -> None:
    stream = b"cthis_module_is_nowhere\nnothing\n(S'x'\ntR."
    assert read_pickle(stream) is FOREIGN


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b".",
        b"}",
        b"(.",
        b"t.",
        b"\x85.",
        b"R.",
        b"h\x07.",
        b"}(K\x01u.",
        b"u.",
        b"s.",
        b"\x97.",  # an out-of-band buffer
        b"\x80\x63}.",
        b"\xff.",
        b"X\xff\xff\xff\x7fabc.",  # a string of 2 GB that is not there
        b"\x96" + struct.pack("<Q", 2**50) + b".",  # a byte array of a petabyte
        b"I" + b"9" * 100_000 + b"\n.",
    ],
)
def test_malformed_streams(stream: bytes) -> None:
    with contextlib.suppress(CheckpointError):
        assert not isinstance(read_pickle(stream), TensorReference)


def nested_tuples(depth: int) -> bytes:
    return b")" + b"\x85" * depth


@pytest.mark.parametrize(
    "stream",
    [
        # Keys whose hash would overflow the stack, or take 2 ** 60 steps.
        b"}" + nested_tuples(300_000) + b"K\x01s.",
        b"})" + b"2\x86" * 60 + b"K\x01s.",
        # A memo index that would have pickle.Unpickler allocate 32 GB.
        b"}r\xff\xff\xff\x7f.",
        # A dictionary in itself, lists in each other.
        b"}q\x00X\x01\x00\x00\x00ah\x00s.",
        b"]" * 300_000 + b"a" * 299_999 + b".",
    ],
    ids=["deep key", "wide key", "memo", "cycle", "deep list"],
)
def test_bombs_are_harmless(stream: bytes) -> None:
    before = time.monotonic()
    read_pickle(stream)
    assert time.monotonic() - before < 20


def test_views_beyond_their_storage(
    tmp_path: Path, small_flat: dict[str, Any], small_task: TaskSpec
) -> None:
    """A view beyond its storage: sizes in the pickle changed by hand, CRC and all."""
    tensor = torch.zeros(7777)
    buffer = io.BytesIO()
    torch.save(small_flat | {"enc.layers.0.bias": tensor}, buffer)
    right = b"M" + struct.pack("<H", 7777)  # in the storage and in the shape
    source = zipfile.ZipFile(buffer)
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("data.pkl"):
                assert data.count(right) == 2
                storage, _, rest = data.partition(right)
                data = storage + right + rest.replace(right, b"M" + struct.pack("<H", 7778))
            target.writestr(info.filename, data)
    with pytest.raises(CheckpointError, match=r"enc\.layers\.0\.bias"):
        load_checkpoint(path)
