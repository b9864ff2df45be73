"""Removes what is personal from text that leaves the machine: names of user and host, and paths."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from elir_deploy.bench.protocols import PROTOCOLS
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.manifest import RUN_PRECISIONS
from elir_deploy.tasks import TASKS

__all__ = ["Anonymizer"]

#: Folders whose contents are the same for everybody.
_SYSTEM = ("usr", "lib", "lib64", "bin", "sbin", "etc", "proc", "sys", "dev")
#: Names of users and hosts that systems come with, and words of which a report consists: they
#: identify nobody, and without them nobody could read it.
_ORDINARY = frozenset(
    """home opt tmp var root user ubuntu debian linux localhost docker admin desktop nvidia jetson
    tegra orin agx nano cuda rtx gpu cpu none done failed running interrupted elir bench device
    report nearest bicubic random""".split()  # noqa: SIM905  # sixty quotes
).union(_SYSTEM, "-".join((*BACKENDS, *RUN_PRECISIONS, *PROTOCOLS, *TASKS)).split("-"))
#: A path without quotes: of the system, up to a space, or any other, whose folders may have spaces.
_PART, _FREE = r"[^\s'\"`<>|:;,()\[\]{}]", r"(?<![\w.>~/\\-])"
_PATH = re.compile(
    rf"{_FREE}/(?:{'|'.join(_SYSTEM)})/{_PART}*|"
    rf"(?:<(?:home|cwd|tmp|out|path)>|{_FREE}(?:~|[A-Za-z]:)?)"
    rf"[/\\](?=\S)(?:(?!\s[/~])[^\n'\"`<>|:;,()\[\]{{}}])*[/\\]{_PART}*"
)
_QUOTED_PATH = re.compile(r"""(?<=(['"`]))(?:/|~|[A-Za-z]:[\\/]|\\\\)(?:(?!\1)[^\n])*(?=\1)""")
#: Of hardware: UUID and MAC address.
_IDENTIFIER = re.compile(
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b", re.I
)


class Anonymizer:
    """Replaces names and paths of this machine, user and process.

    Known folders become a word such as ``<home>``; of other paths outside the system's folders the
    last part remains. Names are replaced where they are whole words, in upper and lower case.

    Args:
        paths: more paths, by what they become.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        known = {
            each: word
            for path, word in {**_folders(), **paths}.items()
            for each in (path, os.path.realpath(path))
            if len(Path(each).parts) > 1
            and each not in ("/home", "/opt", *(f"/{name}" for name in _SYSTEM))
        }
        self._places = {form: word for path, word in known.items() for form in _forms(path)}
        self._names = {
            form.casefold(): word
            for name, word in _names()
            for form in _forms(name)
            if len(name) > 1 and name.casefold() not in _ORDINARY
        }
        self._place = _any_of(self._places, "", 0)
        self._name = _any_of(self._names, r"(?<![^\W_])", re.IGNORECASE)

    def text(self, text: str) -> str:
        """``text`` without what is personal."""
        text = self._place.sub(lambda found: self._places[found[0]], text)
        for pattern in (_QUOTED_PATH, _PATH):
            text = pattern.sub(lambda found: _shortened(found[0]), text)
        text = self._name.sub(lambda found: self._names.get(found[0].casefold(), "<name>"), text)
        return _IDENTIFIER.sub("<id>", text)

    def values(self, values: Any) -> Any:
        """JSON values with every text anonymous but the keys, which are this program's."""
        if isinstance(values, str):
            return self.text(values)
        if isinstance(values, dict):
            return {key: self.values(value) for key, value in values.items()}
        return [self.values(v) for v in values] if isinstance(values, (list, tuple)) else values


def _names() -> Iterator[tuple[str, str]]:
    """Names of the host and the user, with what they become."""
    hosts = [platform.node(), os.environ.get("HOSTNAME"), os.environ.get("COMPUTERNAME")]
    with suppress(OSError, ValueError):
        hosts.append(Path("/etc/hostname").read_text("utf-8").strip())
    for host in filter(None, hosts):
        yield from ((host, "<host>"), (host.partition(".")[0], "<host>"))
    users = [os.environ.get(name) for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")]
    users.append(Path(os.path.expanduser("~")).name)
    with suppress(Exception):  # a user without an entry, or a system without a list of users
        users.append(getpass.getuser())
    if sys.platform != "win32":
        with suppress(ImportError, KeyError):
            import pwd

            full = pwd.getpwuid(os.getuid()).pw_gecos.partition(",")[0]
            users += [full, *full.split()]
    yield from ((user, "<user>") for user in filter(None, users))


def _folders() -> dict[str, str]:
    """Folders of this process, with what they become."""
    places = [place for value in os.environ.values() for place in value.split(os.pathsep)]
    places = [place for place in places if os.path.isabs(place)]
    folders = {p: "<path>" for p in places if Path(p).parts[1:2] not in [(s,) for s in _SYSTEM]}
    folders |= {tempfile.gettempdir(): "<tmp>", sys.base_prefix: "<python>"}
    folders |= {sys.prefix: "<python>", str(Path(__file__).parents[2]): "<packages>"}
    with suppress(OSError):
        folders[os.getcwd()] = "<cwd>"
    return {**folders, os.path.expanduser("~"): "<home>"}


def _forms(text: str) -> set[str]:
    """How messages, tracebacks and logs may write ``text``."""
    return {text, repr(text)[1:-1], ascii(text)[1:-1], json.dumps(text)[1:-1]}


def _any_of(texts: Mapping[str, str], before: str, flags: int) -> re.Pattern[str]:
    """Matches any of the texts where it ends with a word, the longest first."""
    longest = sorted(texts, key=len, reverse=True)
    return re.compile(
        rf"{before}(?:{'|'.join(map(re.escape, longest)) or '(?!)'})(?![^\W_])", flags
    )


def _shortened(path: str) -> str:
    """A path's last part behind a word for the others; the system's stay as they are."""
    first, *rest = re.split(r"[/\\]+", path)
    if not first and rest[0] in _SYSTEM:
        return path
    return f"{first if first.startswith('<') else '<path>'}/{rest[-1] if rest else ''}"
