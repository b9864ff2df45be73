"""ONNX files on ONNX Runtime: on the CPU, on CUDA, and through TensorRT.

Stages share buffers by IO binding: the output of one is the input of the next, without a copy. On a
GPU a :class:`~elir_deploy.runtime.cuda_session.CudaSession` holds these buffers.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError, OutputError, UnavailableError
from elir_deploy.runtime.automatic import automatic_precisions
from elir_deploy.runtime.backends.base import (
    Backend,
    Session,
    missing_cuda_device,
)
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.cache import FolderInUse, compiled_place, trim_compiled
from elir_deploy.runtime.cuda import open_device
from elir_deploy.runtime.cuda_session import CudaSession, CudaStage
from elir_deploy.runtime.detector_graph import DetectorNetwork, check_detector_ends, onnx_detector
from elir_deploy.runtime.graph_ends import End, GraphEnds, check_ends
from elir_deploy.runtime.libraries import import_library
from elir_deploy.runtime.manifest import Artifact, Shape
from elir_deploy.runtime.onnxruntime_cpu import CpuSession
from elir_deploy.runtime.onnxruntime_stage import OnnxRuntimeStage, library_failures, one_line

__all__ = ["BACKENDS", "OnnxRuntimeBackend", "conflicting_packages", "load_cuda_libraries"]

#: Fatal messages only: errors are raised as exceptions too.
_SILENT = 4
#: Names and options of execution providers.
Providers = list[tuple[str, dict[str, str]]]

_ONNX_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


@dataclass(frozen=True)
class OnnxRuntimeBackend(Backend):
    """An execution provider of ONNX Runtime.

    Attributes:
        provider: its name in ONNX Runtime.
        extra: the extra of this project that installs it.
        providers: returns the providers to use from precision, device number and the folder for
            compiled engines; the first is ``provider``, the others run the nodes that it does not.
        on_gpu: whether tensors between stages are on a CUDA device.
        compiles: whether it compiles engines that are worth caching.
    """

    name: str
    provider: str
    extra: str
    precisions: tuple[str, ...]
    providers: Callable[[str, int, Path | None], Providers]
    on_gpu: bool = False
    compiles: bool = False
    automatic: bool = True
    kind: str = "onnx"

    def available(self) -> str | None:
        try:
            ort = _library(self.extra)
        except UnavailableError as error:
            return str(error)
        if self.provider not in ort.get_available_providers():
            return (
                f"the installed onnxruntime {ort.__version__} has no {self.provider}: "
                f"pip uninstall onnxruntime && pip install 'elir-deploy[{self.extra}]'"
            )
        if not self.on_gpu:
            return None
        reason = missing_cuda_device()
        if reason is None:
            try:
                open_device(0, self.extra)
            except UnavailableError as error:
                return str(error)
        return reason

    def open(
        self, bundle: Bundle, precision: str, *, threads: int | None = None, device: int = 0
    ) -> Session:
        self._check_available(device)
        if self.on_gpu:
            return self._on_device(bundle, precision, threads, device)
        chain = [
            self._load(path, ends, self.providers(precision, device, None), threads, precision)
            for path, ends, _ in self._files(bundle, precision)
        ]
        return CpuSession(bundle, precision, chain, threads)

    def _check_available(self, device: int) -> None:
        reason = self.available()
        if reason:
            _library(self.extra)  # these two raise MissingDependencyError if a package is missing
            if self.on_gpu and missing_cuda_device() is None:
                open_device(device, self.extra)
            raise UnavailableError(f"{self.name} cannot be used: {reason}")

    def _on_device(
        self, bundle: Bundle, precision: str, threads: int | None, number: int
    ) -> Session:
        device = open_device(number, self.extra)
        ort = _library(self.extra)
        load_cuda_libraries(ort)
        chain: list[tuple[Any, FolderInUse | None]] = []

        def create_stages(shape: Shape) -> list[CudaStage]:
            stages = bundle.manifest.stages_in(shape)
            return [
                OnnxRuntimeStage(ort, loaded, stage, number)
                for stage, (loaded, _) in zip(stages, chain, strict=True)
            ]

        with device.current(), ExitStack() as undo:
            stream = device.create_stream()
            undo.callback(device.destroy_stream, stream)
            undo.callback(chain.clear)  # before the stream that it was loaded for
            for path, ends, artifact in self._files(bundle, precision):
                engines = _engines(artifact, bundle) if self.compiles else None
                providers = self.providers(precision, number, engines.folder if engines else None)
                for _, options in providers:
                    options["user_compute_stream"] = str(stream)
                chain.append((self._load(path, ends, providers, threads, precision), engines))
            release = undo.pop_all().close
        first = bundle.manifest.shapes[0]
        return CudaSession(device, first, create_stages, stream=stream, release=release)

    def _files(self, bundle: Bundle, precision: str) -> Iterator[tuple[Path, GraphEnds, Artifact]]:
        """The file of each stage, with the inputs and outputs that it must have."""
        artifacts = self.artifacts(bundle, precision)
        for stage, artifact in zip(bundle.stages, artifacts, strict=True):
            yield bundle.checked_file(artifact.file), bundle.manifest.graph_ends(stage), artifact

    def open_detector(
        self, bundle: Bundle, *, threads: int | None = None, device: int = 0
    ) -> DetectorNetwork:
        if self.compiles:
            raise UnavailableError(f"{self.name} would compile an engine for every picture's size")
        self._check_available(device)
        if self.on_gpu:
            load_cuda_libraries(_library(self.extra))
        detector, path = onnx_detector(bundle)
        loaded = self._load(path, None, self.providers("fp32", device, None), threads, "fp32")
        check_detector_ends(path, detector, _read_ends(loaded))
        names, failures = list(detector.outputs), library_failures()

        def run(picture: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            try:
                values = loaded.run(names, {detector.input: picture})
            except failures as error:
                raise UnavailableError(
                    f"{self.name} failed in the face detector: {one_line(error)}"
                ) from None
            return dict(zip(names, values, strict=True))

        return DetectorNetwork(run)

    def _load(
        self,
        path: Path,
        ends: GraphEnds | None,
        providers: Providers,
        threads: int | None,
        precision: str,
    ) -> Any:
        ort = _library(self.extra)
        options = ort.SessionOptions()
        options.log_severity_level = _SILENT
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        if threads is not None:
            options.intra_op_num_threads = threads
        if precision == "w8":
            # Else weights are dequantised at every run, not once (docs/decisions.md).
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            # With fallback, an error would be printed and the graph loaded on the CPU.
            loaded = ort.InferenceSession(
                str(path), options, providers=providers, enable_fallback=0
            )
        except library_failures() as error:
            text = one_line(error)
            # Apart from these two, errors of the GPU and of the graph look alike.
            if self.on_gpu and not text.startswith(("INVALID_PROTOBUF", "INVALID_GRAPH")):
                raise UnavailableError(f"{self.name} cannot run {path}: {text}") from None
            raise BundleError(
                f"{path} cannot be loaded by onnxruntime {ort.__version__}: {text}"
            ) from None
        loaded.disable_fallback()
        if loaded.get_providers()[0] != self.provider:
            reason = (
                f"onnxruntime fell back to {loaded.get_providers()[0]}: "
                f"{_not_started(ort, self.provider)}; check that the versions of the driver, CUDA "
                "and cuDNN are those of its release notes"
            )
            raise UnavailableError(f"{self.name} cannot be used: {reason}")
        if ends is not None:
            check_ends(f"{path}: the graph's", _read_ends(loaded), ends)
        return loaded


def conflicting_packages() -> str | None:
    """Why the installation of onnxruntime is unreliable, or None.

    The packages of ONNX Runtime install into the same folder and overwrite each other's files.
    """
    names = ("onnxruntime", "onnxruntime-gpu")
    if not all(any(importlib.metadata.distributions(name=name)) for name in names):
        return None
    return (
        f"{' and '.join(names)} are both installed and overwrite each other's files: "
        "pip uninstall onnxruntime onnxruntime-gpu, then install one of "
        "'elir-deploy[cpu]' and 'elir-deploy[gpu]'"
    )


def _library(extra: str) -> Any:
    return import_library("onnxruntime", extra, "run ONNX files", attribute="InferenceSession")


def load_cuda_libraries(ort: Any) -> None:
    """Load CUDA's libraries and cuDNN from NVIDIA's Python packages, where they are installed."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        with redirect_stdout(io.StringIO()):  # what is not found there may be in the loader's path
            preload()


