from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from elir_deploy.serve.limits import Limits, Uploads

MIB = 2**20
LIMITS = Limits(body_bytes=64 * MIB, pixels=1, request_s=1, uploads_bytes=128 * MIB)


def request(chunks: int, size: int, wait_s: float = 0) -> Request:
    """A request whose body comes in chunks."""
    left = chunks

    async def receive() -> dict[str, Any]:
        nonlocal left
        left -= 1
        await asyncio.sleep(wait_s)
        return {"type": "http.request", "body": bytes(size), "more_body": left > 0}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


async def body_of(sent: Request, limits: Limits) -> int:
    async with Uploads(limits).read(sent) as body:
        return len(body)


def test_a_body_is_in_memory_once() -> None:
    tracemalloc.start()
    try:
        assert asyncio.run(body_of(request(32, MIB), LIMITS)) == 32 * MIB
        assert tracemalloc.get_traced_memory()[1] < 48 * MIB
    finally:
        tracemalloc.stop()


def test_a_sender_of_single_bytes_is_refused() -> None:
    slow = Limits(body_bytes=100, pixels=1, request_s=1, uploads_bytes=100, wait_s=0.3)
    with pytest.raises(HTTPException) as error:
        asyncio.run(body_of(request(1000, 1, wait_s=0.02), slow))
    assert error.value.status_code == 408
