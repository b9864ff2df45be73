"""The allowed contents of ONNX files: ``onnx_rules.json``, which the C++ runtime uses too.

It lists the contents of exports. Anything new has to be added to the file, since the exporter
refuses to write what is not listed. Messages and fields are those of ``onnx.proto``, whose numbers
never change; ``never`` gives refused fields a name for messages.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import NamedTuple

__all__ = [
    "ATTRIBUTE_TYPES",
    "ELEMENTS",
    "FIXED32",
    "MESSAGES",
    "METADATA",
    "MOST_FIELDS",
    "OPERATORS",
    "OPSETS",
    "VARINT",
    "Field",
    "field_name",
]

_RULES = json.loads((resources.files("elir_deploy.runtime") / "onnx_rules.json").read_text("utf-8"))

#: Wire types of protocol buffers.
VARINT, BYTES, FIXED32 = 0, 2, 5
_WIRES = {"integer": VARINT, "float": FIXED32}  # all others are bytes


class Field(NamedTuple):
    """An allowed field of a message.

    Attributes:
        name: name of the field.
        wire: its wire type.
        once: whether it may occur only once.
    """

    name: str
    wire: int
    once: bool


def _fields_by_tag(fields: dict[str, list[str]]) -> dict[int, Field]:
    tagged = {}
    for number, (name, holds, *repeated) in fields.items():
        if holds != "never":
            wire = _WIRES.get(holds, BYTES)
            tagged[int(number) << 3 | wire] = Field(name, wire, not repeated)
    return tagged


def field_name(message: str, number: int) -> str:
    """Name of a field, whether allowed or not."""
    names: dict[str, list[str]] = _RULES["messages"][message]
    return names.get(str(number), [f"field {number}"])[0]


#: Allowed opsets.
OPSETS = range(_RULES["opsets"][0], _RULES["opsets"][1] + 1)
#: Allowed operators.
OPERATORS = frozenset(name.encode() for name in _RULES["operators"])
#: Allowed types of attributes, by number.
ATTRIBUTE_TYPES = frozenset(_RULES["attribute_types"].values())
#: Name and size in bytes of element types, by number.
ELEMENTS: dict[int, tuple[str, int]] = {
    number: (name, size) for name, (number, size) in _RULES["element_types"].items()
}
#: Prefix of allowed metadata keys.
METADATA: str = _RULES["metadata"]
#: Maximum number of fields in all messages: some sixty times that of the largest graphs.
MOST_FIELDS: int = _RULES["most_fields"]
#: Fields of each message by tag, the number before a field, which combines its number and wire
#: type.
MESSAGES = {message: _fields_by_tag(fields) for message, fields in _RULES["messages"].items()}
