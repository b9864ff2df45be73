"""Manifests: what is right, what is refused, and that one definition says all of it."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elir_deploy.cli.choices import Precision
from elir_deploy.errors import BundleError
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import (
    FORMAT_VERSION,
    PRECISIONS,
    RUN_PRECISIONS,
    Artifact,
    Detector,
    FieldNoise,
    File,
    FilePrecision,
    Manifest,
    Shape,
    Tensor,
    file_precision,
)
from elir_deploy.runtime.manifest_file import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    check_consistency,
    decode_manifest,
    encode_manifest,
    manifest_schema,
)
from elir_deploy.runtime.noise import FIELD_GENERATOR
from tests.bundles import make_bundle, read_manifest, verification, write_manifest

replaced = msgspec.structs.replace


def decoded(manifest: Any) -> Manifest:
    return decode_manifest(json.dumps(manifest).encode())


@pytest.mark.parametrize("stages", ["fused", "split"])
def test_what_is_written_is_read_again(tmp_path: Path, stages: str) -> None:
    plain = read_manifest(make_bundle(tmp_path / "b", stages=stages))
    manifest = decoded(plain)
    assert json.loads(encode_manifest(manifest)) == plain
    assert decode_manifest(encode_manifest(manifest)) == manifest


def test_nothing_is_written_that_would_not_be_read(bundle: Path) -> None:
    manifest = decoded(read_manifest(bundle))
    with pytest.raises(BundleError, match="two entries name the file"):
        encode_manifest(msgspec.structs.replace(manifest, references=manifest.references * 2))
    verdict = msgspec.structs.replace(manifest.verification["fp32"], floor_db=float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_manifest(msgspec.structs.replace(manifest, verification={"fp32": verdict}))


def test_the_schema_in_the_package_is_that_of_the_definition() -> None:
    stored = (resources.files("elir_deploy.runtime") / "bundle.schema.json").read_text("utf-8")
    assert stored == manifest_schema(), "run: make schema"


def test_bf16_is_run_but_has_no_files(bundle: Path) -> None:
    assert [file_precision(p) for p in RUN_PRECISIONS] == ["fp32", "fp16", "fp32", "int8", "w8"]
    assert set(map(file_precision, RUN_PRECISIONS)) == set(PRECISIONS)
    assert set(get_args(FilePrecision)) == set(PRECISIONS)
    assert tuple(choice.value for choice in Precision) == RUN_PRECISIONS
    manifest = read_manifest(bundle)
    manifest["verification"]["bf16"] = verification(42.0)
    assert decoded(manifest).verification["bf16"].psnr_db == 42.0
    for change in ("precisions", "stages"):
        wrong = read_manifest(bundle)
        if change == "precisions":
            wrong["precisions"].append("bf16")
        else:
            wrong["stages"][0]["artifacts"][0]["precision"] = "bf16"
        with pytest.raises(BundleError, match=change):
            decoded(wrong)


# JSON -------------------------------------------------------------------------------------------


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
        (b'{"format": "elir-bundle", "a": ' + b"9" * 400 + b"}", "out of range"),
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


def test_half_a_character(bundle: Path) -> None:
    data = json.dumps(read_manifest(bundle)).encode().replace(b'"random": false', b'"random": 0')
    with pytest.raises(BundleError, match=r"source\.random: Expected `bool`, got `int`, seen 0"):
        decode_manifest(data)
    data = (
        json.dumps(read_manifest(bundle)).encode().replace(b'"tool": "test"', b'"tool": "\\ud800"')
    )
    with pytest.raises(BundleError):
        decode_manifest(data)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_manifest(bundle: Path, share: float) -> None:
    data = (bundle / MANIFEST_NAME).read_bytes()
    with pytest.raises(BundleError, match="damaged"):
        decode_manifest(data[: int(share * len(data))])


# Versions ---------------------------------------------------------------------------------------


def test_a_newer_version_is_told_from_damage(bundle: Path) -> None:
    manifest = read_manifest(bundle) | {"format_version": FORMAT_VERSION + 1, "unheard": "of"}
    manifest["versions"]["elir-deploy"] = "9.0"
    with pytest.raises(BundleError, match=r"newer version of elir-deploy \('9\.0'\).*upgrade"):
        decoded(manifest)


def test_an_older_version_names_the_command(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle format 1, .*elir-export CHECKPOINT -o FOLDER"):
        decoded({"format": "elir-bundle", "format_version": 1})


@pytest.mark.parametrize("version", [None, 0, -1, True, 2.0, "2", [2]])
def test_a_version_that_is_none(bundle: Path, version: object) -> None:
    with pytest.raises(BundleError, match="format_version"):
        decoded(read_manifest(bundle) | {"format_version": version})


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


def _tensor(**changes: int) -> dict[str, Any]:
    return {"dtype": "float32", "layout": "NCHW", "channels": 16, "stride": 1} | changes


def _field(
    stage: tuple[str, ...] = ("image", "noise"),
    tensor: dict[str, Any] | None = _tensor(stride=8),  # noqa: B008  # never changed
    generator: str = FIELD_GENERATOR,
    seed: int = 0,
    sigma_s: float = 0.1,
) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        manifest["noise"] = {"kind": "field", "generator": generator, "seed": seed}
        manifest["model"]["sigma_s"] = sigma_s
        manifest["stages"][0]["inputs"] = list(stage)
        if tensor is not None:
            manifest["tensors"]["noise"] = tensor

    return change


def _large(manifest: dict[str, Any]) -> None:
    manifest["shapes"] = [{"batch": 1, "height": 4096, "width": 4096}]
    manifest["tensors"]["other"] = _tensor(channels=64)


ARTIFACT = ("stages", 0, "artifacts", 0)
SHAPE = {"batch": 1, "height": 32, "width": 32}
WRONG: dict[str, tuple[Change, str]] = {
    "climbs out": (_set(*ARTIFACT, "file", "../x.onnx"), r"file: .* regex"),
    "climbs out deeper": (_set(*ARTIFACT, "file", "reference/../../x"), r"file: .* regex"),
    "absolute": (_set(*ARTIFACT, "file", "/etc/passwd"), "seen '/etc/passwd'"),
    "backslash": (_set(*ARTIFACT, "file", "a\\b"), r"file: .* regex"),
    "newline": (_set(*ARTIFACT, "file", "a.onnx\n"), r"file: .* regex"),
    "the manifest itself": (_set(*ARTIFACT, "file", MANIFEST_NAME), "two entries"),
    "one file twice": (_set("references", 0, "input", "file", "fused.fp32.onnx"), "two entries"),
    "unknown entry": (_set("extra", 1), "extra"),
    "wrong type": (_set("stages", {}), "stages: Expected `array`"),
    "no stages": (_set("stages", []), "stages: Expected `array` of length >= 1"),
    "negative size": (_set(*ARTIFACT, "bytes", -1), "bytes: Expected `int` >= 1, seen -1"),
    "size as a float": (_set(*ARTIFACT, "bytes", 334.0), "bytes: Expected `int`, got `float`"),
    "boolean side": (_set("shapes", 0, "height", True), "height"),
    "side as a float": (_set("shapes", 0, "width", 32.0), "width: Expected `int`"),
    "huge side": (_set("shapes", 0, "width", 10**30), "width"),
    "no shape": (_set("shapes", []), "shapes: Expected `array` of length >= 1"),
    "a shape twice": (_set("shapes", [SHAPE, SHAPE | {"batch": 2}]), "two shapes"),
    "baked noise, two shapes": (_set("shapes", [SHAPE, SHAPE | {"width": 64}]), "baked"),
    "half padded": (_set("shapes", 0, "padded_width", 64), "one padded side"),
    "padded to less": (
        _set("shapes", [SHAPE | {"padded_width": 16, "padded_height": 32}]),
        "less than its own size",
    ),
    "an odd stride": (_set("tensors", "other", _tensor(stride=5)), "stride 5 of other"),
    "a huge tensor": (_set("tensors", "other", _tensor(channels=65536 * 16)), "channels"),
    "a large tensor": (_large, "other has more than"),
    "four channels": (_set("tensors", "restored", "channels", 4), "restored is not an image"),
    "a small image": (_set("tensors", "image", "stride", 2), "image is not an image"),
    "range against dtype": (_set("tensors", "image", "range", [0, 1]), r"\[0, 255\] for uint8"),
    "no such tensor": (_set("stages", 0, "output", "other"), "fused names other"),
    "two inputs": (_set("stages", 0, "inputs", ["image", "restored"]), "expected one input"),
    "noise without an input": (_field(stage=("image",)), "expected a second input, noise"),
    "noise without a tensor": (_field(tensor=None), "noise is an input, which is not among"),
    "unknown generator": (_field(generator="x"), "unknown generator 'x', expected .*: upgrade"),
    "a large seed": (_field(seed=2**32), "seed of the noise is 4294967296, expected 0 to"),
    "a large sigma_s": (_field(sigma_s=1e39), r"sigma_s is 1e\+39, expected a number"),
    "noise of bytes": (_field(tensor=_tensor(stride=8) | {"dtype": "uint8"}), "not a latent"),
    "noise beside": (_field(tensor=_tensor(stride=8) | {"layout": "NHWC"}), "not a latent"),
    "noise of one pixel": (_field(tensor=_tensor(stride=32)), "32x32 is too small .* 64 pixels"),
    "noise of a large stride": (_field(tensor=_tensor(stride=1024)), "stride 1024 of noise"),
    "unknown noise": (_set("noise", "kind", "white"), "noise"),
    "another resize": (_set("resize", "a", -0.75), "resize is -0.75"),
    "no factor, a kernel": (_set("model", "upscale_kernel", "bicubic"), "upscale_kernel"),
    "a factor, no kernel": (_set("model", "upscale", 4), "upscale_kernel"),
    "unknown precision": (_set("precisions", ["fp8"]), "precisions"),
    "undeclared precision": (_set("precisions", ["fp16"]), "is fp32, but precisions are fp16"),
    "unknown verdict": (_set("verification", {"fp8": verification()}), "regex"),
    "half a chain": (_set("stages", 0, "name", "encoder"), "expected fused alone"),
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
        decoded(manifest)
    manifest["model"] |= {"upscale": 3, "upscale_kernel": "nearest"}
    decoded(manifest)


def test_a_broken_chain(tmp_path: Path) -> None:
    manifest = read_manifest(make_bundle(tmp_path / "b", stages="split"))
    other = copy.deepcopy(manifest)
    other["stages"].reverse()
    with pytest.raises(BundleError, match="stages are decoder"):
        decoded(other)
    other = copy.deepcopy(manifest)
    other["stages"][2]["inputs"] = ["latent0"]
    with pytest.raises(BundleError, match="flow takes latent0, but estimator gives latent1"):
        decoded(other)


def test_two_files_for_one_purpose(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    artifacts = manifest["stages"][0]["artifacts"]
    artifacts.append(artifacts[0] | {"file": "second.onnx"})
    with pytest.raises(BundleError, match="fused has two onnx files of fp32 for any device"):
        decoded(manifest)


# What later bundles will hold -------------------------------------------------------------------


def field_manifest(folder: Path) -> Manifest:
    """Noise as an input, three shapes, batches and a detector."""
    manifest = decoded(read_manifest(make_bundle(folder)))
    stage = msgspec.structs.replace(manifest.stages[0], inputs=["image", "noise"])
    file = File("detector.fp32.onnx", "0" * 64, 1)
    onnx = Artifact("detector.onnx", "0" * 64, 1, "onnx", "fp32", None, "test", "1")
    return msgspec.structs.replace(
        manifest,
        noise=FieldNoise(FIELD_GENERATOR, 0),
        shapes=[Shape(8, 64, 64), Shape(1, 720, 1280, 736, 1280)],
        tensors=manifest.tensors | {"noise": Tensor("float32", "NCHW", 16, 8)},
        stages=[stage],
        detector=Detector(
            name="centerface",
            decoder="centerface",
            licence="MIT",
            licence_file=file,
            input="input.1",
            outputs={"heat": "537"},
            color="RGB",
            multiple=32,
            long_side=1280,
            score_threshold=0.5,
            overlap_threshold=0.3,
            template=(
                (192.98138, 239.94708),
                (318.9, 240.2),
                (256.6, 314.0),
                (201.3, 371.4),
                (313.1, 371.2),
            ),
            template_size=512,
            artifacts=[onnx],
        ),
    )


def test_field_noise_shapes_batches_and_a_detector_are_in_the_format(tmp_path: Path) -> None:
    manifest = field_manifest(tmp_path / "b")
    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert manifest.tensor("noise", manifest.shapes[1]).shape == (1, 16, 92, 160)
    assert manifest.input.shape == (8, 64, 64, 3)
    assert "detector.onnx" in [file.file for file in manifest.files()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": ((9.0, 9.0),) * 5}, "spans less than 1/16"),
        ({"template": ((1e308, 0.0),) * 5}, "more than 16 times template_size away"),
        ({"template": ((-1e200, 0.0), *((0.0, 0.0),) * 4)}, "more than 16 times"),
        ({"multiple": 1024, "long_side": 640}, "long_side is 640, expected at least 1024"),
        ({"artifacts": lambda onnx: []}, "has 0 ONNX files"),
        ({"artifacts": lambda onnx: [onnx, onnx]}, "has two onnx files of fp32 for any device"),
        ({"artifacts": lambda onnx: [onnx, replaced(onnx, precision="fp16")]}, "has 2 ONNX files"),
        ({"artifacts": lambda onnx: [replaced(onnx, target="sm75")]}, "expected 1, for any device"),
    ],
)
def test_what_a_detector_s_entry_must_not_say(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    manifest = field_manifest(tmp_path / "b")
    assert manifest.detector is not None
    [onnx] = manifest.detector.artifacts
    values = {name: value(onnx) if callable(value) else value for name, value in change.items()}
    detector = replaced(manifest.detector, **values)
    with pytest.raises(BundleError, match=message):
        check_consistency(_with_files_of_their_own(replaced(manifest, detector=detector)))


def _with_files_of_their_own(manifest: Manifest) -> Manifest:
    """The same, with other names for files of the detector."""
    assert manifest.detector is not None
    artifacts = [replaced(a, file=f"d{i}") for i, a in enumerate(manifest.detector.artifacts)]
    return replaced(manifest, detector=replaced(manifest.detector, artifacts=artifacts))


def test_dimensions_are_free_where_shapes_differ(tmp_path: Path) -> None:
    manifest = field_manifest(tmp_path / "b")
    for shapes, image, noise in (
        ([Shape(1, 64, 128)], (1, 64, 128, 3), (1, 16, 8, 16)),
        ([Shape(8, 64, 128)], (None, 64, 128, 3), (None, 16, 8, 16)),
        ([Shape(1, 64, 64), Shape(1, 32, 64)], (1, None, None, 3), (1, 16, None, None)),
        ([Shape(1, 64, 64), Shape(2, 32, 64)], (None, None, None, 3), (None, 16, None, None)),
    ):
        changed = msgspec.structs.replace(manifest, shapes=shapes)
        assert (changed.dimensions("image"), changed.dimensions("noise")) == (image, noise)
        assert changed.several == (None in image)


# Anything at all --------------------------------------------------------------------------------

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
        read = decoded(manifest)
    except BundleError as error:
        message = str(error)
        assert len(message.splitlines()) == 1  # an error is not required
        assert len(message) < 1000
        return
    for file in read.files():
        assert not os.path.isabs(file.file)
        assert ".." not in file.file.split("/")
    assert all(type(side) is int for side in read.input.shape)


_manifests: list[dict[str, Any]] = []


def _any_manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not _manifests:
        folder = tmp_path_factory.mktemp("fuzz") / "b"
        _manifests.append(read_manifest(make_bundle(folder, stages="split")))
    return copy.deepcopy(_manifests[0])


@pytest.mark.parametrize("name", ["manifest", "enlarged"])
def test_seeds_of_the_fuzzer_are_valid(name: str) -> None:
    seed = Path(__file__).parents[2] / "runtime" / "fuzz" / "seeds" / "fuzz_bundle" / name
    decode_manifest(seed.read_bytes()[1:])  # after the byte that says what the seed replaces
