"""Reading ahead: order, laziness, bounds, errors, and stopping early."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from elir_deploy.runtime.read_ahead import read_ahead


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def threads() -> int:
    return sum(t.name == "elir-read-ahead" and t.is_alive() for t in threading.enumerate())


def test_order() -> None:
    assert list(read_ahead(range(1000), 3)) == list(range(1000))
    assert list(read_ahead([], 3)) == []


@pytest.mark.parametrize("size", [1, 2, 5])
def test_at_most_so_many_ahead(size: int) -> None:
    drawn = itertools.count()
    seen = [0]

    def items() -> Iterator[int]:
        for i in drawn:
            seen[0] = i + 1
            yield i

    ahead = read_ahead(items(), size)
    assert seen[0] == 0  # nothing before the first is asked for
    for taken in range(1, 6):
        assert next(ahead) == taken - 1
        wait_until(lambda taken=taken: seen[0] == taken + size)
        time.sleep(0.02)
        assert seen[0] == taken + size
    ahead.close()


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ZeroDivisionError("third")

    ahead = read_ahead(items(), 5)
    assert next(ahead) == 1
    assert next(ahead) == 2
    with pytest.raises(ZeroDivisionError, match="third"):
        next(ahead)
    assert list(ahead) == []


def test_what_is_no_iterable() -> None:
    with pytest.raises(TypeError):
        next(read_ahead(5, 1))  # type: ignore[arg-type]


def test_an_early_end_stops_the_thread_and_closes_the_source() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.set()

    before = threads()
    ahead = read_ahead(items(), 2)
    next(ahead)
    assert threads() == before + 1
    ahead.close()
    assert closed.is_set()
    assert threads() == before


def test_an_error_while_closing_does_not_hang() -> None:
    def items() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            raise ValueError("in the end")

    with pytest.raises(ValueError, match="in the end"):
        list(read_ahead(items(), 1))
    ahead = read_ahead(items(), 1)
    next(ahead)
    ahead.close()


def test_a_source_that_never_returns_does_not_hold_up_the_end() -> None:
    blocked = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        blocked.wait(30)

    ahead = read_ahead(items(), 2)
    next(ahead)
    started = time.monotonic()
    ahead.close()
    assert time.monotonic() - started < 5
    blocked.set()


def test_items_taken_are_not_held() -> None:
    class Item:
        pass

    ahead = read_ahead((Item() for _ in range(5)), 1)
    for _ in range(4):
        item = next(ahead)
        alive = weakref.ref(item)
        del item
        gc.collect()
        assert alive() is None
    ahead.close()
