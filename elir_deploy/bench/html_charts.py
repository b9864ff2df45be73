"""The charts of an HTML report: Plotly figures as plain JSON values, made from a report.

Every function takes a report and returns the figure, or None where the report has no data for it.
Colours and symbols belong to runners and are the same in all charts. Text from the report goes
through :func:`plain`, since Plotly reads markup in it.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = [
    "Figure",
    "Key",
    "keys",
    "latency",
    "over_time",
    "plain",
    "quality",
    "soak",
    "stages",
    "steps",
    "throughput",
]

#: ``data`` and ``layout``, as Plotly takes them.
Figure = dict[str, Any]

#: Each stands out from a white and from a dark page (contrast above 3 to 1 with both).
COLOURS = (
    *("#2a7fc1", "#d4652a", "#1f9a70", "#b061a8", "#a38428"),
    *("#2596a8", "#cc4f5f", "#8a6fd1", "#6a9136", "#6f7a8a"),
)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")
_GLYPHS = dict(zip(_SYMBOLS, "●■◆▲✚✖▼★", strict=True))
_NEUTRAL = "#8a8f98"
#: Stages by name; steps of the flow take shades of one colour, alternating.
_STAGE_COLOURS = {
    "encoder": "#2a7fc1",
    "estimator": "#b061a8",
    "decoder": "#d4652a",
    "runtime": _NEUTRAL,
}
_STEP_COLOURS = ("#1f9a70", "#3fb48b")
#: More points of a runner than this and a browser grows slow.
MOST_POINTS = 1000
#: Longer labels leave no room for the chart.
_LONGEST_LABEL = 48


def plain(text: str) -> str:
    """``text`` so that Plotly shows it as it is, without reading tags or entities in it."""
    if len(text) > _LONGEST_LABEL:
        text = text[: _LONGEST_LABEL - 1] + "…"
    return html.escape(text, quote=False)


@dataclass(frozen=True)
class Key:
    """What a colour and a symbol stand for.

    Attributes:
        name: as text.
        colour: of the marks.
        glyph: that looks like them.
        traces: numbers of the traces that it is of.
    """

    name: str
    colour: str
    glyph: str
    traces: tuple[int, ...]


def keys(figure: Figure) -> list[Key]:
    """The legend of a figure. Plotly's own takes half of a chart's room on a phone."""
    found: dict[str, Key] = {}
    for number, trace in enumerate(figure["data"]):
        group = trace.get("legendgroup")
        if group is None:
            continue
        colour, glyph = trace["marker"]["color"], _GLYPHS.get(trace["marker"].get("symbol"), "■")
        known = found.get(group, Key(group, colour, glyph, ()))
        found[group] = replace(known, traces=(*known.traces, number))
    return list(found.values())


def latency(report: dict[str, Any]) -> Figure | None:
    """All samples of each runner as a density above points, with p50, p90 and p99."""
    rows = _measured(report)
    if not rows:
        return None
    data: list[dict[str, Any]] = []
    layout = _layout(40 + 116 * len(rows))
    domains = _rows(len(rows), 0.6, captions=True)
    for index, (row, domain) in enumerate(zip(rows, domains, strict=True)):
        image = row["image"]
        samples = _ms(_quantiles(image["samples_s"]))
        x, y = _axes(layout, index, domain, title="ms" if index == len(rows) - 1 else None)
        low, high = min(samples), max(samples)
        spread = (high - low) or 0.05 * high
        layout[_axis(x)] |= {"range": [low - 0.06 * spread, high + 0.2 * spread], "nticks": 6}
        layout[_axis(y)] |= {"range": [-0.75, 1.1], "visible": False, "fixedrange": True}
        data.append(
            {
                "type": "violin",
                "name": plain(row["label"]),
                "orientation": "h",
                "side": "positive",
                "x": samples,
                "y0": 0,
                "width": 2,
                "points": "all",
                "pointpos": -0.35,
                "jitter": 0.4,
                "spanmode": "hard",
                "hoveron": "points",
                "hovertemplate": "%{x:.4~g} ms<extra></extra>",
                "line": {"color": _marker(report, row["label"])["color"], "width": 1.5},
                "marker": {"size": 4, "opacity": 0.55},
                **_on(x, y),
            }
        )
        for height, key in ((1.0, "p50"), (0.72, "p90"), (0.44, "p99")):
            value = round(image[f"{key}_s"] * 1e3, 4)
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+text",
                    "name": key,
                    "x": [value, value],
                    "y": [height, -0.7],
                    "text": [f" {key} {value:.4g}", ""],
                    "textposition": "middle right",
                    "textfont": {"size": 11},
                    "line": {"color": _NEUTRAL, "width": 1.5},
                    "hoverinfo": "skip",
                    "cliponaxis": False,
                    **_on(x, y),
                }
            )
        _caption(layout, row["label"], x, y)
    return {"data": data, "layout": layout}


def over_time(report: dict[str, Any]) -> Figure | None:
    """Samples in the order they were taken, over each runner's median; sensors below."""
    rows = _measured(report)
    if not rows:
        return None
    below = _watched(report, rows)
    layout = _layout(300 + 130 * len(below))
    domains = _rows(1 + len(below), 0.3, first=3)
    title = "s after the first sample"
    x, y = _axes(layout, 0, domains[0], title=None if below else title)
    layout[_axis(y)]["title"] = {"text": "latency, % of the median"}
    data: list[dict[str, Any]] = []
    for row in rows:
        median = row["image"]["p50_s"]
        began, took = _thinned(row["started_s"], row["image"]["samples_s"])
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plain(row["label"]),
                "x": [round(at, 4) for at in began],
                "y": [round(100 * seconds / median, 3) for seconds in took],
                "customdata": _ms(took),
                "hovertemplate": "%{customdata:.4~g} ms, %{x:.1f} s<extra>%{fullData.name}</extra>",
                "marker": {**_marker(report, row["label"]), "size": 5, "opacity": 0.75},
                "legendgroup": row["label"],
                **_on(x, y),
            }
        )
    for index, (name, times, values) in enumerate(below, start=1):
        last = index == len(below)
        x, y = _axes(layout, index, domains[index], title=title if last else None, matches="x")
        layout[_axis(y)] |= {"title": {"text": name}, "nticks": 4}
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": times,
                "y": values,
                "hovertemplate": "%{y:.4~g}, %{x:.1f} s<extra>%{fullData.name}</extra>",
                "line": {"color": _NEUTRAL, "width": 1.5},
                **_on(x, y),
            }
        )
    layout["shapes"] = [
        {
            "type": "rect",
            "xref": "x",
            "yref": "paper",
            "x0": start,
            "x1": end,
            "y0": 0,
            "y1": 1,
            "fillcolor": "#cc4f5f",
            "opacity": 0.15,
            "line": {"width": 0},
        }
        for start, end in throttled(report)
    ]
    for row in rows:
        step = (row.get("behaviour") or {}).get("step")
        if step:
            at = row["started_s"][step["at"]]
            line = {"color": _marker(report, row["label"])["color"], "width": 2, "dash": "dot"}
            layout["shapes"].append(_line(line, xref="x", x0=at, x1=at, yref="y domain"))
    return {"data": data, "layout": layout}


