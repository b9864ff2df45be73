"""The session on a CUDA device: what is allocated when, in which order things happen, and what is
left when any of it goes wrong. All on a stand-in for the device."""

from __future__ import annotations

import gc
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

from elir_deploy.errors import DeviceLostError, UnavailableError, UsageError
from elir_deploy.runtime.cuda import Device, open_device
from elir_deploy.runtime.cuda_session import CudaSession, CudaStage
from elir_deploy.runtime.manifest import Shape
from elir_deploy.runtime.tensors import TensorSpec
from tests.runtime.stand_in_cuda import StandInGpu, Work

SHAPE = (1, 2, 4, 3)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> StandInGpu:
    return StandInGpu().install(monkeypatch)


class Stage(CudaStage):
    """Adds ``step`` to every byte; takes memory of the device for itself, as a context does."""

    def __init__(self, gpu: StandInGpu, number: int, step: int = 1) -> None:
        name = (f"t{number}", f"t{number + 1}")
        self.input, self.output = (TensorSpec(n, "uint8", SHAPE, "NHWC") for n in name)
        self._gpu = gpu
        self._step = step
        self._ends = (0, 0)
        self.refusal: str | None = None
        gpu.objects[id(self)] = "stage"

    def bind(self, addresses: Mapping[str, int], stream: int) -> None:
        self._check("bind")
        self._ends = (addresses[self.input.name], addresses[self.output.name])

    def enqueue(self, stream: int) -> None:
        self._check("enqueue")
        source, sink = self._ends

        def compute() -> None:
            values = np.frombuffer(self._gpu.device_array(source, 24), np.uint8)
            self._gpu.device_array(sink, 24)[:] = (values + self._step).astype(np.uint8).tobytes()

        self._gpu.queue(stream, Work("compute", (source, sink, id(self)), compute))

    def uncapturable(self, stream: int) -> str | None:
        return self.refusal

    def close(self) -> None:
        self._gpu.check_idle("stage", id(self))
        self._gpu.objects.pop(id(self), None)

    def _check(self, what: str) -> None:
        if self._gpu.enter(f"stage.{what}"):
            raise UnavailableError(f"the stage refuses to {what}")


def make(
    gpu: StandInGpu, count: int = 2, *, with_stream: bool = False, **options: object
) -> CudaSession:
    """``with_stream``: the stream is there before the session, which releases it."""
    device = open_device(0, "x")
    if with_stream:
        error, stream = gpu.cuda.cudaStreamCreateWithFlags(1)
        if error:
            raise UnavailableError("no stream")
        options |= {"stream": int(stream), "release": partial(device.destroy_stream, int(stream))}

    def stages(shape: Shape) -> list[Stage]:
        return [Stage(gpu, number) for number in range(count)]

    return CudaSession(device, Shape(1, 2, 4), stages, **options)  # type: ignore[arg-type]


def check_run(session: CudaSession, value: int, count: int = 2) -> None:
    session.input[...] = value
    session.run()
    np.testing.assert_array_equal(session.output, np.full(SHAPE, value + count, np.uint8))


# Steps of a good life -----------------------------------------------------------------------------


@pytest.mark.parametrize("sleeping", [False, True])
def test_the_second_run_is_captured(gpu: StandInGpu, sleeping: bool) -> None:
    session = make(gpu, sleeping=sleeping)
    assert session.input.shape == session.output.shape == SHAPE
    ends = session.input, session.output
    before = dict(gpu.leaked)
    waits = ["cudaEventRecord", "cudaEventSynchronize"] if sleeping else ["cudaStreamSynchronize"]
    work = ["cudaMemcpyAsync", "stage.enqueue", "stage.enqueue", "cudaMemcpyAsync"]
    capture = ["cudaStreamEndCapture", "cudaGraphInstantiateWithFlags", "cudaGraphDestroy"]
    for number, expected in enumerate(
        [
            [*work, *waits],
            ["cudaStreamBeginCapture", *work, *capture, "cudaGraphLaunch", *waits],
            ["cudaGraphLaunch", *waits],
            ["cudaGraphLaunch", *waits],
        ]
    ):
        gpu.calls.clear()
        check_run(session, 10 * number)
        assert [call for call in gpu.calls if call != "cudaGetDevice"] == expected
        assert (session.input, session.output) == ends or session.input is ends[0]
    assert gpu.leaked == {**before, "executables": 1}
    session.close()
    session.close()
    assert gpu.leaked == {} or set(gpu.leaked) == {"pinned memory"}
    del ends
    assert gpu.leaked == {}
    assert gpu.violations == []


