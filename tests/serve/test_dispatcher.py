from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from copy import copy
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import DeviceLostError, ImageError, UnavailableError
from elir_deploy.runtime.file_restorer import RestoredImage
from elir_deploy.runtime.images import LoadedImage
from elir_deploy.serve.dispatcher import Dispatcher, Overloaded, Timing, _AbandonedError


def image(value: int) -> LoadedImage:
    return LoadedImage(np.full((1, 1, 3), value, np.uint8))


class Slow:
    """Restores up to four images together, when it is allowed to; 13 is bad luck."""

    scale = concurrency = ahead = 1
    bits = 8
    instead_of_8_bits = ""
    has_preparation = False

    def __init__(self) -> None:
        self.runs = threading.Event()
        self.go = threading.Event()
        self.groups: list[list[int]] = []

    def input_warning(self, height: int, width: int) -> None:
        return None

    def prepare(self, loaded: LoadedImage, strength: float) -> int:
        return int(loaded.pixels[0, 0, 0])

    def joins(self, group: list[Any], prepared: Any) -> bool:
        return len(group) < 4

    def restore(self, group: list[Any], strength: float, on_progress: Any) -> list[RestoredImage]:
        self.runs.set()
        self.go.wait()
        on_progress("tiles", 1, 2)
        self.groups.append(group)
        if 13 in group:
            raise ImageError("13")
        if 99 in group:
            raise DeviceLostError("99")
        return [RestoredImage(np.full((1, 1, 3), value + 1, np.uint8)) for value in group]


@pytest.fixture
def slow() -> Iterator[Slow]:
    restorer = Slow()
    yield restorer
    restorer.go.set()


def started(slow: Slow, capacity: int) -> tuple[Dispatcher, list[Timing], Future[RestoredImage]]:
    """A dispatcher whose thread is busy with image 0."""
    timings: list[Timing] = []
    dispatcher = Dispatcher(1, capacity, timings.append)
    [first] = dispatcher.submit(slow, [image(0)], 1.0)
    assert slow.runs.wait(10)
    return dispatcher, timings, first


def value(future: Future[RestoredImage]) -> int:
    return int(future.result(10).pixels[0, 0, 0])


def test_what_waits_together_runs_together(slow: Slow) -> None:
    dispatcher, timings, first = started(slow, 20)
    futures = [dispatcher.submit(slow, [image(n)], 1.0)[0] for n in range(1, 8)]
    other = dispatcher.submit(slow, [image(8)], 0.5)[0]
    slow.go.set()
    assert [value(future) for future in (first, *futures, other)] == list(range(1, 10))
    assert slow.groups == [[0], [1, 2, 3, 4], [5, 6, 7], [8]]
    dispatcher.close()
    assert [timing.images for timing in timings] == [1, 4, 3, 1]
    assert all(min(timing.waited) >= 0 for timing in timings)


def test_images_of_other_options_run_alone(slow: Slow) -> None:
    dispatcher, _, first = started(slow, 8)
    other = copy(slow)
    queued = ((slow, 1), (slow, 2), (other, 3), (slow, 4))
    futures = [f for restorer, n in queued for f in dispatcher.submit(restorer, [image(n)], 1.0)]
    slow.go.set()
    assert [value(future) for future in (first, *futures)] == [1, 2, 3, 4, 5]
    assert slow.groups == [[0], [1, 2], [3], [4]]
    dispatcher.close()


def test_images_of_other_options_are_prepared_when_it_is_their_turn() -> None:
    class Noting(Slow):
        def prepare(self, loaded: LoadedImage, strength: float) -> int:
            prepared = super().prepare(loaded, strength)
            self.groups.append([-prepared])
            return prepared

    slow = Noting()
    dispatcher, _, _ = started(slow, 8)
    futures = [dispatcher.submit(slow, [image(n)], 1 / n)[0] for n in (1, 2)]
    futures += dispatcher.submit(copy(slow), [image(3)], 1 / 2)
    slow.go.set()
    assert [value(future) for future in futures] == [2, 3, 4]
    assert slow.groups == [[0], [0], [-1], [1], [-2], [2], [-3], [3]]
    dispatcher.close()


