"""``elir-inspect --cache`` and ``--clear-cache``: what is kept in the cache folder."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from elir_deploy.cli.shell import tell
from elir_deploy.errors import UsageError
from elir_deploy.printable import printable
from elir_deploy.runtime.cache import (
    Kept,
    cache_folder,
    cache_limit,
    compiled_models,
    downloads,
    remove_compiled,
    remove_unused,
)

__all__ = ["COMPILED", "DOWNLOADS", "manage_cache"]

#: What ``--clear-cache`` takes beside the name of a download.
COMPILED = "compiled"
DOWNLOADS = "downloads"

Table = Callable[[Sequence[str], Sequence[Sequence[str]]], None]


def manage_cache(show: bool, clear: Sequence[str], as_json: bool, table: Table) -> None:
    """Remove what ``clear`` names, then show what is left if that is wanted.

    Args:
        show: what is kept, with sizes, ages and the limit.
        clear: ``compiled``, ``downloads`` or names of downloads.
        as_json: print one JSON object.
        table: prints a table from its heading and rows.

    Raises:
        UsageError: there is no such download.
        OutputError: there is no cache folder, or the limit is no size.
    """
    folder = cache_folder()
    told: dict[str, Any] = {"folder": str(folder)}
    if clear:
        removed = _clear(folder, clear)
        told["removed"] = [str(kept.path) for kept in removed]
        told["freed_bytes"] = _bytes(removed)
    if show:
        told |= _listing(folder)
    if as_json:
        print(json.dumps(told, indent=2))
        return
    if clear:
        print(f"removed {_counted(len(removed), 'file')}: {_megabytes(_bytes(removed))} are free")
    if show:
        _show(folder, table)


def _clear(folder: Path, names: Sequence[str]) -> list[Kept]:
    held = downloads(folder)
    for name in set(names) - {COMPILED, DOWNLOADS, *held}:
        there_are = ", ".join([COMPILED, DOWNLOADS, *held])
        raise UsageError(f"--clear-cache: {folder} holds no {name}: choose from {there_are}")
    removed: list[Kept] = []
    in_use: list[Kept] = []
    if COMPILED in names:
        removed, in_use = remove_compiled(folder)
    for name, files in held.items():
        if name in names or DOWNLOADS in names:
            # What is being downloaded is locked, and keeps the record that it needs to go on.
            files.sort(key=lambda kept: kept.path.suffix != ".partial")
            gone = list(itertools.takewhile(remove_unused, files))
            removed += gone
            in_use += files[len(gone) :]
    for kept in in_use:
        tell(f"warning: {kept.path} stays: it is in use, or another user's")
    return removed


def _listing(folder: Path) -> dict[str, Any]:
    return {
        "limit_bytes": cache_limit(),
        "compiled": [
            {"file": str(kept.path), "bytes": kept.bytes, "used": kept.used_ns / 1e9}
            for kept in compiled_models(folder)
        ],
        "downloads": [
            {"name": name, "bytes": _bytes(files), "complete": _complete(files)}
            for name, files in downloads(folder).items()
        ],
    }


def _show(folder: Path, table: Table) -> None:
    compiled, held, limit = compiled_models(folder), downloads(folder), cache_limit()
    rows = [
        (COMPILED, _shortened(folder, kept), _megabytes(kept.bytes), f"used {_ago(kept.used_ns)}")
        for kept in reversed(compiled)
    ]
    for name, files in held.items():
        state = "fetched" if _complete(files) else "unfinished, last try"
        since = _ago(max(kept.used_ns for kept in files))
        rows.append(("download", name, _megabytes(_bytes(files)), f"{state} {since}"))
    print(printable(str(folder)))
    table(("kept", "what", "size", "when"), rows)
    allowed = f"of {_megabytes(limit)}" if limit else "and none is kept from now on"
    print(
        f"\ncompiled models: {_counted(len(compiled), 'file')}, "
        f"{_megabytes(_bytes(compiled))} {allowed} (ELIR_CACHE_LIMIT)"
    )
    print(
        f"downloads: {len(held)}, {_megabytes(sum(map(_bytes, held.values())))}, "
        "until --clear-cache names them"
    )


def _shortened(folder: Path, kept: Kept) -> str:
    parts = kept.path.relative_to(folder).parts
    return "/".join(part if len(part) < 64 else part[:12] + "…" for part in parts)


def _complete(files: Sequence[Kept]) -> bool:
    return any(kept.path.suffix == ".pth" for kept in files)


def _bytes(files: Sequence[Kept]) -> int:
    return sum(kept.bytes for kept in files)


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
