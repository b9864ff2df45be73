"""The authors' released weights, downloaded once to the cache."""

from __future__ import annotations

import os
from pathlib import Path

from elir_deploy.checkpoints.containers import HEAD, is_complete, signature_error
from elir_deploy.checkpoints.downloads import TIMEOUT, Download, fetch
from elir_deploy.progress import ProgressCallback, no_progress

__all__ = ["RELEASES_URL", "fetch_released"]

#: The authors' releases; overridden by the environment variable ``ELIR_RELEASES_URL``.
RELEASES_URL = "https://github.com/eladc-git/ELIR/releases/download/v1.0/"


def fetch_released(
    name: str, progress: ProgressCallback = no_progress, *, timeout: float = TIMEOUT
) -> Path:
    """The path of released weights, such as ``elir_bfr``: :func:`~.downloads.fetch`."""
    base = os.environ.get("ELIR_RELEASES_URL") or RELEASES_URL
    url = f"{base.rstrip('/')}/{name}.pth"
    download = Download(name, "ELIR_RELEASES_URL", url, _content_error, is_complete)
    return fetch(download, progress, timeout=timeout)


def _content_error(path: Path) -> str | None:
    with path.open("rb") as file:
        return signature_error(file.read(HEAD), path.stat().st_size)
