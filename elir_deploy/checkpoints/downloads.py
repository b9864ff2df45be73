"""Files downloaded once to the cache.

The cache has ``FILE``, ``FILE.json`` with its SHA-256 and, during a download, ``FILE.partial`` with
``FILE.partial.json``. The next attempt resumes a partial download if the server still has the same
file.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from elir_deploy.errors import CheckpointError, DownloadError, OutputError
from elir_deploy.operating_system import lock, remove_open, rename_open
from elir_deploy.output_files import write_text
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.bundle import file_sha256
from elir_deploy.runtime.cache import DOWNLOADS, cache_folder

__all__ = ["TIMEOUT", "Download", "fetch"]

#: Seconds without data after which a download fails.
TIMEOUT = 30.0
_CHUNK = 2**20
#: Disk space to leave free, in bytes.
_SPARE = 16 * _CHUNK


@dataclass(frozen=True)
class Download:
    """A file that can be downloaded.

    Attributes:
        name: a key of :data:`~elir_deploy.runtime.cache.DOWNLOADS`.
        variable: the environment variable with another address.
        url: where the file is.
        content_error: why a file's content cannot be this one; None if it can.
        is_complete: whether a file is complete.
        sha256: of the file; None: that of the first download is recorded.
    """

    name: str
    variable: str
    url: str
    content_error: Callable[[Path], str | None] = lambda path: None
    is_complete: Callable[[Path], bool] = lambda path: True
    sha256: str | None = None


def fetch(
    download: Download, progress: ProgressCallback = no_progress, *, timeout: float = TIMEOUT
) -> Path:
    """The path of a file, downloaded if it is not in the cache.

    Args:
        download: what to download.
        progress: called with the current task, the bytes downloaded and the total (0: unknown).
        timeout: seconds to wait for a connection and for data.

    Raises:
        DownloadError: the download failed; the message names the path for a manual download.
        CheckpointError: the cached file has changed.
    """
    path = cache_folder() / DOWNLOADS[download.name]
    try:
        if path.exists():
            return _verify(download, path)
        if urllib.parse.urlsplit(download.url).scheme not in ("http", "https"):
            raise DownloadError(
                f"{download.variable} gives {download.url!r}, expected an http or https URL"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, progress) as file:
            for leftover in path.parent.glob(f"{path.name}*.partial-*"):  # of killed processes
                leftover.unlink(missing_ok=True)
            if path.exists():  # downloaded by another process
                return _verify(download, path)
            _Attempt(download.url, path, file, timeout, progress).run()
            _check_content(download, _partial(path), file)
            if not download.sha256:
                _record(path, file_sha256(_partial(path)))
            _partial_record(path).unlink(missing_ok=True)
            rename_open(file, path)
    except (OSError, OutputError, http.client.HTTPException) as error:
        raise DownloadError(_failure(download, path, error)) from error
    return path


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _partial_record(path: Path) -> Path:
    return path.with_name(path.name + ".partial.json")


def _checksum_record(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _failure(download: Download, path: Path, error: Exception) -> str:
    """Two lines: the error and the remedies."""
    if isinstance(error, urllib.error.HTTPError):
        reason = f"{error.url} returned {error.code} {error.reason}"
    elif isinstance(error, urllib.error.URLError):
        cause = getattr(error.reason, "strerror", None) or error.reason
        reason = f"{download.url} does not respond ({cause})"
    else:
        reason = str(error)
    resume = ""
    if _partial(path).exists():
        megabytes = _partial(path).stat().st_size / 1e6
        resume = f"Run again to resume after {megabytes:.1f} MB, or download the file"
    remedy = f"{resume or 'Download the file'} to {path} yourself"
    return f"cannot download {download.name}: {reason}\n{remedy}"


@contextmanager
def _locked(path: Path, progress: ProgressCallback) -> Iterator[BinaryIO]:
    """The partial file of ``path``, open for appending and locked.

    When another process releases the lock, it has renamed the file (then ``path`` exists), deleted
    it (then it is opened again) or left it incomplete.
    """
    partial = _partial(path)
    while True:
        with partial.open("ab") as file:
            try:
                lock(file.fileno())
            except BlockingIOError:
                progress(f"waiting for another download of {path.name}", 0, 0)
                lock(file.fileno(), wait=True)
            try:
                current = os.path.samestat(os.fstat(file.fileno()), partial.stat())
            except FileNotFoundError:
                current = False
            if not current and not path.exists():
                continue
            try:
                yield file
            finally:
                empty = not partial.exists() or not partial.stat().st_size
                if current and not path.exists() and empty:
                    remove_open(file)
                    _partial_record(path).unlink(missing_ok=True)
            return


def _check_content(download: Download, path: Path, file: BinaryIO) -> None:
    """Refuse a download that is another file or is incomplete.

    Another file, such as a web page, is deleted. An incomplete one stays, so that the download can
    resume.
    """
    reason = download.content_error(path)
    if not reason and download.sha256 not in (None, sha256 := file_sha256(path)):
        reason = f"its SHA-256 is {sha256[:12]}…, expected {str(download.sha256)[:12]}…"
    if reason:
        remove_open(file)
        raise ConnectionError(f"the server sent another file: {reason}")
    if not download.is_complete(path):
        size = path.stat().st_size
        raise ConnectionError(f"the file was truncated or damaged, at {size} bytes")


def _record(path: Path, sha256: str) -> None:
    _write_json(_checksum_record(path), {"file": path.name, "sha256": sha256})


def _verify(download: Download, path: Path) -> Path:
    """Check that a cached file has not changed; returns its path.

    The hash of a file that was downloaded manually is recorded now, unless the file is incomplete
    or the cache is read-only.

    Raises:
        CheckpointError: the file has changed.
    """
    record = _checksum_record(path)
    sha256 = file_sha256(path)
    expected = download.sha256
    if expected is None:
        if not record.exists():
            if download.is_complete(path):
                with suppress(OutputError):
                    _record(path, sha256)
            return path
        expected = str(_read_json(record).get("sha256"))
    if sha256 != expected:
        beside = f" and {record.name} beside it" if record.exists() else ""
        raise CheckpointError(
            f"{path} has changed since its download: its SHA-256 is {sha256[:12]}…, expected "
            f"{expected[:12]}…\nDelete it{beside} to download it again"
        )
    return path


def _read_json(path: Path) -> dict[str, Any]:
    """A record; empty if missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=1) + "\n")


