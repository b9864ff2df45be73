"""ONNX files on OpenVINO, on the CPU.

Stages share buffers: the output of one is the input of the next, and a run copies and allocates
nothing. Compiled models are kept in the user's cache folder, which halves the time of the next
start. OpenVINO's own cache is not used: it accepts files with flipped bits, and does not find the
models of a bundle that was moved (docs/decisions.md).
"""

from __future__ import annotations

import hashlib
import importlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError, OutputError, UnavailableError
from elir_deploy.runtime.backends.base import Backend, Session, allocate, import_library
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.cache import compiled_place, read_sealed, write_sealed
from elir_deploy.runtime.manifest import Artifact, Stage

__all__ = ["BACKENDS", "OpenVinoBackend", "read_model"]

_EXTRA = "openvino"
_DEVICE = "CPU"
_TYPES = {"uint8": "u8", "float32": "f32"}

#: Type of floating-point operators, by precision. By default, OpenVINO runs float32 graphs in
#: bfloat16 if the processor has it. In fp16 only the weights are float16: float16 arithmetic was
#: slower than float32 (docs/decisions.md).
_FLOAT_TYPES = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "bf16"}

_COMPUTED_IN = {
    "f32": "float32",
    "bf16": "bfloat16",
    "f16": "float16",
    "i8": "int8",
    "u8": "int8",
}

_THREADS = "INFERENCE_NUM_THREADS"
_LATENCY: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
_THROUGHPUT: dict[str, Any] = {"PERFORMANCE_HINT": "THROUGHPUT"}


class OpenVinoBackend(Backend):
    """OpenVINO's CPU plugin."""

    name = "openvino"
    kind = "onnx"
    precisions = ("int8", "bf16", "fp32", "fp16")

    def available(self) -> str | None:
        try:
            devices = _core().available_devices
        except UnavailableError as error:
            return str(error)
        except RuntimeError as error:
            return _does_not_start(error)
        if _DEVICE not in devices:
            return f"the installed openvino has no {_DEVICE} plugin: {_REINSTALL}"
        return None

    def unsupported(self, precision: str) -> str | None:
        if precision != "bf16" or _has_bfloat16(_core()):
            return None
        return "this processor has no bf16 instructions (AVX512_BF16 or AMX_BF16): run in fp32"

    def open(
        self, bundle: Bundle, precision: str, *, threads: int | None = None, device: int = 0
    ) -> Session:
        return _Session(self._load(bundle, precision, threads, _LATENCY))

    def open_several(
        self, bundle: Bundle, precision: str, *, threads: int | None = None, device: int = 0
    ) -> tuple[Session, ...]:
        chain = self._load(bundle, precision, threads, _THROUGHPUT)
        name = "OPTIMAL_NUMBER_OF_INFER_REQUESTS"
        count = max(loaded.compiled.get_property(name) for loaded in chain)
        return tuple(_Session(chain) for _ in range(count))

    def _load(
        self, bundle: Bundle, precision: str, threads: int | None, mode: dict[str, Any]
    ) -> list[_Loaded]:
        reason = self.available()
        if reason:
            _library()  # raises MissingDependencyError if it is missing
            raise UnavailableError(f"{self.name} cannot be used: {reason}")
        reason = self.unsupported(precision)
        if reason:
            raise UnavailableError(f"{self.name} cannot run in {precision}: {reason}")
        core = _core()
        float_type = _FLOAT_TYPES[precision] if _has_bfloat16(core) else "f32"
        config = {"INFERENCE_PRECISION_HINT": float_type, **mode}
        if threads is not None:
            config[_THREADS] = threads

        def place(artifact: Artifact) -> Path | None:
            return None if bundle.temporary else _cached_file(core, artifact.sha256, float_type)

        return [
            _loaded(core, bundle.checked_file(artifact.file), stage, place(artifact), config)
            for stage, artifact in zip(
                bundle.stages, self.artifacts(bundle, precision), strict=True
            )
        ]


@dataclass(frozen=True)
class _Loaded:
    """A stage ready to run.

    Attributes:
        stage: the stage.
        compiled: OpenVINO's compiled model.
        content: the mapped file that ``compiled`` may take its weights from; None: there is none.
    """

    stage: Stage
    compiled: Any
    content: NDArray[np.uint8] | None = None


