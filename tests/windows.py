"""Windows' rules in a process on Linux: what Python lacks there, and which files are left alone.

    python -X warn_default_encoding -m tests.windows LIBRARY CODE ARGUMENT…

It imitates what this package has met: modules and functions that are missing, folders that cannot
be opened, files that cannot be renamed, replaced or deleted while this process has them open or
mapped. LIBRARY is imported before, since it expects Linux where it sees it.
"""

from __future__ import annotations

import builtins
import errno
import importlib
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULES = ("crypt", "fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
FUNCTIONS = (
    *("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "chown", "fchmod", "fchown", "fork"),
    *("forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getuid", "killpg"),
    *("lchown", "mkfifo", "nice", "register_at_fork", "sched_getaffinity", "sched_setaffinity"),
    *("setsid", "sysconf", "uname"),
)


def run_on_windows(
    code: str, *arguments: object, library: str = "numpy", **environment: str
) -> str:
    """Run Python code under these rules; returns what it prints."""
    command = [sys.executable, "-X", "warn_default_encoding", "-m", "tests.windows", library, code]
    child = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        cwd=Path(__file__).parents[1],
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout


def in_use(path: object) -> bool:
    """Whether this process has the file, or one in the folder, open or mapped."""
    place = os.path.realpath(os.fspath(path))  # type: ignore[call-overload]
    names = [link for link in map(link_target, os.listdir("/proc/self/fd")) if link]
    with open("/proc/self/maps", encoding="utf-8") as maps:
        names += [line.split(maxsplit=5)[5].strip() for line in maps if "/" in line]
    return any(name == place or name.startswith(place + os.sep) for name in names)


def link_target(descriptor: str) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # the listing's own
        return None


def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    """``os.rename`` and the like, for files that nobody has open."""

    def wrapper(path: Any, *others: Any, **options: Any) -> Any:
        for name in (path, *others):
            if in_use(name):
                raise PermissionError(errno.EACCES, "used by another process", str(name))
        return function(path, *others, **options)

    return wrapper


def without_descriptors(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(path: Any, *others: Any, **options: Any) -> Any:
        if isinstance(path, int):
            raise TypeError("path should be string, bytes or os.PathLike, not int")
        return function(path, *others, **options)

    return wrapper


def become_windows() -> None:
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in FUNCTIONS:
        if hasattr(os, name):
            delattr(os, name)
    for name in ("rename", "replace", "unlink", "remove", "rmdir"):
        setattr(os, name, refusing(getattr(os, name)))
    for name in ("utime", "chmod"):
        setattr(os, name, without_descriptors(getattr(os, name)))
    open_file = os.open

    def open_no_folder(path: Any, *others: Any, **options: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, *others, **options)

    os.open = open_no_folder
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    # Text is in the system's encoding there unless another is named.
    encoding_warning = getattr(builtins, "EncodingWarning")  # noqa: B009
    warnings.filterwarnings("error", category=encoding_warning, module=r"elir_deploy\b")


if __name__ == "__main__":
    importlib.import_module(sys.argv.pop(1))
    become_windows()
    code = sys.argv.pop(1)
    exec(compile(code, "code", "exec"), {"__name__": "__main__"})
