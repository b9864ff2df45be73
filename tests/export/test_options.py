"""What targets decide where the user does not."""

from __future__ import annotations

import pytest

from elir_deploy.errors import UsageError
from elir_deploy.export.int8 import Int8Options
from elir_deploy.export.options import (
    SMALLEST_LAYER_IN_FLOAT16,
    ExportOptions,
    image_size_named,
)
from elir_deploy.targets import targets_named


@pytest.mark.parametrize(
    ("names", "limit"),
    [
        (["rtx2080ti"], SMALLEST_LAYER_IN_FLOAT16),
        (["rtx2080ti", "sm75"], SMALLEST_LAYER_IN_FLOAT16),
        (["rtx3090"], 0),
        (["rtx2080ti", "rtx3090"], 0),
        (["rtx2080ti", "jetpack6.2"], 0),
        ([], 0),
    ],
)
def test_the_smallest_layer_in_int8(names: list[str], limit: int) -> None:
    made = ExportOptions.for_targets(targets_named(names))
    assert made.int8.smallest_layer == limit


@pytest.mark.parametrize(
    ("names", "rest"),
    [
        ([], "float32"),
        (["rtx3090"], "float16"),
        (["jetpack6.2", "jetpack7"], "float16"),
        (["jetpack6.0"], "float32"),
        (["jetpack6.0", "jetpack7"], "float32"),
    ],
)
def test_the_default_fallback_dtype(names: list[str], rest: str) -> None:
    targets = targets_named(names)
    assert ExportOptions.for_targets(targets).int8_fallback == rest
    assert ExportOptions.for_targets(targets, int8_fallback="float16").int8_fallback == "float16"


@pytest.mark.parametrize(
    ("text", "size"), [("512", (512, 512)), ("1280x720", (720, 1280)), ("64X96", (96, 64))]
)
def test_image_sizes_are_width_times_height(text: str, size: tuple[int, int]) -> None:
    assert image_size_named(text) == size


@pytest.mark.parametrize("text", ["", "x", "720p", "1280x", "1x2x3", "-64", "64.0", "64 x 64", "²"])
def test_other_image_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected pixels such as 512 or 1280x720"):
        image_size_named(text)


def test_explicit_options_override_the_targets() -> None:
    turing = targets_named(["rtx2080ti"])
    for asked in (0, 7):
        made = ExportOptions.for_targets(turing, int8_smallest_layer=asked)
        assert made.int8.smallest_layer == asked
    own = ExportOptions.for_targets(turing, int8=Int8Options(smallest_layer=7, equalize=False))
    assert own.int8 == Int8Options(smallest_layer=7, equalize=False)
