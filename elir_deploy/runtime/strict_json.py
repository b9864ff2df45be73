"""JSON from a stranger: nothing that the standard does not have, nothing said twice."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

__all__ = ["strict_json"]


def strict_json(data: bytes) -> Any:
    """The value in UTF-8 text.

    Raises:
        UnicodeDecodeError: it is no UTF-8.
        ValueError: it is no JSON, has a number that is not finite, or an entry twice.
        RecursionError: it is nested too deeply.
    """

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(items)
        if len(found) != len(items):
            raise ValueError("an object has the same entry twice")
        return found

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

    return json.loads(
        data.decode("utf-8"),
        object_pairs_hook=pairs,
        parse_constant=constant,
        parse_float=number,
        parse_int=integer,
    )
