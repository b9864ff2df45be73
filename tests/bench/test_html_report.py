"""The HTML page as text: what is in it, what is not, and that nothing in a report can break out."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import io
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from elir_deploy.bench import html_charts, html_report
from elir_deploy.bench.device import CoresElsewhere
from elir_deploy.bench.html_charts import MAX_MARKS
from elir_deploy.bench.html_report import Picture, html, import_jinja
from elir_deploy.bench.report_file import to_json
from elir_deploy.bench.report_text import digits, remarks, tables
from elir_deploy.bench.statistics import Series
from elir_deploy.errors import MissingDependencyError
from elir_deploy.runtime import Bundle
from tests.bench.rich_report import (
    HOSTILE,
    plain_pictures,
    plain_report,
    rich_report,
    spread,
    without,
)
from tests.bundles import make_bundle

VOID = {"meta", "img", "input", "link", "br"}
#: On every page with samples; and what each optional part of a report adds.
ALWAYS = ["speed", "latency", "remarks", "json"]
OPTIONAL = {"throughput": "throughput", "stages": "stages", "steps": "euler", "soak": "soak"}


class Page(HTMLParser):
    """Elements in order, with their attributes and the text directly in them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(page)
        self.close()
        assert [tag for tag, _, _ in self._open] == []

    def handle_starttag(self, tag, attrs):
        element = (tag, dict(attrs), [])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        if self._open:
            self._open[-1][2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str], str]]:
        return [(attrs, "".join(said)) for name, attrs, said in self.elements if name == tag]

    @property
    def sections(self) -> list[str]:
        return [attrs["id"] for attrs, _ in self.all("section")]

    def script(self, name: str) -> str:
        (found,) = (said for attrs, said in self.all("script") if attrs.get("id") == name)
        return found

    @property
    def visible(self) -> str:
        return "\n".join(
            "".join(said) for tag, _, said in self.elements if tag not in ("script", "style")
        )

    @property
    def policy(self) -> str:
        (found,) = (
            attrs["content"]
            for attrs, _ in self.all("meta")
            if attrs.get("http-equiv") == "Content-Security-Policy"
        )
        return found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return Bundle.open(make_bundle(tmp_path_factory.mktemp("html") / "b", random=True))


@pytest.fixture(scope="module")
def rich(bundle):
    return rich_report(bundle)


def packed_report(page: Page):
    return json.loads(gzip.decompress(base64.b64decode(page.script("report"))))


def test_a_report_without_the_optional_parts(bundle):
    report = plain_report(bundle)
    page = Page(html(report))
    assert page.sections == ALWAYS
    assert packed_report(page) == json.loads(to_json(report))
    assert page.script("pictures-data") == "[]"
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_every_optional_part_is_a_section(rich):
    page = Page(html(rich, plain_pictures()))
    assert page.sections == [
        *("warnings", "speed", "latency", "models", "relative", "rivals", *OPTIONAL.values()),
        *("cold", "energy"),
        *("pictures", "remarks", "json"),
    ]
    charts = [attrs["aria-label"] for attrs, _ in page.all("figure") if "aria-label" in attrs]
    assert charts == [f"chart: {name}" for name in ("Latency in ms", "Stages", "Soak")]


@pytest.mark.parametrize("absent", OPTIONAL)
def test_a_part_that_is_not_there_has_no_section(rich, absent):
    page = Page(html(without(rich, absent)))
    assert set(OPTIONAL.values()) - set(page.sections) == {OPTIONAL[absent]}


@pytest.mark.parametrize(("calls", "done"), [(0, 0), (6, 5)])
def test_an_interrupted_run(bundle, calls, done):
    page = Page(html(plain_report(bundle, stop_after=calls)))
    assert page.sections[0] == "warnings"
    assert f"interrupted after {done} of 20 images" in page.visible
    assert ("latency" in page.sections) == (done > 0)


def test_one_warning_stands_above_all_and_the_others_behind_it(bundle, rich):
    assert "warnings" not in Page(html(plain_report(bundle))).sections
    busy = Page(html(plain_report(bundle, elsewhere=CoresElsewhere(1.5, 0.0))))
    assert busy.sections[0] == "warnings"
    assert busy.visible.count("other programs kept 1.50 cores busy") == 1
    assert "summary" not in [tag for tag, _, _ in busy.elements]
    page = Page(html(rich))
    assert "the first warning" in [said.strip() for _, said in page.all("p")]
    assert "1 more" in [said for _, said in page.all("summary")]
    assert "another warning" in [said for _, said in page.all("li")]


