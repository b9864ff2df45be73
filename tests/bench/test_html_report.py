"""The HTML page as text: what is in it, what is not, and that nothing in a report can break out."""

from __future__ import annotations

import base64
import copy
import hashlib
import importlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from elir_deploy.bench import html_charts, html_report
from elir_deploy.bench.html_report import Picture, check_installed, html
from elir_deploy.bench.report import to_json
from elir_deploy.bench.report_text import text
from elir_deploy.errors import MissingDependencyError
from elir_deploy.runtime import Bundle
from tests.bench.rich_report import (
    HOSTILE,
    plain_pictures,
    plain_report,
    rich_report,
    spread,
)
from tests.bundles import make_bundle

VOID = {"meta", "img", "input", "link", "br"}
#: On every page with samples; and what each optional part of a report adds.
ALWAYS = ["speeds", "latency", "time", "details", "quality", "missing", "facts", "json"]
OPTIONAL = ["stages", "steps", "throughput", "soak"]


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


def test_a_report_without_the_optional_parts(bundle):
    report = plain_report(bundle)
    page = Page(html(report))
    assert page.sections == ALWAYS
    assert json.loads(page.script("report")) == report
    assert page.script("pictures-data") == "[]"
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_every_optional_part_is_a_section_with_a_chart(rich):
    page = Page(html(rich, plain_pictures()))
    assert [name for name in page.sections if name not in [*ALWAYS, "warnings"]] == [
        *OPTIONAL,
        "remarks",
        "pictures",
    ]
    drawn = ["latency", "time", "stages", "quality", "steps", "throughput", "soak"]
    assert list(json.loads(page.script("charts"))) == drawn
    assert [a["data-chart"] for a, _ in page.all("div") if "data-chart" in a] == drawn


@pytest.mark.parametrize("absent", OPTIONAL)
def test_a_part_that_is_not_there_has_no_section(rich, absent):
    page = Page(html({**rich, absent: None}))
    assert absent not in page.sections
    assert set(OPTIONAL) - {absent} < set(page.sections)


@pytest.mark.parametrize(("calls", "done"), [(0, 0), (6, 5)])
def test_an_interrupted_run(bundle, calls, done):
    page = Page(html(plain_report(bundle, stop_after=calls)))
    assert page.sections[0] == "warnings"
    assert "This run is not complete" in page.visible
    assert f"interrupted after {done} of 20 images" in page.visible
    assert ("latency" in page.sections) == (done > 0)


def test_warnings_stand_in_the_band_and_only_there(bundle):
    quiet = Page(html(plain_report(bundle)))
    assert "warnings" not in quiet.sections
    loud = Page(html(plain_report(bundle, elsewhere={"other_programs": 1.5, "stolen": 0.0})))
    assert loud.sections[0] == "warnings"
    assert "This run has warnings" in loud.visible
    assert loud.visible.count("other programs kept 1.50 cores busy") == 1


@pytest.mark.parametrize("random", [True, False])
def test_random_weights_are_said_at_the_top(bundle, random):
    report = plain_report(bundle)
    report["model"]["random_weights"] = random
    badges = [said for attrs, said in Page(html(report)).all("p") if attrs.get("class") == "badge"]
    assert badges == (["random weights: speed only"] if random else [])


def test_the_tables_are_those_of_the_text(bundle):
    report = plain_report(bundle)
    page = Page(html(report))
    shown = text(report)
    headings = [said for attrs, said in page.all("th") if attrs.get("scope") == "col"]
    columns = [line.split() for line in shown.splitlines() if line.startswith("runner ")]
    assert " ".join(headings[: headings.index("ms")]).split() in columns
    for cell in ("4.00 [4.00, 4.00]", "identical", "2.500", "400.0"):
        assert cell in shown
        assert cell in [said for _, said in page.all("td")]
    assert ({"scope": "row"}, "onnxruntime-cuda") in page.all("th")
    assert "no driver" in [said for _, said in page.all("td")]


def test_what_runners_have_beside_their_series(rich, bundle):
    page = Page(html(rich))
    cells = [said for _, said in page.all("td")]
    for cell in ("1.25", "1.75", "300", "2.50", "12.5", "12 in f32, 300 in i8", "±3.4%"):
        assert cell in cells
    assert "40 images, 3.20 s, not settled" in cells
    assert "100.0 ms in 60%, else 200.0 ms" in cells
    assert "ab" * 32 in cells
    assert "energy: INA3221, of the whole board" in [said for _, said in page.all("li")]
    columns = [said for attrs, said in page.all("th") if attrs.get("scope") == "col"]
    assert "two speeds" in columns
    plain = Page(html(plain_report(bundle)))
    assert "two speeds" not in plain.visible  # nobody has them


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
    assert json.loads(page.script("report")) == json.loads(to_json(report))
    first = json.loads(page.script("pictures-data"))[0]["name"]
    shown = hostile if hostile.isprintable() else ascii(hostile)[1:-1]
    assert first == f"first.png{shown}"
    assert shown in page.visible
    assert not set(hostile) & set(page.visible) - {c for c in hostile if c.isprintable()} - {"\n"}


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;"),
        ("&lt;", "&amp;lt;"),
        ("a" * 60, "a" * 47 + "…"),
        ("plain", "plain"),
    ],
)
def test_labels_in_charts_are_text(label, shown):
    assert html_charts.plain(label) == shown


