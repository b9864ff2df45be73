"""Pictures of a measurement, drawn in memory: each function gives (H, W, 3) uint8 RGB.

matplotlib is used through its objects, so nothing of the process changes, and no display is needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.pixels import psnr_db
from elir_deploy.training.evaluation import Shown
from elir_deploy.training.subjects import Pixels, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CurvePoint",
    "Movers",
    "Panel",
    "contact_sheet",
    "curve",
    "find_movers",
    "panel_grid",
    "steps_strip",
    "straightness",
    "trajectories",
]

#: Pixels an inch: a power of two, so that sizes in pixels survive the way through inches.
_DPI = 128
_GAP, _CAPTION, _HEADER = 8, 24, 24
#: Side in pixels beyond which a panel is scaled down.
_LARGEST_PANEL = 256
_SMALL, _NORMAL = 6.5, 8.0  # points
_CURVE_SIZE = (720, 560)
_TRAJECTORY_SIZE = (560, 480)
#: Latent positions whose way is drawn.
_POSITIONS = 8
#: Panels of a strip; longer ways are thinned out.
_MOST_STEPS = 12


@dataclass(frozen=True)
class Panel:
    """A picture in a grid.

    Attributes:
        pixels: (H, W, 3) uint8.
        caption: one line under it.
    """

    pixels: Pixels
    caption: str = ""


# Grids of pictures ----------------------------------------------------------------------------


def panel_grid(rows: Sequence[Sequence[Panel]], titles: Sequence[str]) -> Pixels:
    """Pictures in rows, a title over each column, a caption under each picture.

    A panel is as large as the largest picture, up to 256 pixels; pictures of that size stand
    there pixel for pixel.

    Args:
        rows: each as long as ``titles``.
        titles: of the columns.

    Returns:
        (HEADER + rows * (panel + CAPTION), columns * panel, 3) uint8, and gaps.
    """
    largest = max(length for row in rows for p in row for length in p.pixels.shape[:2])
    side: int = min(_LARGEST_PANEL, largest)
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
            place = (across(column) / width, bottom / height, side / width, side / height)
            axes = figure.add_axes(place)
            axes.set_axis_off()
            large = max(panel.pixels.shape[:2]) > side
            axes.imshow(panel.pixels, interpolation="antialiased" if large else "nearest")
            _write(figure, across(column) + side / 2, bottom - _CAPTION / 2, panel.caption, _SMALL)
    return _rendered(figure)


def contact_sheet(shown: Sequence[Shown]) -> Pixels:
    """A row for each image: input, coarse estimate where there is one, restored, truth."""
    coarse = shown[0].coarse is not None
    titles = ["input", *(["coarse estimate"] if coarse else []), "restored", "truth"]
    rows = []
    for item in shown:
        pictures = [item.input, *([] if item.coarse is None else [item.coarse]), item.restored]
        rows.append([*(_compared(p, item.truth) for p in pictures), Panel(item.truth, item.name)])
    return panel_grid(rows, titles)


def steps_strip(traces: Sequence[Trace]) -> Pixels:
    """A row for each image: input, coarse estimate, z_0, ..., z_M decoded, truth (Figure 10)."""
    last = len(traces[0].pictures) - 1
    shown = sorted({round(k) for k in np.linspace(0, last, min(last, _MOST_STEPS) + 1)})
    titles = ["input", "coarse estimate", "with its noise", *(f"step {k}" for k in shown[1:])]
    rows = [
        [
            _compared(trace.input, trace.truth),
            _compared(trace.coarse, trace.truth),
            *(_compared(trace.pictures[k], trace.truth) for k in shown),
            Panel(trace.truth, trace.name),
        ]
        for trace in traces
    ]
    return panel_grid(rows, [*titles, "truth"])


def _compared(pixels: Pixels, truth: Pixels) -> Panel:
    psnr = psnr_db(pixels, truth)
    return Panel(pixels, f"{psnr:.2f} dB" if np.isfinite(psnr) else "identical")


# Curves ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CurvePoint:
    """A point of a curve.

    Attributes:
        label: what stands beside it.
        x: distortion.
        y: perception.
    """

    label: str
    x: float
    y: float


def curve(points: Sequence[CurvePoint], *, title: str, x_title: str, y_title: str) -> Pixels:
    """Points joined in their order: distortion across, perception up (paper, Figure 6)."""
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
    _name(axes, title, x_title, y_title)
    return _rendered(figure, tight=True)


# Trajectories ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Movers:
    """What is drawn of an image's way through the flow.

    Attributes:
        positions: (n, 2) row and column in the latent.
        channels: two channels of the latent.
        latent: (M + 1, n, 2) values of those channels there.
        latent_truth: (n, 2) likewise of the truth's latent; None where it is not known.
        colours: two of 0 red, 1 green, 2 blue.
        pixel: (M + 1, n, 2) 8-bit values of those colours in the middle of each position.
        pixel_truth: (n, 2) likewise of the truth.
    """

    positions: NDArray[np.intp]
    channels: tuple[int, int]
    latent: NDArray[np.float64]
    latent_truth: NDArray[np.float64] | None
    colours: tuple[int, int]
    pixel: NDArray[np.float64]
    pixel_truth: NDArray[np.float64]


def find_movers(trace: Trace, count: int = _POSITIONS) -> Movers:
    """The two channels that the flow moves most, at positions from the median to the most moved.

    Args:
        trace: of an image.
        count: positions wanted; a small latent has fewer.
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
    return Movers(
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
    """Distance from start to end over the length of the way, mean over the positions.

    Args:
        path: (M + 1, n, 2).

    Returns:
        1 for straight ways, less for others; None where nothing moves.
    """
    length = np.linalg.norm(np.diff(path, axis=0), axis=2).sum(axis=0)
    distance = np.linalg.norm(path[-1] - path[0], axis=1)
    moving = length > 0
    if not moving.any():
        return None
    return float((distance[moving] / length[moving]).mean())


def trajectories(traces: Sequence[Trace]) -> Pixels:
    """Ways from z_0 to z_M at some positions of the latent, and of their pixels (Figure 11).

    A row for each image: latent values on the left, the same positions decoded on the right.
    Circles are z_0, squares z_M, crosses the truth; a latent's only where the encoder of clean
    images is at hand, since the model's own has been trained on degraded ones.
    """
    width, height = _TRAJECTORY_SIZE
    figure = _figure(2 * width, height * len(traces))
    for number, trace in enumerate(traces):
        movers = find_movers(trace)
        axes = figure.add_subplot(len(traces), 2, 2 * number + 1)
        _draw_paths(axes, movers.latent, movers.latent_truth)
        first, second = (f"latent channel {c}" for c in movers.channels)
        _name(axes, _titled(f"{trace.name}: latent", movers.latent), first, second)
        axes = figure.add_subplot(len(traces), 2, 2 * number + 2)
        _draw_paths(axes, movers.pixel, movers.pixel_truth)
        first, second = (("red", "green", "blue")[c] for c in movers.colours)
        _name(axes, _titled("pixels", movers.pixel), first, second)
    return _rendered(figure, tight=True)


def _two_largest(values: NDArray[np.float64]) -> tuple[int, int]:
    first, second = np.argsort(-values, kind="stable")[:2]
    return int(first), int(second)


def _draw_paths(axes: Axes, path: NDArray[np.float64], truth: NDArray[np.float64] | None) -> None:
    marks = {"z_0": ("o", path[0]), "z_M": ("s", path[-1])}
    if truth is not None:
        marks["truth"] = ("x", truth)
    for place in range(path.shape[1]):
        (line,) = axes.plot(path[:, place, 0], path[:, place, 1], ".-", linewidth=1, markersize=4)
        for marker, points in marks.values():
            axes.plot(
                *points[place], marker, color=line.get_color(), markersize=6, fillstyle="none"
            )
    for name, (marker, _) in marks.items():
        axes.plot([], [], marker, color="black", markersize=6, fillstyle="none", label=name)
    axes.legend(fontsize=_SMALL)


def _titled(what: str, path: NDArray[np.float64]) -> str:
    straight = straightness(path)
    return what if straight is None else f"{what}, straightness {straight:.2f}"


# Drawing --------------------------------------------------------------------------------------


def _figure(width: int, height: int) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")


def _write(figure: Figure, x: float, y: float, text: str, size: float) -> None:
    """Centre one line at a place in pixels from the lower left; ``$`` means itself."""
    figure_width, figure_height = (side * _DPI for side in figure.get_size_inches())
    figure.text(
        x / figure_width,
        y / figure_height,
        _short(text),
        fontsize=size,
        ha="center",
        va="center",
        parse_math=False,
    )


def _name(axes: Axes, title: str, x_title: str, y_title: str) -> None:
    axes.set_title(_short(title, 70), fontsize=_NORMAL, parse_math=False)
    axes.set_xlabel(x_title, fontsize=_NORMAL)
    axes.set_ylabel(y_title, fontsize=_NORMAL)
    axes.tick_params(labelsize=_SMALL)
    axes.grid(alpha=0.3)


def _short(text: str, most: int = 32) -> str:
    """``text`` as one line of at most ``most`` characters; its middle goes first."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    half = (most - 1) // 2
    return line if len(line) <= most else f"{line[:half]}…{line[-half:]}"


def _rendered(figure: Figure, *, tight: bool = False) -> Pixels:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name in a script the font lacks
        if tight:
            figure.tight_layout()
        canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
