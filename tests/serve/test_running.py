"""The service as a process: signals, slow and hostile senders, and load."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import socket
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from elir_deploy.runtime import Restorer
from tests.bundles import make_bundle
from tests.serve.running import Running, running

CPU = ("--backend", "onnxruntime", "--precision", "fp32")


def png(side: int, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def figures(service: Running) -> dict[tuple[str, str], float]:
    """Figures of ``/metrics`` by name and stage."""
    text = httpx.get(f"{service.url}/metrics").text
    pattern = r'^(\w+)\{.*stage="(\w+)"\} (\S+)$'
    found = re.findall(pattern, text, re.MULTILINE)
    return defaultdict(float, {(name, stage): float(value) for name, stage, value in found})


def test_a_signal_ends_it_when_all_is_answered(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "half", gain=0.5, stride=8, size=32)
    answers: list[Any] = []
    with running(bundle, *CPU) as service:
        data = png(1500)  # thousands of tiles

        def send() -> None:
            answers.append(httpx.post(f"{service.url}/restore", content=data, timeout=120))

        threads = [threading.Thread(target=send) for _ in range(3)]
        for thread in threads:
            thread.start()
        while figures(service)["elir_stage_seconds_count", "decode"] < len(threads):
            time.sleep(0.01)
        service.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert service.process.wait(60) == 0
    assert [answer.status_code for answer in answers] == [200] * 3
    with Restorer(bundle, "onnxruntime", precision="fp32") as restorer:
        expected = restorer(np.asarray(Image.open(io.BytesIO(data))))
    for answer in answers:
        np.testing.assert_array_equal(Image.open(io.BytesIO(answer.content)), expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, number: int) -> None:
    bundle = make_bundle(tmp_path / "half", gain=0.5, stride=8, size=32)
    with running(bundle, *CPU) as service:
        head = b"POST /restore HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n"
        with connected(service) as connection:
            connection.sendall(head)  # and no body
            while not psutil.Process(service.process.pid).net_connections():
                time.sleep(0.01)
            time.sleep(0.2)
            service.process.send_signal(number)
            time.sleep(0.5)
            assert service.process.poll() is None
            service.process.send_signal(number)
            assert service.process.wait(10) == 128 + number


def test_bundle_that_does_not_exist_and_port_that_is_taken(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ended with 2"), running(tmp_path / "none"):
        pass
    bundle = make_bundle(tmp_path / "half")
    with (
        pytest.raises(AssertionError, match="ended with 2"),
        running(bundle, "--host", "0.0.0.0"),
    ):
        pass


def connected(service: Running) -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def raw(service: Running, *parts: bytes, wait_s: float = 0.0) -> bytes:
    """What the service answers to these bytes."""
    with connected(service) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:
                break
            time.sleep(wait_s)
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
                if b"\r\n\r\n" in answer and b'"error"' in answer:
                    break
        except OSError:
            pass
        return answer


def test_hostile_senders(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "half", gain=0.5)
    with running(bundle, *CPU, "--max-megabytes", 1) as service:
        head = b"POST /restore HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        announced = raw(service, head + b"Content-Length: 10737418240\r\n\r\n")
        assert b" 413 " in announced
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
        assert b" 413 " in raw(service, chunked, *([chunk] * 40))
        for junk in (b"\0" * 100, b"POST /restore\r\n\r\n"):
            assert b" 400 " in raw(service, junk)
        with httpx.Client(base_url=service.url) as client:
            send_malformed(client, 100)
            assert client.post("/restore", content=png(32)).status_code == 200


def send_malformed(client: httpx.Client, count: int) -> None:
    """Random bytes, and a picture and a tensor that are damaged in one place."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 3]}
    whole = {
        "/restore": png(16),
        "/v2/models/half/infer": json.dumps({"inputs": [tensor]}).encode(),
    }
    random = np.random.default_rng(0)
    for number in range(count // 4):
        for path, right in whole.items():
            body = random.bytes(int(random.integers(0, 300)))
            assert client.post(path, content=body).status_code == 400
            damaged = bytearray(right)
            damaged[random.integers(len(right))] ^= int(random.integers(1, 256))
            answer = client.post(path, content=bytes(damaged[: len(right) - number % 3]))
            assert answer.status_code in (200, 400), answer.text


@pytest.mark.slow
def test_a_thousand_malformed_bodies(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "half", gain=0.5)
    with running(bundle, *CPU) as service, httpx.Client(base_url=service.url) as client:
        send_malformed(client, 1000)
        assert client.post("/restore", content=png(32)).status_code == 200


def send_for_ever(connection: socket.socket, chunk: bytes) -> None:
    while True:
        connection.sendall(chunk)
        time.sleep(0.01)


@pytest.mark.slow
def test_a_body_without_end_is_cut_off(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "half", gain=0.5)
    with running(bundle, *CPU, "--max-megabytes", 1) as service, connected(service) as connection:
        head = b"POST /restore HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head)
        with pytest.raises(ConnectionError):
            send_for_ever(connection, b"10000\r\n" + bytes(65536) + b"\r\n")
        assert httpx.post(f"{service.url}/restore", content=png(32)).status_code == 200


@pytest.mark.slow
def test_slow_senders_do_not_keep_others_waiting(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "half", gain=0.5)
    with running(bundle, *CPU) as service:
        head = b"POST /restore HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
        answers: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: answers.append(raw(service, head))) for _ in range(40)
        ]
        for thread in threads:
            thread.start()
        time.sleep(1)
        assert httpx.post(f"{service.url}/restore", content=png(32)).status_code == 200
        for thread in threads:
            thread.join()
        assert all(b" 408 " in answer for answer in answers)


