"""The authors' released weights, downloaded once into a cache.

In the cache lie ``NAME.pth``, ``NAME.pth.json`` with the SHA-256 it had when it came and, while a
download is unfinished, ``NAME.pth.partial`` with ``NAME.pth.partial.json``. The next attempt goes
on where the partial file ends, if the server still has the same file.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from elir_deploy.atomic import write_text
from elir_deploy.checkpoints.containers import HEAD, not_weights, whole_archive
from elir_deploy.errors import CheckpointError, DownloadError, OutputError
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.bundle import file_sha256
from elir_deploy.runtime.cache import cache_folder

__all__ = ["RELEASES_URL", "fetch_released"]

#: Where the authors publish; the environment's ``ELIR_RELEASES_URL`` replaces it.
RELEASES_URL = "https://github.com/eladc-git/ELIR/releases/download/v1.0/"
#: Seconds without a byte after which a server is given up.
TIMEOUT = 30.0
_CHUNK = 2**20
#: Bytes to leave free on the disk.
_SPARE = 16 * _CHUNK


def fetch_released(
    name: str, progress: ProgressCallback = no_progress, *, timeout: float = TIMEOUT
) -> Path:
    """The file of released weights, downloaded if the cache does not have it.

    Args:
        name: such as ``elir_bfr``.
        progress: called with what is done, the bytes done and the bytes in all (0: unknown).
        timeout: seconds to wait for a connection and for each piece.

    Raises:
        DownloadError: the file cannot be had; the message says where to put it by hand.
        CheckpointError: the cached file is not the one that was downloaded.
    """
    path = cache_folder() / f"{name}.pth"
    try:
        if path.exists():
            return _checked(path)
        url = _url(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, progress) as file:
            for left in path.parent.glob(f"{path.name}*.partial-*"):  # by a process that was killed
                left.unlink(missing_ok=True)
            if path.exists():  # another process was faster
                return _checked(path)
            _Download(url, path, file, timeout, progress).run()
            _check_content(_partial(path))
            _record(path, file_sha256(_partial(path)))
            _partial_record(path).unlink(missing_ok=True)
            _partial(path).replace(path)
    except (OSError, OutputError, http.client.HTTPException) as error:
        raise DownloadError(_failure(name, path, error)) from error
    return path


def _url(name: str) -> str:
    base = os.environ.get("ELIR_RELEASES_URL") or RELEASES_URL
    if urllib.parse.urlsplit(base).scheme not in ("http", "https"):
        raise DownloadError(f"ELIR_RELEASES_URL is {base!r}, wanted a http or https address")
    return f"{base.rstrip('/')}/{name}.pth"


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _partial_record(path: Path) -> Path:
    return path.with_name(path.name + ".partial.json")


def _checksum_record(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _failure(name: str, path: Path, error: Exception) -> str:
    """Two lines: what went wrong, and the ways out."""
    if isinstance(error, urllib.error.HTTPError):
        reason = f"{error.url} answers {error.code} {error.reason}"
    elif isinstance(error, urllib.error.URLError):
        cause = getattr(error.reason, "strerror", None) or error.reason
        reason = f"{_url(name)} does not answer ({cause})"
    else:
        reason = str(error)
    kept = ""
    if _partial(path).exists():
        megabytes = _partial(path).stat().st_size / 1e6
        kept = f"Run again to go on after the {megabytes:.1f} MB that are here, or put"
    return f"cannot download {name}: {reason}\n{kept or 'Put'} the file at {path} by hand"


@contextmanager
def _locked(path: Path, progress: ProgressCallback) -> Iterator[BinaryIO]:
    """The partial file of ``path``, open for appending and held by this process alone.

    When another process's turn ends, the file has been renamed (then ``path`` exists), deleted
    (then it is opened anew) or left to be completed.
    """
    partial = _partial(path)
    while True:
        with partial.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"waiting for another download of {path.name}", 0, 0)
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                current = os.path.samestat(os.fstat(file.fileno()), partial.stat())
            except FileNotFoundError:
                current = False
            if not current and not path.exists():
                continue
            try:
                yield file
            finally:
                if current and not path.exists() and not os.fstat(file.fileno()).st_size:
                    partial.unlink(missing_ok=True)
                    _partial_record(path).unlink(missing_ok=True)
            return


def _check_content(file: Path) -> None:
    """Refuse what a server gave that is no weights file, or not all of one.

    A web page or the like is deleted. The beginning of a file is kept, to go on after it.
    """
    with file.open("rb") as opened:
        head = opened.read(HEAD)
    reason = not_weights(head, file.stat().st_size)
    if reason:
        file.unlink()
        raise ConnectionError(f"what the server sends is no weights file: {reason}")
    if not whole_archive(file):
        size = file.stat().st_size
        raise ConnectionError(f"the file was cut short or damaged on its way, at {size} bytes")


def _record(path: Path, sha256: str) -> None:
    _write_json(_checksum_record(path), {"file": path.name, "sha256": sha256})


def _checked(path: Path) -> Path:
    """A cached file, if it still is what was downloaded; one put there by hand is recorded.

    Unless it is cut short, or the cache cannot be written: others may own it.

    Raises:
        CheckpointError: it is not.
    """
    record = _checksum_record(path)
    seen = file_sha256(path)
    if not record.exists():
        if whole_archive(path):
            with suppress(OutputError):
                _record(path, seen)
        return path
    recorded = _read_json(record).get("sha256")
    if recorded != seen:
        raise CheckpointError(
            f"{path} is not what was downloaded: its SHA-256 is {seen[:12]}…, recorded is "
            f"{str(recorded)[:12]}…\nDelete it and {record.name} beside it to download it again"
        )
    return path


def _read_json(path: Path) -> dict[str, Any]:
    """A record; empty if it is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=1) + "\n")


