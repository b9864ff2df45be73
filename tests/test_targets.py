"""The table of targets."""

from __future__ import annotations

import pytest

from elir_deploy.errors import UsageError
from elir_deploy.targets import (
    RTX_CAPABILITIES,
    TARGETS,
    onnx_limits,
    target_named,
    targets_named,
)


@pytest.mark.parametrize("name", ["rtx2080ti", "RTX 2080 Ti", "rtx-2080-ti", "RTX_2080Ti"])
def test_names_are_those_people_use(name: str) -> None:
    target = target_named(name)
    assert (target.capability, target.kind, target.on_device) == ("sm75", "tensorrt-rtx", False)


def test_an_unknown_name_lists_the_others() -> None:
    with pytest.raises(
        UsageError, match=r"unknown target 'gtx480': choose from rtx2060, .*jetpack7"
    ):
        target_named("gtx480")


def test_each_once_in_order() -> None:
    names = ["sm86", "rtx2080ti", "sm86", "RTX2080ti"]
    assert [target.name for target in targets_named(names)] == ["sm86", "rtx2080ti"]


def test_every_target_is_consistent() -> None:
    for name, target in TARGETS.items():
        assert target.name == name
        assert target.on_device == (target.tensorrt is not None)
        if not target.on_device:
            assert target.capability in RTX_CAPABILITIES
        assert set(target.documented) <= {"fp32", "fp16", "int8"}


def test_where_int8_is_for_size_alone() -> None:
    assert {t.capability for t in TARGETS.values() if t.int8_in_float16} == {"sm75"}


@pytest.mark.parametrize(
    ("version", "opset", "newer"),
    [("8.6.2.3", 17, False), ("10.3.0.30", 20, True), ("10.9", 23, True), ("11.4.0.106", 23, True)],
)
def test_what_a_parser_takes(version: str, opset: int, newer: bool) -> None:
    limits = onnx_limits(version)
    assert (limits.opset, limits.uint8_io, limits.float16_beside_int8) == (opset, newer, newer)


def test_a_version_older_than_all() -> None:
    with pytest.raises(UsageError, match=r"TensorRT 8\.5\.2 is too old"):
        onnx_limits("8.5.2")
