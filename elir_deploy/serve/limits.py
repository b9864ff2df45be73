"""What a service accepts: bytes, pixels and time of a request, and who may send it."""

from __future__ import annotations

import asyncio
import hmac
import io
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

__all__ = ["Limits", "Uploads", "check_sender", "is_loopback"]

#: A refused sender that is silent for so long has nothing on its way.
_PAUSE_S = 1.0


@dataclass(frozen=True)
class Limits:
    """Limits of requests.

    Attributes:
        body_bytes: of the body of one request.
        pixels: of an image, and of all results of a request together.
        request_s: seconds from the last byte to the answer.
        uploads_bytes: of all bodies that are held at the same time.
        wait_s: seconds that a sender may leave a request without a byte, or beside the rate.
        least_rate: bytes a second at which a body has to come.
    """

    body_bytes: int
    pixels: int
    request_s: float
    uploads_bytes: int
    wait_s: float = 20.0
    least_rate: float = 16384.0


class Uploads:
    """Reads bodies, within limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body, in one piece; its bytes count until the block ends.

        Raises:
            HTTPException: 400 (no such length), 408 (the sender is too slow), 413 (too large), 415
                (compressed), 503 (too many bodies at a time).
        """
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(415, "send the body without Content-Encoding")
        most = self._limits.body_bytes
        announced = request.headers.get("content-length")
        digits = announced is None or (announced.isascii() and announced.isdecimal())
        if not digits or len(announced or "") > 18:
            raise HTTPException(400, "Content-Length is not a number")
        if announced is not None and int(announced) > most:
            raise HTTPException(413, f"the body is larger than {most} bytes")
        buffer = io.BytesIO()
        size = 0
        chunks = request.stream().__aiter__()
        limits, started = self._limits, time.monotonic()
        try:
            while True:
                late_s = time.monotonic() - started - size / limits.least_rate
                try:
                    chunk = await asyncio.wait_for(anext(chunks), limits.wait_s - max(0.0, late_s))
                except StopAsyncIteration:
                    break
                except asyncio.TimeoutError:
                    raise HTTPException(408, "the body came too slowly") from None
                except ClientDisconnect:
                    raise HTTPException(400, "the sender has gone") from None
                self._held += len(chunk)
                size += len(chunk)
                buffer.write(chunk)
                if size > most:
                    raise HTTPException(413, f"the body is larger than {most} bytes")
                if self._held > self._limits.uploads_bytes:
                    raise HTTPException(
                        503, "too many images are being sent", headers={"Retry-After": "2"}
                    )
            body = [buffer.getvalue()]  # its memory, not a copy
            buffer.close()
            yield body.pop()  # the caller alone holds it
        finally:
            self._held -= size

    async def discard(self, request: Request) -> None:
        """Receive what is left of a body that is refused, until the sender pauses.

        A connection that is closed with unread bytes is reset, and the answer may be lost with it.
        """
        left = self._limits.body_bytes
        chunks = request.stream().__aiter__()
        started = time.monotonic()
        # RuntimeError: nothing is left.
        with suppress(asyncio.TimeoutError, ClientDisconnect, RuntimeError, StopAsyncIteration):
            while left >= 0 and time.monotonic() - started < self._limits.wait_s:
                left -= len(await asyncio.wait_for(anext(chunks), _PAUSE_S))


def is_loopback(host: str) -> bool:
    """Whether an address or name to listen on is reachable from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_sender(request: Request, token: str | None) -> None:
    """Refuse who does not know the token, and pages of other sites.

    Without a token the service is on loopback: a page in a browser here could still send to it, so
    the name it calls the service by must be one of loopback (DNS rebinding).

    Raises:
        HTTPException: 401, 403 or 421.
    """
    if token is not None:
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(sent.encode(), token.encode()):
            raise HTTPException(
                401, "send the token: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"}
            )
    elif not is_loopback(_name_in(request.headers.get("host", ""))):
        raise HTTPException(421, "call this service by the name localhost")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise HTTPException(403, "pages of other sites may not use this service")


def _name_in(host: str) -> str:
    """The name or address in a ``Host`` header; empty: it has another form."""
    match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]+))(?::[0-9]*)?", host.lower())
    return (match[1] or match[2]) if match else ""
