"""ONNX files on ONNX Runtime: on the CPU, on CUDA, and through TensorRT.

Stages share buffers by IO binding: the output of one is the input of the next, without a copy. On a
GPU these buffers are on the device, and only the image is copied there and back.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError, OutputError, UnavailableError
from elir_deploy.runtime.backends.base import (
    Backend,
    HostSession,
    Selection,
    Session,
    allocate,
    import_library,
    missing_cuda_device,
)
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.cache import FolderInUse, compiled_place, trim_compiled
from elir_deploy.runtime.detector_graph import DetectorRun, check_detector_ends, onnx_detector
from elir_deploy.runtime.manifest import Artifact, Manifest, Shape, Stage
from elir_deploy.runtime.onnx_check import End
from elir_deploy.runtime.tensors import TensorSpec

__all__ = ["BACKENDS", "OnnxRuntimeBackend", "conflicting_packages"]

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
        return missing_cuda_device() if self.on_gpu else None

    def open(
        self, bundle: Bundle, precision: str, *, threads: int | None = None, device: int = 0
    ) -> Session:
        reason = self.available()
        if reason:
            _library(self.extra)  # raises MissingDependencyError if it is missing
            raise UnavailableError(f"{self.name} cannot be used: {reason}")
        chain: list[Any] = []
        in_use: list[FolderInUse | None] = []
        for stage, artifact in zip(bundle.stages, self.artifacts(bundle, precision), strict=True):
            path = bundle.checked_file(artifact.file)
            engines = _engines(artifact, bundle) if self.compiles else None
            in_use.append(engines)
            providers = self.providers(precision, device, engines.folder if engines else None)
            chain.append(self._load(path, bundle.ends(stage), providers, threads))
        if self.on_gpu:
            return _CudaSession(bundle.manifest, chain, device, in_use)
        return _CpuSession(bundle.manifest, chain, threads)

    def open_detector(
        self, bundle: Bundle, *, threads: int | None = None, device: int = 0
    ) -> DetectorRun:
        if self.compiles:  # an engine for every size of picture would take minutes
            [cuda] = [backend for backend in BACKENDS if backend.on_gpu and not backend.compiles]
            return cuda.open_detector(bundle, threads=threads, device=device)
        reason = self.available()
        if reason:
            _library(self.extra)  # raises MissingDependencyError if it is missing
            raise UnavailableError(f"{self.name} cannot be used: {reason}")
        detector, path = onnx_detector(bundle)
        loaded = self._load(path, None, self.providers("fp32", device, None), threads)
        check_detector_ends(path, detector, _ends(loaded.get_inputs()), _ends(loaded.get_outputs()))
        names, failures = list(detector.outputs), _failures(_library(self.extra))

        def run(picture: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            try:
                values = loaded.run(names, {detector.input: picture})
            except failures as error:
                raise UnavailableError(
                    f"{self.name} failed in the face detector: {_one_line(error)}"
                ) from None
            return dict(zip(names, values, strict=True))

        return run

    def _load(
        self,
        path: Path,
        ends: tuple[list[End], list[End]] | None,
        providers: Providers,
        threads: int | None,
    ) -> Any:
        ort = _library(self.extra)
        options = ort.SessionOptions()
        options.log_severity_level = _SILENT
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            # With fallback, an error would be printed and the graph loaded on the CPU.
            loaded = ort.InferenceSession(
                str(path), options, providers=providers, enable_fallback=0
            )
        except _failures(ort) as error:
            text = _one_line(error)
            # Apart from these two, errors of the GPU and of the graph look alike.
            if self.on_gpu and not text.startswith(("INVALID_PROTOBUF", "INVALID_GRAPH")):
                raise UnavailableError(f"{self.name} cannot run {path}: {text}") from None
            raise BundleError(
                f"{path} cannot be loaded by onnxruntime {ort.__version__}: {text}"
            ) from None
        loaded.disable_fallback()
        if loaded.get_providers()[0] != self.provider:
            reason = (
                f"onnxruntime fell back to {loaded.get_providers()[0]}: {self.provider} does not "
                "start here; check that the versions of the driver, CUDA and cuDNN are those of "
                "its release notes"
            )
            raise UnavailableError(f"{self.name} cannot be used: {reason}")
        if ends is not None:
            _check_ends(path, ends, loaded)
        return loaded


class _CpuSession(HostSession):
    def __init__(self, manifest: Manifest, loaded: Sequence[Any], threads: int | None) -> None:
        self.threads = threads  # ONNX Runtime does not report its default
        self._loaded = loaded
        self._failures = _failures(_library("cpu"))
        super().__init__(manifest)

    def _step(
        self, index: int, shape: Shape, sources: Sequence[NDArray[Any]], sink: NDArray[Any]
    ) -> Callable[[], None]:
        loaded, stage = self._loaded[index], self._manifest.stages[index]
        binding = loaded.io_binding()
        for name, array in zip(stage.inputs, sources, strict=True):
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        binding.bind_output(stage.output, "cpu", 0, sink.dtype.type, sink.shape, sink.ctypes.data)
        # The binding holds addresses, not references.
        return partial(self._run, loaded, binding, (*sources, sink))

    def _run(self, loaded: Any, binding: Any, arrays: object) -> None:
        try:
            loaded.run_with_iobinding(binding)
        except self._failures as error:
            raise UnavailableError(f"onnxruntime failed: {_one_line(error)}") from None

    def close(self) -> None:
        super().close()
        self._loaded = ()


class _CudaSession(Session):
    """Like :class:`_CpuSession`, with the tensors between stages on the device."""

    def __init__(
        self,
        manifest: Manifest,
        loaded: Sequence[Any],
        device: int,
        in_use: Sequence[FolderInUse | None],
    ) -> None:
        self._ort = _library("gpu")
        self._manifest = manifest
        self._loaded = loaded
        self._device = device
        self._in_use = in_use
        self._failures = _failures(self._ort)
        super().__init__(manifest.shapes[0])

    def _bind(self, shape: Shape) -> Selection:
        stages = self._manifest.stages_in(shape)
        noise = next((stage.noise for stage in stages if stage.noise is not None), None)
        arrays = Selection(
            allocate(stages[0].input),
            None if noise is None else allocate(noise),
            allocate(stages[-1].output),
        )
        try:
            arrays.steps = self._steps(stages, arrays)
        except self._failures as error:
            raise UnavailableError(f"onnxruntime on CUDA: {_one_line(error)}") from None
        return arrays

    def _steps(self, stages: Sequence[Stage], arrays: Selection) -> list[Callable[[], None]]:
        def on_device(spec: TensorSpec) -> Any:
            return self._ort.OrtValue.ortvalue_from_shape_and_type(
                spec.shape, np.dtype(spec.dtype).type, "cuda", self._device
            )

        source = on_device(stages[0].input)
        steps = [partial(source.update_inplace, arrays.input)]
        for stage, loaded in zip(stages, self._loaded, strict=True):
            binding = loaded.io_binding()
            binding.bind_ortvalue_input(stage.input.name, source)
            if stage.noise is not None:
                noise = on_device(stage.noise)
                binding.bind_ortvalue_input(stage.noise.name, noise)
                steps.insert(1, partial(noise.update_inplace, arrays.noise))
            if stage is stages[-1]:  # copied to the bound host buffer at the end of a run
                sink = arrays.output
                binding.bind_output(
                    *(stage.output.name, "cpu", 0, sink.dtype.type, sink.shape, sink.ctypes.data)
                )
            else:
                source = on_device(stage.output)
                binding.bind_ortvalue_output(stage.output.name, source)
            steps.append(partial(loaded.run_with_iobinding, binding))
        return [*steps, binding.synchronize_outputs]

    def run(self) -> None:
        try:
            for step in self._selected.steps:
                step()
        except self._failures as error:
            raise UnavailableError(f"onnxruntime on CUDA failed: {_one_line(error)}") from None

    def close(self) -> None:
        for selection in self._selections.values():
            selection.steps = ()
        self._loaded = self._in_use = ()


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


def _failures(ort: Any) -> tuple[type[Exception], ...]:
    """All exceptions of ONNX Runtime, which have no common base class."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    kinds = [value for value in vars(state).values() if isinstance(value, type)]
    # ValueError if the message quotes bytes of a damaged file.
    return (RuntimeError, ValueError, *(kind for kind in kinds if issubclass(kind, Exception)))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    # "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from ..."
    text = text.removeprefix("[ONNXRuntimeError] : ").lstrip("0123456789").removeprefix(" : ")
    return text if len(text) <= 300 else text[:297] + "..."


