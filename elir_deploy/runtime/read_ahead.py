"""Read from an iterable in a separate thread, a limited number of items ahead.

What waits can be taken one by one, or several together.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Any, TypeVar

from elir_deploy.runtime.forks import Owner

__all__ = ["read_ahead", "waiting_together"]

T = TypeVar("T")

#: How long an early close waits for the thread, which may be in an iterable that never returns.
_CLOSE_TIMEOUT_S = 1.0
_END = object()


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _is_last(item: object) -> bool:
    return item is _END or isinstance(item, _Failure)


class _Channel:
    """A bounded queue between two threads that can be closed."""

    def __init__(self, size: int) -> None:
        self._items: deque[Any] = deque()
        self._size = size
        self._closed = False
        self._changed = threading.Condition()

    def wait_for_room(self) -> bool:
        """Wait until there is room for an item; False if the channel was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._size)
            return not self._closed

    def put(self, item: object) -> None:
        with self._changed:
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()

    def get(self, joins: Callable[[list[Any], Any], bool]) -> list[Any]:
        """Wait for an item; returns it and those after it that wait already and join it."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items))
            group = [self._items.popleft()]
            if not _is_last(group[0]):
                while self._items and not _is_last(self._items[0]) and joins(group, self._items[0]):
                    group.append(self._items.popleft())
            self._changed.notify_all()
            return group

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()


def read_ahead(items: Iterable[T], size: int) -> Generator[T, None, None]:
    """Yield the items of ``items``, in order, read by a separate thread.

    The thread starts with the first item requested. At most ``size`` items are read ahead, counting
    one that is being produced, and items are not referenced once yielded. An error of ``items`` is
    raised in its place. Closing the generator ends the thread, which closes ``items`` if that is a
    generator.

    Raises:
        UsageError: in a child forked meanwhile, which does not have the thread.
    """
    with closing(waiting_together(items, size, lambda group, item: False)) as groups:
        for group in groups:
            yield group.pop()


def waiting_together(
    items: Iterable[T], size: int, joins: Callable[[list[T], T], bool]
) -> Generator[list[T], None, None]:
    """Like :func:`read_ahead`, but yield lists of consecutive items that wait already.

    Args:
        items: may be endless.
        size: at most so many are read ahead.
        joins: whether an item may join a list; must not fail.
    """
    owner = Owner("this iteration")
    channel = _Channel(size)

    def draw() -> None:
        iterator = iter(items)
        try:
            while channel.wait_for_room():
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                channel.put(item)
                del item
        finally:
            if isinstance(iterator, Generator):
                iterator.close()

    def work() -> None:
        last: object = _END
        try:
            draw()
        except BaseException as error:  # noqa: BLE001  # raised where the item is due
            last = _Failure(error)
        channel.put(last)

    thread = threading.Thread(target=work, name="elir-read-ahead", daemon=True)
    thread.start()
    current: list[list[Any]] = []
    try:
        while True:
            owner.check()
            current.append(channel.get(joins))
            first = current[0][0]
            if first is _END:
                return
            if isinstance(first, _Failure):
                raise first.error
            del first
            yield current.pop()  # a variable would reference the items while the caller works
    finally:
        if owner.is_here():
            channel.close()
            thread.join(_CLOSE_TIMEOUT_S)
