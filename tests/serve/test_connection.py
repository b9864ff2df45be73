from __future__ import annotations

import asyncio
import socket
from asyncio import Server
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


async def listening(app: Any, made: list[Connection]) -> Server:
    config = Config(app, lifespan="off", log_config=None)
    config.load()
    state = ServerState()

    def connection() -> Connection:
        made.append(Connection(config, state, {}))
        made[-1].wait_s = 0.1
        made[-1].least_rate = 1e9
        return made[-1]

    return await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)


async def received(*parts: bytes) -> list[bytes]:
    """What is answered to each part; b"" is the end of the connection."""
    server = await listening(app, [])
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


def test_an_answer_that_is_not_read_is_not_kept() -> None:
    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(2**25)})

    async def ask_and_leave_it() -> None:
        made: list[Connection] = []
        server = await listening(large, made)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.sendall(HEAD + b"\r\n")
            for _ in range(1000):
                await asyncio.sleep(0.01)
                if made and made[0].cycle and not made[0].connections:
                    break
            assert made[0].connections == set()
        server.close()

    asyncio.run(ask_and_leave_it())
