"""Pictures of an evaluation, drawn in memory: all are (H, W, 3) uint8 RGB.

matplotlib is used without pyplot: no global state and no display.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.pixels import psnr_db
from elir_deploy.training.evaluation import Evaluation, Shown
from elir_deploy.training.metrics import METRICS
from elir_deploy.training.quality import curve_metric
from elir_deploy.training.subjects import Pixels, Subject, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CurvePoint",
    "Panel",
    "Paths",
    "contact_sheet",
    "curve",
    "draw_evaluation",
    "panel_grid",
    "select_paths",
    "steps_strip",
    "straightness",
    "trajectories",
]

#: Pixels per inch: a power of two, so that pixels convert to inches and back exactly.
_DPI = 128
_GAP, _CAPTION, _HEADER = 8, 24, 24
#: Maximum side of a panel in pixels; larger pictures are scaled down.
_MAX_PANEL = 256
_SMALL, _NORMAL = 6.5, 8.0  # points
_CURVE_SIZE = (720, 560)
_TRAJECTORY_SIZE = (560, 480)
#: Number of latent positions in a trajectory plot.
_POSITIONS = 8
#: Maximum number of steps in a strip; of longer paths some are left out.
_MAX_STEPS = 12


@dataclass(frozen=True)
class Panel:
    """A picture in a grid.

    Attributes:
        pixels: (H, W, 3) uint8.
        caption: one line under it.
    """

    pixels: Pixels
    caption: str = ""


def draw_evaluation(subject: Subject, evaluation: Evaluation) -> dict[str, Pixels]:
    """All pictures of an evaluation, by file name."""
    pictures = {"sheet.png": contact_sheet(evaluation.shown)}
    for name in subject.plan.curves:
        pictures[f"curve-{name.replace('_', '-')}.png"] = _tradeoff(subject, evaluation, name)
    if evaluation.traces:
        pictures["steps.png"] = steps_strip(evaluation.traces)
        pictures["trajectories.png"] = trajectories(evaluation.traces)
    return pictures


# Grids of pictures ----------------------------------------------------------------------------


def panel_grid(rows: Sequence[Sequence[Panel]], titles: Sequence[str]) -> Pixels:
    """Draw pictures in rows, a title above each column, a caption below each picture.

    A panel has the size of the largest picture, up to 256 pixels; pictures of that size are not
    resampled.

    Args:
        rows: panels, as many in each row as there are titles.
        titles: titles of the columns.

    Returns:
        (HEADER + rows * (panel + CAPTION), columns * panel, 3) uint8, plus gaps.
    """
    largest = max(length for row in rows for p in row for length in p.pixels.shape[:2])
    side: int = min(_MAX_PANEL, largest)
    width = _GAP + len(titles) * (side + _GAP)
    height = _HEADER + len(rows) * (side + _CAPTION + _GAP)
    figure = _figure(width, height)

    def across(column: int) -> float:
        return _GAP + column * (side + _GAP)

    for column, title in enumerate(titles):
        _write(figure, across(column) + side / 2, height - _HEADER / 2, title, _NORMAL)
    for number, row in enumerate(rows):
        bottom = height - _HEADER - number * (side + _CAPTION + _GAP) - side
        for column, panel in enumerate(row):
            box = (across(column) / width, bottom / height, side / width, side / height)
            axes = figure.add_axes(box)
            axes.set_axis_off()
            large = max(panel.pixels.shape[:2]) > side
            axes.imshow(panel.pixels, interpolation="antialiased" if large else "nearest")
            _write(figure, across(column) + side / 2, bottom - _CAPTION / 2, panel.caption, _SMALL)
    return _render(figure)


def contact_sheet(shown: Sequence[Shown]) -> Pixels:
    """A row for each image: input, coarse estimate if any, restored, truth."""
    coarse = shown[0].coarse is not None
    titles = ["input", *(["coarse estimate"] if coarse else []), "restored", "truth"]
    rows = []
    for item in shown:
        pictures = [item.input, *([] if item.coarse is None else [item.coarse]), item.restored]
        rows.append(
            [*(_panel_with_psnr(p, item.truth) for p in pictures), Panel(item.truth, item.name)]
        )
    return panel_grid(rows, titles)


def steps_strip(traces: Sequence[Trace]) -> Pixels:
    """A row for each image: input, coarse estimate, z_0, ..., z_M decoded, truth (Figure 10)."""
    last = len(traces[0].pictures) - 1
    shown = sorted({round(k) for k in np.linspace(0, last, min(last, _MAX_STEPS) + 1)})
    titles = ["input", "coarse estimate", "with its noise", *(f"step {k}" for k in shown[1:])]
    rows = [
        [
            _panel_with_psnr(trace.input, trace.truth),
            _panel_with_psnr(trace.coarse, trace.truth),
            *(_panel_with_psnr(trace.pictures[k], trace.truth) for k in shown),
            Panel(trace.truth, trace.name),
        ]
        for trace in traces
    ]
    return panel_grid(rows, [*titles, "truth"])


def _panel_with_psnr(pixels: Pixels, truth: Pixels) -> Panel:
    psnr = psnr_db(pixels, truth)
    return Panel(pixels, f"{psnr:.2f} dB" if np.isfinite(psnr) else "identical")


# Curves ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CurvePoint:
    """A point of a curve.

    Attributes:
        label: text beside the point.
        x: distortion.
        y: perceptual quality.
    """

    label: str
    x: float
    y: float


def curve(points: Sequence[CurvePoint], *, title: str, x_title: str, y_title: str) -> Pixels:
    """A line through points: distortion on the x axis, perception on y (paper, Figure 6)."""
    figure = _figure(*_CURVE_SIZE)
    axes = figure.add_subplot()
    axes.plot([p.x for p in points], [p.y for p in points], "o-", color="tab:blue", markersize=5)
    for point in points:
        axes.annotate(
            point.label,
            (point.x, point.y),
            xytext=(5, 5),
            textcoords="offset points",
            fontsize=_NORMAL,
        )
    axes.margins(0.12)
    _label(axes, title, x_title, y_title)
    return _render(figure, tight=True)


def _tradeoff(subject: Subject, evaluation: Evaluation, name: str) -> Pixels:
    """The distortion-perception curve over ``steps`` or ``sigma_s``."""
    metric = METRICS[curve_metric(evaluation)]
    points = []
    for variant in subject.plan.curves[name]:
        row = evaluation.restored(variant)
        x, y = row.mean("psnr"), row.mean(metric.name)
        if x is not None and y is not None and x.value is not None and y.value is not None:
            label = f"M = {variant.steps}" if name == "steps" else f"sigma_s = {variant.sigma_s:g}"
            points.append(CurvePoint(label, x.value, y.value))
    direction = "lower" if metric.lower_better else "higher"
    return curve(
        points,
        title=f"{subject.task}, {len(evaluation.images)} images",
        x_title="PSNR dB (higher is better)",
        y_title=f"{metric.title} ({direction} is better)",
    )


# Trajectories ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paths:
    """Paths of a few latent positions through the flow, and of their pixels.

    Attributes:
        positions: (n, 2) row and column in the latent.
        channels: two channels of the latent.
        latent: (M + 1, n, 2) values of those channels.
        latent_truth: (n, 2) values in the truth's latent; None if it is unknown.
        colours: two of 0 red, 1 green, 2 blue.
        pixel: (M + 1, n, 2) 8-bit values of those colours in the middle of each position.
        pixel_truth: (n, 2) values in the truth.
    """

    positions: NDArray[np.intp]
    channels: tuple[int, int]
    latent: NDArray[np.float64]
    latent_truth: NDArray[np.float64] | None
    colours: tuple[int, int]
    pixel: NDArray[np.float64]
    pixel_truth: NDArray[np.float64]


def select_paths(trace: Trace, count: int = _POSITIONS) -> Paths:
    """Select the two channels that the flow moves most, at positions that it moves above median.

    Args:
        trace: trace of an image.
        count: number of positions; fewer for a small latent.
    """
    latents = trace.latents.astype(np.float64)
    moved = np.abs(latents[-1] - latents[0])
    channels = _two_largest(moved.mean(axis=(1, 2)))
    by_position = moved[list(channels)].sum(axis=0).ravel()
    order = np.argsort(by_position, kind="stable")[by_position.size // 2 :]
    picked = order[np.linspace(0, order.size - 1, min(count, order.size)).round().astype(int)]
    rows, columns = np.unravel_index(picked, moved.shape[1:])
    stride = trace.truth.shape[0] // moved.shape[1]
    y, x = rows * stride + stride // 2, columns * stride + stride // 2
    pixels = trace.pictures[:, y, x].astype(np.float64)
    colours = _two_largest(np.abs(pixels[-1] - pixels[0]).mean(axis=0))
    return Paths(
        np.stack([rows, columns], axis=1),
        channels,
        latents[:, channels, :, :][:, :, rows, columns].transpose(0, 2, 1),
        None
        if trace.truth_latent is None
        else trace.truth_latent[list(channels)][:, rows, columns].T.astype(np.float64),
        colours,
        pixels[:, :, colours],
        trace.truth[y, x][:, colours].astype(np.float64),
    )


def straightness(path: NDArray[np.float64]) -> float | None:
    """Distance from start to end over the length of the path, mean over the positions.

    Args:
        path: (M + 1, n, 2).

    Returns:
        1 for straight paths, less for others; None if nothing moves.
    """
    length = np.linalg.norm(np.diff(path, axis=0), axis=2).sum(axis=0)
    distance = np.linalg.norm(path[-1] - path[0], axis=1)
    moving = length > 0
    if not moving.any():
        return None
    return float((distance[moving] / length[moving]).mean())


def trajectories(traces: Sequence[Trace]) -> Pixels:
    """Paths from z_0 to z_M at some positions of the latent, and of their pixels (Figure 11).

    A row for each image: latent values on the left, the decoded positions on the right. Circles
    are z_0, squares z_M, crosses the truth; the truth's latent is drawn only if the encoder of
    clean images is known.
    """
    width, height = _TRAJECTORY_SIZE
    figure = _figure(2 * width, height * len(traces))
    for number, trace in enumerate(traces):
        paths = select_paths(trace)
        axes = figure.add_subplot(len(traces), 2, 2 * number + 1)
        _draw_paths(axes, paths.latent, paths.latent_truth)
        first, second = (f"latent channel {c}" for c in paths.channels)
        _label(axes, _title(f"{trace.name}: latent", paths.latent), first, second)
        axes = figure.add_subplot(len(traces), 2, 2 * number + 2)
        _draw_paths(axes, paths.pixel, paths.pixel_truth)
        first, second = (("red", "green", "blue")[c] for c in paths.colours)
        _label(axes, _title("pixels", paths.pixel), first, second)
    return _render(figure, tight=True)


def _two_largest(values: NDArray[np.float64]) -> tuple[int, int]:
    first, second = np.argsort(-values, kind="stable")[:2]
    return int(first), int(second)


def _draw_paths(axes: Axes, path: NDArray[np.float64], truth: NDArray[np.float64] | None) -> None:
    markers = {"z_0": ("o", path[0]), "z_M": ("s", path[-1])}
    if truth is not None:
        markers["truth"] = ("x", truth)
    for place in range(path.shape[1]):
        (line,) = axes.plot(path[:, place, 0], path[:, place, 1], ".-", linewidth=1, markersize=4)
        for marker, points in markers.values():
            axes.plot(
                *points[place], marker, color=line.get_color(), markersize=6, fillstyle="none"
            )
    for name, (marker, _) in markers.items():
        axes.plot([], [], marker, color="black", markersize=6, fillstyle="none", label=name)
    axes.legend(fontsize=_SMALL)


def _title(what: str, path: NDArray[np.float64]) -> str:
    straight = straightness(path)
    return what if straight is None else f"{what}, straightness {straight:.2f}"


# Drawing --------------------------------------------------------------------------------------


def _figure(width: int, height: int) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")


def _write(figure: Figure, x: float, y: float, text: str, size: float) -> None:
    """Centre a line of text at a position in pixels from the lower left; ``$`` is no markup."""
    figure_width, figure_height = (side * _DPI for side in figure.get_size_inches())
    figure.text(
        x / figure_width,
        y / figure_height,
        _shorten(text),
        fontsize=size,
        ha="center",
        va="center",
        parse_math=False,
    )


def _label(axes: Axes, title: str, x_title: str, y_title: str) -> None:
    axes.set_title(_shorten(title, 70), fontsize=_NORMAL, parse_math=False)
    axes.set_xlabel(x_title, fontsize=_NORMAL)
    axes.set_ylabel(y_title, fontsize=_NORMAL)
    axes.tick_params(labelsize=_SMALL)
    axes.grid(alpha=0.3)


def _shorten(text: str, limit: int = 32) -> str:
    """``text`` as one line of at most ``limit`` characters, its middle left out."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    half = (limit - 1) // 2
    return line if len(line) <= limit else f"{line[:half]}…{line[-half:]}"


def _render(figure: Figure, *, tight: bool = False) -> Pixels:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character that the font lacks
        if tight:
            figure.tight_layout()
        canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
