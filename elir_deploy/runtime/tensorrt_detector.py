"""A face detector's engine on a CUDA device.

The engine has an optimisation profile for each of a few sizes of pictures. Each size has an
execution context and buffers of its own, allocated with its first picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.cuda import Device
from elir_deploy.runtime.cuda_session import CudaSession, CudaStage
from elir_deploy.runtime.detector_graph import DetectorNetwork
from elir_deploy.runtime.manifest import Detector, Shape
from elir_deploy.runtime.tensorrt_ends import sides_of
from elir_deploy.runtime.tensorrt_engine import LoadedEngine
from elir_deploy.runtime.tensors import TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt  # TensorRT-RTX has the same classes, and more

__all__ = ["open_detector_engine"]

#: Limit of an output's values.
_MAX_VALUES = 2**28


def open_detector_engine(
    device: Device, engine: LoadedEngine, detector: Detector, sizes: Sequence[tuple[int, int]]
) -> DetectorNetwork:
    """The network of ``engine``, which holds memory for the smallest size.

    Args:
        device: the device that the engine was loaded onto.
        engine: of a detector.
        detector: the manifest's description.
        sizes: height and width of each of its profiles, in order.

    Raises:
        UnavailableError: there is not enough memory.
    """
    stages: dict[tuple[int, int], _DetectorStage] = {}

    with device.current():
        stream = device.create_stream()

    def create_stages(shape: Shape) -> list[CudaStage]:
        size = shape.height, shape.width
        stage = _DetectorStage(device, engine, detector, size, sizes.index(size), stream)
        stages[size] = stage
        return [stage]

    smallest = min(sizes, key=math.prod)
    session = CudaSession(
        device,
        Shape(1, *smallest),
        create_stages,
        stream=stream,
        release=partial(device.destroy_stream, stream),
        after_first_run=engine.keep_compiled,
    )

    def run(picture: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        height, width = picture.shape[2:]
        session.select(Shape(1, height, width), 1)
        session.input[...] = picture
        session.run()
        return stages[height, width].results(session.output)

    def close() -> None:
        session.close()
        stages.clear()

    return DetectorNetwork(run, tuple(sizes), close)


class _DetectorStage(CudaStage):
    """An execution context for pictures of one size.

    A session copies one output to the host; the stage itself copies the others.
    """

    def __init__(
        self,
        device: Device,
        engine: LoadedEngine,
        detector: Detector,
        size: tuple[int, int],
        profile: int,
        stream: int,
    ) -> None:
        self._device = device
        self._engine: LoadedEngine | None = engine
        self._context: trt.IExecutionContext | None = engine.create_context()
        self.captures_itself = engine.captures_itself
        self.input = TensorSpec(detector.input, "float32", (1, 3, *size), "NCHW")
        if not self._context.set_optimization_profile_async(profile, stream):
            raise engine.refused("set_optimization_profile_async")
        if not self._context.set_input_shape(self.input.name, self.input.shape):
            raise engine.refused("set_input_shape")
        self._shapes = {name: self._shape(name) for name in detector.outputs}
        first, *others = self._shapes
        self.output = _flat(first, self._shapes[first])
        self._others = {name: _flat(name, self._shapes[name]) for name in others}
        self._arrays: dict[str, NDArray[Any]] = {}
        self._addresses: dict[str, int] = {}

    def _shape(self, name: str) -> tuple[int, ...]:
        engine, context = self._opened()
        shape = sides_of(context.get_tensor_shape(name))
        if not shape or min(shape) < 1 or math.prod(shape) > _MAX_VALUES:
            raise UnavailableError(
                f"{engine.library}: the size of {name} of {engine.name} is {shape}, expected "
                "positive sides"
            )
        return shape

    def bind(self, addresses: Mapping[str, int], stream: int) -> None:
        engine, context = self._opened()
        for name, spec in self._others.items():
            self._addresses[name] = self._device.allocate(spec.nbytes)
            self._arrays[name] = self._device.pinned(spec.shape, spec.dtype)
        ends = {name: addresses[name] for name in (self.input.name, self.output.name)}
        for name, address in (ends | self._addresses).items():
            if not context.set_tensor_address(name, address):
                raise engine.refused("set_tensor_address")

    def enqueue(self, stream: int) -> None:
        engine, context = self._opened()
        engine.enqueue(context, stream)
        for name, array in self._arrays.items():
            self._device.copy_out(array, self._addresses[name], stream)

    def results(self, first: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Copies of the outputs, of which the session has the first."""
        arrays = {self.output.name: first, **self._arrays}
        return {name: arrays[name].reshape(shape).copy() for name, shape in self._shapes.items()}

    def uncapturable(self, stream: int) -> str | None:
        engine, context = self._opened()
        return engine.uncapturable(context, stream)

    def close(self) -> None:
        # The context first: it uses the engine's memory.
        self._context = None
        self._engine = None
        while self._addresses:
            self._device.free(self._addresses.popitem()[1])
        self._arrays.clear()

    def _opened(self) -> tuple[LoadedEngine, trt.IExecutionContext]:
        assert self._engine is not None
        assert self._context is not None
        return self._engine, self._context


def _flat(name: str, shape: tuple[int, ...]) -> TensorSpec:
    """An output as a session allocates it, of four dimensions."""
    return TensorSpec(name, "float32", (1, 1, 1, math.prod(shape)), "NCHW")
