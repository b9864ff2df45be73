"""What the ONNX files of a bundle may hold: ``onnx_rules.json``, which the C++ runtime has, too.

It lists what exports hold. Whatever else one is to hold is added to the file: the exporter refuses
to write what is not listed. Messages and fields are those of ``onnx.proto``, whose numbers never
change; ``never`` marks fields that are named where they are refused.
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
    """What a message may hold.

    Attributes:
        name: of the field.
        wire: its wire type.
        once: whether it may be there once only.
    """

    name: str
    wire: int
    once: bool


def _tagged(fields: dict[str, list[str]]) -> dict[int, Field]:
    tagged = {}
    for number, (name, holds, *repeated) in fields.items():
        if holds != "never":
            wire = _WIRES.get(holds, BYTES)
            tagged[int(number) << 3 | wire] = Field(name, wire, not repeated)
    return tagged


def field_name(message: str, number: int) -> str:
    """Name of a field, allowed or not."""
    names: dict[str, list[str]] = _RULES["messages"][message]
    return names.get(str(number), [f"field {number}"])[0]


#: Opsets that a graph may be of.
OPSETS = range(_RULES["opsets"][0], _RULES["opsets"][1] + 1)
#: Operators of its nodes.
OPERATORS = frozenset(name.encode() for name in _RULES["operators"])
#: Numbers of the types of their attributes.
ATTRIBUTE_TYPES = frozenset(_RULES["attribute_types"].values())
#: Name and bytes of an element of a tensor, by the number of its type.
ELEMENTS: dict[int, tuple[str, int]] = {
    number: (name, size) for name, (number, size) in _RULES["element_types"].items()
}
#: How the keys of metadata begin.
METADATA: str = _RULES["metadata"]
#: Fields of all messages together: some sixty times those of the largest graphs.
MOST_FIELDS: int = _RULES["most_fields"]
#: The fields of each message by tag, the number that stands before a field: its own number and its
#: wire type.
MESSAGES = {message: _tagged(fields) for message, fields in _RULES["messages"].items()}
