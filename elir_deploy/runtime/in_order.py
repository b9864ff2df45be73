"""Apply a function to many items, several at a time, with the results in order."""

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
    """Yield ``function`` of each item, in the order of ``items``.

    With ``concurrency`` 1, each call happens in the caller's thread when its result is requested.
    Otherwise that number of calls run in threads, and one more item waits. An error, of ``items``
    or of a call, is raised in its place, and closing the generator waits for running calls.
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
    """Submit the next item, or the error in its place; False if there are no more."""
    try:
        item = next(items)
    except StopIteration:
        return False
    except Exception as error:  # noqa: BLE001  # raised where the item is due
        failure: Future[R] = Future()
        failure.set_exception(error)
        pending.append(failure)
        return False
    pending.append(pool.submit(function, item))
    return True
