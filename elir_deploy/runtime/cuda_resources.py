"""What a session occupies on a CUDA device, to be released in order."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.cuda import Device

__all__ = ["Resources", "close_all"]


class Resources:
    """Resources of a device, released once and in reverse order.

    Attributes:
        stream: the stream to synchronize first.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._releases: list[Callable[[], None]] = []
        self.stream: int | None = None

    def add(self, release: Callable[[], None]) -> None:
        self._releases.append(release)

    def close(self) -> None:
        """Release everything. Never fails: errors become warnings."""
        releases, self._releases = self._releases, []
        if self.stream is not None:
            releases.append(partial(self._device.synchronize, self.stream))
            self.stream = None
        if not releases:
            return
        failures: list[str] = []

        def attempt(action: Callable[[], object]) -> None:
            try:
                action()
            except UnavailableError as error:
                failures.append(str(error))

        stack = ExitStack()
        attempt(lambda: stack.enter_context(self._device.current()))
        while releases:
            attempt(releases.pop())
        attempt(stack.close)
        for failure in dict.fromkeys(failures):
            warnings.warn(f"while closing: {failure}", RuntimeWarning, stacklevel=3)


def close_all(resources: list[Resources]) -> None:
    while resources:
        resources.pop().close()
