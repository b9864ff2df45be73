"""A measurement as one HTML page: tables, charts, pictures before and after, all samples.

The page needs no network and is told to use none: its Content-Security-Policy allows the two
scripts in it, by their hashes, and nothing else that could run. Whatever comes out of the report
is text: bundles are from anybody, and labels, names and reasons may hold markup.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.bench import html_charts as charts
from elir_deploy.bench import report_text as texts
from elir_deploy.bench.report import Picture, to_json
from elir_deploy.errors import MissingDependencyError
from elir_deploy.printable import printable, printable_values

__all__ = ["Picture", "check_installed", "html"]

_EXTRA = "report"
#: Template, style and script of the page.
_FOLDER = Path(__file__).parent / "html"


def check_installed() -> None:
    """Say now, not after the measurement, that no HTML report can be written.

    Raises:
        MissingDependencyError: Plotly or Jinja is not installed.
    """
    _library("jinja2")
    _library("plotly.offline")


def html(report: dict[str, Any], pictures: Sequence[Picture] = ()) -> str:
    """The whole page.

    Args:
        report: of :func:`elir_deploy.bench.report.build_report`.
        pictures: to compare by eye; they are embedded as PNG, so their number decides about the
            size of the page.

    Raises:
        MissingDependencyError: Plotly or Jinja is not installed.
        ValueError: a picture is not (H, W, 3) uint8.
    """
    jinja = _library("jinja2")
    plotly = _plotly()
    script = (_FOLDER / "report.js").read_text("utf-8")
    raw = to_json(report)
    shown: dict[str, Any] = printable_values(report)
    sections = [make(shown) for make in _SECTIONS]
    sections = [one for one in sections if one.figure is not None or one.tables or one.items]
    environment = jinja.Environment(
        loader=jinja.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page: str = environment.get_template("report.html").render(
        policy=_policy(script, plotly.source),
        style=(_FOLDER / "report.css").read_text("utf-8"),
        script=script,
        plotly=plotly.packed,
        report=shown,
        heading=texts.heading(shown),
        sections=sections,
        charts=_in_script({s.key: s.figure for s in sections if s.figure is not None}),
        pictures=_in_script([_embedded(picture) for picture in pictures]),
        with_pictures=bool(pictures),
        facts=_facts(shown),
        files=_files(shown),
        raw=_escaped(raw),
        raw_size=_size(len(raw)),
    )
    return page


# Sections -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Cells under columns; ``words`` rather than numbers stand on the left."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    words: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page; what is empty is left out.

    Attributes:
        key: distinct, of letters.
        title: of the section.
        text: how to read it.
        figure: its chart.
        tables: below the chart.
        items: below those, one line each.
    """

    key: str
    title: str
    text: str = ""
    figure: charts.Figure | None = None
    tables: Sequence[Table] = ()
    items: Sequence[str] = ()

    @property
    def keys(self) -> list[charts.Key]:
        """The legend of the chart; none where one name stands above each panel anyway."""
        return [] if self.figure is None else charts.keys(self.figure)


def _speeds(report: dict[str, Any]) -> Section:
    return Section("speeds", "Speed", tables=_tables(report, texts.SPEED))


def _remarks(report: dict[str, Any]) -> Section:
    return Section("remarks", "Remarks", items=texts.circumstances(report))


def _latency(report: dict[str, Any]) -> Section:
    text = (
        "Every sample is a point, the area above shows how dense they lie. Each runner has a "
        "scale of its own. Nothing is trimmed."
    )
    if _has_long_series(report):
        text += (
            f" Of more than {charts.MOST_POINTS} samples so many quantiles are drawn instead, the "
            "fastest and the slowest among them."
        )
    return Section(
        "latency",
        "Latency of an image",
        text,
        charts.latency(report),
        _tables(report, texts.LATENCY),
    )


