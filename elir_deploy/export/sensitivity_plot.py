"""Plot of each block's cost in INT8, and of the time it saves."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from elir_deploy.errors import UsageError
from elir_deploy.output_files import check_writable, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from elir_deploy.export.block_choice import QuantizationReport

__all__ = ["check_plot", "draw_sensitivities", "missing_sensitivities"]

FORMATS = (".png", ".svg", ".pdf")
_INT8, _KEPT = "#3b75af", "#d1495b"


def check_plot(path: Path, precisions: Collection[str]) -> None:
    """Check before the work that a plot can be drawn.

    Args:
        path: of the plot.
        precisions: that are exported.

    Raises:
        UsageError: the name has no known suffix, or INT8 is not exported.
        OutputError: the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: expected a name ending in {', '.join(FORMATS)}")
    check_writable(path)
    if "int8" not in precisions:
        raise UsageError(f"{path}: a plot of INT8 needs --precision int8")


def missing_sensitivities(report: QuantizationReport) -> str | None:
    """Why no block was measured alone; None where some were."""
    if report.sensitivities:
        return None
    return (
        "blocks are only measured with trained weights and a new calibration: give "
        "--calibration FOLDER"
    )


def draw_sensitivities(report: QuantizationReport, path: Path) -> None:
    """Plot each block's error alone, and its share of the time saved against float16.

    Args:
        report: with sensitivities (:func:`missing_sensitivities` gives None).
        path: of a PNG, SVG or PDF, by its suffix.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    sensitivities = report.sensitivities
    names = [s.block.name for s in sensitivities]
    colours = [_KEPT if block.kept else _INT8 for block in report.figures.blocks]
    saving = sum(s.block.saving for s in sensitivities)
    figure = Figure(figsize=(11, 1.5 + 0.17 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    costs, saves = figure.subplots(1, 2, sharey=True)
    _bars(costs, [1e6 * s.mse for s in sensitivities], colours, names)
    costs.set_xscale("symlog", linthresh=0.1)
    costs.set_xlabel("squared error of the image, alone in INT8 (1e-6 of full scale)")
    _bars(saves, [100 * s.block.saving / saving for s in sensitivities], colours, names)
    saves.set_xlabel("share of the time saved, % (estimated from operations)")
    costs.invert_yaxis()
    handles = [Patch(color=_INT8, label="INT8"), Patch(color=_KEPT, label="kept in floating point")]
    saves.legend(handles=handles, loc="center right")
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=120)


def _bars(
    axes: Axes, values: Sequence[float], colours: Sequence[str], names: Sequence[str]
) -> None:
    axes.barh(range(len(names)), values, color=colours)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.margins(y=0.01)
    axes.grid(axis="x", alpha=0.3)