def test_the_policy_allows_the_scripts_of_the_page_and_no_network(rich):
    page = Page(html(rich, plain_pictures()))
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data: blob:"
    assert set(rules) == {
        *("default-src", "script-src", "style-src", "img-src", "base-uri", "form-action")
    }
    run = [said for attrs, said in page.all("script") if "type" not in attrs]
    assert len(run) == 1
    plotly = importlib.import_module("plotly.offline").get_plotlyjs()
    hashes = [
        base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        for source in (*run, plotly)
    ]
    assert rules["script-src"].split() == [f"'sha256-{one}'" for one in hashes]
    for _, attrs, _ in page.elements:
        assert not {"href", "src", "srcset", "action"} & set(attrs)
        assert not [name for name in attrs if name.startswith("on")]
    assert "url(" not in page.all("style")[0][1]
    assert "@import" not in page.all("style")[0][1]


def test_figures_are_what_plotly_takes(rich):
    objects = importlib.import_module("plotly.graph_objects")
    figures = json.loads(Page(html(rich)).script("charts"))
    assert len(figures) == 7
    for figure in figures.values():
        objects.Figure(figure)  # refuses what it does not know


def test_charts_show_every_sample(rich):
    figures = json.loads(Page(html(rich)).script("charts"))
    violins = [trace for trace in figures["latency"]["data"] if trace["type"] == "violin"]
    points = [t for t in figures["time"]["data"] if t["mode"] == "markers"]
    assert [t["name"] for t in violins] == [t["name"] for t in points] == ["eager", "fast", "small"]
    for violin, series, row in zip(violins, points, rich["runners"], strict=True):
        samples = row["image"]["samples_s"]
        assert (
            violin["x"] == series["customdata"] == pytest.approx([1e3 * s for s in samples], 1e-5)
        )
        assert series["x"] == pytest.approx(row["started_s"], abs=1e-4)
        assert np.median(series["y"]) == pytest.approx(100, abs=0.1)
        assert violin["line"]["color"] == series["marker"]["color"]
    lines = [t for t in figures["latency"]["data"] if t["type"] == "scatter"]
    assert [t["name"] for t in lines] == ["p50", "p90", "p99"] * 3
    assert lines[1]["x"] == pytest.approx([1e3 * rich["runners"][0]["image"]["p90_s"]] * 2)


def test_a_long_series_keeps_its_extremes(bundle):
    report = plain_report(bundle)
    count = 50_001
    samples = np.random.default_rng(1).normal(0.1, 0.001, count)
    samples[[7, 31_234]] = 0.5, 0.01
    row = report["runners"][1]
    row["image"]["samples_s"] = samples.tolist()
    row["started_s"] = (np.arange(count) / 10).tolist()
    figure = html_charts.over_time(report)
    series = figure["data"][1]
    assert len(series["x"]) <= html_charts.MOST_POINTS
    assert (min(series["customdata"]), max(series["customdata"])) == (10, 500)
    assert series["x"][series["customdata"].index(500)] == 0.7
    drawn = html_charts.latency(report)["data"][4]["x"]
    assert len(drawn) == html_charts.MOST_POINTS
    assert (min(drawn), max(drawn)) == (10, 500)
    for share in (0.05, 0.5, 0.95):
        wanted = 1e3 * np.quantile(samples, share)
        assert np.quantile(drawn, share) == pytest.approx(wanted, rel=1e-4)
    visible = Page(html(report)).visible
    assert "Of more than 1000 samples so many quantiles are drawn" in visible
    assert "Of more than 1000, the fastest and slowest of neighbours" in visible
    assert "Of more than 1000" not in Page(html(plain_report(bundle))).visible