class _Session(Session):
    def __init__(self, chain: Sequence[_Loaded]) -> None:
        ov = _library()
        buffers = [allocate(chain[0].stage.input)]
        buffers += [allocate(loaded.stage.output) for loaded in chain]
        self.input, self.output = buffers[0], buffers[-1]
        # OpenVINO stores their addresses, not references.
        self._buffers: list[Any] = [*buffers]
        self._requests: list[Any] = []
        self._chain = tuple(chain)
        self.threads = max(loaded.compiled.get_property(_THREADS) for loaded in chain)
        try:
            for loaded, source, sink in zip(chain, buffers, buffers[1:], strict=False):
                request = loaded.compiled.create_infer_request()
                request.set_input_tensor(ov.Tensor(source, shared_memory=True))
                request.set_output_tensor(ov.Tensor(sink, shared_memory=True))
                self._requests.append(request)
        except RuntimeError as error:
            raise UnavailableError(_does_not_start(error)) from None

    def run(self) -> None:
        for request in self._requests:
            _infer(request)

    def stage_calls(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        calls = (partial(_infer, request) for request in self._requests)
        names = (loaded.stage.name for loaded in self._chain)
        return tuple(zip(names, calls, strict=True))

    def arithmetic(self) -> dict[str, int]:
        return dict(Counter(kind for loaded in self._chain for kind in _convolutions(loaded)))

    def close(self) -> None:
        self._requests.clear()
        self._buffers.clear()
        self._chain = ()


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


def _infer(request: Any) -> None:
    try:
        request.infer(share_outputs=True)  # or the result would be copied
    except RuntimeError as error:
        raise UnavailableError(f"openvino failed: {_one_line(error)}") from None


# The library ------------------------------------------------------------------------------------

_REINSTALL = f"pip install --force-reinstall 'elir-deploy[{_EXTRA}]'"


def _library() -> Any:
    # The name is absolute: this module is elir_deploy.runtime.backends.openvino.
    library = import_library("openvino", _EXTRA, "run bundles with it", attribute="Core")
    import_library("openvino.frontend", _EXTRA, "read ONNX files", attribute="FrontEndManager")
    return library


def _does_not_start(error: RuntimeError) -> str:
    return f"openvino does not start: {_one_line(error)}"


def _core() -> Any:
    """OpenVINO's core, one per process, which is never deleted.

    A core installs a signal stack in the thread that creates it, and restores the previous one when
    it is deleted. If two are deleted in the order of their creation, the second restores the freed
    stack of the first, and the next signal (Ctrl-C) crashes the process.
    """
    library = _library()
    if not _cores:
        _cores.append(library.Core())
    return _cores[0]


_cores: list[Any] = []


def _has_bfloat16(core: Any) -> bool:
    """Whether the processor has bfloat16 instructions; OpenVINO's emulation is slow."""
    return "BF16" in core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")


def _one_line(error: Exception) -> str:
    # "Exception from src/inference/src/cpp/core.cpp:84:", repeated for every caller.
    text = re.sub(r"Exception from \S+:\d+:|Check '.*' failed at \S+:\d+:", "", str(error))
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:297] + "..."


# Compiled models --------------------------------------------------------------------------------


def _loaded(
    core: Any, path: Path, stage: Stage, place: Path | None, config: dict[str, Any]
) -> _Loaded:
    """The stage in ``path`` compiled for ``config``, from the cache or else added to it."""
    loaded = _load_cached(core, place, stage, config)
    if loaded is not None:
        _check_ends(path, stage, loaded.compiled)
        return loaded
    try:
        compiled = core.compile_model(read_model(path), _DEVICE, config)
    except RuntimeError as error:
        raise UnavailableError(f"openvino cannot run {path}: {_one_line(error)}") from None
    _check_ends(path, stage, compiled)
    if place is not None:
        _store(compiled, place)
    return _Loaded(stage, compiled)


def read_model(path: Path) -> Any:
    """Read an ONNX file into a model that can be compiled.

    ``Core.read_model`` would pass a damaged file to the readers of other formats, which print.

    Raises:
        BundleError: OpenVINO cannot read it.
        UnavailableError: OpenVINO is not installed.
    """
    ov = _library()
    library = importlib.import_module("openvino.frontend")
    kinds = [value for value in vars(library).values() if isinstance(value, type)]
    # ValueError if the message quotes bytes of a damaged file.
    failures: tuple[type[Exception], ...] = (RuntimeError, ValueError)
    failures += tuple(kind for kind in kinds if issubclass(kind, Exception))
    try:
        reader = library.FrontEndManager().load_by_framework("onnx")
        model = reader.convert(reader.load(str(path)))
    except failures as error:
        raise BundleError(
            f"{path} cannot be loaded by openvino {ov.get_version()}: {_one_line(error)}"
        ) from None
    _join_quantizers(model)
    return model


