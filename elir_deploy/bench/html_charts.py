"""The charts of the HTML page: places in percent of a chart's width and height.

The template draws them with HTML and SVG. Each function takes a report and returns a chart, or
None where the report has no data for it. A runner has the same colour in all charts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from elir_deploy.bench.report_text import digits
from elir_deploy.bench.report_types import Report, RunnerRow, SoakRow
from elir_deploy.bench.soak import Window

__all__ = ["COLOURS", "MAX_MARKS", "Scale", "latency", "soak", "stages"]

#: Each stands out from a white and from a dark page (contrast above 3 to 1 with both).
COLOURS = (
    *("#2a7fc1", "#d4652a", "#1f9a70", "#b061a8", "#a38428"),
    *("#2596a8", "#cc4f5f", "#8a6fd1", "#6a9136", "#6f7a8a"),
)
#: Samples drawn of a runner; of more, as many quantiles.
MAX_MARKS = 300
#: Medians that differ by a larger factor are drawn on a logarithmic scale.
_LINEAR_RANGE = 20


@dataclass(frozen=True)
class Scale:
    """From values to percent.

    Attributes:
        low: value at 0 %, above 0 if logarithmic; ``high`` is at 100 %.
    """

    low: float
    high: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return round(100 * (value - low) / (high - low), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place and text of up to six round values, or of 1, 2, 5, 10, ... ."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
            if self.high > 1000 * self.low:
                values = values[::3]
        else:
            least = (self.high - self.low) / 6
            power = 10.0 ** math.floor(math.log10(least))
            step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
            values = [
                step * k for k in range(math.ceil(self.low / step), 1 + int(self.high / step))
            ]
        return [(self(value), f"{value:.6g}") for value in values if self.low <= value <= self.high]


#: What the template draws; ``kind`` names its macro.
Chart = SimpleNamespace


def latency(report: Report) -> Chart | None:
    """Runners from fast to slow on one scale in ms, from 0 where medians are not too far apart."""
    rows = [(row.image.statistics, row) for row in report.runners if row.image]
    if not rows:
        return None
    rows.sort(key=lambda pair: pair[0].p50)
    logarithmic = rows[-1][0].p50 > _LINEAR_RANGE * rows[0][0].p50
    low = 0.95e3 * min(statistics.minimum for statistics, _ in rows) if logarithmic else 0.0
    scale = Scale(low, 1.05e3 * max(statistics.p99 for statistics, _ in rows), logarithmic)
    strips = [_strip(row, scale, _colour(report, row.label)) for _, row in rows]
    return Chart(kind="strips", scale=scale, strips=strips)


def _strip(row: RunnerRow, scale: Scale, colour: str) -> Chart:
    """Marks of the samples, the median and its 95 % interval."""
    assert row.image is not None
    statistics, samples = row.image.statistics, 1e3 * np.array(row.image.samples_s)
    if samples.size > MAX_MARKS:
        samples = np.quantile(samples, np.linspace(0, 1, MAX_MARKS))
    median = 1e3 * statistics.p50
    text = f"{digits(median)} ms"
    interval = None
    if row.half_width is not None:
        text += f" ±{row.half_width:.1%}"
        ends = (median * (1 - row.half_width), median * (1 + row.half_width))
        interval = scale(max(ends[0], scale.low)), scale(min(ends[1], scale.high))
    text += f", p99 {digits(1e3 * statistics.p99)}"
    marks = [scale(float(value)) for value in samples if value <= scale.high]
    return Chart(
        label=row.label,
        colour=colour,
        text=text,
        marks=marks,
        median=scale(median),
        interval=interval,
    )


def stages(report: Report) -> Chart | None:
    """A bar for each runner, whose shares the report has, and a colour for each stage."""
    names = dict.fromkeys(stage.name for row in report.runners for stage in row.stages)
    colours = dict(zip(names, itertools.cycle(COLOURS), strict=False))
    return Chart(kind="bars", colours=colours) if names else None


def soak(report: Report) -> Chart | None:
    """Latency relative to the runner's median, memory and temperature over the minutes of a run."""
    rows = [row for row in report.soak if row.windows]
    if not rows:
        return None
    across = Scale(0, max(row.windows[-1].at_s + row.windows[-1].seconds for row in rows) / 60)
    colours = {row.label: _colour(report, row.label) for row in rows}
    medians = {row.label: float(np.median([w.p50_s for w in row.windows])) for row in rows}
    fields: dict[str, list[Callable[[SoakRow, Window], float | None]]] = {
        "latency, % of the median (dashed: p99)": [
            lambda row, window: 100 * window.p50_s / medians[row.label],
            lambda row, window: 100 * window.p99_s / medians[row.label],
        ],
        "memory, MiB": [lambda _, window: window.rss_bytes and window.rss_bytes / 2**20],
        "temperature, °C": [lambda _, window: window.celsius],
    }
    panels = []
    for title, reads in fields.items():
        curves = {
            (row.label, number): [
                (across(window.at_s / 60), value)
                for window in row.windows
                if (value := read(row, window)) is not None
            ]
            for row in rows
            for number, read in enumerate(reads)
        }
        values = [value for points in curves.values() for _, value in points]
        if values:
            margin = 0.08 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 1.0
            up = Scale(min(values) - margin, max(values) + margin)
            lines = [
                Chart(
                    colour=colours[label], points=[(x, up(y)) for x, y in points], dashed=number > 0
                )
                for (label, number), points in curves.items()
            ]
            panels.append(Chart(title=title, ticks=up.ticks, lines=lines))
    return Chart(kind="lines", ticks=across.ticks, panels=panels, colours=colours)


def _colour(report: Report, label: str) -> str:
    labels = dict.fromkeys(row.label for rows in (report.runners, report.soak) for row in rows)
    return COLOURS[list(labels).index(label) % len(COLOURS)]
