"""A damaged bundle is refused by both runtimes in the same words."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import ElirError
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.manifest_file import MANIFEST_NAME
from tests.bundles import make_bundle, read_manifest, write_manifest
from tests.runtime_cpp.conftest import Library

VALUES: list[Any] = [
    None,
    True,
    -1,
    1.0,
    1e-300,
    10**25,
    "",
    "fp32",
    "../x",
    "é'",
    [],
    {},
    [1],
    {"a": 2},
]


def refusals(library: Library, bundle: Path) -> tuple[str | None, str | None]:
    """Of Python and of C++."""
    try:
        opened = Bundle.open(bundle)
        for file in opened.manifest.file_hashes:
            opened.checked_file(file)
        python = None
    except ElirError as error:
        python = str(error)
    return python, library.refusal(bundle, backend="openvino")


def mutate(manifest: dict[str, Any], chance: random.Random) -> None:
    """Changes one value anywhere."""
    place: Any = manifest
    while True:
        key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.8:
            place = place[key]
            continue
        if chance.random() < 0.15:
            del place[key]
        else:
            place[key] = chance.choice(VALUES)
        return


@pytest.mark.parametrize("stages", ["fused", "split"])
def test_mutated_manifests(tmp_path: Path, library: Library, stages: str) -> None:
    bundle = make_bundle(tmp_path / "b", stages=stages)
    good = json.dumps(read_manifest(bundle))
    chance = random.Random(stages)
    refused = 0
    for _ in range(300):
        manifest = json.loads(good)
        mutate(manifest, chance)
        write_manifest(bundle, manifest)
        python, cpp = refusals(library, bundle)
        if python is not None:
            refused += 1
            assert cpp == python
    assert refused > 150


def _truncated(bundle: Path) -> None:
    file = bundle / "fused.fp32.onnx"
    file.write_bytes(file.read_bytes()[:-1])


def _flipped(bundle: Path) -> None:
    file = bundle / "fused.fp32.onnx"
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(bytes(data))


def _link(bundle: Path) -> None:
    (bundle.parent / "other").write_bytes(b"x")
    (bundle / "fused.fp32.onnx").unlink()
    (bundle / "fused.fp32.onnx").symlink_to(bundle.parent / "other")


def _folder(bundle: Path) -> None:
    (bundle / "fused.fp32.onnx").unlink()
    (bundle / "fused.fp32.onnx").mkdir()


def _pipe(bundle: Path) -> None:
    (bundle / "fused.fp32.onnx").unlink()
    os.mkfifo(bundle / "fused.fp32.onnx")


DAMAGES: list[Callable[[Path], object]] = [
    _truncated,
    _flipped,
    _link,
    _folder,
    _pipe,
    lambda bundle: (bundle / "fused.fp32.onnx").unlink(),
    lambda bundle: (bundle / "reference" / "noise.input.png").unlink(),
    lambda bundle: (bundle / MANIFEST_NAME).unlink(),
    lambda bundle: (bundle / MANIFEST_NAME).write_bytes(b"\xff"),
    lambda bundle: (bundle / MANIFEST_NAME).write_bytes(b" " * (16 * 2**20 + 1)),
    lambda bundle: bundle.rename(bundle.parent / "elsewhere"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders(
    tmp_path: Path, library: Library, damage: Callable[[Path], object]
) -> None:
    bundle = make_bundle(tmp_path / "b")
    damage(bundle)
    python, cpp = refusals(library, bundle)
    assert python is not None
    assert cpp == python


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_precision_that_is_not_there(tmp_path: Path, library: Library, precision: str) -> None:
    pytest.importorskip("openvino")
    bundle = make_bundle(tmp_path / "b")
    with pytest.raises(ElirError) as refused:
        Restorer(bundle, "openvino", precision=precision)
    assert library.refusal(bundle, backend="openvino", precision=precision) == str(refused.value)


def test_faces_in_tiles(tmp_path: Path, library: Library) -> None:
    pytest.importorskip("openvino")
    bundle = make_bundle(tmp_path / "b", faces=True)
    image = np.zeros((40, 50, 3), np.uint8)
    with Restorer(bundle, "openvino", fit="tile") as python, pytest.raises(ElirError) as refused:
        python.restore(image)
    refusal = pytest.raises(library.binding.ElirError, match=re.escape(str(refused.value)) + "$")
    with library.open(bundle, backend="openvino", fit=2) as cpp, refusal:
        cpp.restore(image)
