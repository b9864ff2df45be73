"""What this runtime and the one in C++ say in the same words: the texts of ``messages.json``.

A text names its fields in braces. What stands in a field is put there as it is, braces and all.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from pathlib import Path

__all__ = ["message"]


@functools.lru_cache(maxsize=1)
def _texts() -> dict[str, str]:
    written = (resources.files("elir_deploy.runtime") / "messages.json").read_text("utf-8")
    texts: dict[str, str] = json.loads(written)
    return texts


def message(name: str, /, **fields: str | int | Path) -> str:
    """The text called ``name``, given exactly the fields that it names."""
    return _texts()[name].format_map(fields)