def _not_started(ort: Any, provider: str) -> str:
    """Why a provider did not start, after ONNX Runtime tried, which only logs the reason."""
    name = provider.removesuffix("ExecutionProvider").lower()
    library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return f"{provider} does not start here"


def _read_ends(loaded: Any) -> GraphEnds:
    def read(nodes: Sequence[Any]) -> list[End]:
        return [
            End(
                node.name,
                _ONNX_TYPES.get(node.type, node.type),
                tuple(side if isinstance(side, int) else None for side in node.shape),
            )
            for node in nodes
        ]

    return GraphEnds(read(loaded.get_inputs()), read(loaded.get_outputs()))


def _engines(artifact: Artifact, bundle: Bundle) -> FolderInUse | None:
    """The cache folder for engines compiled from a file; None if they are not kept.

    One per file: ONNX Runtime names an engine by the graph without its weights, and would load that
    of another bundle.
    """
    try:
        folder = compiled_place("onnxruntime-tensorrt", artifact.sha256)
        if folder is None or bundle.temporary:
            return None
        engines = FolderInUse(folder)
        trim_compiled()
    except OutputError as error:
        raise UnavailableError(f"compiled engines cannot be cached: {error}") from None
    return engines


def _on_cpu(precision: str, device: int, engines: Path | None) -> Providers:
    return [("CPUExecutionProvider", {})]


