"""Drawing from an iterable in a thread of its own, a bounded number of items ahead."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

from elir_deploy.runtime.forks import Owner

__all__ = ["read_ahead"]

T = TypeVar("T")

#: How long an early close waits for the thread; it may sit in an iterable that never returns.
_PATIENCE_S = 1.0
_END = object()


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Channel:
    """A bounded queue from one thread to another, whose ends learn when it is closed."""

    def __init__(self, size: int) -> None:
        self._items: deque[Any] = deque()
        self._size = size
        self._closed = False
        self._changed = threading.Condition()

    def wait_for_room(self) -> bool:
        """Wait until an item can be put; False if the channel was closed."""
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
    """The items of ``items``, in order, drawn in a thread of its own.

    The thread starts with the first item asked for. At most ``size`` items are drawn (or being
    made) and not yet taken, and none is held once taken. An error of ``items`` is raised at its
    place. Closing the generator ends the thread, which closes ``items`` if that is a generator.

    Raises:
        UsageError: in a child that was forked meanwhile, which has no such thread.
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
        except BaseException as error:  # noqa: BLE001  # raised again where the item is awaited
            last = _Failure(error)
        channel.put(last)

    thread = threading.Thread(target=work, name="elir-read-ahead", daemon=True)
    thread.start()
    held: list[Any] = []
    try:
        while True:
            owner.check()
            held.append(channel.get())
            if held[0] is _END:
                return
            if isinstance(held[0], _Failure):
                raise held[0].error
            yield held.pop()  # a plain variable would keep the item while the caller works
    finally:
        if owner.is_here():
            channel.close()
            thread.join(_PATIENCE_S)
