"""A session on a CUDA device: buffers, a stream and a CUDA graph for a chain of stages.

A run copies the image to the device, queues the work of every stage and copies the result back, all
on one stream; stages pass their data on the device. Everything is allocated when the session is
created. The second run is captured as a CUDA graph, and further runs are one launch each.
"""

from __future__ import annotations

import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NoReturn

from elir_deploy.errors import UnavailableError, UsageError
from elir_deploy.runtime.backends.base import Session
from elir_deploy.runtime.cuda import Device
from elir_deploy.runtime.tensors import TensorSpec

__all__ = ["CudaSession", "CudaStage"]


class CudaStage(ABC):
    """A stage that is ready to run on a device.

    Attributes:
        input: its input.
        output: its output.
        captures_itself: whether the library captures the stage's work as a CUDA graph itself.
        capturable: whether the session may try to capture it.
    """

    input: TensorSpec
    output: TensorSpec
    captures_itself: bool = False
    capturable: bool = True

    @abstractmethod
    def bind(self, source: int, sink: int) -> None:
        """Set the device addresses of input and output for all runs.

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


class CudaSession(Session):
    """A chain of stages on one device, with its own stream.

    ``input`` and ``output`` are in page-locked memory. After an error, the session can be used
    again unless the device no longer responds; the message says which.

    Args:
        device: the device.
        stages: the stages in order; the session closes them, even if it cannot be created.
        stream: of the device, for stages that were created for it; the session destroys it, even if
            it cannot be created. None: one of its own.
        sleeping: sleep instead of busy-waiting for the device, which takes a little longer but
            leaves the processor to others.
        after_first_run: called after the first successful run; must not fail.

    Raises:
        UnavailableError: a call failed; nothing stays allocated.
    """

    def __init__(
        self,
        device: Device,
        stages: Sequence[CudaStage],
        *,
        stream: int | None = None,
        sleeping: bool = False,
        after_first_run: Callable[[], None] | None = None,
    ) -> None:
        self._device = device
        self._stages = tuple(stages)
        self._after_first_run = after_first_run
        self._ran = False
        self._capture_tried = False
        self._graph: int | None = None
        self._event: int | None = None
        self._lost: str | None = None
        self._closed = False
        self._resources = _Resources(device)
        try:
            with device.current():
                self._allocate(stream, sleeping)
        except BaseException:
            for stage in self._stages:
                self._resources.add(stage.close)
            self._resources.close()
            vars(self).pop("input", None)  # a traceback may reference the session, and so these
            vars(self).pop("output", None)
            raise
        # For sessions that are not closed. At exit, the driver frees everything anyway.
        weakref.finalize(self, self._resources.close).atexit = False

    def _allocate(self, stream: int | None, sleeping: bool) -> None:
        device, resources, stages = self._device, self._resources, self._stages
        if stream is not None:
            self._own_stream(stream)
        first, last = stages[0].input, stages[-1].output
        self.input = device.pinned(first.shape, first.dtype)
        self.output = device.pinned(last.shape, last.dtype)
        self._buffers: list[int] = []
        for tensor in (first, *(stage.output for stage in stages)):
            address = device.allocate(tensor.nbytes)
            resources.add(partial(device.free, address))
            self._buffers.append(address)
        if stream is None:
            self._own_stream(device.create_stream())
        if sleeping:
            self._event = device.create_event()
            resources.add(partial(device.destroy_event, self._event))
        for stage, source, sink in zip(stages, self._buffers, self._buffers[1:], strict=False):
            stage.bind(source, sink)
            resources.add(stage.close)

    def _own_stream(self, stream: int) -> None:
        self._stream = stream
        self._resources.add(partial(self._device.destroy_stream, stream))
        self._resources.stream = stream

    def run(self) -> None:
        if self._closed:
            raise UsageError("this session is closed: open a new one")
        if self._lost:
            raise UnavailableError(self._lost)
        try:
            with self._device.current():
                self._run()
        except UnavailableError as error:
            self._fail(error)

    def _run(self) -> None:
        # Not in the first run, in which libraries may initialise, which cannot be captured.
        if self._ran and not self._capture_tried:
            self._capture_tried = True
            self._capture()
        if self._graph is None:
            self._enqueue()
        else:
            self._device.launch(self._graph, self._stream)
        self._wait()
        if not self._ran:
            self._ran = True
            after, self._after_first_run = self._after_first_run, None
            if after is not None:
                after()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._after_first_run = None  # which may hold engines
        self._resources.close()
        # The arrays stay readable as copies in normal memory. The page-locked ones are freed last,
        # when nothing is queued any more.
        self.input, self.output = self.input.copy(), self.output.copy()

    def _enqueue(self) -> None:
        device, stream = self._device, self._stream
        device.copy_in(self._buffers[0], self.input, stream)
        for stage in self._stages:
            stage.enqueue(stream)
        device.copy_out(self.output, self._buffers[-1], stream)

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
            raise UnavailableError(f"{error}; {self._lost}") from None
        raise UnavailableError(f"{error}; the session can be used again") from None

    def _capture(self) -> None:
        """Capture a run as a CUDA graph; if that fails, go on without."""
        if not self._device.captures and all(stage.captures_itself for stage in self._stages):
            return  # only the two copies could be captured
        if not all(stage.capturable for stage in self._stages):
            return
        try:
            graph = self._captured()
        except UnavailableError as error:
            warnings.warn(
                f"runs are not captured as a CUDA graph and take a little longer: {error}",
                RuntimeWarning,
                stacklevel=4,
            )
            return
        self._graph = graph
        self._resources.add(partial(self._device.destroy_graph, graph))

    def _captured(self) -> int:
        device, stream = self._device, self._stream
        for stage in self._stages:
            reason = stage.uncapturable(stream)
            if reason is not None:
                raise UnavailableError(reason)
        try:
            device.begin_capture(stream)
            self._enqueue()
            return device.end_capture(stream)
        except BaseException:  # Ctrl-C must not leave the stream in capture either
            device.abandon_capture(stream)
            raise


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
