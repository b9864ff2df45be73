"""A session on a CUDA device: buffers, a stream and a graph around whatever computes the stages.

One run copies the image in, lets every stage queue its work, and copies the result out, all on one
stream; a stage reads on the device what the one before it wrote. Everything is allocated when the
session is made. The second run is captured as a CUDA graph, and from then on a run is one launch.
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
    """One graph of the chain, ready to run on a device.

    Attributes:
        input: what it reads.
        output: what it writes.
        captures_itself: whether what computes it makes a graph of its work by itself.
    """

    input: TensorSpec
    output: TensorSpec
    captures_itself: bool = False

    @abstractmethod
    def bind(self, source: int, sink: int) -> None:
        """Let every run read and write at these addresses of the device.

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
        """Why its work on ``stream`` cannot be captured as a graph; None: it can be tried."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds on the device; harmless when called twice."""


class CudaSession(Session):
    """A chain of stages on one device, with a stream of its own.

    ``input`` and ``output`` are in page-locked memory. A run that fails leaves the session ready
    for another one or, where the device no longer answers, refusing them; the message says which.

    Args:
        device: where.
        stages: in order; the session closes them, also where it cannot be made.
        sleeping: let a thread sleep while it waits for the device. That takes a little longer
            than looking for the end all the time, and leaves the processor to others.
        after_first_run: called when the first run has succeeded; must not fail.

    Raises:
        UnavailableError: the device refused something; nothing stays allocated.
    """

    def __init__(
        self,
        device: Device,
        stages: Sequence[CudaStage],
        *,
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
        self._held = _Held(device)
        try:
            with device.current():
                self._allocate(sleeping)
        except BaseException:
            for stage in self._stages:
                self._held.add(stage.close)
            self._held.close()
            vars(self).pop("input", None)  # a traceback may keep the session, and these with it
            vars(self).pop("output", None)
            raise
        # For a session that nobody closes. At exit the process gives everything back anyway.
        weakref.finalize(self, self._held.close).atexit = False

    def _allocate(self, sleeping: bool) -> None:
        device, held, stages = self._device, self._held, self._stages
        first, last = stages[0].input, stages[-1].output
        self.input = device.pinned(first.shape, first.dtype)
        self.output = device.pinned(last.shape, last.dtype)
        self._buffers: list[int] = []
        for tensor in (first, *(stage.output for stage in stages)):
            address = device.allocate(tensor.nbytes)
            held.add(partial(device.free, address))
            self._buffers.append(address)
        self._stream = device.create_stream()
        held.add(partial(device.destroy_stream, self._stream))
        held.stream = self._stream
        if sleeping:
            self._event = device.create_event()
            held.add(partial(device.destroy_event, self._event))
        for stage, source, sink in zip(stages, self._buffers, self._buffers[1:], strict=False):
            stage.bind(source, sink)
            held.add(stage.close)

    def run(self) -> None:
        if self._closed:
            raise UsageError("this session is closed: open another one")
        if self._lost:
            raise UnavailableError(self._lost)
        try:
            with self._device.current():
                self._run()
        except UnavailableError as error:
            self._fail(error)

    def _run(self) -> None:
        # Not the first: what computes a stage may then prepare itself, which no graph can hold.
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
        self._held.close()
        # What was read and written can still be read, in memory of the host's own. That which the
        # device knows goes last, when nothing is queued any more.
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
        """Tell whether the device still answers: CUDA repeats an error it cannot recover from."""
        try:
            with self._device.current():
                # Also, nothing may be left that still reads or writes the arrays.
                self._device.synchronize(self._stream)
        except UnavailableError as second:
            lost = f"{self._device.name} does not answer any more ({second})"
            self._lost = f"{lost}: end this process and start another"
            raise UnavailableError(f"{error}; {self._lost}") from None
        raise UnavailableError(f"{error}; the session can be used again") from None

    def _capture(self) -> None:
        """Make a run one launch; where that fails, go on without."""
        if not self._device.captures and all(stage.captures_itself for stage in self._stages):
            return  # nothing is left to capture but the two copies
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
        self._held.add(partial(self._device.destroy_graph, graph))

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
        except BaseException:  # Ctrl-C, too, may not leave the stream in capture
            device.abandon_capture(stream)
            raise


class _Held:
    """What was taken from a device, given back in reverse order and once.

    Attributes:
        stream: whose work is waited for first.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._releases: list[Callable[[], None]] = []
        self.stream: int | None = None

    def add(self, release: Callable[[], None]) -> None:
        self._releases.append(release)

    def close(self) -> None:
        """Never fails: what cannot be given back is told of, and stays until the process ends."""
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