def _over_time(report: dict[str, Any]) -> Section:
    text = (
        "Samples in the order they were taken, as a share of the runner's own median: a slope "
        "is drift, a step is a change of the clock rate."
    )
    if _has_long_series(report):
        text += f" Of more than {charts.MOST_POINTS}, the fastest and slowest of neighbours."
    if charts.throttled(report):
        text += " Red: the device was held back."
    if any((row["behaviour"] or {}).get("step") for row in report["runners"]):
        text += " Dotted: where a runner changed its speed and stayed there."
    return Section("time", "Over time", text, charts.over_time(report))


def _has_long_series(report: dict[str, Any]) -> bool:
    return any(len(row["started_s"]) > charts.MOST_POINTS for row in report["runners"])


def _details(report: dict[str, Any]) -> Section:
    """What runners have beside their series; a column for whatever at least one has."""
    rows = report["runners"]
    cells = {title: [show(row) for row in rows] for title, show in _DETAILS.items()}
    columns = [title for title, column in cells.items() if any(column)]
    body = [
        [row["label"], *(cells[title][index] or "-" for title in columns)]
        for index, row in enumerate(rows)
    ]
    return Section(
        "details",
        "Runners",
        tables=[
            *([Table(["runner", *columns], body, words=True)] if body else []),
            *_tables(report, texts.COLD),
            *_tables(report, texts.ENERGY),
        ],
    )


def _stages(report: dict[str, Any]) -> Section:
    return Section(
        "stages",
        "Where the time goes",
        figure=charts.stages(report),
        tables=_tables(report, texts.STAGES),
    )


def _quality(report: dict[str, Any]) -> Section:
    without = [
        f"{row['label']}: {row['fidelity']['note'] if row['fidelity'] else 'not compared'}"
        for row in report["runners"]
        if not row["fidelity"]
        or (row["fidelity"]["psnr_db"] is None and not row["fidelity"]["identical"])
    ]
    return Section(
        "quality",
        "Speed against quality",
        "Agreement of the 8-bit result with float32 PyTorch, on the worst reference image.",
        charts.quality(report),
        items=without,
    )


def _steps(report: dict[str, Any]) -> Section:
    return Section(
        "steps",
        "Euler steps",
        "PSNR: solid to the undegraded photograph, dotted to the result with the model's own M.",
        charts.steps(report),
        _tables(report, texts.STEPS),
    )


def _throughput(report: dict[str, Any]) -> Section:
    return Section(
        "throughput",
        "Many images",
        "Above, images a second; below, what one call takes: solid p50, dotted p99. A batch is one "
        "call.",
        charts.throughput(report),
        _tables(report, texts.THROUGHPUT),
    )


def _soak(report: dict[str, Any]) -> Section:
    return Section(
        "soak",
        "Soak",
        "Latency is over the runner's own median: solid the p50 of a stretch, dotted its p99.",
        charts.soak(report),
        _tables(report, texts.SOAK),
    )


def _not_measured(report: dict[str, Any]) -> Section:
    rows = [(item["label"], item["reason"]) for item in report["unavailable"]]
    tables = [Table(("runner", "reason"), rows, words=True)] if rows else []
    return Section("missing", "Not measured", tables=tables)


#: In the order of the page.
_SECTIONS: tuple[Callable[[dict[str, Any]], Section], ...] = (
    *(_speeds, _latency, _over_time, _details, _stages, _quality, _steps, _throughput, _soak),
    *(_remarks, _not_measured),
)


def _tables(report: dict[str, Any], columns: Sequence[str]) -> list[Table]:
    """The table of the terminal with these columns; none where the report has nothing for it."""
    return [
        Table(header, rows, title)
        for title, header, rows in texts.tables(report)
        if header == columns
    ]


def _warmup(row: dict[str, Any]) -> str | None:
    warmup = row["warmup"]
    if not warmup:
        return None
    shown = f"{warmup['images']} images, {texts.digits(warmup['seconds'], 3)} s"
    return f"{shown}, not settled" if warmup["settled"] is False else shown


def _arithmetic(row: dict[str, Any]) -> str | None:
    counts = row["arithmetic"] or {}
    return ", ".join(f"{count} in {kind}" for kind, count in counts.items()) or None


def _known_to(row: dict[str, Any]) -> str | None:
    return None if row["half_width"] is None else f"±{row['half_width']:.1%}"


