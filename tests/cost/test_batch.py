"""Graphs for several images compute what the original ones do."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest

from elir_deploy.cost.batch import with_batch
from elir_deploy.errors import (
    BundleError,
    MissingDependencyError,
    UnavailableError,
)
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.backends import BACKENDS, backend_named
from tests.bundles import make_bundle, read_manifest, write_manifest

#: Levels of 255 by which a picture may differ.
LEVELS = {
    ("onnxruntime", "fp32"): 0,
    ("onnxruntime", "fp16"): 2,
    ("onnxruntime", "int8"): 0,
    ("openvino", "fp32"): 1,
    ("openvino", "fp16"): 1,
    ("openvino", "int8"): 1,
}


def runnable(*quick):
    """Every backend in every precision; those that are not ``quick`` with the slow tests."""

    def marks(key) -> list:
        backend = BACKENDS[key[0]]
        reason = backend.available() or backend.unsupported(key[1])
        skipped = pytest.mark.skipif(reason is not None, reason=str(reason))
        return [skipped] if key in quick else [skipped, pytest.mark.slow]

    cases = [pytest.param(*key, marks=marks(key)) for key in LEVELS]
    return pytest.mark.parametrize(("backend", "precision"), cases)


@pytest.fixture(scope="module")
def split(tiny_split) -> Bundle:
    return Bundle.open(tiny_split)


@pytest.fixture(scope="module")
def picture(split):
    return next(iter(split.reference_images()))[1]


def difference(one, other) -> int:
    return int(np.abs(one.astype(int) - other).max())


@runnable(("openvino", "fp32"))
def test_a_batch_restores_each_image(split, picture, tmp_path, backend, precision):
    pictures = [picture, picture[::-1], np.zeros_like(picture)]
    widened = with_batch(split, precision, 3, tmp_path)
    with Restorer(split, backend, precision=precision, threads=1) as restore:
        alone = [restore.run_pixels(np.ascontiguousarray(one)) for one in pictures]
    opened = backend_named(backend).open(widened, precision, threads=1)
    with opened as session:
        assert session.input.shape == session.output.shape == (3, 256, 256, 3)
        session.input[...] = np.stack(pictures)
        session.run()
        for restored, expected in zip(session.output, alone, strict=True):
            assert difference(restored, expected) <= max(1, LEVELS[backend, precision])


def test_a_fused_graph_takes_several_images_too(tmp_path, picture):
    tiny, precision = Bundle.open("tiny"), "int8"
    widened = with_batch(tiny, precision, 2, tmp_path)
    assert widened.manifest.input.shape == widened.manifest.output.shape == (2, 256, 256, 3)
    with Restorer(tiny, "onnxruntime", precision=precision, threads=1) as restore:
        expected = restore.run_pixels(picture)
    with backend_named("onnxruntime").open(widened, precision, threads=1) as session:
        session.input[...] = picture
        session.run()
        assert difference(session.output[0], expected) <= 1
        assert np.array_equal(session.output[0], session.output[1])


def test_graphs_of_float32_images_take_several_too(tmp_path):
    bundle = Bundle.open(make_bundle(tmp_path / "b", io="float32", bias=0.25))
    (tmp_path / "wide").mkdir()
    widened = with_batch(bundle, "fp32", 4, tmp_path / "wide")
    assert widened.temporary
    with backend_named("onnxruntime").open(widened, "fp32", threads=1) as session:
        session.input[...] = np.linspace(0, 1, 4).reshape(4, 1, 1, 1)
        session.run()
        assert session.output[:, 0, 0, 0] == pytest.approx([0.25, 0.25 + 1 / 3, 0.25 + 2 / 3, 1])


def test_a_variant_is_a_bundle_of_its_own_files(split, tmp_path):
    widened = with_batch(split, "bf16", 2, tmp_path)
    assert widened.path == tmp_path
    assert widened.manifest.references == []
    for artifact in (a for stage in widened.stages for a in stage.artifacts):
        assert artifact.precision == "fp32"
        # Hashed when opened, as any bundle's files are.
        assert widened.checked_file(artifact.file).parent == tmp_path.resolve()
    file = tmp_path / widened.stages[2].artifacts[0].file
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="is damaged"):
        widened.checked_file(file.name)
    assert split.manifest.references  # the original is as it was
    assert len(split.stages) == 4


@pytest.mark.parametrize("stages", ["split", "fused"])
def test_engines_take_no_other_batch(tmp_path, stages):
    folder = make_bundle(tmp_path / "b", stages=stages)
    manifest = read_manifest(folder)
    for stage in manifest["stages"]:
        (artifact,) = stage["artifacts"]
        artifact |= {"kind": "tensorrt", "target": "orin-nano-8gb"}
    write_manifest(folder, manifest)
    bundle = Bundle.open(folder)
    with pytest.raises(UnavailableError, match=r"no fp32 ONNX graph of .*, and an engine cannot"):
        with_batch(bundle, "fp32", 2, tmp_path)


def test_a_precision_that_is_not_there(tmp_path):
    bundle = Bundle.open(make_bundle(tmp_path / "b"))
    with pytest.raises(UnavailableError, match="no int8 ONNX graph of fused"):
        with_batch(bundle, "int8", 2, tmp_path)


def test_a_damaged_graph_is_refused(tiny_split, tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(tiny_split, folder)
    bundle = Bundle.open(folder)
    file = folder / "estimator.fp32.onnx"
    data = bytearray(file.read_bytes())
    data[500] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match="is damaged"):
        with_batch(bundle, "fp32", 2, tmp_path)


def test_without_onnx(tmp_path, monkeypatch):
    bundle = Bundle.open(make_bundle(tmp_path / "b"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'elir-deploy\[export\]'"):
        with_batch(bundle, "fp32", 2, tmp_path)