def _on_cuda(precision: str, device: int, engines: Path | None) -> Providers:
    options = {
        "device_id": str(device),
        # By default, it multiplies float32 with 10 of 23 bits (TF32) from Ampere on.
        "use_tf32": "0",
        # The exhaustive search, its default, chose slower algorithms (docs/results/gpu.md).
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    return [("CUDAExecutionProvider", options)]


def _on_tensorrt(precision: str, device: int, engines: Path | None) -> Providers:
    options = {
        "device_id": str(device),
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_int8_enable": str(precision == "int8"),
    }
    if engines is not None:
        options |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(engines)}
    return [("TensorrtExecutionProvider", options), *_on_cuda(precision, device, engines)]


BACKENDS = (
    OnnxRuntimeBackend(
        name="onnxruntime-cuda",
        provider="CUDAExecutionProvider",
        extra="gpu",
        on_gpu=True,
        precisions=automatic_precisions("onnxruntime-cuda"),
        providers=_on_cuda,
    ),
    OnnxRuntimeBackend(
        name="onnxruntime",
        provider="CPUExecutionProvider",
        extra="cpu",
        on_gpu=False,
        precisions=automatic_precisions("onnxruntime"),
        providers=_on_cpu,
    ),
    OnnxRuntimeBackend(
        name="onnxruntime-tensorrt",
        provider="TensorrtExecutionProvider",
        extra="gpu",
        on_gpu=True,
        # Not fp32, which it would compute in TF32: it has no option against that, and
        # NVIDIA_TF32_OVERRIDE=0 would affect the whole process.
        precisions=("fp16", "int8", "w8"),
        providers=_on_tensorrt,
        compiles=True,
        # Its first run compiles an engine, which takes minutes: only if it is named.
        automatic=False,
    ),
)