@pytest.mark.parametrize("random", [True, False])
def test_random_weights_are_said_at_the_top(bundle, random):
    report = plain_report(bundle)
    source = replace(report.bundle.source, random=random)
    page = Page(html(replace(report, bundle=replace(report.bundle, source=source))))
    lines = [said for _, said in page.all("li")]
    assert ("random weights: valid for speed only" in lines) == random


def test_the_tables_are_those_of_the_text(rich):
    page = Page(html(rich))
    cells = [said for attrs, said in page.all("th") if attrs.get("scope") == "col"]
    assert cells == [column for table in tables(rich) for column in table.header]
    cells = [said for _, said in page.all("td")]
    assert cells == [cell for table in tables(rich) for row in table.rows for cell in row[1:]]
    lines = [said for _, said in page.all("li")]
    assert set(remarks(rich)) <= set(lines)


def test_a_page_without_pictures_is_small(bundle):
    report = rich_report(bundle, images=2000)
    assert len(report.runners) == 7
    assert len(html(report)) < 400_000


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_in_a_report_becomes_markup(rich, hostile):
    clean = Page(html(rich, plain_pictures()))
    report = spread(rich, hostile)
    pictures = [
        Picture(p.name + hostile, p.before, {k + hostile: v for k, v in p.after.items()})
        for p in plain_pictures()
    ]
    source = html(report, pictures)
    source.encode()  # also where a name holds half a character
    page = Page(source)
    assert [tag for tag, _, _ in page.elements] == [tag for tag, _, _ in clean.elements]
    assert page.policy == clean.policy
    assert packed_report(page) == json.loads(to_json(report))
    first = json.loads(page.script("pictures-data"))[0]["name"]
    shown = hostile if hostile.isprintable() else ascii(hostile)[1:-1]
    assert first == f"first.png{shown}"
    assert shown in page.visible
    assert not set(hostile) & set(page.visible) - {c for c in hostile if c.isprintable()} - {"\n"}


def test_the_policy_allows_the_script_of_the_page_and_no_network(rich):
    page = Page(html(rich, plain_pictures()))
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data: blob:"
    assert set(rules) == {
        *("default-src", "script-src", "style-src", "img-src", "base-uri", "form-action")
    }
    run = [said for attrs, said in page.all("script") if "type" not in attrs]
    assert len(run) == 1
    digest = base64.b64encode(hashlib.sha256(run[0].encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"
    for _, attrs, _ in page.elements:
        assert not {"href", "src", "srcset", "action"} & set(attrs)
        assert not [name for name in attrs if name.startswith("on")]
    assert "url(" not in page.all("style")[0][1]
    assert "@import" not in page.all("style")[0][1]


# Charts ---------------------------------------------------------------------------------------


def test_latencies_are_on_one_scale_from_fast_to_slow(rich):
    chart = html_charts.latency(rich)
    rows = sorted(rich.runners, key=lambda row: row.image.statistics.p50)
    assert [strip.label for strip in chart.strips] == [row.label for row in rows]
    assert not chart.scale.logarithmic
    assert chart.scale.low == 0
    for strip, row in zip(chart.strips, rows, strict=True):
        median = 1e3 * row.image.statistics.p50
        assert (
            strip.median
            == chart.scale(median)
            == pytest.approx(100 * median / chart.scale.high, abs=0.01)
        )
        marks = [chart.scale(1e3 * s) for s in row.image.samples_s]
        assert strip.marks == [mark for mark in marks if mark <= 100]
        assert strip.interval == pytest.approx(
            (strip.median * 0.966, strip.median * 1.034), abs=0.02
        )
        assert strip.text.startswith(f"{digits(median)} ms ±3.4%, p99 ")
    assert chart.scale(1e3 * max(row.image.statistics.p99 for row in rows)) == pytest.approx(
        95.24, abs=0.01
    )


def test_medians_far_apart_are_on_a_logarithmic_scale(bundle):
    report = plain_report(bundle)
    fast = replace(report.runners[1], image=Series.of([0.001] * 20))
    chart = html_charts.latency(replace(report, runners=[report.runners[0], fast]))
    assert chart.scale.logarithmic
    assert [strip.label for strip in chart.strips] == ["fast", "eager"]
    assert 0 < chart.strips[0].median < 5
    assert [text for _, text in chart.scale.ticks][:3] == ["1", "2", "5"]


def test_a_long_series_is_drawn_by_its_quantiles(bundle):
    report = plain_report(bundle)
    samples = np.random.default_rng(1).normal(0.1, 0.001, 50_001)
    row = replace(report.runners[1], image=Series.of(samples.tolist()))
    chart = html_charts.latency(replace(report, runners=[row]))
    (strip,) = chart.strips
    marks = np.array(strip.marks) * chart.scale.high / 100e3
    assert MAX_MARKS - 5 < marks.size <= MAX_MARKS
    for share in (0.05, 0.5, 0.95):
        assert np.quantile(marks, share) == pytest.approx(np.quantile(samples, share), rel=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 400, ["0", "100", "200", "300", "400"]),
        (0, 7, ["0", "2", "4", "6"]),
        (93, 107, ["95", "100", "105"]),
        (0, 0.0013, ["0", "0.0005", "0.001"]),
        (-1.1, 1.1, ["-1", "-0.5", "0", "0.5", "1"]),
    ],
)
def test_ticks_are_round(low, high, expected):
    ticks = html_charts.Scale(low, high).ticks
    assert [text for _, text in ticks] == expected
    places = [at for at, _ in ticks]
    assert places == sorted(places)
    assert places[0] >= 0
    assert places[-1] <= 100