def _line(line: dict[str, Any], **where: Any) -> dict[str, Any]:
    """A straight line from one end of the other axis to the other, unless ``where`` says else."""
    return {"type": "line", "line": line, "x0": 0, "x1": 1, "y0": 0, "y1": 1, **where}


def _watched(
    report: dict[str, Any], rows: Sequence[dict[str, Any]]
) -> list[tuple[str, list[float], list[float | None]]]:
    """What was observed of the machine meanwhile: name, times in seconds, values."""
    found: list[tuple[str, list[float], list[float | None]]] = []
    # The same small computation again and again: it takes longer when the machine is slower.
    yardstick = sorted(
        pair
        for row in rows
        for pair in zip(row["started_s"], row.get("yardstick_s") or (), strict=False)
    )
    if yardstick:
        times, took = _thinned([at for at, _ in yardstick], [seconds for _, seconds in yardstick])
        median = float(np.median(took))
        shares = [round(100 * seconds / median, 3) for seconds in took]
        found.append(("yardstick, %", [round(at, 4) for at in times], [*shares]))
    during = _during(report)
    for key, unit in _SENSORS:
        if _any(during, key):
            times = [one["at_s"] for one in during]
            found.append((unit, [*times], [one.get(key) for one in during]))
    return found


def throttled(report: dict[str, Any]) -> list[tuple[float, float]]:
    """From and to when the device was held back, in seconds."""
    spans: list[tuple[float, float]] = []
    readings = _during(report)
    # A reading says what happened since the one before.
    for before, this in itertools.pairwise(readings):
        if not this.get("throttled"):
            continue
        begin = spans.pop()[0] if spans and spans[-1][1] == before["at_s"] else before["at_s"]
        spans.append((begin, this["at_s"]))
    return spans


