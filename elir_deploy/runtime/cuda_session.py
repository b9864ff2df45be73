"""A session on a CUDA device: buffers, a stream and a CUDA graph for a chain of stages.

A run copies the image to the device, queues the work of every stage and copies the result back, all
on one stream; stages pass their data on the device. Everything for a shape and batch is allocated
when it is first selected. Its second run is captured as a CUDA graph, and further ones are one
launch each.
"""

from __future__ import annotations

import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn

from numpy.typing import NDArray

from elir_deploy.errors import DeviceLostError, UnavailableError, UsageError
from elir_deploy.runtime.backends.base import Selection, Session
from elir_deploy.runtime.cuda import Device
from elir_deploy.runtime.manifest import Shape
from elir_deploy.runtime.tensors import TensorSpec

__all__ = ["CudaSession", "CudaStage"]


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


class _Chain(Selection):
    """The stages for one shape and batch.

    Attributes:
        stages: in order.
        sources: array of each input, and the device address that it is copied to.
        sink: device address of the output.
        resources: what it occupies on the device.
        ran: whether it ran once.
        capture_tried: whether its runs were captured, or could not be.
        graph: a run as a CUDA graph.
    """

    def __init__(
        self, device: Device, stages: Sequence[CudaStage], stream: int, resources: _Resources
    ) -> None:
        self.stages = tuple(stages)
        self.resources = resources
        self.ran = self.capture_tried = False
        self.graph: int | None = None
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

    def release(self) -> None:
        """Free what is on the device.

        The arrays stay readable as copies in normal memory. The page-locked ones are freed last,
        when nothing is queued any more.
        """
        self.resources.close()
        self.sources.clear()
        self.input, self.output = self.input.copy(), self.output.copy()
        self.noise = None if self.noise is None else self.noise.copy()


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
    _selected: _Chain

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
        self._resources = [_Resources(device)]
        if release is not None:
            self._resources[0].add(release)
        try:
            with device.current():
                self._open(stream, sleeping)
            super().__init__(shape)
        except BaseException:
            self._stages = None
            _close_all(self._resources)
            raise
        # For sessions that are not closed. At exit, the driver frees everything anyway.
        weakref.finalize(self, _close_all, self._resources).atexit = False

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
        resources = _Resources(self._device)
        with self._device.current():
            chain = _Chain(self._device, self._stages(shape), self._stream, resources)
        self._resources.append(resources)
        return chain

    def run(self) -> None:
        if self._stages is None:
            raise _closed()
        if self._lost:
            raise DeviceLostError(self._lost)
        try:
            with self._device.current():
                self._run(self._selected)
        except UnavailableError as error:
            self._fail(error)

    def _run(self, chain: _Chain) -> None:
        # Not in the first run, in which libraries may initialise, which cannot be captured.
        if chain.ran and not chain.capture_tried:
            chain.capture_tried = True
            self._capture(chain)
        if chain.graph is None:
            self._enqueue(chain)
        else:
            self._device.launch(chain.graph, self._stream)
        self._wait()
        if not chain.ran:
            chain.ran = True
            if self._after_first_run is not None:
                self._after_first_run()

    def close(self) -> None:
        if self._stages is None:
            return
        self._stages = self._after_first_run = None  # which may hold engines
        for chain in self._selections.values():
            assert isinstance(chain, _Chain)
            chain.release()
        _close_all(self._resources)
        self.input, self.noise = self._selected.input, self._selected.noise
        self.output = self._selected.output

    def _enqueue(self, chain: _Chain) -> None:
        device, stream = self._device, self._stream
        for array, address in chain.sources:
            device.copy_in(address, array, stream)
        for stage in chain.stages:
            stage.enqueue(stream)
        device.copy_out(chain.output, chain.sink, stream)

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

    def _capture(self, chain: _Chain) -> None:
        """Capture a run as a CUDA graph; if that fails, go on without."""
        if not self._device.captures and all(stage.captures_itself for stage in chain.stages):
            return  # only the two copies could be captured
        if not all(stage.capturable for stage in chain.stages):
            return
        try:
            graph = self._captured(chain)
        except UnavailableError as error:
            warnings.warn(
                f"runs are not captured as a CUDA graph and take a little longer: {error}",
                RuntimeWarning,
                stacklevel=4,
            )
            return
        chain.graph = graph
        chain.resources.add(partial(self._device.destroy_graph, graph))

    def _captured(self, chain: _Chain) -> int:
        device, stream = self._device, self._stream
        for stage in chain.stages:
            reason = stage.uncapturable(stream)
            if reason is not None:
                raise UnavailableError(reason)
        try:
            device.begin_capture(stream)
            self._enqueue(chain)
            return device.end_capture(stream)
        except BaseException:  # Ctrl-C must not leave the stream in capture either
            device.abandon_capture(stream)
            raise


def _closed() -> UsageError:
    return UsageError("this session is closed: open a new one")


def _close_all(resources: list[_Resources]) -> None:
    while resources:
        resources.pop().close()


class _Resources:
    """Resources of a device, released once and in reverse order.

    Attributes:
        stream: the stream to synchronize first.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._releases: list[Callable[[], None]] = []
        self.stream: int | None = None

    def add(self, release: Callable[[], None]) -> None:
        self._releases.append(release)

    def close(self) -> None:
        """Release everything. Never fails: errors become warnings."""
        releases, self._releases = self._releases, []
        if self.stream is not None:
            releases.append(partial(self._device.synchronize, self.stream))
            self.stream = None
        if not releases:
            return
        failures: list[str] = []

        def tried(action: Callable[[], object]) -> None:
            try:
                action()
            except UnavailableError as error:
                failures.append(str(error))

        stack = ExitStack()
        tried(lambda: stack.enter_context(self._device.current()))
        while releases:
            tried(releases.pop())
        tried(stack.close)
        for failure in dict.fromkeys(failures):
            warnings.warn(f"while closing: {failure}", RuntimeWarning, stacklevel=3)
