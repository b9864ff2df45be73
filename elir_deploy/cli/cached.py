"""``elir-inspect --cache`` and ``--clear-cache``: show and empty the cache folder."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from elir_deploy.cli.shell import tell
from elir_deploy.errors import UsageError
from elir_deploy.runtime.cache import DOWNLOADS as FILE_NAMES
from elir_deploy.runtime.cache import (
    CachedFile,
    cache_folder,
    cache_limit,
    compiled_models,
    downloads,
    remove_compiled,
    remove_unused,
)
from elir_deploy.text import printable

__all__ = ["COMPILED", "DOWNLOADS", "manage_cache"]

#: Values of ``--clear-cache`` besides names of downloads.
COMPILED = "compiled"
DOWNLOADS = "downloads"

Table = Callable[[Sequence[str], Sequence[Sequence[str]]], None]


def manage_cache(show: bool, clear: Sequence[str], as_json: bool, table: Table) -> None:
    """Remove what ``clear`` names, then list the rest if ``show``.

    Args:
        show: list the files with sizes and ages, and the limit.
        clear: ``compiled``, ``downloads`` or names of downloads.
        as_json: print one JSON object.
        table: prints a table, from its heading and rows.

    Raises:
        UsageError: there is no such download.
        OutputError: there is no cache folder, or the limit is invalid.
    """
    folder = cache_folder()
    values: dict[str, Any] = {"folder": str(folder)}
    if clear:
        removed = _clear(folder, clear)
        values["removed"] = [str(file.path) for file in removed]
        values["freed_bytes"] = _bytes(removed)
    if show:
        values |= _listing(folder)
    if as_json:
        print(json.dumps(values, indent=2))
        return
    if clear:
        print(f"removed {_counted(len(removed), 'file')}, {_megabytes(_bytes(removed))}")
    if show:
        _show(folder, table)


def _clear(folder: Path, names: Sequence[str]) -> list[CachedFile]:
    by_name = downloads(folder)
    for name in set(names) - {COMPILED, DOWNLOADS, *by_name}:
        choices = ", ".join([COMPILED, DOWNLOADS, *by_name])
        raise UsageError(f"--clear-cache: {folder} has no {name}: choose from {choices}")
    removed: list[CachedFile] = []
    in_use: list[CachedFile] = []
    if COMPILED in names:
        removed, in_use = remove_compiled(folder)
    for name, files in by_name.items():
        if name in names or DOWNLOADS in names:
            # An unfinished download is locked, and needs its other file to be resumed.
            files.sort(key=lambda file: file.path.suffix != ".partial")
            deleted = list(itertools.takewhile(remove_unused, files))
            removed += deleted
            in_use += files[len(deleted) :]
    for file in in_use:
        tell(f"warning: {file.path} was not removed: it is in use, or belongs to another user")
    return removed


def _listing(folder: Path) -> dict[str, Any]:
    return {
        "limit_bytes": cache_limit(),
        "compiled": [
            {"file": str(file.path), "bytes": file.bytes, "used": file.used_ns / 1e9}
            for file in compiled_models(folder)
        ],
        "downloads": [
            {"name": name, "bytes": _bytes(files), "complete": _complete(name, files)}
            for name, files in downloads(folder).items()
        ],
    }


def _show(folder: Path, table: Table) -> None:
    compiled, by_name, limit = compiled_models(folder), downloads(folder), cache_limit()
    rows = [
        (COMPILED, _shorten(folder, file), _megabytes(file.bytes), f"used {_ago(file.used_ns)}")
        for file in reversed(compiled)
    ]
    for name, files in by_name.items():
        state = "downloaded" if _complete(name, files) else "unfinished, last tried"
        since = _ago(max(file.used_ns for file in files))
        rows.append(("download", name, _megabytes(_bytes(files)), f"{state} {since}"))
    print(printable(str(folder)))
    table(("kind", "file", "size", "last use"), rows)
    allowed = f"of {_megabytes(limit)}" if limit else "and no more are kept"
    print(
        f"\ncompiled models: {_counted(len(compiled), 'file')}, "
        f"{_megabytes(_bytes(compiled))} {allowed} (ELIR_CACHE_LIMIT)"
    )
    print(
        f"downloads: {len(by_name)}, {_megabytes(sum(map(_bytes, by_name.values())))}, "
        "kept until --clear-cache removes them"
    )


def _shorten(folder: Path, file: CachedFile) -> str:
    parts = file.path.relative_to(folder).parts
    return "/".join(part if len(part) < 64 else part[:12] + "…" for part in parts)


def _complete(name: str, files: Sequence[CachedFile]) -> bool:
    return any(file.path.name == FILE_NAMES[name] for file in files)


def _bytes(files: Sequence[CachedFile]) -> int:
    return sum(file.bytes for file in files)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _ago(then_ns: int) -> str:
    seconds = max(0.0, time.time() - then_ns / 1e9)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{_counted(int(seconds / length), unit)} ago"
    return "just now"
