"""Both runtimes reject the same bundles and options with the same class of error."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import BundleError, ElirError, ImageError, UnavailableError, UsageError
from elir_deploy.photo import PhotoRestorer
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.manifest_file import MANIFEST_NAME, decode_manifest
from tests.bundles import make_bundle
from tests.emulation import EMULATOR
from tests.photo.pictures import face_bundle
from tests.runtime_cpp.conftest import RUNTIME, Library, load

#: ``elir_status`` by class of error.
STATUSES = {UsageError: 1, BundleError: 2, ImageError: 3, UnavailableError: 4}
#: Replacements for values of a manifest.
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2,
    1.5,
    -0.0,
    1e-300,
    1e22,
    10**30,
    -(10**40),
    2**53 + 1,
    2**63,
    "",
    "x",
    "fp32",
    "../../etc/passwd",
    "a/b/c",
    "a\n",
    "0" * 64 + "\n",
    '"it\'s" \\ \t\x07 \u00e9 \u2028 \U0001f600',
    "a" * 1001,
    "\u00e9" * 255,
    [],
    [1, 2.0, None, {"a": "b"}],
    {},
    {"a": [1]},
    {"a": 2, "A b": None},
]
#: Replacements that JSON does not allow.
WRITTEN = ["NaN", "-Infinity", "1e999", "-0", "9" * 400, '{"a":1,"a":1}', '"\\ud800"', "01", "[1,]"]
GOLDEN = load(RUNTIME / "tests" / "golden" / "manifests.py")


def status(error: ElirError) -> int:
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def by_python(manifest: bytes) -> int:
    try:
        decode_manifest(manifest)
    except ElirError as error:
        return status(error)
    return 0


def by_cpp(manifests: list[bytes]) -> list[int]:
    program = Path(os.environ["ELIR_LIBRARY"]).parent / "tests" / "manifest_statuses"
    process = subprocess.run(
        [*EMULATOR, program], input=b"\n".join(manifests), capture_output=True, check=True
    )
    return [int(line) for line in process.stdout.split()]


def mutations(base: Any) -> Iterator[bytes]:
    """Remove each entry, replace it by every value, and add another next to it."""
    for path in GOLDEN.places(base):
        yield json.dumps(GOLDEN.changed(base, path)).encode()
        for value in VALUES:
            yield json.dumps(GOLDEN.changed(base, path, value)).encode()
        marked = json.dumps(GOLDEN.changed(base, path, "@"))
        for written in WRITTEN:
            yield marked.replace('"@"', written).encode()
        if isinstance(path[-1], str):
            yield json.dumps(GOLDEN.changed(base, (*path[:-1], "extra"), 1)).encode()


@pytest.mark.parametrize("name", GOLDEN.BASES)
def test_mutated_manifests(name: str) -> None:
    manifests = list(mutations(GOLDEN.BASES[name]))
    # Two changes at once, of which each may be valid alone.
    chance = random.Random(name)
    for manifest in chance.sample(manifests, 500):
        try:
            once = json.loads(manifest)
            path = chance.choice(list(GOLDEN.places(once)))
        except (ValueError, AttributeError):
            continue
        manifests.append(json.dumps(GOLDEN.changed(once, path, chance.choice(VALUES))).encode())
    python = [by_python(manifest) for manifest in manifests]
    differing = [
        (manifest, expected, actual)
        for manifest, expected, actual in zip(manifests, python, by_cpp(manifests), strict=True)
        if actual != expected
    ]
    assert not differing
    assert len(manifests) > 3000
    assert 100 < python.count(0) < len(manifests) / 2


def test_damaged_manifests() -> None:
    deep = [b'{"format": "elir-bundle", "a": ' + b"[" * depth for depth in (10, 300, 100_000)]
    manifests = [*GOLDEN.DAMAGED, *deep]
    assert [by_python(manifest) for manifest in manifests] == by_cpp(manifests)


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


def _opened_and_hashed(path: Path) -> None:
    bundle = Bundle.open(path)
    for file in bundle.manifest.files():
        bundle.checked_file(file.file)


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
    assert library.status(bundle, backend="reference", skip_accuracy_check=1) == 0
    damage(bundle)
    with pytest.raises(BundleError):
        _opened_and_hashed(bundle)
    assert (
        library.status(bundle, backend="reference", skip_accuracy_check=1) == STATUSES[BundleError]
    )


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_missing_precisions(tmp_path: Path, library: Library, precision: str) -> None:
    pytest.importorskip("openvino")
    bundle = make_bundle(tmp_path / "b")
    with pytest.raises(ElirError) as in_python:
        Restorer(bundle, "openvino", precision=precision)
    assert library.status(bundle, backend="openvino", precision=precision) == status(
        in_python.value
    )


@pytest.mark.parametrize("backend", ["auto", "openvino", "onnxruntime"])
@pytest.mark.parametrize("device", ["CPU", "cpu", "GPU.7", "NPU.7", "AUTO"])
def test_devices_with_names(tmp_path: Path, library: Library, backend: str, device: str) -> None:
    pytest.importorskip("openvino")
    bundle, expected = make_bundle(tmp_path / "b"), 0
    try:
        Restorer(bundle, backend, device=device).close()
    except ElirError as error:
        expected = status(error)
    assert library.status(bundle, backend=backend, device_name=device) == expected


@pytest.mark.parametrize("stride", [None, 8])
@pytest.mark.parametrize(
    "options",
    [
        {"sigma_s": 0.5},
        {"sigma_s": 0.0},
        {"sigma_s": -0.5},
        {"sigma_s": float("nan")},
        {"sigma_s": 1e39},
        {"seed": 0},
        {"seed": 2**32 - 1},
        {"seed": 2**32},
        {"seed": -2},
        {"tile_overlap": 0},
        {"tile_overlap": 16},
        {"tile_overlap": 17},
        {"tile_overlap": -2},
    ],
)
def test_noise_and_overlap(
    tmp_path: Path, library: Library, stride: int | None, options: dict[str, Any]
) -> None:
    pytest.importorskip("openvino")
    bundle = make_bundle(tmp_path / "b", size=32, stride=stride)
    expected = 0
    try:
        Restorer(bundle, "openvino", precision="fp32", **options).close()
    except ElirError as error:
        expected = status(error)
    params = {"backend": "reference", "skip_accuracy_check": 1} | options
    assert library.status(bundle, **params) == expected


@pytest.mark.parametrize("strength", [0.0, 1.0, -0.1, 1.1, float("nan")])
def test_strength(tmp_path: Path, library: Library, strength: float) -> None:
    bundle, expected = make_bundle(tmp_path / "b"), 0
    with Restorer(bundle, "onnxruntime") as python:
        try:
            python.restore(np.zeros((32, 32, 3), np.uint8), strength=strength)
        except ElirError as error:
            expected = status(error)
    params = {"backend": "reference", "skip_accuracy_check": 1, "strength": strength}
    assert library.status(bundle, **params) == expected


@pytest.mark.parametrize("long_side", [1, 31, 32, 4096, 4097])
def test_long_side(tmp_path: Path, library: Library, long_side: int) -> None:
    bundle, expected = face_bundle(tmp_path / "b"), 0
    try:
        PhotoRestorer(bundle, backend="onnxruntime", long_side=long_side).close()
    except ElirError as error:
        expected = status(error)
    params = {"backend": "reference", "skip_accuracy_check": 1, "long_side": long_side}
    assert library.status(bundle, **params) == expected


def test_faces_in_tiles(tmp_path: Path, library: Library) -> None:
    pytest.importorskip("openvino")
    bundle = make_bundle(tmp_path / "b", faces=True)
    image = np.zeros((40, 50, 3), np.uint8)
    with (
        Restorer(bundle, "openvino", fit="tile") as python,
        pytest.raises(ElirError) as in_python,
    ):
        python.restore(image)
    raises = pytest.raises(library.binding.ElirError)
    with library.open(bundle, backend="openvino", fit=2) as cpp, raises as in_cpp:
        cpp.restore(image)
    assert in_cpp.value.status == status(in_python.value)
