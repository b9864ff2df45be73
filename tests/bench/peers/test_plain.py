"""The model exported without this project, on libraries as they come."""

from __future__ import annotations

import numpy as np
import pytest

from elir_deploy.bench import peers
from elir_deploy.bench.measurement import random_image
from elir_deploy.bench.peers import plain
from elir_deploy.bench.peers.base import Workbench
from elir_deploy.bench.peers.subject import subject_of
from elir_deploy.bench.runners import Preparation
from elir_deploy.errors import UnavailableError
from elir_deploy.runtime import openvino_library
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.backends.openvino import OpenVinoBackend
from tests.bench.peers.bundles import SMALL, small_bundle

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

NO_OPENVINO = BACKENDS["openvino"].available()
needs_openvino = pytest.mark.skipif(NO_OPENVINO is not None, reason=str(NO_OPENVINO))
PLAIN = ["plain-onnxruntime", "plain-openvino"]


def levels_apart(runner, reference, image) -> int:
    return int(np.abs(runner.restore(image).astype(int) - reference.restore(image)).max())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A bundle whose images are enlarged, and its model exported."""
    folder = tmp_path_factory.mktemp("exported")
    bundle = small_bundle(folder / "b", upscale=4, kernel="bicubic", task="bsr")
    bench = Workbench(subject_of(bundle, None), 1, folder)
    return bundle, plain._export(bench)


@pytest.fixture
def exports(exported, monkeypatch):
    """What was asked to be exported; it is there already."""
    asked = []

    def export(bench):
        asked.append(bench.subject)
        return exported[1]

    monkeypatch.setattr(plain, "_export", export)
    return asked


def test_what_is_exported(exported):
    _, graph = exported
    assert graph.seconds > 0
    assert graph.path.name == "plain.onnx"
    session = onnxruntime.InferenceSession(graph.path)
    (source,), (sink,) = session.get_inputs(), session.get_outputs()
    assert (source.type, source.shape) == ("tensor(float)", [1, 3, 32, 32])
    assert (sink.type, sink.shape) == ("tensor(float)", [1, 3, 32, 32])


def test_onnxruntime_runs_the_same_network(exported, exports):
    bundle, graph = exported
    names = ["torch", "plain-onnxruntime"]
    (eager, runner), missing = peers.open_peers(names, bundle, None, threads=1)
    assert not missing
    assert len(exports) == 1
    assert (runner.label, runner.precision) == ("plain-onnxruntime fp32", "fp32")
    assert runner.version.startswith("onnxruntime 1.")
    assert runner.preparation == Preparation("to export", graph.seconds)
    for k in range(3):
        assert levels_apart(runner, eager, random_image((8, 8, 3), 0, 0, k)) <= 1
    assert runner.device_ns > 0
    with pytest.raises(UnavailableError, match="plain-onnxruntime fp32 failed: "):
        runner.restore(random_image((16, 16, 3), 0, 0, 0))
    runner.close()


@needs_openvino
def test_openvino_says_what_it_computes_in(exported, exports, monkeypatch):
    bundle, _ = exported
    image = random_image((8, 8, 3), 0, 0, 0)
    (eager, runner), missing = peers.open_peers(
        ["torch", "plain-openvino"], bundle, None, threads=1
    )
    assert not missing
    has_bf16 = BACKENDS["openvino"].unsupported("bf16") is None
    assert runner.precision == ("bf16" if has_bf16 else "fp32")
    assert runner.label == f"plain-openvino {runner.precision}"
    assert levels_apart(runner, eager, image) <= (16 if has_bf16 else 1)
    runner.close()

    class InFloat32:
        available_devices = ("CPU",)

        def compile_model(self, model, device, config):
            assert config == {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
            config = config | {"INFERENCE_PRECISION_HINT": "f32"}
            return core.compile_model(model, device, config)

    core = openvino_library.shared_core()
    monkeypatch.setattr(openvino_library, "shared_core", InFloat32)
    (runner,), _ = peers.open_peers(["plain-openvino"], bundle, None, threads=1)
    assert runner.label == "plain-openvino fp32"
    assert levels_apart(runner, eager, image) <= 1
    runner.close()


@needs_openvino
def test_one_export_serves_both(exported, exports):
    runners, missing = peers.open_peers(PLAIN, exported[0], None, threads=1)
    assert not missing
    assert len(exports) == 1
    for runner in runners:
        runner.close()


def test_a_failed_export_is_tried_once(tmp_path, temporary, monkeypatch):
    calls = []

    def export(*args, **kwargs):
        calls.append(args)
        raise torch.onnx.errors.OnnxExporterError("no such operator\nand more about it")

    monkeypatch.setattr(torch.onnx, "export", export)
    monkeypatch.setattr(OpenVinoBackend, "available", lambda self: None)
    bundle = small_bundle(tmp_path / "b")
    (eager,), missing = peers.open_peers([*PLAIN, "torch"], bundle, None, threads=1)
    assert eager.backend == "torch"
    assert [m.label for m in missing] == PLAIN
    assert {m.reason for m in missing} == {"torch.onnx.export failed: no such operator"}
    assert len(calls) == 1
    assert not list(temporary.glob("elir-bench-*"))


def test_nothing_is_exported_for_a_library_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", None)
    monkeypatch.setattr(OpenVinoBackend, "available", lambda self: "openvino is not installed")
    bundle = small_bundle(tmp_path / "b")
    runners, missing = peers.open_peers(["plain-openvino"], bundle, None, threads=1)
    assert not runners
    assert [(m.label, m.reason) for m in missing] == [
        ("plain-openvino", "openvino is not installed")
    ]
    monkeypatch.setattr(plain, "find_spec", lambda name: None)
    _, (missing,) = peers.open_peers(["plain-onnxruntime"], bundle, None, threads=1)
    assert "onnx is needed to export the plain model" in missing.reason


def test_an_over_parametrised_model_is_exported_as_it_is(tmp_path):
    from elir_deploy.checkpoints import Checkpoint
    from elir_deploy.model import Elir
    from elir_deploy.tasks import TASKS

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Elir(SMALL, collapsible=True).eval().requires_grad_(False)
    checkpoint = Checkpoint(model, TASKS["tiny"], "random", None, True, "random")
    bundle = small_bundle(tmp_path / "b")
    (eager, runner), missing = peers.open_peers(
        ["torch", "plain-onnxruntime"], bundle, checkpoint, threads=1
    )
    assert not missing
    assert runner.weights == "random, over-parametrised"
    assert levels_apart(runner, eager, random_image((32, 32, 3), 0, 0, 0)) <= 1
    runner.close()
