"""What targets decide where the user does not."""

from __future__ import annotations

import pytest

from elir_deploy.errors import UsageError
from elir_deploy.export.options import (
    ExportOptions,
    image_size_named,
)
from elir_deploy.targets import targets_named


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