async def send_until(until: float, service: Running, request: bytes, answers: Answers) -> None:
    """Send the same request again and again; bare, since 200 clients share one core."""
    host, port = service.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    while time.monotonic() < until:
        started = time.monotonic()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status, fields = int(head[9:12]), dict(re.findall(rb"([\w-]+): (.*)\r", head))
        body = await reader.readexactly(int(fields[b"content-length"]))
        answers.statuses[status] += 1
        if status == 200:
            answers.seconds.append(time.monotonic() - started)
            answers.bodies.add(body)
        else:
            assert int(fields[b"retry-after"]) >= 1
            await asyncio.sleep(0.2)  # less patient than told
    writer.close()


@dataclass
class Answers:
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    bodies: set[bytes] = field(default_factory=set)


@pytest.mark.slow
def test_two_hundred_clients(tmp_path: Path) -> None:
    """For a minute, with a queue of 16.

    Nothing accepted is lost, memory stays flat, and an accepted request waits for the queue alone,
    not for the many that are refused.
    """
    bundle = make_bundle(tmp_path / "half", gain=0.5, stride=8, size=32)
    data = png(200)
    with Restorer(bundle, "onnxruntime", precision="fp32") as restorer:
        expected = restorer(np.asarray(Image.open(io.BytesIO(data))))
    request = (
        f"POST /restore HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n\r\n"
    ).encode() + data
    answers, memory = Answers(), []

    async def watch(process: psutil.Process, until: float) -> None:
        while time.monotonic() < until:
            memory.append(process.memory_info().rss)
            await asyncio.sleep(1)

    async def load(service: Running) -> None:
        until = time.monotonic() + 60
        clients = [send_until(until, service, request, answers) for _ in range(200)]
        await asyncio.gather(watch(psutil.Process(service.process.pid), until), *clients)

    with running(bundle, *CPU, "--queue", 16) as service:
        asyncio.run(load(service))
    assert set(answers.statuses) == {200, 503}
    (body,) = answers.bodies
    np.testing.assert_array_equal(Image.open(io.BytesIO(body)), expected)
    half = len(memory) // 2
    assert np.median(memory[half:]) < 1.1 * np.median(memory[5:half])
    p99, median = np.quantile(answers.seconds, 0.99), np.median(answers.seconds)
    print(answers.statuses, f"p99 {p99:.2f} s, median {median:.2f} s")
    # Little's law: whoever has one of so many places has it for places / rate, on average.
    places = 16 + 2
    assert p99 < 3 * places / (answers.statuses[200] / 60)
