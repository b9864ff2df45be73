from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from elir_deploy.serve.connection import Connection

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.3)  # longer than a head may take
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


async def received(*parts: bytes) -> list[bytes]:
    """What is answered to each part; b"" is the end of the connection."""
    config = Config(app, lifespan="off", log_config=None)
    config.load()
    state = ServerState()

    def connection() -> Connection:
        made = Connection(config, state, {})
        made.head_s = 0.1
        return made

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    answers = []
    for part in parts:
        writer.write(part)
        answers.append(await asyncio.wait_for(reader.read(100), 10))
    writer.close()
    server.close()
    return answers


@pytest.mark.parametrize("part", [b"", b"GET", HEAD])
def test_a_head_that_does_not_come_ends_the_connection(part: bytes) -> None:
    assert asyncio.run(received(part)) == [b""]


def test_a_slow_answer_does_not_and_the_next_head_may() -> None:
    answers = asyncio.run(received(HEAD + b"\r\n", HEAD + b"\r\n", HEAD))
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 204", b"HTTP/1.1 204", b""]