def test_stages_have_bars_of_their_shares_and_colours(rich):
    colours = html_charts.stages(rich).colours
    assert list(colours) == [stage.name for stage in rich.runners[0].stages]
    assert len(set(colours.values())) == 7
    page = Page(html(rich))
    bars = [(attrs, said) for attrs, said in page.all("i") if "title" in attrs]
    assert len(bars) == 7 * len(rich.runners)
    for (attrs, said), (name, width) in zip(
        bars, zip(colours, (10, 20, 15, 15, 15, 20, 5), strict=True), strict=False
    ):
        assert attrs["style"].partition(".")[0] == f"width: {width}"
        assert attrs["style"].endswith(colours[name])
        assert attrs["title"] == f"{name}: {width}.0 %, {width} ms"
        assert said == (str(width) if width > 6 else "")


def test_a_runner_has_one_colour_in_all_charts(rich):
    latency = {strip.label: strip.colour for strip in html_charts.latency(rich).strips}
    colours = html_charts.soak(rich).colours
    assert colours == {label: latency[label] for label in ("fast", "small")}


def test_a_soak_is_drawn_over_time(rich):
    chart = html_charts.soak(rich)
    assert [panel.title.split(",")[0] for panel in chart.panels] == [
        *("latency", "memory", "temperature"),
    ]
    latency, memory, _ = chart.panels
    assert [line.dashed for line in latency.lines] == [False, True] * 2
    assert [x for x, _ in latency.lines[0].points] == [10.0 * k for k in range(10)]
    flat, growing = memory.lines
    assert len({y for _, y in flat.points}) == 1
    assert growing.points[-1][1] > growing.points[0][1]
    bare = [dataclasses.replace(w, celsius=None) for w in rich.soak[0].windows]
    chart = html_charts.soak(replace(rich, soak=[replace(rich.soak[0], windows=bare)]))
    assert len(chart.panels) == 2


def test_a_report_without_data_has_no_charts(bundle):
    report = replace(plain_report(bundle), runners=[])
    for chart in (html_charts.latency, html_charts.stages, html_charts.soak):
        assert chart(report) is None


# Pictures and packages ------------------------------------------------------------------------


def test_pictures_are_embedded_as_they_are():
    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 256, (h, h + 2, 3), np.uint8) for h in (5, 20))
    (embedded,) = json.loads(html_report._embedded([Picture("a", before, {"x": after})]))
    assert embedded["size"] == [22, 20]
    for address, pixels in ((embedded["before"], before), (embedded["after"][0][1], after)):
        kind, _, letters = address.partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(letters))) as image:
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_a_picture_of_another_kind_is_refused(wrong):
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\)"):
        html_report._embedded([Picture("a", wrong, {})])


def test_a_missing_package_is_named_with_its_extra(monkeypatch, bundle):
    report = plain_report(bundle)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for call in (import_jinja, lambda: html(report)):
        with pytest.raises(
            MissingDependencyError, match=re.escape("'elir-deploy[report]'")
        ) as info:
            call()
        assert str(info.value).startswith("jinja2 is needed to write an HTML report")


@pytest.mark.parametrize("page", ["#ffffff", "#16191d"])
def test_colours_stand_out_from_light_and_dark_pages(page):
    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    assert page in (html_report._FOLDER / "report.css").read_text("utf-8")
    for colour in html_charts.COLOURS:
        low, high = sorted((luminance(colour), luminance(page)))
        assert (high + 0.05) / (low + 0.05) >= 3