def stages(report: dict[str, Any]) -> Figure | None:
    """Where the time of an image goes: one bar for each runner, one colour for each part."""
    rows = report.get("stages") or []
    if not rows:
        return None
    names = list(dict.fromkeys(part["name"] for row in rows for part in row["parts"]))
    layout = _layout(60 + 58 * len(rows))
    layout |= {"barmode": "stack", "bargap": 0.55}
    x, y = _axes(layout, 0, (0.0, 1.0), title="% of the time of an image")
    layout[_axis(x)]["range"] = [0, 100]
    layout[_axis(y)] |= {"autorange": "reversed", "visible": False, "fixedrange": True}
    data = []
    for number, name in enumerate(names):
        parts = [
            (index, part)
            for index, row in enumerate(rows)
            for part in row["parts"]
            if part["name"] == name
        ]
        data.append(
            {
                "type": "bar",
                "name": plain(name),
                "orientation": "h",
                "x": [round(100 * part["share"], 3) for _, part in parts],
                "y": [index for index, _ in parts],
                "customdata": [
                    [round(part["mean_s"] * 1e3, 4), plain(rows[index]["label"])]
                    for index, part in parts
                ],
                "text": [f"{100 * part['share']:.0f}" for _, part in parts],
                "legendgroup": name,
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "hovertemplate": "%{customdata[1]}: %{x:.1f} %, %{customdata[0]:.4~g} ms"
                "<extra>%{fullData.name}</extra>",
                "marker": {
                    "color": _stage_colour(name, number),
                    "line": {"color": "rgba(255,255,255,0.7)", "width": 1},
                },
            }
        )
    layout["annotations"] = [
        _note(plain(row["label"]), x=0, y=index, xref=x, yref=y, yshift=24)
        for index, row in enumerate(rows)
    ]
    return {"data": data, "layout": layout}


def quality(report: dict[str, Any]) -> Figure | None:
    """Frames per second against agreement with float32 PyTorch; identical ones on a line on top."""
    rows = [row for row in _measured(report) if row["fidelity"]]
    finite = [row["fidelity"]["psnr_db"] for row in rows if row["fidelity"]["psnr_db"] is not None]
    identical = any(row["fidelity"]["identical"] for row in rows)
    if not finite and not identical:
        return None
    least, most = (min(finite), max(finite)) if finite else (0.0, 0.0)
    spread = max(most - least, 10.0)
    top = most + 0.3 * spread
    layout = _layout(330)
    x, y = _axes(layout, 0, (0.0, 1.0), title="FPS")
    layout[_axis(x)]["rangemode"] = "tozero"
    layout[_axis(y)] |= {
        "title": {"text": "PSNR dB to float32 PyTorch"},
        "range": [least - 0.2 * spread, (top if identical else most) + 0.2 * spread],
        # None above the highest: how high the identical are drawn is no number of decibels.
        "tickvals": _round_numbers(least - 0.2 * spread, most) if finite else [],
    }
    if identical:
        line = {"color": _NEUTRAL, "width": 1, "dash": "dot"}
        layout["shapes"] = [_line(line, xref="paper", yref=y, y0=top, y1=top)]
        layout["annotations"] = [
            _note("identical", x=0, y=top, xref="paper", yref=y, yanchor="bottom")
        ]
    data = []
    for row in rows:
        fidelity = row["fidelity"]
        height = top if fidelity["identical"] else fidelity["psnr_db"]
        if height is None:
            continue
        shown = "identical" if fidelity["identical"] else f"{height:.1f} dB"
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plain(row["label"]),
                "x": [row["fps"]],
                "y": [height],
                "customdata": [shown],
                "hovertemplate": "%{x:.4~g} FPS, %{customdata}<extra>%{fullData.name}</extra>",
                "marker": {**_marker(report, row["label"]), "size": 12},
                "legendgroup": row["label"],
            }
        )
    return {"data": data, "layout": layout}


def steps(report: dict[str, Any]) -> Figure | None:
    """Speed and quality over the number of steps of the flow."""
    quality = (_Line("psnr_db", "to the truth"), _Line("psnr_to_full_db", "to full M", dash="dot"))
    panels = (_Panel("FPS", (_Line("fps"),)), _Panel("PSNR dB", quality))
    return _panels(report, report.get("steps") or [], "steps", "M", panels, whole=True)


