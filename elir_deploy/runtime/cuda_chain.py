"""The stages of a bundle for one shape and batch on a CUDA device, and what a run queues."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from numpy.typing import NDArray

from elir_deploy.runtime.backends.base import Selection
from elir_deploy.runtime.cuda import Device
from elir_deploy.runtime.cuda_resources import Resources
from elir_deploy.runtime.device_arrays import DevicePixels
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.runtime.tiling import mirrored

__all__ = ["Chain", "CudaStage", "Work"]


class CudaStage(ABC):
    """A stage that is ready to run on a device.

    Attributes:
        input: its input.
        noise: its second input; None: it has none.
        output: its output.
        captures_itself: whether the library captures the stage's work as a CUDA graph itself.
        capturable: whether the session may try to capture it.
    """

    input: TensorSpec
    noise: TensorSpec | None = None
    output: TensorSpec
    captures_itself: bool = False
    capturable: bool = True

    @abstractmethod
    def bind(self, addresses: Mapping[str, int], stream: int) -> None:
        """Set the device addresses of its tensors, by name, for all runs on ``stream``.

        Raises:
            UnavailableError: it cannot.
        """

    @abstractmethod
    def enqueue(self, stream: int) -> None:
        """Queue one run.

        Raises:
            UnavailableError: it cannot.
        """

    @abstractmethod
    def uncapturable(self, stream: int) -> str | None:
        """Why its work on ``stream`` cannot be captured as a graph; None: it may be possible."""

    @abstractmethod
    def close(self) -> None:
        """Free its resources on the device; may be called twice."""


@dataclass
class Work:
    """Work that every run of a chain queues in the same way.

    Attributes:
        capture_tried: whether it was captured as a CUDA graph, or could not be.
        graph: it as a graph.
    """

    capture_tried: bool = False
    graph: int | None = None


class Chain(Selection):
    """The stages for one shape and batch.

    Attributes:
        stages: in order.
        sources: array of each input, and the device address that it is copied to.
        sink: device address of the output.
        resources: what it occupies on the device.
        ran: whether it ran once.
        whole: a run, from array to array.
        stages_alone: a run between the device addresses.
        noise_of_images: the noise of the last ``run_images``, if the device has it.
    """

    def __init__(
        self, device: Device, stages: Sequence[CudaStage], stream: int, resources: Resources
    ) -> None:
        self.stages = tuple(stages)
        self.resources = resources
        self.ran = False
        self.noise_of_images: NoiseField | None = None
        self._device, self._stream = device, stream
        self.whole, self.stages_alone = Work(), Work()
        resources.stream = stream
        try:
            self._allocate(device, stream)
        except BaseException:
            for stage in stages:
                resources.add(stage.close)
            resources.close()
            vars(self).clear()  # a traceback may reference this, and so page-locked arrays
            raise

    def _allocate(self, device: Device, stream: int) -> None:
        stages, resources = self.stages, self.resources

        def allocate(spec: TensorSpec) -> int:
            address = device.allocate(spec.nbytes)
            resources.add(partial(device.free, address))
            return address

        first, last = stages[0].input, stages[-1].output
        noise = next((stage.noise for stage in stages if stage.noise is not None), None)
        super().__init__(
            device.pinned(first.shape, first.dtype),
            None if noise is None else device.pinned(noise.shape, noise.dtype),
            device.pinned(last.shape, last.dtype),
        )
        addresses = {first.name: allocate(first)}
        self.sources: list[tuple[NDArray[Any], int]] = [(self.input, addresses[first.name])]
        if noise is not None and self.noise is not None:
            addresses[noise.name] = allocate(noise)
            self.sources.append((self.noise, addresses[noise.name]))
        for stage in stages:
            addresses[stage.output.name] = allocate(stage.output)
        self.sink = addresses[last.name]
        for stage in stages:
            stage.bind(addresses, stream)
            resources.add(stage.close)

    def queue_stages(self) -> None:
        """Queue the stages alone."""
        for stage in self.stages:
            stage.enqueue(self._stream)

    def queue_whole(self) -> None:
        """Queue a run from array to array."""
        for array, address in self.sources:
            self._device.copy_in(address, array, self._stream)
        self.queue_stages()
        self._device.copy_out(self.output, self.sink, self._stream)

    def queue_sources(self, images: Sequence[DevicePixels]) -> None:
        """Copy images into the input, mirrored beyond their edges up to the graph's size."""
        device, stream = self._device, self._stream
        (_, height, width, _), base = self.stages[0].input.shape, self.sources[0][1]
        row = 3 * width
        for index, image in enumerate(images):
            start = base + index * height * row
            size = (3 * image.width, image.height)
            device.copy_rows(start, row, image.address, image.pitch, *size, stream)
            for x, at in enumerate(mirrored(image.width, width)[image.width :], image.width):
                source = start + 3 * int(at)
                device.copy_rows(start + 3 * x, row, source, row, 3, image.height, stream)
            for y, at in enumerate(mirrored(image.height, height)[image.height :], image.height):
                source = start + row * int(at)
                device.copy_rows(start + row * y, row, source, row, row, 1, stream)

    def queue_results(self, images: Sequence[DevicePixels]) -> None:
        """Copy the output into images, cut to their size."""
        _, height, width, _ = self.stages[-1].output.shape
        for index, image in enumerate(images):
            source = self.sink + index * height * width * 3
            size = (3 * image.width, image.height)
            self._device.copy_rows(
                image.address, image.pitch, source, 3 * width, *size, self._stream
            )

    def queue_noise(self, field: NoiseField | None) -> None:
        """Copy the noise of pictures from their beginning on, if there is any."""
        if self.noise is None or field is None:
            return
        for noise in self.noise:
            field.fill(noise, 0, 0)
        for array, address in self.sources[1:]:
            self._device.copy_in(address, array, self._stream)

    def release(self) -> None:
        """Free what is on the device.

        The arrays stay readable as copies in normal memory. The page-locked ones are freed last,
        when nothing is queued any more.
        """
        self.resources.close()
        self.sources.clear()
        self.input, self.output = self.input.copy(), self.output.copy()
        self.noise = None if self.noise is None else self.noise.copy()
