"""ONNX files on OpenVINO, on the CPU or on a device that the caller names.

Stages share buffers: the output of one is the input of the next, and on the CPU a run copies and
allocates nothing. Models compiled for the CPU are kept in the user's cache folder, which halves the
time of the next start. OpenVINO's own cache is not used: it accepts files with flipped bits, and
does not find the models of a bundle that was moved (docs/decisions.md).
"""

from __future__ import annotations

import hashlib
import re
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import OutputError, UnavailableError
from elir_deploy.runtime.automatic import ON_NAMED_DEVICES, automatic_precisions
from elir_deploy.runtime.backends.base import Backend, HostSession, Session
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.cache import compiled_place, read_sealed, write_sealed
from elir_deploy.runtime.detector_graph import DetectorNetwork, check_detector_ends, onnx_detector
from elir_deploy.runtime.graph_ends import End, GraphEnds, check_ends
from elir_deploy.runtime.manifest import Artifact, Shape, Stage
from elir_deploy.runtime.openvino_devices import OpenVinoDevice, openvino_devices
from elir_deploy.runtime.openvino_library import (
    REWRITING,
    does_not_start,
    load_openvino,
    one_line,
    read_model,
    shared_core,
)

__all__ = ["BACKENDS", "OpenVinoBackend", "read_model"]

_DTYPES = {"u8": "uint8", "f32": "float32"}

_COMPUTED_IN = {
    "f32": "float32",
    "bf16": "bfloat16",
    "f16": "float16",
    "i8": "int8",
    "u8": "int8",
}

_THREADS = "INFERENCE_NUM_THREADS"
#: Of the performance hint.
_LATENCY, _THROUGHPUT = "LATENCY", "THROUGHPUT"