def _check_ends(path: Path, ends: tuple[list[End], list[End]], loaded: Any) -> None:
    for what, expected, nodes in zip(
        ("input", "output"), ends, (loaded.get_inputs(), loaded.get_outputs()), strict=True
    ):
        actual = _ends(nodes)
        if actual != expected:
            raise BundleError(
                f"{path}: the graph's {what} is {', '.join(map(str, actual))}, the manifest says "
                f"{', '.join(map(str, expected))}"
            )


def _ends(nodes: Sequence[Any]) -> list[End]:
    return [
        End(
            node.name,
            _ONNX_TYPES.get(node.type, node.type),
            tuple(side if isinstance(side, int) else None for side in node.shape),
        )
        for node in nodes
    ]


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
    # By default, it multiplies float32 with 10 of 23 bits (TF32) from Ampere on.
    return [("CUDAExecutionProvider", {"device_id": str(device), "use_tf32": "0"})]


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
        # It runs Q/DQ convolutions in floating point, with conversions: int8 last.
        precisions=("fp16", "fp32", "int8"),
        providers=_on_cuda,
    ),
    OnnxRuntimeBackend(
        name="onnxruntime",
        provider="CPUExecutionProvider",
        extra="cpu",
        on_gpu=False,
        # float16 has no CPU kernels and runs through casts; int8 gains 5 % (docs/decisions.md).
        precisions=("fp32", "int8", "fp16"),
        providers=_on_cpu,
    ),
    OnnxRuntimeBackend(
        name="onnxruntime-tensorrt",
        provider="TensorrtExecutionProvider",
        extra="gpu",
        on_gpu=True,
        # Not fp32, which it would compute in TF32: it has no option against that, and
        # NVIDIA_TF32_OVERRIDE=0 would affect the whole process.
        precisions=("fp16", "int8"),
        providers=_on_tensorrt,
        compiles=True,
        # Its first run compiles an engine, which takes minutes: only if it is named.
        automatic=False,
    ),
)
