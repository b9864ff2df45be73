"""Reading bundles: what is right, and every way of being wrong."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elir_deploy.errors import BundleError
from elir_deploy.runtime.bundle import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    PRECISIONS,
    RUN_PRECISIONS,
    Bundle,
    file_precision,
    validate_manifest,
)
from tests.bundles import make_bundle, read_manifest, verification, write_manifest


@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("stages", ["fused", "split"])
def test_a_good_bundle_opens(tmp_path: Path, io: str, stages: str) -> None:
    path = make_bundle(tmp_path / "b", io=io, stages=stages, precisions=("fp32", "fp16"))
    bundle = Bundle.open(path)
    assert bundle.damaged_files() == {}
    info = bundle.info
    assert bundle.manifest == read_manifest(path)
    assert (info.input.height, info.input.width, info.input.channels) == (32, 32, 3)
    assert info.input.nbytes == 32 * 32 * 3 * (1 if io == "uint8" else 4)
    assert len(info.stages) == (1 if stages == "fused" else 4)
    assert len(info.artifacts) == 2 * len(info.stages)
    assert info.verification["fp32"].passed
    [(name, given_image, wanted)] = bundle.reference_images()
    assert name == "noise"
    assert given_image.shape == wanted.shape == (32, 32, 3)
    assert str(path) in repr(bundle)


def test_bf16_is_run_but_has_no_files(bundle: Path) -> None:
    assert [file_precision(p) for p in RUN_PRECISIONS] == ["fp32", "fp16", "fp32", "int8"]
    assert set(map(file_precision, RUN_PRECISIONS)) == set(PRECISIONS)
    manifest = read_manifest(bundle)
    manifest["verification"]["bf16"] = verification(42.0)
    write_manifest(bundle, manifest)
    assert Bundle.open(bundle).info.verification["bf16"].psnr_db == 42.0
    for change in ("precisions", "stages"):
        wrong = read_manifest(bundle)
        if change == "precisions":
            wrong["precisions"].append("bf16")
        else:
            wrong["stages"][0]["artifacts"][0]["precision"] = "bf16"
        with pytest.raises(BundleError, match=change):
            validate_manifest(wrong)


def test_opens_by_string_and_from_anywhere(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    assert Bundle.open("bundle").damaged_files() == {}
    assert Bundle.open("bundle/../bundle").damaged_files() == {}


def test_a_bundle_may_be_reached_through_a_link(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    assert Bundle.open(tmp_path / "link").damaged_files() == {}


def test_tiny_is_the_packaged_one(bundle: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("elir_deploy.runtime.bundle.resources.files", lambda name: tmp_path)
    with pytest.raises(BundleError, match="carries none"):
        Bundle.open("tiny")
    (tmp_path / "data").mkdir()
    shutil.copytree(bundle, tmp_path / "data" / "tiny.bundle")
    assert Bundle.open("tiny").path == tmp_path / "data" / "tiny.bundle"
    shutil.copytree(bundle, tmp_path / "tiny")  # a folder of that name comes first
    assert Bundle.open("tiny").path == Path("tiny")


# A folder that is no bundle ---------------------------------------------------------------------


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"holds no bundle\.json"):
        Bundle.open(tmp_path)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(BundleError, match="is a file, wanted the folder"):
        Bundle.open(file)
    (tmp_path / MANIFEST_NAME).mkdir()
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "not the manifest"),
        (b"null", "not the manifest"),
        (b'{"format": "other"}', "not the manifest"),
        (b'{"format": "elir-bundle", "a": NaN}', "NaN is not JSON"),
        (b'{"format": "elir-bundle", "a": -Infinity}', "not JSON"),
        (b'{"format": "elir-bundle", "a": 1e999}', "out of range"),
        (b'{"format": "elir-bundle", "format": "elir-bundle"}', "twice"),
        (b'{"format": "elir-bundle", "a": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"format": "elir-bundle", "a": ' + b"9" * 10_000 + b"}", "damaged"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "larger than"),
    ],
)
def test_a_manifest_that_is_no_strict_json(bundle: Path, data: bytes, reason: str) -> None:
    (bundle / MANIFEST_NAME).write_bytes(data)
    with pytest.raises(BundleError, match=reason) as caught:
        Bundle.open(bundle)
    assert MANIFEST_NAME in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_manifest(bundle: Path, share: float) -> None:
    data = (bundle / MANIFEST_NAME).read_bytes()
    (bundle / MANIFEST_NAME).write_bytes(data[: int(share * len(data))])
    with pytest.raises(BundleError, match="damaged"):
        Bundle.open(bundle)


def test_a_newer_version_is_told_from_damage(bundle: Path) -> None:
    manifest = read_manifest(bundle) | {"format_version": FORMAT_VERSION + 1, "unheard": "of"}
    manifest["versions"]["elir-deploy"] = "9.0"
    write_manifest(bundle, manifest)
    with pytest.raises(BundleError, match=r"newer version of elir-deploy \('9\.0'\).*upgrade"):
        Bundle.open(bundle)


@pytest.mark.parametrize("version", [None, 0, -1, True, 1.0, "1", [1]])
def test_a_version_that_is_none(bundle: Path, version: object) -> None:
    with pytest.raises(BundleError, match="format_version"):
        validate_manifest(read_manifest(bundle) | {"format_version": version})


# A manifest that says what cannot be ------------------------------------------------------------

Change = Callable[[dict[str, Any]], None]


def _set(*path: Any) -> Change:
    *where, last, value = path

    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in where:
            place = place[key]
        place[last] = value

    return change


ARTIFACT = ("stages", 0, "artifacts", 0)
WRONG: dict[str, tuple[Change, str]] = {
    "climbs out": (_set(*ARTIFACT, "file", "../x.onnx"), "file must match"),
    "climbs out deeper": (_set(*ARTIFACT, "file", "reference/../../x"), "file must match"),
    "absolute": (_set(*ARTIFACT, "file", "/etc/passwd"), "file must match"),
    "backslash": (_set(*ARTIFACT, "file", "a\\b"), "file must match"),
    "newline": (_set(*ARTIFACT, "file", "a.onnx\n"), "file must match"),
    "the manifest itself": (_set(*ARTIFACT, "file", MANIFEST_NAME), "two entries"),
    "one file twice": (_set("references", 0, "input", "fused.fp32.onnx"), "two entries"),
    "unknown entry": (_set("extra", 1), "extra"),
    "wrong type": (_set("stages", {}), "stages must be array"),
    "no stages": (_set("stages", []), "stages must contain at least 1"),
    "negative size": (_set(*ARTIFACT, "bytes", -1), "bytes"),
    "size as a float": (_set(*ARTIFACT, "bytes", 334.0), "bytes is .*, wanted an integer"),
    "boolean side": (_set("model", "image_size", True), "image_size"),
    "side as a float": (_set("input", "shape", [1, 32.0, 32, 3]), "shape.*wanted integers"),
    "huge side": (_set("model", "image_size", 10**30), "image_size"),
    "other side": (_set("model", "image_size", 64), "wanted one RGB image"),
    "batch of two": (_set("input", "shape", [2, 32, 32, 3]), "wanted one RGB image"),
    "four channels": (_set("output", "shape", [1, 32, 32, 4]), "wanted one RGB image"),
    "layout against shape": (_set("input", "layout", "NCHW"), "wanted one RGB image"),
    "range against dtype": (_set("input", "range", [0, 1]), r"range is \[0, 1\], wanted \[0, 255"),
    "no factor, a kernel": (_set("model", "upscale_kernel", "bicubic"), "upscale_kernel"),
    "a factor, no kernel": (_set("model", "upscale", 4), "upscale_kernel"),
    "unknown precision": (_set("precisions", ["fp8"]), "precisions"),
    "undeclared precision": (_set("precisions", ["fp16"]), "is fp32, but precisions are fp16"),
    "half a chain": (_set("stages", 0, "name", "encoder"), "wanted fused alone"),
    "chain with another dtype": (_set("stages", 0, "input", "dtype", "float32"), "fused takes"),
    "chain with another name": (_set("stages", 0, "output", "name", "other"), "output is"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_inconsistent_manifest(bundle: Path, case: str) -> None:
    change, reason = WRONG[case]
    manifest = read_manifest(bundle)
    change(manifest)
    write_manifest(bundle, manifest)
    with pytest.raises(BundleError, match=reason) as caught:
        Bundle.open(bundle)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_bicubic_enlargement_is_by_a_power_of_two(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    manifest["model"] |= {"upscale": 3, "upscale_kernel": "bicubic"}
    with pytest.raises(BundleError, match="power of two"):
        validate_manifest(manifest)
    manifest["model"] |= {"upscale": 3, "upscale_kernel": "nearest"}
    validate_manifest(manifest)


def test_a_broken_chain(tmp_path: Path) -> None:
    manifest = read_manifest(make_bundle(tmp_path / "b", stages="split"))
    other = copy.deepcopy(manifest)
    other["stages"].reverse()
    with pytest.raises(BundleError, match="stages are decoder"):
        validate_manifest(other)
    other = copy.deepcopy(manifest)
    other["stages"][2]["input"]["shape"] = [1, 16, 4, 4]
    with pytest.raises(BundleError, match=r"flow takes .* but the output of estimator is"):
        validate_manifest(other)
    other = copy.deepcopy(manifest)
    for end in (other["stages"][1]["output"], other["stages"][2]["input"]):
        end["shape"] = [1, 65536, 65536, 3]
    with pytest.raises(BundleError, match="a tensor of more than"):
        validate_manifest(other)


def test_two_files_for_one_purpose(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    artifacts = manifest["stages"][0]["artifacts"]
    artifacts.append(artifacts[0] | {"file": "second.onnx"})
    with pytest.raises(BundleError, match="fused has two onnx files of fp32 for any device"):
        validate_manifest(manifest)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["../../etc/passwd", "..", "/", "fp32", "", "a" * 10_000, "x\n"]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_wrong_value_is_a_bundle_error_or_harmless(data: st.DataObject, tmp_path_factory):
    manifest = _any_manifest(tmp_path_factory)
    place: Any = manifest
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if isinstance(inner, dict | list) and inner and data.draw(st.booleans()):
            place = inner
            continue
        if data.draw(st.integers(0, 9)) == 0:
            del place[key]
        else:
            place[key] = data.draw(SCALARS)
        break
    try:
        info = validate_manifest(json.loads(json.dumps(manifest)))
    except BundleError as error:
        message = str(error)
        assert len(message.splitlines()) == 1  # an error is not required
        assert len(message) < 1000
        return
    for file in info.file_hashes:
        assert not os.path.isabs(file)
        assert ".." not in file.split("/")
    assert type(info.model.image_size) is int
    assert all(type(side) is int for side in info.input.shape)


_manifests: list[dict[str, Any]] = []


def _any_manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not _manifests:
        folder = tmp_path_factory.mktemp("fuzz") / "b"
        _manifests.append(read_manifest(make_bundle(folder, stages="split")))
    return copy.deepcopy(_manifests[0])


# Files that are not as described ----------------------------------------------------------------


def test_a_missing_file(bundle: Path) -> None:
    (bundle / "fused.fp32.onnx").unlink()
    with pytest.raises(BundleError, match=r"fused\.fp32\.onnx is missing"):
        Bundle.open(bundle)


def test_a_missing_reference(bundle: Path) -> None:
    shutil.rmtree(bundle / "reference")
    with pytest.raises(BundleError, match=r"noise\.input\.png is missing"):
        Bundle.open(bundle)


def test_a_truncated_file_is_seen_by_its_size(bundle: Path) -> None:
    path = bundle / "fused.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"fused\.fp32\.onnx: \d+ bytes, the manifest says \d+"):
        Bundle.open(bundle)


@pytest.mark.parametrize("file", ["fused.fp32.onnx", "reference/noise.output.png"])
def test_a_flipped_bit_is_seen_by_the_hash(bundle: Path, file: str) -> None:
    wanted = Bundle.open(bundle).info.file_hashes[file]
    data = bytearray((bundle / file).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / file).write_bytes(data)
    opened = Bundle.open(bundle)
    [(seen, reason)] = opened.damaged_files().items()
    assert seen == file
    assert "is damaged" in reason
    assert wanted in reason
    with pytest.raises(BundleError, match="SHA-256"):
        opened.checked_file(file)


def test_a_file_that_cannot_be_read(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error")

    opened = Bundle.open(bundle)
    monkeypatch.setattr("elir_deploy.runtime.bundle.file_sha256", fail)
    with pytest.raises(BundleError, match=r"fp32\.onnx cannot be read: Input/output error"):
        opened.checked_file("fused.fp32.onnx")
    assert list(opened.damaged_files()) == list(opened.info.file_hashes)


def test_a_file_that_is_not_listed(bundle: Path) -> None:
    with pytest.raises(BundleError, match="lists no file"):
        Bundle.open(bundle).checked_file("bundle.json")


def test_a_link_out_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "fused.fp32.onnx"
    shutil.move(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="link out of the bundle"):
        Bundle.open(bundle)


def test_a_folder_that_links_out(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle / "reference", tmp_path / "elsewhere")
    (bundle / "reference").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="link out of the bundle"):
        Bundle.open(bundle)


def test_links_that_circle(bundle: Path) -> None:
    path = bundle / "fused.fp32.onnx"
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(bundle)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_regular_file(bundle: Path, make: Callable[[Path], None]) -> None:
    path = bundle / "fused.fp32.onnx"
    path.unlink()
    make(path)
    with pytest.raises(BundleError, match="not a regular file"):
        Bundle.open(bundle)


def test_a_manifest_that_is_no_file(bundle: Path) -> None:
    """Whoever reads a pipe waits for somebody to write."""
    path = bundle / "bundle.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleError, match=r"bundle\.json is not a regular file"):
        Bundle.open(bundle)


def test_a_reference_of_another_size(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    other = make_bundle(tmp_path / "other", size=64)
    manifest = read_manifest(bundle)
    manifest["references"] = read_manifest(other)["references"]
    shutil.copytree(other / "reference", bundle / "reference", dirs_exist_ok=True)
    write_manifest(bundle, manifest)
    with pytest.raises(BundleError, match="is 64x64, wanted 32x32"):
        list(Bundle.open(bundle).reference_images())