def test_one_that_fails_does_not_fail_the_others(slow: Slow) -> None:
    dispatcher, _, _ = started(slow, 20)
    futures = dispatcher.submit(slow, [image(n) for n in (1, 13, 2)], 1.0)
    slow.go.set()
    assert [value(futures[0]), value(futures[2])] == [2, 3]
    with pytest.raises(ImageError):
        futures[1].result(10)
    dispatcher.close()


def test_a_lost_device_is_not_asked_again(slow: Slow) -> None:
    dispatcher, _, _ = started(slow, 20)
    futures = dispatcher.submit(slow, [image(n) for n in (1, 99, 2)], 1.0)
    slow.go.set()
    for future in futures:
        with pytest.raises(DeviceLostError):
            future.result(10)
    dispatcher.close()
    assert slow.groups == [[0], [1, 99, 2]]


def test_places_are_bounded(slow: Slow) -> None:
    dispatcher, _, _ = started(slow, 3)  # and one that runs
    with dispatcher.places(2), dispatcher.places(2):
        with pytest.raises(Overloaded) as error:
            dispatcher.check()
        assert error.value.retry_after_s >= 1
        with pytest.raises(Overloaded), dispatcher.places():
            pass
    with dispatcher.places(9):  # more than there are
        pass
    with dispatcher.places(1), pytest.raises(Overloaded), dispatcher.places(9):
        pass
    dispatcher.check(4)
    slow.go.set()
    dispatcher.close()


def test_what_was_accepted_is_finished(slow: Slow) -> None:
    dispatcher, _, first = started(slow, 20)
    accepted = dispatcher.submit(slow, [image(n) for n in (1, 2, 3)], 1.0)
    slow.go.set()
    dispatcher.close()
    assert [value(future) for future in (first, *accepted)] == [1, 2, 3, 4]
    with pytest.raises(UnavailableError, match="shutting down"):
        dispatcher.submit(slow, [image(5)], 1.0)


def test_who_left_is_not_waited_for(slow: Slow) -> None:
    dispatcher, _, _ = started(slow, 20)
    gone, stays = dispatcher.submit(slow, [image(1), image(2)], 1.0)
    assert gone.cancel()
    slow.go.set()
    assert value(stays) == 3
    dispatcher.close()
    assert slow.groups == [[0], [2]]
    assert dispatcher.waiting == 0


def test_a_run_ends_when_nobody_waits_for_it(slow: Slow) -> None:
    dispatcher, _, first = started(slow, 20)
    gone, stays = dispatcher.submit(slow, [image(1), image(2)], 1.0)
    assert not first.cancel()  # it runs
    slow.go.set()
    assert isinstance(first.exception(10), _AbandonedError)
    assert [value(gone), value(stays)] == [2, 3]
    dispatcher.close()
    assert slow.groups == [[1, 2]]


def test_what_still_runs_keeps_its_place(slow: Slow) -> None:
    dispatcher = Dispatcher(1, 1, lambda timing: None)
    with dispatcher.places() as futures:
        futures += dispatcher.submit(slow, [image(0)], 1.0)
        assert slow.runs.wait(10)
        futures[0].cancel()
    with pytest.raises(Overloaded):
        dispatcher.check(2)
    slow.go.set()
    dispatcher.close()
    dispatcher.check(2)


def test_what_does_not_join_is_left_to_the_other_thread() -> None:
    class OneByOne(Slow):
        def __init__(self) -> None:
            super().__init__()
            self.each = [threading.Event() for _ in range(3)]

        def joins(self, group: list[Any], prepared: Any) -> bool:
            return False

        def restore(self, group: list[Any], *others: Any) -> list[RestoredImage]:
            self.runs.set()
            self.each[group[0]].wait()
            return [RestoredImage(np.full((1, 1, 3), group[0], np.uint8))]

    restorer = OneByOne()
    dispatcher = Dispatcher(2, 20, lambda timing: None)
    try:
        futures = dispatcher.submit(restorer, [image(0)], 1.0)
        assert restorer.runs.wait(10)
        restorer.runs.clear()
        futures += dispatcher.submit(restorer, [image(1), image(2)], 1.0)
        assert restorer.runs.wait(10)  # the other thread has looked at what is behind image 1
        restorer.each[0].set()
        restorer.each[2].set()
        assert [value(futures[0]), value(futures[2])] == [0, 2]
    finally:
        restorer.each[1].set()
        dispatcher.close()
