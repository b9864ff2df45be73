"""Graphs in other cuts compute what the original ones do."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import onnx
import pytest

from elir_deploy.bench.graph_variants import by_step, with_batch
from elir_deploy.errors import (
    BundleError,
    MissingDependencyError,
    UnavailableError,
    UsageError,
)
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.backends import BACKENDS, backend_named
from tests.bundles import make_bundle, read_manifest, write_manifest

PARTS = ("encoder", "estimator", "step 1", "step 2", "step 3", "decoder")
#: Levels of 255 that the cut may change: onnxruntime computes float16 in float32, and rounds where
#: a graph ends.
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


@pytest.fixture(scope="module")
def reference(split):
    return next(iter(split.reference_images()))[2]


def difference(one, other) -> int:
    return int(np.abs(one.astype(int) - other).max())


def error(one, other) -> float:
    return float(np.mean((one.astype(float) - other) ** 2))


def check_same(made, whole, reference, backend, precision) -> None:
    """To :data:`LEVELS`, but for OpenVINO's bfloat16.

    Where the processor can, it computes in that what is not INT8, and rounds elsewhere in a cut
    graph: by less than INT8 itself is off.
    """
    if (backend, precision) == ("openvino", "int8") and not BACKENDS[backend].unsupported("bf16"):
        assert error(made, whole) < error(whole, reference)
        assert error(made, reference) < 1.1 * error(whole, reference)
    else:
        assert difference(made, whole) <= LEVELS[backend, precision]


@runnable(("onnxruntime", "fp16"), ("onnxruntime", "int8"), ("openvino", "fp32"))
def test_steps_cut_apart_restore_the_same_picture(
    split, picture, reference, tmp_path, backend, precision
):
    cut = by_step(split, precision, tmp_path)
    assert tuple(stage.name for stage in cut.stages) == PARTS
    with Restorer(split, backend, precision=precision, threads=1) as restore:
        whole = restore.run_pixels(picture)
        counted = restore.session.arithmetic()
    with Restorer(cut, backend, precision=precision, threads=1) as restore:
        check_same(restore.run_pixels(picture), whole, reference, backend, precision)
        assert [name for name, _ in restore.session.steps()] == list(PARTS)
        if counted is not None:  # no convolution was lost, and none is computed otherwise
            assert restore.session.arithmetic() == counted
        # All parts in order are a run.
        restore.session.input[...] = 0
        restore.session.run()
        black = restore.session.output.copy()
        restore.session.input[...] = picture
        for _, call in restore.session.steps():
            call()
        check_same(restore.session.output[0], whole, reference, backend, precision)
        assert difference(black[0], whole) > 20


def test_the_parts_are_the_whole_graphs_nodes(split, tmp_path):
    """Nothing is computed twice, and nothing left out."""
    cut = by_step(split, "fp32", tmp_path)
    assert cut.temporary
    flow = onnx.load(split.path / "flow.fp32.onnx")
    nodes = [
        node.name
        for stage in cut.stages[2:5]
        for node in onnx.load(tmp_path / stage.artifacts[0].file).graph.node
    ]
    assert nodes == [node.name for node in flow.graph.node]
    for stage, after in zip(cut.stages, cut.stages[1:], strict=False):
        assert stage.output == after.input


@runnable(("openvino", "fp32"))
def test_several_images_at_once_are_each_restored(split, picture, tmp_path, backend, precision):
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
    for make in (
        lambda: by_step(split, "bf16", tmp_path),
        lambda: with_batch(split, "fp32", 2, tmp_path),
    ):
        made = make()
        assert made.path == tmp_path
        assert made.manifest.references == []
        for artifact in (a for stage in made.stages for a in stage.artifacts):
            assert artifact.precision == "fp32"
            # Hashed on the way, as any bundle's files are.
            assert made.checked_file(artifact.file).parent == tmp_path.resolve()
        file = tmp_path / made.stages[2].artifacts[0].file
        file.write_bytes(file.read_bytes() + b"\0")
        with pytest.raises(BundleError, match="is damaged"):
            made.checked_file(file.name)
    assert split.manifest.references  # the original is as it was
    assert len(split.stages) == 4


def test_a_single_step_is_left_whole(split, tmp_path):
    """Graphs of M = 1 are not even looked into."""
    folder = tmp_path / "one"
    make_bundle(folder, stages="split", bias=0.1)
    manifest = read_manifest(folder)
    manifest["model"]["steps"] = 1
    write_manifest(folder, manifest)
    (tmp_path / "cut").mkdir()
    cut = by_step(Bundle.open(folder), "fp32", tmp_path / "cut")
    assert [stage.name for stage in cut.stages] == ["encoder", "estimator", "flow", "decoder"]
    with Restorer(cut, "onnxruntime", precision="fp32") as restore:
        assert restore.run_pixels(np.zeros((32, 32, 3), np.uint8)).max() in (25, 26)


def test_a_fused_bundle_has_no_steps_to_cut(tmp_path):
    with pytest.raises(UsageError, match=r"is one graph: .*--stages split, or in a checkpoint"):
        by_step(Bundle.open("tiny"), "fp32", tmp_path)


def test_a_flow_that_does_not_name_its_steps(tmp_path):
    bundle = Bundle.open(make_bundle(tmp_path / "b", stages="split"))
    with pytest.raises(UnavailableError, match="does not make step1, the end of step 1"):
        by_step(bundle, "fp32", tmp_path)


@pytest.mark.parametrize("stages", ["split", "fused"])
def test_engines_are_not_cut(tmp_path, stages):
    folder = make_bundle(tmp_path / "b", stages=stages)
    manifest = read_manifest(folder)
    for stage in manifest["stages"]:
        (artifact,) = stage["artifacts"]
        artifact |= {"kind": "tensorrt", "target": "orin-nano-8gb"}
    write_manifest(folder, manifest)
    bundle = Bundle.open(folder)
    with pytest.raises(
        UnavailableError, match=r"no fp32 ONNX graph of .*, and engines are not cut"
    ):
        with_batch(bundle, "fp32", 2, tmp_path)
    if stages == "split":
        with pytest.raises(UnavailableError, match="engines are not cut"):
            by_step(bundle, "fp32", tmp_path)


def test_a_precision_that_is_not_there(tmp_path):
    bundle = Bundle.open(make_bundle(tmp_path / "b"))
    with pytest.raises(UnavailableError, match="no int8 ONNX graph of fused"):
        with_batch(bundle, "int8", 2, tmp_path)


def test_a_damaged_graph_is_not_cut(tiny_split, tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(tiny_split, folder)
    bundle = Bundle.open(folder)
    file = folder / "estimator.fp32.onnx"
    data = bytearray(file.read_bytes())
    data[500] ^= 1
    file.write_bytes(data)
    for make in (by_step, lambda *a: with_batch(a[0], a[1], 2, a[2])):
        with pytest.raises(BundleError, match="is damaged"):
            make(bundle, "fp32", tmp_path)


def test_without_onnx(tmp_path, monkeypatch):
    bundle = Bundle.open(make_bundle(tmp_path / "b"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'elir-deploy\[export\]'"):
        with_batch(bundle, "fp32", 2, tmp_path)
