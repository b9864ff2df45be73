"""Reading bundles: what is right, and every way of being wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from elir_deploy.errors import BundleError
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest_file import MANIFEST_NAME
from tests.bundles import file_entry, make_bundle, put_graph, read_manifest, write_manifest
from tests.forged import endless_loop


@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("stages", ["fused", "split"])
def test_a_good_bundle_opens(tmp_path: Path, io: str, stages: str) -> None:
    path = make_bundle(tmp_path / "b", io=io, stages=stages, precisions=("fp32", "fp16"))
    bundle = Bundle.open(path)
    assert bundle.damaged_files() == {}
    info = bundle.manifest
    assert (info.input.height, info.input.width, info.input.channels) == (32, 32, 3)
    assert info.input.nbytes == 32 * 32 * 3 * (1 if io == "uint8" else 4)
    assert len(info.stages) == (1 if stages == "fused" else 4)
    assert len(info.artifacts) == 2 * len(info.stages)
    assert info.verification["fp32"].passed
    [(name, given_image, expected)] = bundle.reference_images()
    assert name == "noise"
    assert given_image.shape == expected.shape == (32, 32, 3)
    assert str(path) in repr(bundle)


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
    with pytest.raises(BundleError, match="none in elir-deploy"):
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
    with pytest.raises(BundleError, match=r"has no bundle\.json"):
        Bundle.open(tmp_path)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(BundleError, match="is a file, expected the folder"):
        Bundle.open(file)
    (tmp_path / MANIFEST_NAME).mkdir()
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(tmp_path)


# Files that are not as described ----------------------------------------------------------------


def test_a_missing_file(bundle: Path) -> None:
    (bundle / "fused.fp32.onnx").unlink()
    with pytest.raises(BundleError, match=r"fused\.fp32\.onnx is missing"):
        Bundle.open(bundle)


def test_a_file_that_goes_while_the_bundle_opens(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bundle, "_locate", lambda self, file: bundle / "gone")
    with pytest.raises(BundleError, match="cannot be read: No such file"):
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
    [expected] = [f.sha256 for f in Bundle.open(bundle).manifest.files() if f.file == file]
    data = bytearray((bundle / file).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / file).write_bytes(data)
    opened = Bundle.open(bundle)
    [(seen, reason)] = opened.damaged_files().items()
    assert seen == file
    assert "is damaged" in reason
    assert expected in reason
    with pytest.raises(BundleError, match="SHA-256"):
        opened.checked_file(file)


def test_a_file_that_cannot_be_read(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error")

    opened = Bundle.open(bundle)
    monkeypatch.setattr("elir_deploy.runtime.bundle.file_sha256", fail)
    with pytest.raises(BundleError, match=r"fp32\.onnx cannot be read: Input/output error"):
        opened.checked_file("fused.fp32.onnx")
    assert list(opened.damaged_files()) == [file.file for file in opened.manifest.files()]


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
    with pytest.raises(BundleError, match="is 64x64, expected 32x32"):
        list(Bundle.open(bundle).reference_images())


def test_a_forged_detector(bundle: Path) -> None:
    """Every graph of a bundle is scanned, not only the stages'."""
    manifest = read_manifest(bundle)
    (artifact,) = manifest["stages"][0]["artifacts"]
    (bundle / "LICENSE").write_text("MIT")
    manifest["detector"] = {
        "name": "centerface",
        "decoder": "centerface",
        "licence": "MIT",
        "licence_file": file_entry(bundle, "LICENSE"),
        "input": "image",
        "color": "RGB",
        "outputs": {"restored": "heat"},
        "multiple": 32,
        "long_side": 640,
        "score_threshold": 0.5,
        "overlap_threshold": 0.3,
        "template_size": 512,
        "template": [
            [190.0, 240.0],
            [320.0, 240.0],
            [256.0, 314.0],
            [201.0, 371.0],
            [313.0, 371.0],
        ],
    }

    def put_detector(model: onnx.ModelProto) -> Bundle:
        (bundle / "detector.onnx").write_bytes(model.SerializeToString())
        entry = artifact | file_entry(bundle, "detector.onnx")
        manifest["detector"]["artifacts"] = [entry]
        write_manifest(bundle, manifest)
        return Bundle.open(bundle)

    model = onnx.load(bundle / artifact["file"])
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    assert put_detector(model).damaged_files() == {}, "its sizes are not those of a stage"
    endless_loop(model)
    opened = put_detector(model)
    assert list(opened.damaged_files()) == ["detector.onnx"]
    with pytest.raises(BundleError, match="the operator Loop, which elir-export never writes"):
        opened.checked_file("detector.onnx")


def test_dimensions_are_free_where_shapes_differ_and_nowhere_else(tmp_path: Path) -> None:
    """Graphs of a bundle with batches in one without, and the other way round."""
    sizes = {"height": 30, "width": 64, "padded_height": 32, "padded_width": 64}
    fixed, free = ([{"batch": batch, **sizes}] for batch in (1, 4))
    for name, shapes, other, seen in (
        ("a", fixed, free, "image: uint8 [?]x32x64x3, noise: float32 [?]x3x4x8, the manifest says"),
        ("b", free, fixed, "image: uint8 1x32x64x3, noise: float32 1x3x4x8, the manifest says"),
        ("c", [*fixed, {"batch": 1, "height": 64, "width": 64}], fixed, "image: uint8 1x32x64x3"),
    ):
        path = make_bundle(tmp_path / name, stride=8, shapes=shapes)
        assert Bundle.open(path).damaged_files() == {}
        foreign = make_bundle(tmp_path / name / "other", stride=8, shapes=other)
        put_graph(path, (foreign / "fused.fp32.onnx").read_bytes())
        (problem,) = Bundle.open(path).damaged_files().values()
        assert seen.replace("[?]", "?") in problem