class _Attempt:
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
        """Download the missing bytes."""
        start, validator = self.resumable()
        if start:
            with self.request(start, validator) as response:
                if self.continues(response, start, validator):
                    return self.receive(response, start)
                if response.status == http.client.OK:  # the whole file
                    return self.receive(response, 0)
        with self.request(0, "") as response:
            if response.status != http.client.OK:
                raise ConnectionError(f"{self.url} returned {response.status}, expected 200")
            return self.receive(response, 0)

    def resumable(self) -> tuple[int, str]:
        """The bytes already downloaded from this URL, and the server's validator for the file."""
        record = _read_json(_partial_record(self.path))
        validator = record.get("validator")
        if record.get("url") != self.url or not isinstance(validator, str) or not validator:
            return 0, ""
        return os.fstat(self.file.fileno()).st_size, validator

    def request(self, start: int, validator: str) -> Any:
        """The server's response, from byte ``start`` if the file still has the validator.

        A response of 416 (range not satisfiable) is returned; other errors are raised.
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
        """Whether a response continues the partial file."""
        if response.status != http.client.PARTIAL_CONTENT:
            return False
        first, _ = _content_range(response)
        return first == start and _validator(response) in ("", validator)

    def receive(self, response: Any, start: int) -> None:
        """Append the response to the first ``start`` bytes of the partial file."""
        length = int(response.headers.get("Content-Length") or 0)
        _, total = _content_range(response)  # a response may have less than the rest
        if not total and length:
            total = start + length
        length = max(length, total - start)
        free = shutil.disk_usage(self.path.parent).free
        if length + _SPARE > free:
            raise DownloadError(
                f"{self.path.name} needs {length / 1e6:.0f} MB and {self.path.parent} has "
                f"{free / 1e6:.0f} MB free: free disk space, or set ELIR_CACHE to another folder"
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
            raise ConnectionError(f"the connection was closed after {done} of {total} bytes")


def _content_range(response: Any) -> tuple[int | None, int]:
    """The first byte of a range, and the size of the whole file; None and 0 if unknown."""
    match = re.fullmatch(
        r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip()
    )
    if match is None:
        return None, 0
    return int(match[1]), 0 if match[2] == "*" else int(match[2])


def _validator(response: Any) -> str:
    """The value for If-Range that identifies this version of the file; empty if there is none."""
    tag = response.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return str(tag)
    return str(response.headers.get("Last-Modified", ""))