def _two_speeds(row: dict[str, Any]) -> str | None:
    speeds = (row["behaviour"] or {}).get("two_speeds")
    if not speeds:
        return None
    fast, slow = (texts.digits(1e3 * speeds[key]) for key in ("fast_s", "slow_s"))
    return f"{fast} ms in {speeds['fast_share']:.0%}, else {slow} ms"


#: Columns of the table of runners.
_DETAILS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "library": lambda row: row["library"],
    "convolutions": _arithmetic,
    "warmed up": _warmup,
    "median known to": _known_to,
    "two speeds": _two_speeds,
}


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _facts(report: dict[str, Any]) -> dict[str, list[tuple[str, ...]]]:
    """Parts of the report as they are, by title: a name and one or two values.

    Series are left out: they are drawn, and in the JSON.
    """
    sensors = report["device"]["sensors"] or {}
    sides = [dict(_named(sensors.get(side))) for side in ("before", "after")]
    # A machine lacks most of what could be read.
    known = [name for name in {**sides[0], **sides[1]} if any(side.get(name) for side in sides)]
    extra = {name: report[name] for name in ("yardstick", "energy") if report[name]}
    return {
        "Device and libraries": _pairs(_without(report["device"], "sensors")),
        "Sensors before and after": [
            (name, *(side.get(name) or "-" for side in sides)) for name in known
        ],
        "Model": _pairs(report["model"]),
        "Protocol": _pairs(report["protocol"] | extra),
    }


def _pairs(values: Any) -> list[tuple[str, ...]]:
    return [(name, value or "-") for name, value in _named(values)]


def _named(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Name and value of everything in nested JSON values; nothing is an empty text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _named(inner, f"{name} / {key}" if name else key)
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for index, item in enumerate(value):
            yield from _named(item, f"{name} {index}")
    elif isinstance(value, list):
        items = [str(item) for item in value]
        yield name, ("; " if any(" " in item for item in items) else " ").join(items)
    elif isinstance(value, bool):
        yield name, "yes" if value else "no"
    elif isinstance(value, int) and name.endswith("_bytes"):
        yield name.removesuffix("_bytes"), _size(value)
    elif name:
        yield name, "" if value is None else str(value)


def _files(report: dict[str, Any]) -> Table | None:
    rows = [
        (row["label"], item["file"], str(item.get("bytes", "-")), item["sha256"])
        for row in report["runners"]
        for item in row["artifacts"]
    ]
    return Table(("runner", "file", "bytes", "SHA-256"), rows, words=True) if rows else None


def _size(count: int) -> str:
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


# Pictures -------------------------------------------------------------------------------------


def _embedded(picture: Picture) -> dict[str, Any]:
    # An input that is enlarged before the network is shown as large as its result.
    height, width = next(iter(picture.after.values()), picture.before).shape[:2]
    return {
        "name": printable(picture.name),
        "before": _png(picture.before),
        "size": [width, height],
        "after": [[printable(label), _png(image)] for label, image in picture.after.items()],
    }


def _png(image: NDArray[np.uint8]) -> str:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"a picture is {image.dtype} {image.shape}, wanted uint8 (H, W, 3)")
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


# What the page carries ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plotly:
    """Plotly's JavaScript; ``packed`` is the same zipped, in letters: less than half of it."""

    source: str
    packed: str


@lru_cache(maxsize=1)
def _plotly() -> _Plotly:
    source: str = _library("plotly.offline").get_plotlyjs()
    packed = gzip.compress(source.encode(), compresslevel=9, mtime=0)
    return _Plotly(source, base64.b64encode(packed).decode("ascii"))


def _policy(*scripts: str) -> str:
    """A Content-Security-Policy: these scripts alone may run, and nothing may be fetched."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
        for text in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _in_script(values: Any) -> str:
    return _escaped(json.dumps(values, allow_nan=False, separators=(",", ":")))


def _escaped(text: str) -> str:
    """JSON with nothing in it that HTML could take for markup; its value is the same."""
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise MissingDependencyError(package, _EXTRA, "write an HTML report") from None
