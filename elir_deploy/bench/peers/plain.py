"""The model exported by ``torch.onnx.export`` with its defaults, onto libraries with theirs.

The network is exported as it was loaded, with float32 images at both ends. One export serves all
of these peers.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.device import installed_version
from elir_deploy.bench.peers.base import PeerRunner, PlainGraph, Workbench, as_unavailable, quiet
from elir_deploy.bench.peers.subject import Subject
from elir_deploy.bench.runners import Preparation
from elir_deploy.errors import MissingDependencyError, UnavailableError
from elir_deploy.pixels import as_pixels
from elir_deploy.runtime.backends import backend_named

__all__ = ["ONNXRUNTIME", "OPENVINO", "PlainRunner"]

ONNXRUNTIME = "plain-onnxruntime"
OPENVINO = "plain-openvino"

#: Precisions by OpenVINO's names of types.
_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}

#: A batch of one float32 NCHW image in [0, 1] to the same.
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class PlainRunner(PeerRunner):
    """A plain graph on a library with its defaults, on the CPU; ``run`` runs it there."""

    def __init__(
        self, bench: Workbench, graph: PlainGraph, run: Run, *, name: str, precision: str
    ) -> None:
        super().__init__(bench.subject)
        library = name.removeprefix("plain-")
        self.label = f"{name} {precision}"
        self.backend = name
        self.precision = precision
        self.version = f"{library} {installed_version(library) or 'unknown'}"
        if bench.subject.model.collapsible:
            self.weights += ", over-parametrised"
        self.preparation = Preparation("to export", graph.seconds)
        self._library: Run | None = run

    def close(self) -> None:
        self._library = None

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        assert self._library is not None
        x = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
        x /= 255
        start = time.perf_counter_ns()
        restored = self._library(x)
        self.device_ns = time.perf_counter_ns() - start
        return np.ascontiguousarray(as_pixels(restored[0]).transpose(1, 2, 0))


def open_onnxruntime(bench: Workbench) -> PlainRunner:
    """With default session options but for the number of threads."""
    _require("onnxruntime")
    graph = _graph(bench)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors, which are raised too
    if bench.threads is not None:
        options.intra_op_num_threads = bench.threads
    bench.progress(f"loading {ONNXRUNTIME}", 0, 0)
    with as_unavailable("onnxruntime cannot load the output of torch.onnx.export"):
        session = onnxruntime.InferenceSession(
            str(graph.path), options, providers=["CPUExecutionProvider"]
        )
    name = session.get_inputs()[0].name
    return PlainRunner(
        *(bench, graph, lambda x: session.run(None, {name: x})[0]),
        name=ONNXRUNTIME,
        precision="fp32",
    )


def open_openvino(bench: Workbench) -> PlainRunner:
    """With OpenVINO's default precision, for latency."""
    _require("openvino")
    graph = _graph(bench)
    openvino = importlib.import_module("openvino")  # untyped
    # Two OpenVINO cores in one process can crash it at Ctrl-C: use the backend's.
    from elir_deploy.runtime.openvino_library import shared_core

    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if bench.threads is not None:
        config["INFERENCE_NUM_THREADS"] = bench.threads
    bench.progress(f"loading {OPENVINO}", 0, 0)
    with quiet(), as_unavailable("openvino cannot load the output of torch.onnx.export"):
        compiled = shared_core().compile_model(
            openvino.convert_model(str(graph.path)), "CPU", config
        )
        kind = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    precision = _PRECISIONS.get(kind, kind)
    return PlainRunner(bench, graph, lambda x: compiled(x)[0], name=OPENVINO, precision=precision)


def _require(backend: str) -> None:
    """Raise :class:`UnavailableError` for a missing package, before the export."""
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise MissingDependencyError(package, "export", "export the plain model")
    reason = backend_named(backend).available()
    if reason is not None:
        raise UnavailableError(reason)


def _graph(bench: Workbench) -> PlainGraph:
    """The export, made for the first peer that needs it; its error is raised for every peer."""
    if bench.graph is None:
        try:
            bench.graph = _export(bench)
        except UnavailableError as error:
            bench.graph = error
    if isinstance(bench.graph, UnavailableError):
        raise bench.graph
    return bench.graph


def _export(bench: Workbench) -> PlainGraph:
    import torch
    from torch import Tensor, nn

    class Plain(nn.Module):
        """One image in, one image out, as the exporter expects."""

        def __init__(self, subject: Subject) -> None:
            super().__init__()
            self.model = subject.model
            self.steps = subject.manifest.model.steps
            self.register_buffer("noise", subject.noise)

        def forward(self, image: Tensor) -> Tensor:
            restored: Tensor = self.model(image, self.steps, self.noise)
            return restored

    bench.progress("exporting with torch.onnx.export", 0, 0)
    path = bench.folder / "plain.onnx"
    start = time.perf_counter()
    with quiet(), as_unavailable("torch.onnx.export failed"):
        plain = Plain(bench.subject).eval()
        image = torch.zeros(1, 3, *bench.subject.manifest.shapes[0].graph_size)
        torch.onnx.export(plain, (image,), path, verbose=False)
    return PlainGraph(path, time.perf_counter() - start)