@pytest.mark.parametrize("with_stream", [False, True])
def test_things_are_given_back_in_order(gpu: StandInGpu, with_stream: bool) -> None:
    session = make(gpu, sleeping=True, with_stream=with_stream)
    for value in range(2):
        check_run(session, value)
    gpu.calls.clear()
    session.close()
    assert [call for call in gpu.calls if call != "cudaGetDevice"] == [
        *("cudaStreamSynchronize", "cudaGraphExecDestroy"),
        *("cudaFree", "cudaFree", "cudaFree", "cudaEventDestroy", "cudaStreamDestroy"),
        *("cudaFreeHost", "cudaFreeHost"),
    ]


def test_what_was_written_can_be_read_after_closing(gpu: StandInGpu) -> None:
    session = make(gpu)
    check_run(session, 5)
    session.close()
    assert (session.output == 7).all()
    assert gpu.leaked == {}
    with pytest.raises(UsageError, match="this session is closed"):
        session.run()


def test_a_session_that_nobody_closes(gpu: StandInGpu) -> None:
    session = make(gpu)
    for value in range(3):
        check_run(session, value)
    del session
    gc.collect()
    assert gpu.leaked == {}
    assert gpu.violations == []


def test_the_other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = StandInGpu(((8, 6), (8, 9))).install(monkeypatch)
    session = CudaSession(open_device(1, "x"), Shape(1, 2, 4), lambda shape: [Stage(gpu, 0)])
    for value in range(3):
        check_run(session, value, 1)
        assert gpu.current == 0
    session.close()
    assert gpu.leaked == {}
    assert gpu.violations == []


def test_the_callback_comes_once(gpu: StandInGpu) -> None:
    came: list[int] = []
    session = make(gpu, after_first_run=lambda: came.append(gpu.copies["host to device"]))
    for value in range(3):
        check_run(session, value)
    assert came == [1]
    session.close()


