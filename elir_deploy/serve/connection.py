"""Connections to the service."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from elir_deploy.serve.limits import Limits

__all__ = ["Connection"]


class Connection(H11Protocol):
    """A connection that ends if the head of a request takes too long, or an answer is not read.

    uvicorn alone would wait for ever, with a connection of a limited number, or with the answer.

    Attributes:
        wait_s: seconds for a head, and for an answer beside its bytes at the least rate.
        least_rate: bytes a second at which an answer has to be read.
    """

    wait_s = Limits.wait_s
    least_rate = Limits.least_rate

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._clocks: dict[str, asyncio.TimerHandle] = {}
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        seconds = self.wait_s + self.transport.get_write_buffer_size() / self.least_rate
        self._clocks["answer"] = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop("answer")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop("answer")
        self._stop("head")

    def _watch_head(self) -> None:
        """Start the clock where a head is missing, and stop it when that has come."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop("head")
        elif "head" not in self._clocks:
            self._clocks["head"] = self.loop.call_later(self.wait_s, self.transport.close)

    def _stop(self, clock: str) -> None:
        if clock in self._clocks:
            self._clocks.pop(clock).cancel()
