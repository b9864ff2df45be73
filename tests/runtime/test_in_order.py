"""Calls at the same time: order, bounds, errors, and stopping early."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from elir_deploy.runtime.in_order import map_in_order


def threads() -> int:
    return sum(thread.name.startswith("elir-map") for thread in threading.enumerate())


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_order(concurrency: int) -> None:
    def slow_at_first(number: int) -> int:
        time.sleep(max(0, 5 - number) * 0.004)
        return number * 2

    assert list(map_in_order(slow_at_first, range(40), concurrency)) == list(range(0, 80, 2))
    assert list(map_in_order(slow_at_first, [], concurrency)) == []
    assert threads() == 0


def test_one_at_a_time_needs_no_thread() -> None:
    names = map_in_order(lambda _: threading.current_thread().name, range(3), 1)
    assert set(names) == {threading.current_thread().name}


def test_the_concurrency_is_limited() -> None:
    together = threading.Barrier(3)  # breaks, unless three calls wait at it

    def meet(number: int) -> int:
        together.wait(10)
        return number

    assert list(map_in_order(meet, range(9), 3)) == list(range(9))


def test_items_are_drawn_when_needed() -> None:
    drawn = itertools.count()
    last = [-1]

    def items() -> Iterator[int]:
        while True:
            last[0] = next(drawn)
            yield last[0]

    results = map_in_order(lambda number: number, items(), 3)
    assert last[0] == -1
    for taken in range(20):
        assert next(results) == taken
        assert last[0] == taken + 3
    results.close()
    assert threads() == 0


@pytest.mark.parametrize("concurrency", [1, 3])
def test_errors_come_in_their_place(concurrency: int) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise OSError("the camera is gone")

    seen: list[int] = []
    with pytest.raises(OSError, match="the camera is gone"):
        seen.extend(map_in_order(lambda number: number, items(), concurrency))
    assert seen == list(range(5))
    results = map_in_order(lambda number: 6 // (number - 2), range(9), concurrency)
    assert [next(results), next(results)] == [-3, -6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    assert threads() == 0


def test_closing_waits_for_what_runs() -> None:
    done: list[int] = []

    def slow(number: int) -> int:
        time.sleep(0.05)
        done.append(number)
        return number

    results = map_in_order(slow, itertools.count(), 2)
    assert next(results) == 0
    results.close()
    assert threads() == 0
    finished = len(done)
    time.sleep(0.1)
    assert len(done) == finished <= 4