def test_a_run_allocates_nothing(gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make(gpu)
    for value in range(2):
        check_run(session, value)
    held = dict(gpu.leaked)
    monkeypatch.setattr(gpu, "enter", lambda name: False)  # or it would record, and grow
    work = gpu.executables[next(iter(gpu.executables))]
    work.clear()  # what the stand-in computes allocates; the session does not
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(500):
            session.run()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(200):
            session.run()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert after - before < 500
    assert peak - before < 3000
    assert gpu.leaked == held
    session.close()


# Captures that do not work ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stage", "device", "library"])
def test_without_a_graph_it_goes_on(
    gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "library":
        gpu.install(monkeypatch, library="pycuda.driver")
    stages = [Stage(gpu, 0), Stage(gpu, 1)]
    session = CudaSession(open_device(0, "x"), Shape(1, 2, 4), lambda shape: stages)
    stages[1].refusal = "it has a loop" if how == "stage" else None
    gpu.refuse_capture = how == "device"
    check_run(session, 1)
    reason = {
        "stage": "it has a loop",
        "device": "cudaStreamEndCapture failed with cudaErrorStreamCaptureInvalidated",
        "library": "pycuda cannot capture graphs: pip install cuda-python",
    }[how]
    with pytest.warns(RuntimeWarning, match=f"not captured as a CUDA graph.*: {reason}") as told:
        check_run(session, 2)
    assert told[0].filename == __file__
    gpu.refuse_capture = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in range(3):
            check_run(session, value)  # and does not try again
    session.close()
    assert gpu.leaked == {}
    assert gpu.violations == []


def test_ctrl_c_in_a_capture(gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make(gpu)
    check_run(session, 1)
    with monkeypatch.context() as patch:

        def interrupted(*arguments: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(Stage, "enqueue", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.run()
    (stream,) = gpu.streams.values()
    assert stream.capture is None
    for value in range(2):
        check_run(session, value)
    session.close()
    assert gpu.leaked == {}
    assert gpu.violations == []


def test_ctrl_c_while_work_is_queued(gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make(gpu)
    with monkeypatch.context() as patch:

        def interrupted(self: Device, stream: int) -> None:
            raise KeyboardInterrupt

        patch.setattr(type(open_device(0, "x")), "synchronize", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.run()
    (stream,) = gpu.streams.values()
    assert stream.pending
    check_run(session, 9)
    session.close()
    assert gpu.leaked == {}
    assert gpu.violations == []


# Each call fails once -----------------------------------------------------------------------------


def number_of_calls(gpu: StandInGpu, live: Callable[[], object]) -> int:
    """How many calls ``live`` makes when nothing fails."""
    before = len(gpu.calls)
    live()
    assert gpu.leaked == {}
    count = len(gpu.calls) - before
    gpu.calls.clear()
    return count


@contextmanager
def noting(what: str, told: list[str]) -> Iterator[None]:
    """Notes an UnavailableError instead of raising it."""
    try:
        yield
    except UnavailableError as error:
        told.append(f"{what}: {error}")


#: Of what a call that gives something back leaves when it fails: nobody can do anything about it.
LEFT = {
    "cudaFree": {"device memory": 1},
    "cudaFreeHost": {"pinned memory": 1},
    "cudaStreamDestroy": {"streams": 1},
    "cudaEventDestroy": {"events": 1},
    "cudaGraphDestroy": {"graphs": 1},
    "cudaGraphExecDestroy": {"executables": 1},
}


@pytest.mark.parametrize("with_stream", [False, True])
@pytest.mark.parametrize("sleeping", [False, True])
def test_every_call_may_fail(gpu: StandInGpu, sleeping: bool, with_stream: bool) -> None:
    def live() -> list[str]:
        told: list[str] = []
        with noting("open", told):
            session = make(gpu, sleeping=sleeping, with_stream=with_stream)
        if told:
            return told
        for value in range(4):
            with noting("run", told):
                check_run(session, value)
            assert not any(stream.pending for stream in gpu.streams.values())
        session.close()
        return told

    ends: set[str] = set()
    for index in range(number_of_calls(gpu, live)):
        gpu.calls.clear()
        gpu.fail_at = index
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            failures = live()
        assert gpu.failed is not None
        message = " | ".join([*failures, *(str(warning.message) for warning in told)])
        what = f"{gpu.failed}, call {index}: {message}"
        if gpu.failed == "cudaGraphExecDestroy":  # the rest is given back all the same
            gpu.violations = [v for v in gpu.violations if not v.endswith("in a graph")]
        assert gpu.violations == [], what
        assert gpu.leaked == LEFT.get(gpu.failed, {}), what
        for failure in failures:
            if failure.startswith("run:"):
                assert failure.endswith("; the session can be used again"), what
                assert len(failures) == 1, what
        # Somebody is told, but of what has no effect: memory of the host, a graph that is a copy.
        silent = {"cudaFreeHost", "cudaGraphDestroy", "cudaGetLastError"}
        assert message or gpu.failed in silent, what
        ends.add(message.partition(":")[0])
        for held in (gpu.device_memory, gpu.pinned, gpu.streams, gpu.events, gpu.graphs):
            held.clear()
        gpu.executables.clear()
    assert ends >= {"open", "run", "while closing"}
    assert any(end.startswith("runs are not captured") for end in ends)


def test_a_device_that_is_lost(gpu: StandInGpu) -> None:
    """Whatever call it begins at: an error, no second one that hides it, and no use afterwards."""
    calls = number_of_calls(gpu, lambda: [s := make(gpu), s.run(), s.run(), s.run(), s.close()])
    gpu.sticky = True
    refused = 0
    for index in range(3, calls):
        gpu.dead, gpu.failed = None, None
        gpu.calls.clear()
        gpu.fail_at = index
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            told: list[str] = []
            with noting("open", told):
                session = make(gpu)
            if told:
                continue
            for _ in range(3):
                with noting("run", told):
                    session.run()
                if told:
                    break
            if told:
                refused += 1
                assert "Stand-in GPU no longer responds" in told[0]
                assert told[0].endswith("start a new process")
                gpu.calls.clear()
                with pytest.raises(DeviceLostError, match="no longer responds"):
                    session.run()
                assert gpu.calls == [], "it does not even try"
            session.close()
        gpu.dead = None
        for held in (gpu.device_memory, gpu.pinned, gpu.streams, gpu.executables, gpu.graphs):
            held.clear()
    assert refused > 10


def test_what_cannot_be_given_back_is_told(gpu: StandInGpu) -> None:
    session = make(gpu)
    gpu.sticky, gpu.fail_at = True, len(gpu.calls) + 1
    with pytest.warns(RuntimeWarning, match="while closing: cuda.* failed with cudaErrorIllegalAd"):
        session.close()
