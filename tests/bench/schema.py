"""The schema of elir-bench's reports, as a check."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import Any

import fastjsonschema
import pytest

from elir_deploy.bench.report import to_json


@lru_cache(maxsize=1)
def _check():
    text = (resources.files("elir_deploy.bench") / "report.schema.json").read_text("utf-8")
    return fastjsonschema.compile(json.loads(text))


def checked(report: dict[str, Any]) -> dict[str, Any]:
    """The report as it is read back; fails where it is no strict JSON or not of the schema."""
    read = json.loads(to_json(report), parse_constant=pytest.fail)
    _check()(read)
    return read