class _Download:
    """One attempt to complete a partial file."""

    def __init__(
        self,
        url: str,
        path: Path,
        file: BinaryIO,
        timeout: float,
        progress: ProgressCallback,
    ) -> None:
        self.url = url
        self.path = path
        self.file = file
        self.timeout = timeout
        self.progress = progress

    def run(self) -> None:
        """Fetch what is missing."""
        start, validator = self.resumable()
        if start:
            with self.request(start, validator) as response:
                if self.continues(response, start, validator):
                    return self.receive(response, start)
                if response.status == http.client.OK:  # the whole file, asked for or not
                    return self.receive(response, 0)
        with self.request(0, "") as response:
            if response.status != http.client.OK:
                raise ConnectionError(f"{self.url} answers {response.status}, wanted the file")
            return self.receive(response, 0)

    def resumable(self) -> tuple[int, str]:
        """How many bytes are here of the file at this address, and what identifies it there."""
        record = _read_json(_partial_record(self.path))
        validator = record.get("validator")
        if record.get("url") != self.url or not isinstance(validator, str) or not validator:
            return 0, ""
        return os.fstat(self.file.fileno()).st_size, validator

    def request(self, start: int, validator: str) -> Any:
        """The server's answer, from byte ``start`` on if it still has what ``validator`` names.

        An answer of 416 (nothing from there on) is returned, other refusals are raised.
        """
        headers = {"Accept-Encoding": "identity", "User-Agent": "elir-deploy"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": validator}
        request = urllib.request.Request(self.url, headers=headers)
        try:
            return urllib.request.urlopen(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            if not start or error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            return error

    def continues(self, response: Any, start: int, validator: str) -> bool:
        """Whether an answer goes on with the file that the partial one began."""
        if response.status != http.client.PARTIAL_CONTENT:
            return False
        first, _ = _content_range(response)
        return first == start and _validator(response) in ("", validator)

    def receive(self, response: Any, start: int) -> None:
        """Append what comes to the first ``start`` bytes of the partial file."""
        length = int(response.headers.get("Content-Length") or 0)
        _, total = _content_range(response)  # the answer may have less than the rest
        if not total and length:
            total = start + length
        length = max(length, total - start)
        free = shutil.disk_usage(self.path.parent).free
        if length + _SPARE > free:
            raise DownloadError(
                f"{self.path.name} needs {length / 1e6:.0f} MB more and {self.path.parent} has "
                f"{free / 1e6:.0f} MB free: make room, or set ELIR_CACHE to another folder"
            )
        self.file.truncate(start)
        _write_json(
            _partial_record(self.path), {"url": self.url, "validator": _validator(response)}
        )
        done = start
        what = f"downloading {self.path.name}"
        self.progress(what, done, total)
        try:
            while chunk := response.read(_CHUNK):
                self.file.write(chunk)
                done += len(chunk)
                self.progress(what, done, total)
        finally:
            self.file.flush()
        if done < total:
            raise ConnectionError(f"the connection was cut after {done} of {total} bytes")


def _content_range(response: Any) -> tuple[int | None, int]:
    """Where a part of the file starts, and the bytes of the whole; None and 0: unknown."""
    seen = re.fullmatch(
        r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip()
    )
    if seen is None:
        return None, 0
    return int(seen[1]), 0 if seen[2] == "*" else int(seen[2])


def _validator(response: Any) -> str:
    """What identifies this version of the file in If-Range; empty if the server gives nothing."""
    tag = response.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return str(tag)
    return str(response.headers.get("Last-Modified", ""))