def throughput(report: dict[str, Any]) -> Figure | None:
    """Images per second, and how long a call takes, over how many images are under way at once."""
    rows = [
        {**row, "series": f"{row['label']}, {row['way']}"} for row in report.get("throughput") or []
    ]
    times = (_Line("p50_s", "p50", 1e3), _Line("p99_s", "p99", 1e3, "dot"))
    panels = (_Panel("FPS", (_Line("fps"),)), _Panel("ms", times))
    return _panels(report, rows, "concurrency", "images at once", panels, whole=True)


def soak(report: dict[str, Any]) -> Figure | None:
    """Latency over each runner's median, memory, temperature and clock over a long run."""
    rows = []
    for row in report.get("soak") or []:
        median = float(np.median([window["p50_s"] for window in row["windows"]] or [1]))
        for window in row["windows"]:
            shares = {f"{key}_share": window[f"{key}_s"] / median for key in ("p50", "p99")}
            rows.append({**window, **shares, "label": row["label"]})
    times = (_Line("p50_share", "p50", 100), _Line("p99_share", "p99", 100, "dot"))
    panels = (
        _Panel("latency, %", times),
        _Panel("memory, MiB", (_Line("rss_bytes", factor=2.0**-20),)),
        _Panel("°C", (_Line("celsius"),)),
        _Panel("MHz", (_Line("mhz"),)),
    )
    return _panels(report, rows, "at_s", "s after the start", panels)


# Parts of figures -----------------------------------------------------------------------------

#: What a device tells of itself while it is measured, and the unit.
_SENSORS = (("mhz", "MHz"), ("celsius", "°C"), ("watts", "W"))


@dataclass(frozen=True)
class _Line:
    """A field of the rows, what it is called beside others, its factor, its dash."""

    field: str
    name: str = ""
    factor: float = 1.0
    dash: str = "solid"


@dataclass(frozen=True)
class _Panel:
    title: str
    lines: tuple[_Line, ...]


def _panels(
    report: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    at: str,
    title: str,
    panels: Sequence[_Panel],
    *,
    whole: bool = False,
) -> Figure | None:
    """Lines over the field ``at``, one panel above the other; those without data are left out."""
    panels = [panel for panel in panels if any(_any(rows, line.field) for line in panel.lines)]
    if not panels:
        return None
    layout = _layout(60 + 200 * len(panels))
    domains = _rows(len(panels), 0.16)
    data = []
    for index, panel in enumerate(panels):
        last = index == len(panels) - 1
        x, y = _axes(
            layout,
            index,
            domains[index],
            title=title if last else None,
            matches="x" if index else None,
        )
        layout[_axis(y)] |= {"title": {"text": panel.title}, "nticks": 6}
        if whole:
            layout[_axis(x)] |= _whole_ticks([row[at] for row in rows])
        for number, (name, all_points) in enumerate(_series(rows).items()):
            marker = {**_marker(report, all_points[0]["label"]), "size": 8}
            if name != all_points[0]["label"]:  # one runner in several ways: by symbol
                marker["symbol"] = _SYMBOLS[number % len(_SYMBOLS)]
            for line in panel.lines:
                points = [row for row in all_points if row.get(line.field) is not None]
                if not points:
                    continue
                points.sort(key=lambda row: float(row[at]))
                shown = f"{line.name} %{{y:.4~g}} {panel.title.split(', ')[-1]}".strip()
                data.append(
                    {
                        "type": "scatter",
                        "mode": "lines+markers",
                        "name": plain(name),
                        "legendgroup": name,
                        "x": [row[at] for row in points],
                        "y": [_short(line.factor * row[line.field]) for row in points],
                        "hovertemplate": f"{shown}<extra>%{{fullData.name}}</extra>",
                        "line": {"color": marker["color"], "width": 2, "dash": line.dash},
                        "marker": marker,
                        **_on(x, y),
                    }
                )
    return {"data": data, "layout": layout}


