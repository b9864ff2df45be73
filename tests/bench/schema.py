"""The schema of elir-bench's reports, as a check."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import Any

import fastjsonschema
import msgspec
import pytest

from elir_deploy.bench.report_file import to_json
from elir_deploy.bench.report_types import Report


@lru_cache(maxsize=1)
def _check():
    text = (resources.files("elir_deploy.bench") / "report.schema.json").read_text("utf-8")
    return fastjsonschema.compile(json.loads(text))


def check_schema(values: dict[str, Any]) -> None:
    """Fail where plain values are not of the schema."""
    _check()(values)


def checked(report: Report | dict[str, Any]) -> dict[str, Any]:
    """The report as plain values; fails where it is not strict JSON of the schema and the types."""
    report = typed(report) if isinstance(report, dict) else report
    values = json.loads(to_json(report), parse_constant=pytest.fail)
    check_schema(values)
    assert msgspec.convert(values, Report) == report
    return values


def typed(values: dict[str, Any]) -> Report:
    """Plain values as a report."""
    return msgspec.convert(values, Report)
