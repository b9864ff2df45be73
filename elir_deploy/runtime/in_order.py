"""Calling a function on many items, several at a time, with the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["map_in_order"]

T = TypeVar("T")
R = TypeVar("R")


def map_in_order(
    function: Callable[[T], R], items: Iterable[T], concurrency: int
) -> Generator[R, None, None]:
    """``function`` of each item, in the order of ``items``.

    With ``concurrency`` 1 every call is made when its result is asked for, in the caller's thread.
    With more, so many calls run in threads and one more item waits for the first to be free; an
    error, of ``items`` or of a call, is raised at its place, and closing the generator waits for
    the calls that run.
    """
    if concurrency == 1:
        yield from map(function, items)
        return
    pending: deque[Future[R]] = deque()
    iterator = iter(items)
    more = True
    with ThreadPoolExecutor(concurrency, thread_name_prefix="elir-map") as pool:
        try:
            while more or pending:
                if more:
                    more = _submit_next(pool, function, iterator, pending)
                if pending and (len(pending) > concurrency or not more):
                    yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _submit_next(
    pool: ThreadPoolExecutor,
    function: Callable[[T], R],
    items: Iterator[T],
    pending: deque[Future[R]],
) -> bool:
    """Put a call for the next item, or the error in its place; False if it is the last."""
    try:
        item = next(items)
    except StopIteration:
        return False
    except Exception as error:  # noqa: BLE001  # raised again where the item is awaited
        failure: Future[R] = Future()
        failure.set_exception(error)
        pending.append(failure)
        return False
    pending.append(pool.submit(function, item))
    return True
