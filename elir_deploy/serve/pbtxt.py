"""Protocol Buffers' text format, as far as Triton's ``config.pbtxt`` needs it.

https://protobuf.dev/reference/protobuf/textformat-spec/
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Enum", "Map", "encode"]


class Enum(str):
    """The name of an enumeration's value, which is written without quotes."""

    __slots__ = ()


class Map(dict[str, Any]):
    """A map field, whose entries are written as messages with ``key`` and ``value``."""

    __slots__ = ()


def encode(message: Mapping[str, Any]) -> str:
    """A message in the text format.

    Args:
        message: fields by name: integers, ASCII text, :class:`Enum`, messages, :class:`Map`, or a
            list of these for a repeated field; empty lists are left out.
    """
    return "".join(f"{line}\n" for line in _fields(message))


def _fields(message: Mapping[str, Any]) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, Map):
            value = [{"key": key, "value": entry} for key, entry in value.items()]
        if isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            for entry in value:
                yield from _field(name, entry)
        elif isinstance(value, list) and value:
            yield f"{name}: [{', '.join(map(_scalar, value))}]"
        elif not isinstance(value, list):
            yield from _field(name, value)


def _field(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield f"{name} {{"
        yield from (f"  {line}" for line in _fields(value))
        yield "}"
    else:
        yield f"{name}: {_scalar(value)}"


def _scalar(value: int | str) -> str:
    # JSON escapes ASCII text as the text format does.
    return str(value) if isinstance(value, int | Enum) else json.dumps(value)