def test_the_legend_names_every_mark_that_is_of_somebody(rich):
    page = Page(html(rich))
    legends = [attrs for attrs, _ in page.all("button") if "aria-controls" in attrs]
    figures = json.loads(page.script("charts"))
    for name in ("time", "stages", "quality", "steps", "throughput", "soak"):
        mine = [attrs for attrs in legends if attrs["aria-controls"] == f"plot-{name}"]
        named = [int(trace) for a in mine for trace in a["data-traces"].split(",")]
        traces = figures[name]["data"]
        assert sorted(named) == [i for i, trace in enumerate(traces) if "legendgroup" in trace]
    keys = html_charts.keys(figures["throughput"])
    assert [(key.name, key.glyph) for key in keys] == [("fast, callers", "●"), ("fast, batch", "■")]
    assert [key.traces for key in keys] == [(0, 2, 3), (1, 4, 5)]
    (label,) = {trace["marker"]["color"] for trace in figures["throughput"]["data"]}
    assert label == keys[0].colour == html_charts.COLOURS[1]  # that of the runner


def test_the_identical_lie_above_everyone_else(rich):
    figure = html_charts.quality(rich)
    fast, small = figure["data"]  # there is nothing to compare the first with
    assert (fast["customdata"], small["customdata"]) == (["identical"], ["41.5 dB"])
    assert fast["y"][0] > small["y"][0] == 41.5
    assert figure["layout"]["shapes"][0]["y0"] == fast["y"][0]
    assert figure["layout"]["annotations"][0]["text"] == "identical"
    ticks = figure["layout"]["yaxis"]["tickvals"]
    assert len(ticks) >= 2
    assert max(ticks) <= 41.5  # the line's height is no number
    page = Page(html(rich))
    assert "eager: the reference itself" in [said for _, said in page.all("li")]


def test_without_any_psnr_the_reasons_remain(bundle):
    report = plain_report(bundle)
    report["runners"][1]["fidelity"] = {**report["runners"][0]["fidelity"], "note": "why"}
    page = Page(html(report))
    assert "quality" not in json.loads(page.script("charts"))
    assert "quality" in page.sections
    assert "fast: why" in [said for _, said in page.all("li")]


def test_when_the_device_throttled(rich):
    during = rich["device"]["sensors"]["during"]
    assert html_charts.throttled(rich) == [(during[15]["at_s"], during[19]["at_s"])]
    figure = html_charts.over_time(rich)
    watched = [trace["name"] for trace in figure["data"][3:]]
    assert watched == ["yardstick, %", "MHz", "°C"]  # no watts there
    held, step = figure["layout"]["shapes"]
    assert (held["x0"], held["x1"]) == (during[15]["at_s"], during[19]["at_s"])
    assert step["x0"] == step["x1"] == rich["runners"][2]["started_s"][20]
    visible = Page(html(rich)).visible
    assert "Red: the device was held back." in visible
    assert "Dotted: where a runner changed its speed" in visible


def test_facts_are_listed_by_name(rich):
    report = copy.deepcopy(rich)
    report["device"]["sensors"]["before"] |= {"only": 1, "neither": None}
    report["device"]["sensors"]["after"] |= {"neither": None}
    report["device"]["held_back"] = ["one thing", "another"]
    report["device"]["memory"]["total_bytes"] = 3 * 2**29
    page = Page(html(report))
    rows: dict[str, list[str]] = {}
    for tag, _, said in page.elements:
        if tag == "th":
            cells = rows.setdefault("".join(said), [])
        elif tag == "td":
            cells.append("".join(said))
    assert rows["mhz"] == ["2100.0", "1800.0"]
    assert rows["only"] == ["1", "-"]
    assert "neither" not in rows
    assert rows["held_back"] == ["one thing; another"]
    assert rows["memory / total"] == ["1.5 GiB"]
    assert rows["random_weights"] == ["yes"]
    assert rows["energy / source"] == ["INA3221"]
    assert rows["tolerance"] == ["-"]
    assert not [name for name in rows if "during" in name]  # drawn instead


def test_pictures_are_embedded_as_they_are():
    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 256, (h, h + 2, 3), np.uint8) for h in (5, 20))
    embedded = html_report._embedded(Picture("a", before, {"x": after}))
    assert embedded["size"] == [22, 20]
    for address, pixels in ((embedded["before"], before), (embedded["after"][0][1], after)):
        kind, _, letters = address.partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(letters))) as image:
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_a_picture_of_another_kind_is_refused(wrong):
    with pytest.raises(ValueError, match=r"wanted uint8 \(H, W, 3\)"):
        html_report._embedded(Picture("a", wrong, {}))


@pytest.mark.parametrize("package", ["jinja2", "plotly"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, bundle, package):
    whole = importlib.import_module

    def partial(name, *rest):
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return whole(name, *rest)

    report = plain_report(bundle)
    html_report._plotly.cache_clear()
    monkeypatch.setattr(html_report.importlib, "import_module", partial)
    for call in (check_installed, lambda: html(report)):
        with pytest.raises(
            MissingDependencyError, match=re.escape("'elir-deploy[report]'")
        ) as info:
            call()
        assert str(info.value).startswith(f"{package} is needed to write an HTML report")


def test_the_packages_are_there():
    check_installed()


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
