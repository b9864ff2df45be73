"""A report as one HTML page: tables, charts, pictures before and after, and the JSON.

The page needs no network and may use none: its Content-Security-Policy allows its one script, by
its hash, and nothing else that could run. Bundles are from anybody, and labels, names
and reasons may hold markup: all of it is text.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.bench import html_charts
from elir_deploy.bench.report import Picture
from elir_deploy.bench.report_file import to_json
from elir_deploy.bench.report_text import heading, remarks, tables
from elir_deploy.bench.report_types import Report
from elir_deploy.runtime.libraries import import_library
from elir_deploy.text import printable

__all__ = ["Picture", "html", "import_jinja"]

#: Template, style and script of the page.
_FOLDER = Path(__file__).parent / "html"
#: The table that a chart stands above.
_CHARTS = {
    "Latency in ms": html_charts.latency,
    "Stages": html_charts.stages,
    "Soak": html_charts.soak,
}


def html(report: Report, pictures: Sequence[Picture] = ()) -> str:
    """The whole page.

    Pictures, to compare by eye, are embedded as PNG, so they decide about the page's size.

    Raises:
        MissingDependencyError: Jinja is not installed.
        ValueError: a picture is not (H, W, 3) uint8.
    """
    jinja = import_jinja()
    script = (_FOLDER / "report.js").read_text("utf-8")
    raw = to_json(report).encode()
    environment = jinja.Environment(
        loader=jinja.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page: str = environment.get_template("report.html").render(
        policy=_policy(script),
        style=jinja.utils.markupsafe.Markup((_FOLDER / "report.css").read_text("utf-8")),
        script=jinja.utils.markupsafe.Markup(script),
        report=report,
        heading=heading(report),
        sections=[
            (table, _CHARTS[table.title](report) if table.title in _CHARTS else None)
            for table in tables(report)
        ],
        remarks=remarks(report),
        pictures=jinja.utils.markupsafe.Markup(_embedded(pictures)),
        with_pictures=bool(pictures),
        packed=base64.b64encode(gzip.compress(raw, mtime=0)).decode("ascii"),
        size=f"{len(raw) / 1024:.0f} KiB",
    )
    return page


def _embedded(pictures: Sequence[Picture]) -> str:
    """As JSON that is safe inside a script element."""
    values = []
    for picture in pictures:
        # An input that is enlarged before the network is shown as large as its result.
        height, width = next(iter(picture.after.values()), picture.before).shape[:2]
        after = [[printable(label), _png(image)] for label, image in picture.after.items()]
        before, name = _png(picture.before), printable(picture.name)
        values.append({"name": name, "before": before, "size": [width, height], "after": after})
    text = json.dumps(values, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _png(image: NDArray[np.uint8]) -> str:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"a picture is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _policy(script: str) -> str:
    """A Content-Security-Policy: this script alone may run, and nothing may be fetched."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def import_jinja() -> Any:
    """The module ``jinja2``; MissingDependencyError if it is not installed."""
    return import_library("jinja2", "report", "write an HTML report", attribute="Environment")