class OpenVinoBackend(Backend):
    """OpenVINO on one of its devices."""

    name = "openvino"
    kind = "onnx"
    precisions = automatic_precisions(name)

    def __init__(self, device: OpenVinoDevice | None = None) -> None:
        self._device = device or OpenVinoDevice()
        if not self._device.is_cpu:
            self.on_gpu = True
            self.precisions = ON_NAMED_DEVICES

    def on_device(self, name: str) -> Backend:
        return OpenVinoBackend(OpenVinoDevice(name))

    def other_devices(self) -> tuple[str, ...]:
        try:
            return tuple(name for name in openvino_devices() if name != self._device.name)
        except UnavailableError:
            return ()

    def available(self) -> str | None:
        return self._device.missing()

    def unsupported(self, precision: str) -> str | None:
        return self._device.unsupported(precision)

    def open(
        self, bundle: Bundle, precision: str, *, threads: int | None = None, device: int = 0
    ) -> Session:
        return _Session(self._models(bundle, precision, threads, _LATENCY))

    def open_several(
        self, bundle: Bundle, precision: str, *, threads: int | None = None, device: int = 0
    ) -> tuple[Session, ...]:
        models = self._models(bundle, precision, threads, _THROUGHPUT)
        name = "OPTIMAL_NUMBER_OF_INFER_REQUESTS"
        with ExitStack() as undo:
            first = _Session(models)
            undo.callback(first.close)
            count = max(loaded.compiled.get_property(name) for loaded in first.loaded())
            others = [undo.enter_context(_Session(models)) for _ in range(count - 1)]
            undo.pop_all()
        return first, *others

    def open_detector(
        self, bundle: Bundle, *, threads: int | None = None, device: int = 0
    ) -> DetectorNetwork:
        self._check_available()
        detector, path = onnx_detector(bundle)
        config = self._config("fp32", threads, _LATENCY)
        model = read_model(path)
        check_detector_ends(
            path, detector, _read_ends(model, {detector.input}, {*detector.outputs})
        )
        try:  # for every size; a model of one size is as fast (docs/decisions.md)
            compiled = shared_core().compile_model(model, self._device.name, config)
            request = compiled.create_infer_request()
        except RuntimeError as error:
            raise UnavailableError(f"openvino cannot run {path}: {one_line(error)}") from None

        def run(picture: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            try:
                request.infer({detector.input: picture})
            except RuntimeError as error:
                raise UnavailableError(
                    f"openvino failed in the face detector: {one_line(error)}"
                ) from None
            return {name: request.get_tensor(name).data.copy() for name in detector.outputs}

        return DetectorNetwork(run)

    def _check_available(self) -> None:
        reason = self.available()
        if reason:
            load_openvino()  # raises MissingDependencyError if it is missing
            raise UnavailableError(f"{self.name} cannot be used: {reason}")

    def _config(self, precision: str, threads: int | None, mode: str) -> dict[str, Any]:
        float_type = self._device.float_type(precision)
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": float_type, "PERFORMANCE_HINT": mode}
        if self._device.is_cpu:  # others have their own defaults, and no threads
            if mode == _LATENCY:
                config["NUM_STREAMS"] = 1
            if threads is not None:
                config[_THREADS] = threads
        return config

    def _models(self, bundle: Bundle, precision: str, threads: int | None, mode: str) -> _Models:
        self._check_available()
        reason = self.unsupported(precision)
        if reason:
            raise UnavailableError(f"{self.name} cannot run in {precision}: {reason}")
        artifacts = self.artifacts(bundle, precision)
        return _Models(bundle, artifacts, self._device, self._config(precision, threads, mode))


@dataclass(frozen=True)
class _Loaded:
    """A stage ready to run.

    Attributes:
        compiled: OpenVINO's compiled model.
        content: the mapped file that ``compiled`` may take its weights from; None: there is none.
    """

    compiled: Any
    content: NDArray[np.uint8] | None = None


class _Models:
    """The stages, each compiled for a shape when it is first used. For several threads."""

    def __init__(
        self,
        bundle: Bundle,
        artifacts: Sequence[Artifact],
        device: OpenVinoDevice,
        config: dict[str, Any],
    ) -> None:
        self.manifest = bundle.manifest
        self.device = device
        self._bundle = bundle
        self._artifacts = artifacts
        self._config = config
        self._compiled: dict[Shape, list[_Loaded]] = {}
        self._lock = threading.Lock()

    def __call__(self, shape: Shape) -> list[_Loaded]:
        """The stages for ``shape.batch`` images of ``shape``."""
        with self._lock:
            if shape not in self._compiled:
                stages = zip(self.manifest.stages_in(shape), self._artifacts, strict=True)
                self._compiled[shape] = [self._load(*stage) for stage in stages]
            return self._compiled[shape]

    def _load(self, stage: Stage, artifact: Artifact) -> _Loaded:
        place = None
        if self.device.is_cpu and not self._bundle.temporary:
            kind = self._config["INFERENCE_PRECISION_HINT"]
            if self.manifest.several:
                kind += "." + "x".join(map(str, stage.input.shape))
            place = _cached_file(self.device, artifact.sha256, kind)
        path = self._bundle.checked_file(artifact.file)
        return _loaded(self.device, path, stage, place, self._config)


class _Session(HostSession):
    # With several threads, the kernel of a transposed convolution depends on the batch.
    exact_batches = False

    def __init__(self, models: _Models) -> None:
        self._models: _Models | None = models
        super().__init__(models.manifest)
        if models.device.is_cpu:
            self.threads = max(each.compiled.get_property(_THREADS) for each in self.loaded())

    def loaded(self) -> list[_Loaded]:
        """The stages for one image of the first shape."""
        shape = self._manifest.shapes[0].with_batch(1)
        return [] if self._models is None else self._models(shape)

    def _stage_call(
        self, index: int, shape: Shape, sources: Sequence[NDArray[Any]], sink: NDArray[Any]
    ) -> Callable[[], None]:
        assert self._models is not None
        ov, loaded = load_openvino(), self._models(shape)[index]
        try:
            request = loaded.compiled.create_infer_request()
            for name, array in zip(self._manifest.stages[index].inputs, sources, strict=True):
                request.set_tensor(name, ov.Tensor(array, shared_memory=True))
            request.set_output_tensor(ov.Tensor(sink, shared_memory=True))
        except RuntimeError as error:
            raise UnavailableError(does_not_start(error)) from None
        # OpenVINO stores addresses, not references.
        return partial(_infer, request, (*sources, sink, loaded))

    def arithmetic(self) -> dict[str, int] | None:
        try:
            return dict(Counter(kind for loaded in self.loaded() for kind in _convolutions(loaded)))
        except (RuntimeError, KeyError):  # not every device tells
            return None

    def close(self) -> None:
        super().close()
        self._models = None


def _convolutions(loaded: _Loaded) -> Iterator[str]:
    """The type that each convolution of a compiled model runs in."""
    for node in loaded.compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if _fact(facts, "layerType") in ("Convolution", "Deconvolution"):
            kind = _fact(facts, "runtimePrecision")
            yield _COMPUTED_IN.get(kind, kind)


def _fact(facts: Any, name: str) -> str:
    value = facts[name]
    return str(getattr(value, "value", value))


def _infer(request: Any, used: object) -> None:
    try:
        request.infer(share_outputs=True)  # or the result would be copied
    except RuntimeError as error:
        raise UnavailableError(f"openvino failed: {one_line(error)}") from None


# Compiled models --------------------------------------------------------------------------------


def _loaded(
    device: OpenVinoDevice, path: Path, stage: Stage, place: Path | None, config: dict[str, Any]
) -> _Loaded:
    """The stage in ``path`` compiled for ``config``, from the cache or else added to it."""

    def check(compiled: Any) -> None:
        names = ({end.name for end in ends} for ends in stage.ends)
        check_ends(f"{path}: the graph's", _read_ends(compiled, *names), stage.ends)

    loaded = _load_cached(device, place, config)
    if loaded is not None:
        check(loaded.compiled)
        return loaded
    try:
        model = read_model(path)
        if model.is_dynamic():
            model.reshape({spec.name: list(spec.shape) for spec in stage.inputs})
        compiled = shared_core().compile_model(model, device.name, config)
    except RuntimeError as error:
        raise UnavailableError(f"openvino cannot run {path}: {one_line(error)}") from None
    check(compiled)
    if place is not None:
        _store(compiled, place)
    return _Loaded(compiled)


def _read_ends(model: Any, inputs: Set[str], outputs: Set[str]) -> GraphEnds:
    """Inputs and outputs of a model, by the names expected of them where they have those."""

    def read(port: Any, expected: Set[str]) -> End:
        # An operator that OpenVINO removes leaves its name to its input.
        name = "/".join(sorted(port.names & expected or port.names))
        kind = port.element_type.get_type_name()
        sides = (side.get_length() if side.is_static else None for side in port.partial_shape)
        return End(name, _DTYPES.get(kind, kind), tuple(sides))

    return GraphEnds(
        [read(port, inputs) for port in model.inputs],
        [read(port, outputs) for port in model.outputs],
    )


def _cached_file(device: OpenVinoDevice, sha256: str, kind: str) -> Path | None:
    """Path of the model of a ``kind`` compiled from a file for this processor and OpenVINO.

    None if nothing is kept or, with a warning, if there is no cache folder.
    """
    machine = [str(REWRITING), device.property("FULL_DEVICE_NAME"), *device.capabilities()]
    key = hashlib.sha256("\n".join(machine).encode()).hexdigest()[:16]
    version = re.sub(r"[^\w.-]", "-", load_openvino().get_version())
    try:
        return compiled_place("openvino", version, sha256, f"{kind}.{key}.blob")
    except OutputError as error:
        _warn(error)
        return None


def _load_cached(
    device: OpenVinoDevice, place: Path | None, config: dict[str, Any]
) -> _Loaded | None:
    """Load the model in ``place``, unless it is missing or damaged."""
    content = None if place is None else read_sealed(place)
    if content is None:
        return None
    tensor, core = load_openvino().Tensor(content, shared_memory=True), shared_core()
    try:
        try:
            return _Loaded(core.import_model(tensor, device.name, config), content)
        except TypeError:  # 2024 takes bytes only
            return _Loaded(core.import_model(content.tobytes(), device.name, config))
    except RuntimeError:  # refused by OpenVINO, which then compiles it again
        return None


def _store(compiled: Any, place: Path) -> None:
    try:
        content = compiled.export_model()
        write_sealed(place, content if isinstance(content, bytes) else content.getvalue())
    except OutputError as error:
        _warn(error)
    except RuntimeError as error:
        _warn(OutputError(f"openvino cannot export the compiled model: {one_line(error)}"))


def _warn(error: OutputError) -> None:
    warnings.warn(
        f"{error}; compiled models are not cached, so every start takes longer",
        RuntimeWarning,
        stacklevel=2,
    )


BACKENDS = (OpenVinoBackend(),)
