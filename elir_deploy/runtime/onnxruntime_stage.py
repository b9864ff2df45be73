"""A stage on ONNX Runtime's GPU providers, on the stream and between the buffers of a session."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.cuda_session import CudaStage
from elir_deploy.runtime.manifest import Stage
from elir_deploy.text import shortened

__all__ = ["OnnxRuntimeStage", "library_failures", "one_line"]


class OnnxRuntimeStage(CudaStage):
    """A graph that ONNX Runtime loaded for the stream that :meth:`enqueue` is called with.

    Not captured as a CUDA graph: a captured INT8 graph gave wrong pictures (docs/results/gpu.md).

    Args:
        ort: the library.
        loaded: its ``InferenceSession``, which stages of other shapes and batches share.
        stage: what was loaded, with the tensors of its shape and batch.
        device: CUDA's number of the device.
    """

    capturable = False

    def __init__(self, ort: Any, loaded: Any, stage: Stage, device: int) -> None:
        self.input, self.noise, self.output = stage.input, stage.noise, stage.output
        self._inputs = stage.inputs
        self._loaded = loaded
        self._binding = loaded.io_binding()
        self._device = device
        self._failures = library_failures()
        self._options = ort.RunOptions()
        # The session waits for the whole chain.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind(self, addresses: Mapping[str, int], stream: int) -> None:
        ends = [(self._binding.bind_input, spec) for spec in self._inputs]
        ends.append((self._binding.bind_output, self.output))
        try:
            for bind, spec in ends:
                kind = np.dtype(spec.dtype).type
                bind(spec.name, "cuda", self._device, kind, spec.shape, addresses[spec.name])
        except self._failures as error:
            raise UnavailableError(f"onnxruntime on CUDA: {one_line(error)}") from None

    def enqueue(self, stream: int) -> None:
        try:
            self._loaded.run_with_iobinding(self._binding, self._options)
        except self._failures as error:
            raise UnavailableError(f"onnxruntime on CUDA failed: {one_line(error)}") from None

    def uncapturable(self, stream: int) -> str | None:
        # The second run allocates by a plan of the first, and a thread's first run creates handles.
        # Neither can be captured.
        self.enqueue(stream)
        return None

    def close(self) -> None:
        self._binding = self._loaded = None


def library_failures() -> tuple[type[Exception], ...]:
    """All exceptions of ONNX Runtime, which have no common base class."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    kinds = [value for value in vars(state).values() if isinstance(value, type)]
    # ValueError if the message quotes bytes of a damaged file.
    return (RuntimeError, ValueError, *(kind for kind in kinds if issubclass(kind, Exception)))


def one_line(error: Exception) -> str:
    """An error of ONNX Runtime, without its code and shortened."""
    text = " ".join(str(error).split())
    # "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from ..."
    text = text.removeprefix("[ONNXRuntimeError] : ").lstrip("0123456789").removeprefix(" : ")
    return shortened(text, 300)
