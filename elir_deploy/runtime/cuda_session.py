"""A session on a CUDA device: buffers, a stream and a CUDA graph for a chain of stages.

A run copies the image to the device, queues the work of every stage and copies the result back, all
on one stream; stages pass their data on the device. Everything for a shape and batch is allocated
when it is first selected. Its second run is captured as a CUDA graph, and further ones are one
launch each. Images that are on the device already are copied there, by rows; the graph then has the
stages alone.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NoReturn

from elir_deploy.errors import DeviceLostError, ElirError, UnavailableError, UsageError
from elir_deploy.runtime.backends.base import Selection, Session
from elir_deploy.runtime.cuda import Device
from elir_deploy.runtime.cuda_chain import Chain, CudaStage, Work
from elir_deploy.runtime.cuda_resources import Resources, close_all
from elir_deploy.runtime.device_arrays import DevicePixels
from elir_deploy.runtime.manifest import Shape
from elir_deploy.runtime.noise import NoiseField

__all__ = ["CudaSession", "CudaStage"]


class CudaSession(Session):
    """A chain of stages on one device, with its own stream.

    The arrays are in page-locked memory. After an error, the session can be used again unless the
    device no longer responds; the message says which.

    Args:
        device: the device.
        shape: what is selected first.
        stages: creates the stages for ``shape.batch`` images of a shape, in order; the session
            closes them, even if it cannot be created.
        stream: of the device, if the stages run on that one only; None: the session creates one.
        release: frees ``stream`` and what the stages share; called when everything else is freed,
            even if the session cannot be created.
        sleeping: sleep instead of busy-waiting for the device, which takes a little longer but
            leaves the processor to others.
        after_first_run: called after the first successful run of each shape and batch; must not
            fail.

    Raises:
        UnavailableError: a call failed; nothing stays allocated.
    """

    # For each batch, TensorRT needs memory for a context, ONNX Runtime a search for the fastest
    # algorithms, and the session a CUDA graph.
    any_batch = False
    _selected: Chain

    def __init__(
        self,
        device: Device,
        shape: Shape,
        stages: Callable[[Shape], Sequence[CudaStage]],
        *,
        stream: int | None = None,
        release: Callable[[], None] | None = None,
        sleeping: bool = False,
        after_first_run: Callable[[], None] | None = None,
    ) -> None:
        self._device = device
        self._stages: Callable[[Shape], Sequence[CudaStage]] | None = stages
        self._after_first_run = after_first_run
        self._event: int | None = None
        self._lost: str | None = None
        self._resources = [Resources(device)]
        if release is not None:
            self._resources[0].add(release)
        try:
            with device.current():
                self._open(stream, sleeping)
            super().__init__(shape)
        except BaseException:
            self._stages = None
            close_all(self._resources)
            raise
        # For sessions that are not closed. At exit, the driver frees everything anyway.
        weakref.finalize(self, close_all, self._resources).atexit = False

    def _open(self, stream: int | None, sleeping: bool) -> None:
        device, resources = self._device, self._resources[0]
        if stream is None:
            stream = device.create_stream()
            resources.add(partial(device.destroy_stream, stream))
        self._stream = stream
        if sleeping:
            self._event = device.create_event()
            resources.add(partial(device.destroy_event, self._event))

    def _bind(self, shape: Shape) -> Selection:
        if self._stages is None:
            raise _closed()
        resources = Resources(self._device)
        with self._device.current():
            chain = Chain(self._device, self._stages(shape), self._stream, resources)
        self._resources.append(resources)
        return chain

    @property
    def device(self) -> Device:
        return self._device

    @property
    def stream(self) -> int:
        """Handle of the stream that runs are queued on."""
        return self._stream

    def run(self) -> None:
        self._run(lambda chain: self._queue(chain, chain.whole, chain.queue_whole))

    def run_images(
        self,
        sources: Sequence[DevicePixels],
        results: Sequence[DevicePixels],
        noise: NoiseField | None,
    ) -> None:
        """Restore images that are on the device, as many as are selected.

        Nothing but noise is copied from the host. The input and output must be pixels.

        Args:
            sources: of a size that is selected, or of its graph's.
            results: written; as large.
            noise: of each image, from its beginning on, if the graph takes it.

        Raises:
            UnavailableError: the device failed.
            UsageError: the session is closed.
        """

        noise_is_there = self._selected.noise_of_images is noise

        def queue(chain: Chain) -> None:
            chain.queue_sources(sources)
            if not noise_is_there:
                chain.queue_noise(noise)
            self._queue(chain, chain.stages_alone, chain.queue_stages)
            chain.queue_results(results)

        try:
            self._run(queue, noise)
        except ElirError:
            raise
        except BaseException:  # after Ctrl-C, nothing may be queued for memory of the caller
            with suppress(UnavailableError), self._device.current():
                self._device.synchronize(self._stream)
            raise

    def _run(
        self, queue: Callable[[Chain], None], noise_of_images: NoiseField | None = None
    ) -> None:
        """Queue a run and wait for it."""
        if self._stages is None:
            raise _closed()
        if self._lost:
            raise DeviceLostError(self._lost)
        chain = self._selected
        chain.noise_of_images = None
        try:
            with self._device.current():
                queue(chain)
                self._wait()
        except UnavailableError as error:
            self._fail(error)
        chain.noise_of_images = noise_of_images
        if not chain.ran:
            chain.ran = True
            if self._after_first_run is not None:
                self._after_first_run()

    def close(self) -> None:
        if self._stages is None:
            return
        self._stages = self._after_first_run = None  # which may hold engines
        for chain in self._selections.values():
            assert isinstance(chain, Chain)
            chain.release()
        close_all(self._resources)
        self.input, self.noise = self._selected.input, self._selected.noise
        self.output = self._selected.output

    def _queue(self, chain: Chain, work: Work, queue: Callable[[], None]) -> None:
        # Not in the first run, in which libraries may initialise, which cannot be captured.
        if chain.ran and not work.capture_tried:
            work.capture_tried = True
            self._capture(chain, work, queue)
        if work.graph is None:
            queue()
        else:
            self._device.launch(work.graph, self._stream)

    def _wait(self) -> None:
        if self._event is None:
            self._device.synchronize(self._stream)
        else:
            self._device.record(self._event, self._stream)
            self._device.wait(self._event)

    def _fail(self, error: UnavailableError) -> NoReturn:
        """Check whether the device still responds: CUDA repeats errors that are permanent."""
        try:
            with self._device.current():
                # Also, no queued work may read or write the arrays afterwards.
                self._device.synchronize(self._stream)
        except UnavailableError as second:
            lost = f"{self._device.name} no longer responds ({second})"
            self._lost = f"{lost}: start a new process"
            raise DeviceLostError(f"{error}; {self._lost}") from None
        raise UnavailableError(f"{error}; the session can be used again") from None

    def _capture(self, chain: Chain, work: Work, queue: Callable[[], None]) -> None:
        """Capture a run as a CUDA graph; if that fails, go on without."""
        if not self._device.captures and all(stage.captures_itself for stage in chain.stages):
            return  # only the two copies could be captured
        if not all(stage.capturable for stage in chain.stages):
            return
        try:
            graph = self._capture_graph(chain, queue)
        except UnavailableError as error:
            warnings.warn(
                f"runs are not captured as a CUDA graph and take a little longer: {error}",
                RuntimeWarning,
                stacklevel=6,
            )
            return
        work.graph = graph
        chain.resources.add(partial(self._device.destroy_graph, graph))

    def _capture_graph(self, chain: Chain, queue: Callable[[], None]) -> int:
        device, stream = self._device, self._stream
        for stage in chain.stages:
            reason = stage.uncapturable(stream)
            if reason is not None:
                raise UnavailableError(reason)
        try:
            device.begin_capture(stream)
            queue()
            return device.end_capture(stream)
        except BaseException:  # Ctrl-C must not leave the stream in capture either
            device.abandon_capture(stream)
            raise


def _closed() -> UsageError:
    return UsageError("this session is closed: open a new one")
