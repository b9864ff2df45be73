"""Many images: threads that ask, batches, files; on clocks of their own, and for real."""

from __future__ import annotations

import signal
import threading
import time
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from elir_deploy.bench import throughput as module
from elir_deploy.bench.runners import open_restorers
from elir_deploy.bench.throughput import Load, Throughput, call_together
from elir_deploy.errors import UnavailableError
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.results import Outcome
from tests.bench.synthetic import FakeClock, SyntheticRunner
from tests.bundles import make_bundle

IMAGES = [np.full((2, 2, 3), k, np.uint8) for k in range(4)]

SHAPES = [{"batch": 4, "height": 64, "width": 64}]


@pytest.fixture(autouse=True)
def no_threads_are_left():
    yield
    late = (
        time.monotonic() + 10
    )  # a thread that has nothing to do any more may take a moment to end
    while left := [t.name for t in threading.enumerate() if t.name.startswith("elir-bench")]:
        assert time.monotonic() < late, left
        time.sleep(0.01)


class OwnClocks:
    """A clock for every thread; asking takes what the thread's number says, in seconds."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = seconds
        self._own = threading.local()
        self.asked: dict[str, list[int]] = defaultdict(list)

    def __call__(self) -> int:
        return getattr(self._own, "now", 0)

    def restore(self, image) -> None:
        name = threading.current_thread().name
        self.asked[name].append(int(image[0, 0, 0]))
        seconds = self._seconds[int(name.rpartition("_")[2])]
        self._own.now = self() + round(1e9 * seconds)


# Callers --------------------------------------------------------------------------------------


def test_one_caller():
    clocks = OwnClocks(0.1)
    load = call_together(clocks.restore, IMAGES, 1, 1.0, clock=clocks)
    assert load.concurrency == 1
    assert load.calls.samples_s == pytest.approx([0.1] * 10)
    assert (load.images, load.seconds, load.fps_by_pass) == (10, pytest.approx(1), (load.fps,))
    assert load.fps == pytest.approx(10)


def test_each_caller_counts_in_its_own_time():
    clocks = OwnClocks(0.1, 0.3, 2.0)
    load = call_together(clocks.restore, IMAGES, 3, 1.0, clock=clocks)
    # An image that is begun is finished: 4 of 0.3 s, 1 of 2 s.
    assert load.images == 10 + 4 + 1
    assert load.fps_by_pass == (pytest.approx(10 + 1 / 0.3 + 0.5),)
    assert load.fps == pytest.approx(load.fps_by_pass[0])
    assert sorted(load.calls.samples_s) == pytest.approx([0.1] * 10 + [0.3] * 4 + [2.0])


def test_callers_go_round_the_images_from_different_places_and_the_first_does_not_count():
    clocks = OwnClocks(0.2, 0.2)
    load = call_together(clocks.restore, IMAGES, 2, 1.0, clock=clocks)
    assert load.images == 10
    assert clocks.asked == {
        "elir-bench-caller_0": [0, 0, 1, 2, 3, 0],
        "elir-bench-caller_1": [1, 1, 2, 3, 0, 1],
    }


def test_a_call_may_restore_several():
    clocks = OwnClocks(0.5)
    load = call_together(clocks.restore, IMAGES, 1, 2.0, images_per_call=4, clock=clocks)
    assert load.images == 16
    assert load.fps == pytest.approx(8)
    assert len(load.calls.samples_s) == 4


def test_callers_ask_at_the_same_time():
    together = threading.Barrier(3)  # passed only by three at once
    clocks = OwnClocks(0.25, 0.25, 0.25)

    def restore(image):
        together.wait(timeout=60)
        clocks.restore(image)

    assert call_together(restore, IMAGES, 3, 1.0, clock=clocks).images == 12


@pytest.mark.parametrize("error", [UnavailableError("the device is gone"), ValueError("a bug")])
@pytest.mark.parametrize("at", [0, 1, 5])
def test_an_error_of_one_caller_stops_all(error, at):
    clock = FakeClock()  # stands still: the others would ask for ever
    asked = 0

    def restore(image):
        nonlocal asked
        if threading.current_thread().name.endswith("_1"):
            asked += 1
            if asked > at:
                raise error

    with pytest.raises(type(error), match=str(error)):
        call_together(restore, IMAGES, 3, 1.0, clock=clock)


def press_ctrl_c() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_ctrl_c_stops_all():
    clock = FakeClock()  # stands still: without it they would ask for ever
    asked = defaultdict(int)

    closed = False
    too_late = []

    def restore(image):
        name = threading.current_thread().name
        asked[name] += 1
        if name.endswith("_0") and asked[name] == 5:
            press_ctrl_c()
        if closed:
            too_late.append(name)

    for _ in range(20):
        asked.clear()
        closed = False
        with pytest.raises(KeyboardInterrupt):
            call_together(restore, IMAGES, 3, 1.0, clock=clock)
        closed = True  # as a restorer would be now
    time.sleep(0.05)
    assert too_late == []


def test_two_passes_are_one_load():
    first = replace(Load.of_pass(2, 2, 0.2, [0.1, 0.2]), label="a", way="batch")
    second = replace(Load.of_pass(2, 1, 0.4, [0.4]), label="a", way="batch")
    both = first.with_pass(second)
    assert (both.label, both.way, both.concurrency, both.images) == ("a", "batch", 2, 3)
    assert (both.seconds, both.fps_by_pass) == (pytest.approx(0.6), (10.0, 2.5))
    assert both.calls.samples_s == [0.1, 0.2, 0.4]
    assert both.calls.statistics.p50 == 0.2
    assert both.fps == pytest.approx(5)
    assert Load.of_pass(1, 0, 0.0).fps == 0


# Runners that are not of a bundle ----------------------------------------------------------


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    return Bundle.open(make_bundle(tmp_path / "b", size=64, precisions=("fp32", "fp16")))


@pytest.fixture
def batches(tmp_path) -> Bundle:
    return Bundle.open(make_bundle(tmp_path / "batches", shapes=SHAPES, stride=8))


def test_peers_are_asked_by_one_caller_in_two_passes_of_opposite_order(bundle):
    clock = FakeClock()
    order = []

    class Noted(SyntheticRunner):
        def restore(self, image):
            order.append(self.label)
            return super().restore(image)

    runners = [Noted("a", clock, 0.1), Noted("b", clock, 0.5)]
    throughput = Throughput((64, 64, 3), 1, seconds=1.0, clock=clock)
    told = []
    throughput.run(runners, lambda *arguments: told.append(arguments))
    assert list(throughput.loads) == [("a", "callers", 1), ("b", "callers", 1)]
    assert [load.images for load in throughput.loads.values()] == [20, 4]
    assert [len(load.fps_by_pass) for load in throughput.loads.values()] == [2, 2]
    turns = [label for k, label in enumerate(order) if not k or order[k - 1] != label]
    assert turns == ["a", "b", "a"]
    assert told == [
        ("throughput of a", 0, 4),
        ("throughput of b", 1, 4),
        ("throughput of b", 2, 4),
        ("throughput of a", 3, 4),
    ]
    assert runners[0].images[0].shape == (64, 64, 3)


def test_one_that_fails_is_listed_once_and_the_rest_goes_on(bundle):
    clock = FakeClock()
    bad, good = SyntheticRunner("bad", clock, 0.1), SyntheticRunner("good", clock, 0.1)

    def fail(image):
        raise UnavailableError("the device is gone")

    bad.restore = fail
    throughput = Throughput((64, 64, 3), 1, seconds=1.0, clock=clock)
    throughput.run([bad, good])
    assert list(throughput.loads) == [("good", "callers", 1)]
    assert list(throughput.failures.items()) == [("bad, callers 1", "the device is gone")]


# Each load is one image to warm up and ten that count.
@pytest.mark.parametrize(("image", "kept"), [(5, [0, 0]), (16, [10, 0]), (27, [10, 10])])
def test_an_interruption_keeps_finished_loads(bundle, image, kept):
    clock = FakeClock()
    made = 0

    class Interrupting(SyntheticRunner):
        def restore(self, image_):
            nonlocal made
            made += 1
            if made == image:
                press_ctrl_c()
            # From then on the clock stands still, so that only the interruption ends it.
            return super().restore(image_) if made < image else image_

    runners = [Interrupting(name, clock, 0.1) for name in "ab"]
    throughput = Throughput((64, 64, 3), 1, seconds=1.0, clock=clock)
    with pytest.raises(KeyboardInterrupt):
        throughput.run(runners)
    nothing = Load.of_pass(1, 0, 0.0)
    assert [throughput.loads.get((n, "callers", 1), nothing).images for n in "ab"] == kept


# Bundles, for real ----------------------------------------------------------------------------


def loads_of(bundle, backend, *, precision="fp32", threads=1, **how):
    runners, missing = open_restorers(bundle, [backend], [precision], threads=threads)
    assert not missing
    side = bundle.manifest.image_size // bundle.manifest.model.upscale
    throughput = Throughput((side, side, 3), threads, **({"seconds": 0.005} | how))
    try:
        throughput.run(runners)
    finally:
        for runner in runners:
            runner.close()
    return throughput


def test_a_batch_whose_later_pictures_are_wrong_has_its_own_quality(batches, monkeypatch):
    original = module._run_last
    monkeypatch.setattr(module, "_run_last", lambda *arguments: 255 - original(*arguments))
    throughput = loads_of(batches, "onnxruntime", callers=(1,), batches=(2,))
    by_way = {way: load.fidelity for (_, way, _), load in throughput.loads.items()}
    assert by_way["callers"] is None
    assert by_way["batch"].psnr_db < 20


@pytest.mark.parametrize(
    "size",
    [
        {},
        {"upscale": 4, "kernel": "bicubic", "task": "bsr"},
        {"io": "float32"},
        {
            "shapes": [
                {"batch": 4, "height": 64, "width": 60, "padded_height": 64, "padded_width": 64}
            ],
            "stride": 8,
        },
    ],
)
def test_a_bundle_is_asked_in_every_way(tmp_path, size, monkeypatch):
    bundle = Bundle.open(make_bundle(tmp_path / "b", **({"shapes": SHAPES} | size)))
    restored = []
    original = module.restore_files

    def restore_files(restorer, jobs):
        outcome = original(restorer, jobs)
        restored.append([job.target.stat().st_size > 0 for job in jobs])
        return outcome

    monkeypatch.setattr(module, "restore_files", restore_files)
    throughput = loads_of(bundle, "onnxruntime", callers=(1, 3), batches=(2, 4))
    assert throughput.failures == {}
    label = "onnxruntime fp32"
    assert list(throughput.loads) == [
        (label, "callers", 1),
        (label, "callers", 3),
        (label, "files", 1),
        (label, "batch", 2),
        (label, "batch", 4),
    ]
    for (_, way, concurrency), load in throughput.loads.items():
        assert (load.label, load.way, load.concurrency) == (label, way, concurrency)
        assert len(load.fps_by_pass) == 2
        assert min(load.fps_by_pass) > 0
        if way == "files":
            assert load.calls is None
        else:
            assert load.images == len(load.calls.samples_s) * (concurrency if way == "batch" else 1)
        assert (load.fidelity is not None) == (way == "batch")
        if load.fidelity is not None:
            assert load.fidelity.identical or load.fidelity.psnr_db > 60
        assert min(load.fps_by_pass) * 0.999 <= load.fps <= max(load.fps_by_pass) * 1.001
    files = throughput.loads[label, "files", 1]
    assert sum(len(done) for done in restored) >= files.images >= 2 * 8
    assert all(all(done) for done in restored)


@pytest.mark.skipif(
    BACKENDS["openvino"].available() is not None, reason=str(BACKENDS["openvino"].available())
)
def test_streams_have_as_many_callers_as_their_concurrency(bundle, monkeypatch):
    callers = []
    original = module.call_together

    def asked(restore, images, count, *arguments, **more):
        callers.append(count)
        return original(restore, images, count, *arguments, **more)

    monkeypatch.setattr(module, "call_together", asked)
    throughput = loads_of(bundle, "openvino", threads=2, callers=(1,), batches=())
    streams = [load for (_, way, _), load in throughput.loads.items() if way == "streams"]
    (files,) = [load for (_, way, _), load in throughput.loads.items() if way == "files"]
    if files.concurrency > 1:
        (load,) = streams
        assert load.concurrency == files.concurrency == callers[1]
    else:  # it found that one image at a time is as good
        assert streams == []


def test_without_photographs_there_are_no_files_to_restore(tmp_path):
    bundle = Bundle.open(make_bundle(tmp_path / "b", shapes=SHAPES, random=True, references=False))
    throughput = loads_of(bundle, "onnxruntime", callers=(1,), batches=(2,))
    assert [way for _, way, _ in throughput.loads] == ["callers", "batch"]
    assert list(throughput.failures.items()) == [
        ("onnxruntime fp32, files 1", "the bundle has no reference images to restore")
    ]


def test_a_backend_without_room_for_streams_is_still_asked_for_batches(batches, monkeypatch):
    original = module.Restorer

    def refuse(*arguments, mode="latency", **how):
        if mode == "throughput":
            raise UnavailableError("out of memory")
        return original(*arguments, **how)

    monkeypatch.setattr(module, "Restorer", refuse)
    throughput = loads_of(batches, "onnxruntime", callers=(1,))
    assert list(throughput.loads) == [
        ("onnxruntime fp32", "callers", 1),
        ("onnxruntime fp32", "batch", 4),  # the largest, if none is named
    ]
    assert list(throughput.failures.items()) == [
        ("onnxruntime fp32, streams and files", "out of memory")
    ]


def test_a_file_that_cannot_be_restored_is_a_reason(bundle, monkeypatch):
    original = module.restore_files

    def restore_files(restorer, jobs):
        jobs[3].source.write_bytes(b"no picture")
        return original(restorer, jobs)

    monkeypatch.setattr(module, "restore_files", restore_files)
    throughput = loads_of(bundle, "onnxruntime", callers=(1,), batches=())
    ((label, reason),) = throughput.failures.items()
    assert label == "onnxruntime fp32, files 1"
    assert "3.png" in reason


@pytest.mark.parametrize(
    ("fps", "seconds", "counts"),
    [
        (0.5, 5.0, [8]),  # that alone took longer
        (1.6, 5.0, [8]),
        (30.0, 5.0, [8, 150]),
        (999.0, 5.0, [8, 1000]),
    ],
)
def test_so_many_files_as_the_time_takes(bundle, monkeypatch, fps, seconds, counts):
    asked = []

    def restore_files(restorer, jobs):
        asked.append(len(jobs))
        return Outcome(jobs, [], len(jobs) / fps)

    monkeypatch.setattr(module, "_jobs", lambda inputs, folder, count: iter([None] * count))
    monkeypatch.setattr(module, "restore_files", restore_files)
    throughput = loads_of(bundle, "onnxruntime", callers=(), batches=(), seconds=seconds)
    assert asked == 2 * counts
    (load,) = throughput.loads.values()
    assert load.images == 2 * counts[-1]
    assert load.fps_by_pass == (pytest.approx(fps), pytest.approx(fps))
