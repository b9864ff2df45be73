"""The plot of each block's cost in INT8, and the reasons where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import ModelProto

from elir_deploy.errors import InputError
from elir_deploy.export.block_choice import (
    QuantizationFigures,
    QuantizationOptions,
    QuantizationReport,
)
from elir_deploy.export.budget import Sensitivity, blocks_of
from elir_deploy.export.calibration import packaged_images
from elir_deploy.export.int8 import calibrate
from elir_deploy.export.sensitivity_plot import (
    check_plot,
    draw_sensitivities,
    missing_sensitivities,
)
from elir_deploy.runtime.manifest import BlockSensitivity
from elir_deploy.scopes import Outline
from elir_deploy.tasks import TASKS
from tests.export.conftest import BYTES, SIZE


@pytest.mark.parametrize(
    ("name", "precisions", "expected"),
    [
        ("blocks.gif", ["int8"], "expected a name ending in .png, .svg, .pdf"),
        ("none/blocks.png", ["int8"], "no such folder .*none"),
        ("blocks.png", ["fp32", "fp16"], "needs --precision int8"),
    ],
)
def test_plots_that_cannot_be_drawn_are_refused(
    tmp_path: Path, name: str, precisions: list[str], expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        check_plot(tmp_path / name, precisions)
    check_plot(tmp_path / "blocks.PNG", ["fp32", "int8"])


def test_every_block_has_two_bars(fused: ModelProto, outline: Outline, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    blocks = blocks_of(fused, outline)
    found = tuple(Sensitivity(block, 1e-6 * k) for k, block in enumerate(blocks))
    rows = [BlockSensitivity(b.name, b.macs, 60.0, kept=b is blocks[0]) for b in blocks]
    report = QuantizationReport(QuantizationFigures(0.3, None, None, rows), found)
    assert missing_sensitivities(report) is None
    draw_sensitivities(report, tmp_path / "blocks.svg")
    drawn = (tmp_path / "blocks.svg").read_text("utf-8")
    assert all(block.name in drawn for block in blocks)
    # One for the legend; where a block is kept, its bars are of another colour.
    assert drawn.count("fill: #d1495b") == 2 + 1
    assert drawn.count("fill: #3b75af") == 2 * (len(blocks) - 1) + 1


def test_random_weights_have_nothing_to_draw(fused: ModelProto, outline: Outline) -> None:
    images = packaged_images(TASKS["tiny"], SIZE)
    _, report = calibrate(fused, outline, images, BYTES, QuantizationOptions(), None)
    assert "only measured with trained weights" in (missing_sensitivities(report) or "")
