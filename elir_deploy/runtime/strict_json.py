"""Untrusted JSON: strict decoding, schemas of msgspec classes, and readable type errors."""

from __future__ import annotations

import inspect
import json
import math
import re
from typing import Any, NoReturn

import msgspec

from elir_deploy.text import shortened

__all__ = ["describe_mismatch", "schema_text", "strict_json"]


def strict_json(data: bytes) -> Any:
    """Decode UTF-8 JSON.

    Raises:
        ValueError: it is not UTF-8 or JSON, is nested too deeply, or has a number that is not
            finite or the same entry twice. The message is one line.
    """

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        entries = dict(items)
        if len(entries) != len(items):
            raise ValueError("an object has the same entry twice")
        return entries

    def constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is not JSON")

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text[:20]}{'...' * (len(text) > 20)} is out of range")
        return value

    def integer(text: str) -> int:
        number(text)
        return int(text)

    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_constant=constant,
            parse_float=number,
            parse_int=integer,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def schema_text(kind: type) -> str:
    """The JSON Schema (draft 2020-12) of a class; objects have no entries but its attributes."""
    schema = msgspec.json.schema(kind)
    for definition in schema["$defs"].values():
        definition["description"] = inspect.cleandoc(definition["description"])
        if "properties" in definition:
            definition.setdefault("additionalProperties", False)
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(whole, indent=1) + "\n"


def describe_mismatch(problem: str, plain: object) -> str:
    """The message of a :class:`msgspec.ValidationError`, with the value seen where it names one.

    Args:
        problem: the message.
        plain: the whole value that was refused.
    """
    what, _, path = problem.partition(" - at `$")
    place = plain
    try:
        for key, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
            place = place[key] if key else place[int(index)]  # type: ignore[index]
    except (LookupError, TypeError):
        place = None
    seen = f", seen {shortened(repr(place))}" if path and "..." not in path else ""
    text = f"{path.strip('.`')}: {what}{seen}" if path else what
    text = "".join(c if c.isprintable() else "?" for c in text)
    return shortened(text, 300)
