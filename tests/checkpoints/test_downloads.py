"""Downloads from a server on this machine."""

from __future__ import annotations

import contextlib
import errno
import http.server
import io
import json
import os
import shutil
import socket
import threading
import time
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from elir_deploy.checkpoints import load_checkpoint
from elir_deploy.checkpoints.released import fetch_released
from elir_deploy.errors import CheckpointError, DownloadError


def archive(content: bytes) -> bytes:
    """A complete archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("model/data.pkl", content)
    return buffer.getvalue()


#: Several chunks each.
CONTENT = archive(bytes(range(256)) * 12_345)
OTHER = archive(bytes(reversed(range(256))) * 12_345)
SHORT = archive(b"short")


@dataclass
class Server:
    """The server's behaviour, and its requests.

    Attributes:
        cut: bytes after which it closes a connection, once.
        ranges: whether it supports Range.
        conditions: whether it supports If-Range.
        range_limit: maximum bytes of a range.
        unrequested: whether it sends ranges that were not requested.
    """

    url: str = ""
    content: bytes = CONTENT
    etag: str | None = '"one"'
    cut: int | None = None
    ranges: bool = True
    conditions: bool = True
    range_limit: int = len(CONTENT)
    unrequested: bool = False
    length: bool = True
    status: int = 200
    delay: float = 0.0
    requests: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append({"path": self.path, **dict(self.headers)})
            time.sleep(state.delay)
            if state.status != 200:
                self.send_error(state.status)
                return
            requested = self.headers.get("Range")
            condition = self.headers.get("If-Range")
            start, end = 0, len(state.content)
            if state.unrequested:
                start = 1000
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
            elif requested and state.ranges and (condition == state.etag or not state.conditions):
                start = int(requested.removeprefix("bytes=").rstrip("-"))
                if start >= len(state.content):
                    self.send_error(416)
                    return
                self.send_response(206)
                size, end = end, min(end, start + state.range_limit)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            else:
                self.send_response(200)
            if state.etag:
                self.send_header("ETag", state.etag)
            body = state.content[start:end]
            if state.length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if state.cut is not None:
                body, state.cut = body[: state.cut], None
            with contextlib.suppress(ConnectionError):  # the client may be gone
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}/v1"
    monkeypatch.setenv("ELIR_RELEASES_URL", state.url)
    monkeypatch.setenv("ELIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


DONE = ["elir_bfr.pth", "elir_bfr.pth.json"]
HALF = ["elir_bfr.pth.partial", "elir_bfr.pth.partial.json"]


def interrupted(server: Server, cache: Path, cut: int = 2_000_000) -> None:
    server.cut = cut
    with pytest.raises(DownloadError, match=f"closed after {cut} of {len(CONTENT)} bytes"):
        fetch_released("elir_bfr")
    assert names(cache) == HALF
    assert (cache / HALF[0]).read_bytes() == server.content[:cut]
    server.requests.clear()


def test_fresh(server: Server, cache: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    path = fetch_released("elir_bfr", lambda *call: calls.append(call))
    assert path == cache / "elir_bfr.pth"
    assert path.read_bytes() == CONTENT
    assert names(cache) == DONE
    assert server.requests[0]["path"] == "/v1/elir_bfr.pth"
    assert calls[0] == ("downloading elir_bfr.pth", 0, len(CONTENT))
    assert calls[-1] == ("downloading elir_bfr.pth", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert fetch_released("elir_bfr") == path
    assert len(server.requests) == 1


def test_resumed(server: Server, cache: Path) -> None:
    interrupted(server, cache)
    seen: list[int] = []
    path = fetch_released("elir_bfr", lambda what, done, total: seen.append(done))
    assert path.read_bytes() == CONTENT
    assert names(cache) == DONE
    assert server.requests[0]["Range"] == "bytes=2000000-"
    assert server.requests[0]["If-Range"] == '"one"'
    assert seen[0] == 2_000_000


def test_resumed_twice(server: Server, cache: Path) -> None:
    interrupted(server, cache, 1000)
    server.cut = 1000
    with pytest.raises(DownloadError, match="closed after 2000"):
        fetch_released("elir_bfr")
    assert fetch_released("elir_bfr").read_bytes() == CONTENT


def test_interrupted_by_the_user(server: Server, cache: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done > 1_500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_released("elir_bfr", interrupt)
    assert names(cache) == HALF
    assert fetch_released("elir_bfr").read_bytes() == CONTENT
    assert "Range" in server.requests[-1]


def test_server_that_ignores_ranges(server: Server, cache: Path) -> None:
    interrupted(server, cache)
    server.ranges = False
    assert fetch_released("elir_bfr").read_bytes() == CONTENT
    assert len(server.requests) == 1


@pytest.mark.parametrize("conditions", [True, False])
def test_file_changed_in_the_middle(server: Server, cache: Path, conditions: bool) -> None:
    interrupted(server, cache)
    server.content, server.etag, server.conditions = OTHER, '"two"', conditions
    assert fetch_released("elir_bfr").read_bytes() == OTHER
    assert names(cache) == DONE


def test_file_became_shorter(server: Server, cache: Path) -> None:
    interrupted(server, cache)
    server.content, server.conditions = SHORT, False
    assert fetch_released("elir_bfr").read_bytes() == SHORT


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_server_without_validators(server: Server, cache: Path, etag: str | None) -> None:
    server.etag = etag
    interrupted(server, cache)
    assert fetch_released("elir_bfr").read_bytes() == CONTENT
    assert "Range" not in server.requests[0]


def test_server_of_another_address(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(server, cache)
    monkeypatch.setenv("ELIR_RELEASES_URL", server.url + "/mirror/")
    assert fetch_released("elir_bfr").read_bytes() == CONTENT
    assert server.requests[0]["path"] == "/v1/mirror/elir_bfr.pth"
    assert "Range" not in server.requests[0]


def test_unknown_length(server: Server, cache: Path) -> None:
    server.length = False
    seen: list[int] = []
    path = fetch_released("elir_bfr", lambda what, done, total: seen.append(total))
    assert path.read_bytes() == CONTENT
    assert set(seen) == {0}


@pytest.mark.parametrize("length", [True, False])
def test_ranges_shorter_than_requested(server: Server, cache: Path, length: bool) -> None:
    interrupted(server, cache)
    server.range_limit, server.length = 500_000, length
    totals: list[int] = []
    for done in (2_500_000, 3_000_000):
        with pytest.raises(DownloadError, match=f"closed after {done} of {len(CONTENT)}") as error:
            fetch_released("elir_bfr", lambda what, done, total: totals.append(total))
        assert "Run again" in str(error.value)
        assert names(cache) == HALF
    assert fetch_released("elir_bfr").read_bytes() == CONTENT
    assert names(cache) == DONE
    assert set(totals) == {len(CONTENT)}


def test_unrequested_range(server: Server, cache: Path) -> None:
    server.unrequested = True
    with pytest.raises(DownloadError, match="returned 206, expected 200"):
        fetch_released("elir_bfr")
    assert names(cache) == []


def test_cut_at_an_unknown_length(server: Server, cache: Path) -> None:
    server.length, server.cut = False, 2_000_000
    with pytest.raises(DownloadError, match=r"truncated .* at 2000000 bytes") as error:
        fetch_released("elir_bfr")
    assert_two_lines(error, cache)
    assert "Run again" in str(error.value)
    assert names(cache) == HALF
    assert fetch_released("elir_bfr").read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == "bytes=2000000-"
    assert names(cache) == DONE


def test_server_whose_file_is_cut(server: Server, cache: Path) -> None:
    server.content = CONTENT[:-30]
    for _ in range(2):
        with pytest.raises(DownloadError, match="truncated"):
            fetch_released("elir_bfr")
        assert names(cache) == HALF
    server.content, server.etag = CONTENT, '"two"'
    assert fetch_released("elir_bfr").read_bytes() == CONTENT


def assert_two_lines(error: pytest.ExceptionInfo[Any], cache: Path) -> None:
    lines = str(error.value).split("\n")
    assert len(lines) == 2
    assert str(cache / "elir_bfr.pth") in lines[1]
    assert "yourself" in lines[1]


@pytest.mark.parametrize("status", [404, 403, 500])
def test_refusals(server: Server, cache: Path, status: int) -> None:
    server.status = status
    with pytest.raises(DownloadError, match=f"returned {status}") as error:
        fetch_released("elir_bfr")
    assert_two_lines(error, cache)
    assert names(cache) == []


def test_no_server(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("ELIR_RELEASES_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(DownloadError, match=r"does not respond \(Connection refused\)") as error:
        fetch_released("elir_bfr")
    assert_two_lines(error, cache)
    assert names(cache) == []


def test_silent_server(server: Server, cache: Path) -> None:
    server.delay = 1.0
    with pytest.raises(DownloadError, match="timed out") as error:
        fetch_released("elir_bfr", timeout=0.2)
    assert_two_lines(error, cache)


def test_web_page_instead_of_weights(server: Server, cache: Path) -> None:
    server.content = b"<html>Please log in</html>"
    with pytest.raises(DownloadError, match="it is a web page") as error:
        fetch_released("elir_bfr")
    assert_two_lines(error, cache)
    assert "elir_bfr.pth" not in names(cache)
    server.content, server.etag = CONTENT, '"two"'
    assert fetch_released("elir_bfr").read_bytes() == CONTENT
    assert names(cache) == DONE


def test_url_of_another_scheme(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELIR_CACHE", str(cache))
    monkeypatch.setenv("ELIR_RELEASES_URL", "file:///etc")
    with pytest.raises(DownloadError, match="expected an http or https URL"):
        fetch_released("elir_bfr")


def test_damaged_cache(server: Server, cache: Path) -> None:
    path = fetch_released("elir_bfr")
    for damaged in (CONTENT[:-1] + b"x", CONTENT[:1000], b""):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="has changed since its download") as error:
            fetch_released("elir_bfr")
        what, remedy = str(error.value).split("\n")
        assert what.startswith(f"{path} ")
        assert remedy.startswith("Delete it and elir_bfr.pth.json beside it")
    assert len(server.requests) == 1
    for name in DONE:
        (cache / name).unlink()
    assert fetch_released("elir_bfr").read_bytes() == CONTENT


def test_damaged_record(server: Server, cache: Path) -> None:
    fetch_released("elir_bfr")
    for text in ("", "[]", "{", "{}"):
        (cache / "elir_bfr.pth.json").write_text(text)
        with pytest.raises(CheckpointError, match="Delete it"):
            fetch_released("elir_bfr")


def test_damaged_record_of_a_partial_file(server: Server, cache: Path) -> None:
    interrupted(server, cache)
    (cache / HALF[1]).write_text("{")
    assert fetch_released("elir_bfr").read_bytes() == CONTENT


def test_manually_downloaded_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELIR_CACHE", str(cache))
    cache.mkdir()
    (cache / "elir_bfr.pth").write_bytes(CONTENT)
    assert fetch_released("elir_bfr") == cache / "elir_bfr.pth"
    assert set(json.loads((cache / "elir_bfr.pth.json").read_text())) == {"file", "sha256"}
    (cache / "elir_bfr.pth").write_bytes(OTHER)
    with pytest.raises(CheckpointError, match="has changed since its download"):
        fetch_released("elir_bfr")


def test_incomplete_manual_download(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELIR_CACHE", str(cache))
    cache.mkdir()
    path = cache / "elir_bfr.pth"
    path.write_bytes(CONTENT[:1000])
    with pytest.raises(CheckpointError, match="damaged or truncated") as error:
        load_checkpoint("elir_bfr")
    assert str(path) in str(error.value)
    path.write_bytes(CONTENT)  # no hash was recorded before
    assert fetch_released("elir_bfr") == path


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_read_only_cache(cache: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setenv("ELIR_CACHE", str(cache))
    cache.mkdir()
    (cache / "elir_bfr.pth").write_bytes(CONTENT)

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "touch", refuse)
    assert fetch_released("elir_bfr") == cache / "elir_bfr.pth"
    assert names(cache) == ["elir_bfr.pth"]


def test_full_disk(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1_000_000))
    with pytest.raises(DownloadError, match=r"needs 3 MB and .* has 1 MB free"):
        fetch_released("elir_bfr")
    assert names(cache) == []


def test_cache_that_cannot_be_created(server: Server, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(DownloadError, match=r"cannot download elir_bfr: .*exists"):
        fetch_released("elir_bfr")


def test_two_concurrent_downloads(server: Server, cache: Path) -> None:
    server.delay = 0.3
    seen: list[str] = []
    got: list[bytes] = []

    def fetch() -> None:
        path = fetch_released("elir_bfr", lambda what, done, total: seen.append(what))
        got.append(path.read_bytes())

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [CONTENT] * 4
    assert len(server.requests) == 1
    assert names(cache) == DONE
    assert "waiting for another download of elir_bfr.pth" in seen


def test_waiting_for_one_that_fails(server: Server, cache: Path) -> None:
    server.status, server.delay = 404, 0.2
    errors: list[DownloadError] = []

    def fetch() -> None:
        try:
            fetch_released("elir_bfr")
        except DownloadError as error:
            errors.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 3
    assert names(cache) == []


def test_leftovers_of_killed_processes_are_removed(server: Server, cache: Path) -> None:
    cache.mkdir()
    for name in ("elir_bfr.pth.json.partial-123", "elir_bfr.pth.partial.json.partial-45"):
        (cache / name).write_text("half")
    (cache / "elir_sr.pth.json.partial-6").write_text("another's")
    fetch_released("elir_bfr")
    assert names(cache) == [*DONE, "elir_sr.pth.json.partial-6"]
