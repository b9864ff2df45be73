"""Read from an iterable in a separate thread, a limited number of items ahead."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

from elir_deploy.runtime.forks import Owner

__all__ = ["read_ahead"]

T = TypeVar("T")

#: How long an early close waits for the thread, which may be in an iterable that never returns.
_CLOSE_TIMEOUT_S = 1.0
_END = object()


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


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

    def get(self) -> Any:
        """Wait for an item."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items))
            self._changed.notify_all()
            return self._items.popleft()

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
    current: list[Any] = []
    try:
        while True:
            owner.check()
            current.append(channel.get())
            if current[0] is _END:
                return
            if isinstance(current[0], _Failure):
                raise current[0].error
            yield current.pop()  # a variable would reference the item while the caller works
    finally:
        if owner.is_here():
            channel.close()
            thread.join(_CLOSE_TIMEOUT_S)
