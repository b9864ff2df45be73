"""Files that are not checkpoints, and damaged ones."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from elir_deploy.checkpoints import load_checkpoint
from elir_deploy.checkpoints.containers import open_container
from elir_deploy.errors import CheckpointError
from elir_deploy.tasks import TaskSpec
from tests import official

State = dict[str, Any]


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert str(path) in text
    assert text.count("\n") <= 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"x", "expected a complete file of torch.save"),
        (b"hello, world\n" * 100, "expected a complete file of torch.save"),
        (b"\n<!DOCTYPE html><html>Not Found</html>", "web page.*download the file again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (pickle.dumps({"a": 1}), "a pickle that torch.save did not write"),
        (b"PK\x03\x04", "damaged or truncated"),
        (b"\xff" * 8 + b"{}", "expected a complete file of torch.save"),
        (b"\x02" + b"\0" * 7 + b"{}", "unknown layout"),
        (b"\x02" + b"\0" * 7 + b"{]", "damaged or truncated"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert_refused(path, message)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.pth"
    Image.new("RGB", (8, 8)).save(path, kind)
    assert_refused(path, f"a {kind} image")


def test_paths_that_are_not_files(tmp_path: Path) -> None:
    assert_refused(tmp_path, "is a folder")
    assert_refused(tmp_path / "none.pth", "no such file")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", "not a regular file")
    (tmp_path / "file").touch()
    assert_refused(tmp_path / "file" / "model.pth", "cannot be read: Not a directory")
    assert_refused(tmp_path / ("x" * 300), "cannot be read: File name too long")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert_refused(tmp_path / "loop", "cannot be read")
    with pytest.raises(CheckpointError):
        load_checkpoint("a\0b")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(b"x")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert_refused(path, "cannot be read: Permission denied")


def test_out_of_memory(tmp_path: Path, small_flat: State, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(small_flat, tmp_path / "model.pth")

    def refuse(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "frombuffer", refuse)
    assert_refused(tmp_path / "model.pth", "more memory than available")


def rewritten(state: State, path: Path, change: Any, compression: int = 0) -> None:
    """Save, then pass each member's name and bytes through ``change``; None drops it."""
    torch.save(state, path)
    with zipfile.ZipFile(path) as source:
        members = [(info.filename, source.read(info)) for info in source.infolist()]
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, data in members:
            member = change(name, data)
            if member is not None:
                target.writestr(*member)


def test_zip_archives_of_other_kinds(tmp_path: Path, small_flat: State) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no model")
    assert_refused(path, "that torch.save did not write")
    rewritten(
        small_flat | {"pad": bytes(10_000)},
        path,
        lambda name, data: (name, data + bytes(1000) * name.endswith("data.pkl")),
        zipfile.ZIP_DEFLATED,
    )
    assert_refused(path, "larger than the file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"}.", zipfile.ZIP_DEFLATED)
        archive.writestr("model/pad", b"x" * 100)
    assert_refused(path, "compressed, which torch.save never does")
    rewritten(
        small_flat, path, lambda name, data: None if name.endswith("/data/3") else (name, data)
    )
    assert_refused(path, "is not inside its storage")
    rewritten(
        small_flat, path, lambda name, data: (name, data[:-4] if name.endswith("/3") else data)
    )
    assert_refused(path, "is not inside its storage")


def test_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(100_000_000))
    assert_refused(path, "larger than the file")