#: Version of the rewriting of models before they are compiled.
_REWRITING = 1

#: OpenVINO's operators for QuantizeLinear and DequantizeLinear, from the end.
_QUANTIZER = ("Multiply", "Subtract", "Convert", "Convert", "FakeQuantize")


def _join_quantizers(model: Any) -> None:
    """Replace each pair of QuantizeLinear and DequantizeLinear by one FakeQuantize.

    They compute the same, but on processors without AMX, OpenVINO 2026.4 loses the scales of
    pairs before concatenations, which ruins the picture.
    """
    library = importlib.import_module("openvino.opset13")
    for node in model.get_ordered_ops():
        chain = [node]
        while chain[-1].get_type_name() == _QUANTIZER[len(chain) - 1]:
            if len(chain) == len(_QUANTIZER):
                scale = _constant(node, 1)
                if scale.size > 1 or np.any(_constant(chain[1], 1)):
                    break  # per channel, or with a zero point: not from this project
                low, high = (library.constant(_constant(chain[-1], i) * scale) for i in (3, 4))
                source, least, most = (chain[-1].input_value(i) for i in range(3))
                levels = chain[-1].get_attributes()["levels"]
                joined = library.fake_quantize(source, least, most, low, high, levels)
                node.output(0).replace(joined.output(0))
                break
            chain.append(chain[-1].input_value(0).get_node())


def _constant(node: Any, port: int) -> NDArray[Any]:
    source = node.input_value(port).get_node()
    while source.get_type_name() != "Constant":  # a Convert of one
        source = source.input_value(0).get_node()
    value: NDArray[Any] = source.get_data()
    return value


def _check_ends(path: Path, stage: Stage, compiled: Any) -> None:
    for what, spec, ports in (
        ("input", stage.input, compiled.inputs),
        ("output", stage.output, compiled.outputs),
    ):
        actual = ", ".join(_describe(port, spec.name) for port in ports) or "missing"
        expected = f"{spec.name}: {_TYPES[spec.dtype]} [{','.join(map(str, spec.shape))}]"
        if actual != expected:
            raise BundleError(
                f"{path}: the graph's {what} is {actual}, the manifest says {expected}"
            )


def _describe(port: Any, name: str) -> str:
    # OpenVINO removes operators without effect and renames their inputs.
    names = [name] if name in port.names else sorted(port.names)
    return f"{'/'.join(names)}: {port.element_type.get_type_name()} {port.partial_shape}"


def _cached_file(core: Any, sha256: str, float_type: str) -> Path | None:
    """Path of the model compiled from a file for this processor and version of OpenVINO.

    None if nothing is kept or, with a warning, if there is no cache folder.
    """
    machine = [
        str(_REWRITING),
        core.get_property(_DEVICE, "FULL_DEVICE_NAME"),
        *sorted(core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")),
    ]
    key = hashlib.sha256("\n".join(machine).encode()).hexdigest()[:16]
    version = re.sub(r"[^\w.-]", "-", _library().get_version())
    try:
        return compiled_place("openvino", version, sha256, f"{float_type}.{key}.blob")
    except OutputError as error:
        _warn(error)
        return None


def _load_cached(
    core: Any, place: Path | None, stage: Stage, config: dict[str, Any]
) -> _Loaded | None:
    """Load the model in ``place``, unless it is missing or damaged."""
    content = None if place is None else read_sealed(place)
    if content is None:
        return None
    tensor = _library().Tensor(content, shared_memory=True)
    try:
        try:
            return _Loaded(stage, core.import_model(tensor, _DEVICE, config), content)
        except TypeError:  # 2024 takes bytes only
            return _Loaded(stage, core.import_model(content.tobytes(), _DEVICE, config))
    except RuntimeError:  # refused by OpenVINO, which then compiles it again
        return None


def _store(compiled: Any, place: Path) -> None:
    try:
        content = compiled.export_model()
        write_sealed(place, content if isinstance(content, bytes) else content.getvalue())
    except OutputError as error:
        _warn(error)
    except RuntimeError as error:
        _warn(OutputError(f"openvino cannot export the compiled model: {_one_line(error)}"))


def _warn(error: OutputError) -> None:
    warnings.warn(
        f"{error}; compiled models are not cached, so every start takes longer",
        RuntimeWarning,
        stacklevel=2,
    )


BACKENDS = (OpenVinoBackend(),)
