"""Removes what is personal from text that leaves the machine: names, paths and addresses."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv6Address
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
#: Folders that are no place of one's own.
_SHARED = ("/Users", "/usr/local", *(f"/{name}" for name in ("home", "media", "opt", *_SYSTEM)))
#: A path without quotes: of the system, up to a space, or any other, whose folders may have spaces.
_PART, _FREE = r"[^\s'\"`<>|:;,()\[\]{}]", r"(?<![\w.>~/\\-])"
_PATH = re.compile(
    rf"{_FREE}/(?:{'|'.join(_SYSTEM)})/{_PART}*|"
    rf"(?:<(?:home|cwd|tmp|out|path)>|{_FREE}(?:~|[A-Za-z]:)?)"
    rf"[/\\](?=\S)(?:(?!\s[/~])[^\n'\"`<>|:;,()\[\]{{}}])*[/\\]{_PART}*"
)
_QUOTED_PATH = re.compile(r"""(?<=(['"`]))(?:/|~|[A-Za-z]:[\\/]|\\\\)(?:(?!\1)[^\n])*(?=\1)""")
#: Folders whose entries are named after users, disks or what somebody installed.
_PERSONAL = ("home", "users", "media", "local")
#: Of hardware: UUID and MAC address.
_IDENTIFIER = re.compile(
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|"
    r"\b[0-9a-f]{2}([:-])[0-9a-f]{2}(?:\1[0-9a-f]{2}){4}\b",
    re.I,
)
#: A server with the user and password for it, and an e-mail address.
_ACCOUNT = re.compile(
    r"//[^\s/@'\"<>]+@[^\s/:'\"<>]+|"
    r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}(?![\w-])",
    re.I,
)
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
#: With what shows that it is no version, such as 10.3.0.30 of TensorRT.
_IPV4 = re.compile(
    r"((?:\b(?:inet|addr(?:ess)?|host|ip|peer|server|proxy|connect\w{0,3} to)[ :=]{1,2}|//|@)?)"
    rf"(?<![\w.-])(?<!version )(?<!tensorrt )({_OCTET}(?:\.{_OCTET}){{3}})(?![\w+-]|\.\w)"
    r"((?::\d+|/\d\d?\b)?)",
    re.I,
)
#: Minor and patch numbers are at most this.
_LARGEST_IN_VERSION = 30
_IPV6 = re.compile(
    r"(?<![\w:.])(?=[a-f:]{0,40}\d)[0-9a-f]{4}(?::[0-9a-f]{0,4}){2,7}(?![\w:])", re.I
)


class Anonymizer:
    """Replaces names and paths of this machine, user and process.

    Known folders become a word such as ``<home>``; of other paths outside the system's folders the
    last part remains. Names are replaced where they are whole words, in upper and lower case, and
    e-mail and network addresses where they look like no version.

    Args:
        paths: more paths, by what they become.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        known = {
            each: word
            for path, word in {**_folders(), **paths}.items()
            for each in (path, os.path.realpath(path))
            if len(Path(each).parts) > 1 and each not in _SHARED
        }
        self._places = {form: word for path, word in known.items() for form in _forms(path)}
        hosts, users = _forms_of_names(_hosts()), _forms_of_names(_users())
        self._place = _any_of(self._places, "", 0)
        self._host = _any_of(hosts, r"(?<![^\W_])", re.IGNORECASE, r"(?:\.[\w-]+)*")
        self._user = _any_of(users, r"(?<![^\W_])", re.IGNORECASE)

    def text(self, text: str) -> str:
        """``text`` without what is personal."""
        text = _ACCOUNT.sub("<address>", text)
        text = self._place.sub(lambda found: self._places[found[0]], text)
        text = _IPV6.sub(_without_ipv6, _IPV4.sub(_without_ipv4, text))
        for pattern in (_QUOTED_PATH, _PATH):
            text = pattern.sub(lambda found: _shortened(found[0]), text)
        text = self._user.sub("<user>", self._host.sub("<host>", text))
        return _IDENTIFIER.sub("<id>", text)

    def values(self, values: Any) -> Any:
        """JSON values with every text anonymous but the keys, which are this program's."""
        if isinstance(values, str):
            return self.text(values)
        if isinstance(values, dict):
            return {key: self.values(value) for key, value in values.items()}
        return [self.values(v) for v in values] if isinstance(values, (list, tuple)) else values


def _hosts() -> Iterator[str]:
    """Names of the host, with and without its domain."""
    hosts = [platform.node(), os.environ.get("HOSTNAME"), os.environ.get("COMPUTERNAME")]
    with suppress(OSError, ValueError):
        hosts.append(Path("/etc/hostname").read_text("utf-8").strip())
    for host in filter(None, hosts):
        yield from (host, host.partition(".")[0])


def _users() -> Iterator[str]:
    """Names of the user."""
    users = [os.environ.get(name) for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "SUDO_USER")]
    users.append(Path(os.path.expanduser("~")).name)
    if sys.platform != "win32":
        with suppress(ImportError, KeyError):  # a system without a list of users, one without entry
            import pwd

            entry = pwd.getpwuid(os.getuid())
            full = entry.pw_gecos.partition(",")[0]
            users += [entry.pw_name, full, *full.split()]
    yield from filter(None, users)


def _forms_of_names(names: Iterable[str]) -> set[str]:
    known = {name for name in names if len(name) > 1 and name.casefold() not in _ORDINARY}
    return {form for name in known for form in _forms(name)}


def _folders() -> dict[str, str]:
    """Folders of this process, with what they become."""
    places = [place for value in os.environ.values() for place in value.split(os.pathsep)]
    places = [place for place in places if os.path.isabs(place)]
    folders = {p: "<path>" for p in places if Path(p).parts[1:2] not in [(s,) for s in _SYSTEM]}
    folders |= {tempfile.gettempdir(): "<tmp>", sys.base_prefix: "<python>"}
    folders |= {sys.prefix: "<python>", str(Path(__file__).parents[2]): "<packages>"}
    with suppress(OSError):
        folders[os.getcwd()] = "<cwd>"
    # This project's files keep their names in tracebacks, also from a checkout in <cwd>.
    folders[str(Path(__file__).parents[1])] = "<packages>/elir_deploy"
    return {**folders, os.path.expanduser("~"): "<home>"}


def _forms(text: str) -> set[str]:
    """How messages, tracebacks and logs may write ``text``."""
    return {text, repr(text)[1:-1], ascii(text)[1:-1], json.dumps(text)[1:-1]}


def _any_of(texts: Iterable[str], before: str, flags: int, after: str = "") -> re.Pattern[str]:
    """Matches any of the texts where it ends with a word, the longest first."""
    longest = sorted(texts, key=len, reverse=True)
    return re.compile(
        rf"{before}(?:{'|'.join(map(re.escape, longest)) or '(?!)'})(?![^\W_]){after}", flags
    )


def _without_ipv4(found: re.Match[str]) -> str:
    before, address, after = found.groups()
    large = max(map(int, address.split(".")[:3])) > _LARGEST_IN_VERSION
    return f"{before}<address>{after}" if before or after or large else found[0]


def _without_ipv6(found: re.Match[str]) -> str:
    try:
        IPv6Address(found[0])
    except ValueError:
        return found[0]
    return "<address>"


def _shortened(path: str) -> str:
    """A path's last part behind a word for the others; the system's stay as they are."""
    first, *rest = re.split(r"[/\\]+", path)
    word = first if first.startswith("<") else "<path>"
    if not first and rest[0] in _SYSTEM:
        second, third = [*rest[1:], "", ""][:2]
        if (rest[0], second) in (("dev", "disk"), ("dev", "mapper")):
            return word
        if (rest[0], second) != ("usr", "local") or third.startswith(("cuda", "lib")):
            return path
    if len(rest) > 1 and rest[-2].casefold() in _PERSONAL:
        return word
    return f"{word}/{rest[-1] if rest else ''}"