def test_huge_pickle(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", bytes(17 * 2**20))
    assert_refused(path, "expected at most")


def test_dictionaries_stay_shared(tmp_path: Path) -> None:
    """Copied, this file of a few kilobytes has a million entries, and could have a billion."""
    path = tmp_path / "model.pth"
    tree: dict[str, Any] = {}
    for _ in range(3):
        tree = {f"{n}": tree for n in range(100)}
    for zipped in (True, False):
        torch.save(tree, path, _use_new_zipfile_serialization=zipped)
        with open_container(path) as container:
            assert container.entries.keys() == tree.keys()
            (inner,) = {id(entry): entry for entry in container.entries.values()}.values()
            assert inner.keys() == tree.keys()
            assert len({id(entry) for entry in inner.values()}) == 1
        assert_refused(path, "unknown layout")


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_share_memory(
    tmp_path: Path, small_flat: State, small_task: TaskSpec, zipped: bool
) -> None:
    path = tmp_path / "model.pth"
    numbers = torch.zeros(max(tensor.numel() for tensor in small_flat.values()))
    shared = {
        name: numbers[: tensor.numel()].view(tensor.shape) for name, tensor in small_flat.items()
    }
    torch.save(shared, path, _use_new_zipfile_serialization=zipped)
    needed = 4 * sum(tensor.numel() for tensor in small_flat.values())
    size = path.stat().st_size
    assert_refused(path, f"need {needed} bytes but the file has {size}: some .* share memory")
    averaged = {"state_dict": small_flat, "averaged": small_flat}
    torch.save(averaged, path, _use_new_zipfile_serialization=zipped)
    assert load_checkpoint(path).layout == "released"


def test_expanded_tensors(tmp_path: Path, small_flat: State) -> None:
    path = tmp_path / "model.pth"
    name = "enc.layers.0.weight"
    shape = small_flat[name].shape
    torch.save(small_flat | {name: torch.zeros(1).expand(shape)}, path)
    assert_refused(path, "is not inside its storage")
    repeated = torch.zeros(1).expand(2**20, *shape)
    torch.save({name: repeated}, path, _use_new_zipfile_serialization=False)
    assert_refused(path, "some of them share memory")


def test_byte_order(tmp_path: Path, small_flat: State, small_task: TaskSpec) -> None:
    import numpy as np

    def swapped(name: str, data: bytes) -> tuple[str, bytes]:
        if name.endswith("/byteorder"):
            return name, b"big"
        if "/data/" in name:
            return name, np.frombuffer(data, "<u4").byteswap().tobytes()
        return name, data

    path = tmp_path / "model.pth"
    rewritten(small_flat, path, swapped)
    model = load_checkpoint(path).model
    torch.testing.assert_close(
        model.encoder.layers[0].weight, small_flat["enc.layers.0.weight"], rtol=0, atol=0
    )
    rewritten(
        small_flat, path, lambda name, data: (name, b"odd" if name.endswith("byteorder") else data)
    )
    assert_refused(path, "byte order is 'odd'")
    rewritten(  # as torch wrote before it recorded the order
        small_flat, path, lambda name, data: None if name.endswith("byteorder") else (name, data)
    )
    assert load_checkpoint(path).layout == "released"


def test_format_of_torch_before_1_6(
    tmp_path: Path, small_flat: State, small_task: TaskSpec
) -> None:
    path = tmp_path / "model.pth"
    torch.save(small_flat, path, _use_new_zipfile_serialization=False)
    model = load_checkpoint(path).model
    torch.testing.assert_close(
        model.encoder.layers[0].weight, small_flat["enc.layers.0.weight"], rtol=0, atol=0
    )
    witness = tmp_path / "witness"

    class Runs:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {witness}",)

    torch.save(small_flat | {"x": Runs()}, path, _use_new_zipfile_serialization=False)
    assert_refused(path, "before 1.6")
    assert not witness.exists()
    path.write_bytes(path.read_bytes()[:5000])
    assert_refused(path, "damaged")


def test_released_names_in_safetensors(
    tmp_path: Path, small_flat: State, small_task: TaskSpec
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(small_flat, path)
    assert load_checkpoint(path).layout == "released"


def test_old_files_with_keys_that_are_not_strings(
    tmp_path: Path, small_flat: dict[str, Any]
) -> None:
    content = {0: torch.zeros(1), **small_flat}
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert load_checkpoint(tmp_path / "old.pth", "bfr").model.arch == official.SMALL