def _series(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by the line they belong to: that of their ``series``, or else of their label."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row.get("series", row["label"]), []).append(row)
    return found


def _layout(height: int) -> dict[str, Any]:
    return {
        "height": height,
        "autosize": True,
        "showlegend": False,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "hovermode": "closest",
        "annotations": [],
    }


def _axes(
    layout: dict[str, Any],
    index: int,
    domain: tuple[float, float],
    *,
    title: str | None,
    matches: str | None = None,
) -> tuple[str, str]:
    """Add a pair of axes to a layout, as Plotly names them: ``x`` and ``y``, ``x2`` and ``y2``."""
    number = "" if index == 0 else str(index + 1)
    common = {"automargin": True, "zeroline": False}
    layout[f"xaxis{number}"] = {**common, "anchor": f"y{number}"}
    layout[f"yaxis{number}"] = {**common, "anchor": f"x{number}", "domain": list(domain)}
    if title:
        layout[f"xaxis{number}"]["title"] = {"text": title}
    if matches:
        layout[f"xaxis{number}"]["matches"] = matches
    return f"x{number}", f"y{number}"


def _axis(name: str) -> str:
    return f"{name[0]}axis{name[1:]}"


def _on(x: str, y: str) -> dict[str, str]:
    return {"xaxis": x, "yaxis": y}


def _rows(
    count: int, gap: float, *, first: float = 1.0, captions: bool = False
) -> list[tuple[float, float]]:
    """Where so many panels lie between 0 and 1, from the top.

    ``gap`` is the room between two, in panels; ``captions`` leaves it above the first one too.
    """
    unit = 1 / (first + count - 1 + gap * (count - 1 + captions))
    found, top = [], 1.0 - captions * gap * unit
    for index in range(count):
        bottom = max(0.0, top - unit * (1.0 if index else first))
        found.append((round(bottom, 5), round(top, 5)))
        top = bottom - gap * unit
    return found


def _caption(layout: dict[str, Any], label: str, x: str, y: str) -> None:
    """A runner's name above its panel, where it takes no width from it."""
    at = {"xref": f"{x} domain", "yref": f"{y} domain"}
    layout["annotations"].append(_note(plain(label), x=0, y=1, **at, yanchor="bottom"))


def _note(text: str, **where: Any) -> dict[str, Any]:
    return {"text": text, "showarrow": False, "xanchor": "left", "font": {"size": 12}, **where}


def _whole_ticks(values: Iterable[int]) -> dict[str, Any]:
    """Only the values there are; powers of two far apart would crowd on a linear axis."""
    ticks = sorted(set(values))
    wide = ticks[0] > 0 and ticks[-1] / ticks[0] >= 8
    return {"tickvals": ticks, "type": "log" if wide else "linear"}


def _quantiles(values: Sequence[float]) -> Sequence[float]:
    """Not more than :data:`MOST_POINTS`, distributed alike, the smallest and largest among them."""
    if len(values) <= MOST_POINTS:
        return values
    found: list[float] = np.quantile(values, np.linspace(0, 1, MOST_POINTS)).tolist()
    return found


def _round_numbers(low: float, high: float) -> list[float]:
    """Some round numbers from low to high."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (5, 2, 1) if factor * step <= (high - low) / 4)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _thinned(
    times: Sequence[float], values: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Not more than :data:`MOST_POINTS`: of each group of neighbours its smallest and largest."""
    if len(values) <= MOST_POINTS:
        return times, values
    kept: set[int] = set()
    for group in np.array_split(np.arange(len(values)), MOST_POINTS // 2):
        of_group = [values[index] for index in group]
        kept |= {int(group[np.argmin(of_group)]), int(group[np.argmax(of_group)])}
    order = sorted(kept)
    return [times[index] for index in order], [values[index] for index in order]


def _measured(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in report["runners"] if row["image"]]


def _during(report: dict[str, Any]) -> list[dict[str, Any]]:
    return (report["device"].get("sensors") or {}).get("during") or []


def _any(rows: Sequence[dict[str, Any]], field: str) -> bool:
    return any(row.get(field) is not None for row in rows)


def _marker(report: dict[str, Any], label: str) -> dict[str, Any]:
    place = _places(report)[label]
    return {"color": COLOURS[place % len(COLOURS)], "symbol": _SYMBOLS[place % len(_SYMBOLS)]}


def _places(report: dict[str, Any]) -> dict[str, int]:
    """Number of every label in the report, runners first."""
    rows = [
        row for key in ("runners", "steps", "throughput", "soak") for row in report.get(key) or []
    ]
    return {label: place for place, label in enumerate(dict.fromkeys(row["label"] for row in rows))}


def _stage_colour(name: str, number: int) -> str:
    if name.startswith("step"):
        digits = "".join(c for c in name if c.isdigit())
        return _STEP_COLOURS[(int(digits) if digits.isascii() and digits else 1) % 2]
    return _STAGE_COLOURS.get(name, COLOURS[number % len(COLOURS)])


def _ms(seconds: Sequence[float]) -> list[float]:
    return [_short(1e3 * value) for value in seconds]


def _short(value: float) -> float:
    """Six significant digits: more than a chart shows."""
    return float(f"{value:.6g}") if math.isfinite(value) else value
