"""The HTML page in a real browser: it draws, it moves, it fits, and it asks nothing of anybody."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from elir_deploy.bench import html_charts
from elir_deploy.bench.html_report import Picture, html
from elir_deploy.runtime import Bundle
from tests.bench.rich_report import HOSTILE, plain_pictures, renamed, rich_report, spread
from tests.bundles import make_bundle

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: pip install --group dev"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome in PATH"
)
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SAMPLES = 30


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    folder = tmp_path_factory.mktemp("html") / "b"
    return rich_report(Bundle.open(make_bundle(folder, random=True)), SAMPLES)


@pytest.fixture(scope="module")
def file(rich, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html(rich, plain_pictures()), "utf-8")
    return path


@contextmanager
def opened(browser, file, *, width=1280, script="", **options) -> Iterator:
    """The page with its charts; ``said`` is what it complained of, ``asked`` what it wanted."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    context.set_offline(True)
    if script:
        context.add_init_script(script)
    page = context.new_page()
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_function("document.documentElement.dataset.charts")
    try:
        yield page
    finally:
        context.close()


def is_quiet(page) -> bool:
    """Nothing went wrong in it, and it wanted nothing but itself."""
    assert page.said == []
    assert [url for url in page.asked if not url.startswith(("data:", "blob:"))] == [page.url]
    return True


@pytest.fixture(scope="module")
def loaded(browser, file):
    with opened(browser, file, accept_downloads=True) as page:
        yield page


@pytest.fixture
def desktop(loaded):
    """One page for many tests, since loading it takes longer than any; as it was when loaded."""
    loaded.emulate_media(media="screen", color_scheme="light")
    loaded.evaluate(
        """() => {
            const set = (id, field, value, event) => {
                document.getElementById(id)[field] = value;
                document.getElementById(id).dispatchEvent(new Event(event));
            };
            set("picture", "selectedIndex", 0, "change");
            set("left", "selectedIndex", 0, "change");
            set("right", "selectedIndex", 1, "change");
            set("cut", "value", 50, "input");
        }"""
    )
    yield loaded
    assert is_quiet(loaded)


def pixels(locator) -> np.ndarray:
    with Image.open(io.BytesIO(locator.screenshot())) as image:
        return np.asarray(image.convert("RGB"))


def colour_at(locator, share) -> tuple[int, ...]:
    """Of the pixel in the middle row, so far from the left."""
    shot = pixels(locator)
    return tuple(int(c) for c in shot[shot.shape[0] // 2, int(share * (shot.shape[1] - 1))])


def marks(page, chart, selector) -> list[int]:
    """How many marks each trace of a chart has that lie inside the chart and can be seen."""
    return page.eval_on_selector_all(
        f"#plot-{chart} {selector}",
        """(traces) => traces.map((trace) => {
            const chart = trace.closest(".plot").getBoundingClientRect();
            return [...trace.querySelectorAll("path.point, .point > path")].filter((mark) => {
                const box = mark.getBoundingClientRect();
                return box.width > 0 && box.height > 0 && box.left >= chart.left - 1
                    && box.right <= chart.right + 1 && box.top >= chart.top - 1
                    && box.bottom <= chart.bottom + 1;
            }).length;
        })""",
    )


def test_the_charts_have_a_mark_for_everything(desktop, rich):
    assert desktop.evaluate("document.documentElement.dataset.charts") == "drawn"
    rows = rich["runners"]
    assert marks(desktop, "latency", ".violins") == [SAMPLES] * len(rows)
    assert desktop.locator("#plot-latency path.violin").count() == len(rows)
    assert desktop.locator("#plot-latency .scatterlayer .trace path.js-line").count() == 3 * len(
        rows
    )
    time = marks(desktop, "time", ".scatterlayer .trace")
    assert time[: len(rows)] == [SAMPLES] * len(rows)
    assert len(time) == len(rows) + 3  # yardstick, clock and temperature
    assert marks(desktop, "stages", ".barlayer .trace") == [len(rows)] * 7
    assert marks(desktop, "quality", ".scatterlayer .trace") == [1, 1]
    assert marks(desktop, "steps", ".scatterlayer .trace") == [4, 4, 4, 3, 4, 3]
    assert marks(desktop, "throughput", ".scatterlayer .trace") == [4] * 6
    assert marks(desktop, "soak", ".scatterlayer .trace") == [10] * 4


def test_bars_are_as_long_as_the_shares_and_follow_each_other(desktop, rich):
    ends = desktop.eval_on_selector_all(
        "#plot-stages .barlayer .trace",
        """all => all.map((e) => {
            const box = e.querySelector(".point path").getBoundingClientRect();
            return [box.left, box.right];
        })""",
    )
    begin, width = ends[0][0], ends[-1][1] - ends[0][0]
    shares = [part["share"] for part in rich["stages"][0]["parts"]]
    assert [(right - begin) / width for _, right in ends] == pytest.approx(
        np.cumsum(shares), abs=0.01
    )
    assert [left for left, _ in ends[1:]] == pytest.approx([right for _, right in ends[:-1]], abs=1)


def test_the_legend_and_the_axes_say_what_they_are(desktop, rich):
    labels = [row["label"] for row in rich["runners"]]
    assert key_names(desktop, "time") == labels
    parts = ["encoder", "estimator", "step 1", "step 2", "step 3", "decoder", "runtime"]
    assert key_names(desktop, "stages") == parts
    notes = desktop.locator("#plot-latency .annotation-text").all_text_contents()
    assert notes == labels
    percentiles = desktop.locator("#plot-latency .textpoint text").all_text_contents()
    p50 = 1e3 * rich["runners"][0]["image"]["p50_s"]
    assert f"p50 {p50:.4g}" in [text.strip() for text in percentiles]
    titles = desktop.locator("#plot-soak [class^=g-y] text").all_text_contents()
    assert titles == ["latency, %", "memory, MiB", "°C"]


def key_names(page, chart) -> list[str]:
    """Names in a legend, without the symbols before them."""
    texts = page.locator(f"#{chart} .keys button").all_text_contents()
    assert all(text[1] == " " for text in texts)
    return [text[2:] for text in texts]


def test_a_key_hides_and_shows_what_it_stands_for(desktop):
    key = desktop.locator("#throughput .keys button").nth(1)
    for pressed, count in (("false", 3), ("true", 6)):
        key.click()  # waits until it is enabled
        assert key.get_attribute("aria-pressed") == pressed
        assert marks(desktop, "throughput", ".scatterlayer .trace") == [4] * count


RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def test_the_slider_by_keyboard(desktop):
    frame = desktop.locator("#frame")

    def clip():
        return desktop.locator("#before").evaluate("e => getComputedStyle(e).clipPath")

    assert (colour_at(frame, 0.48), colour_at(frame, 0.52)) == (RED, GREEN)
    desktop.locator("#cut").focus()
    desktop.keyboard.press("Home")
    assert (colour_at(frame, 0.02), colour_at(frame, 0.98)) == (GREEN, GREEN)
    assert clip() == "inset(0px 100% 0px 0px)"
    desktop.keyboard.press("End")
    assert (colour_at(frame, 0.02), colour_at(frame, 0.98)) == (RED, RED)
    for _ in range(40):
        desktop.keyboard.press("ArrowLeft")
    assert (colour_at(frame, 0.78), colour_at(frame, 0.82)) == (RED, GREEN)
    assert clip() == "inset(0px 20% 0px 0px)"


def test_the_slider_by_mouse(desktop):
    frame, cut = desktop.locator("#frame"), desktop.locator("#cut")
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    desktop.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 20)
    assert cut.input_value() == "50"  # moving alone does nothing
    desktop.mouse.down()
    desktop.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 20)
    desktop.mouse.up()
    desktop.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 20)
    assert float(cut.input_value()) == pytest.approx(25, abs=0.5)
    assert (colour_at(frame, 0.23), colour_at(frame, 0.27)) == (RED, GREEN)


def test_the_selects_change_the_picture(desktop):
    frame, captions = desktop.locator("#frame"), desktop.locator("figcaption span")
    desktop.select_option("#right", label="fast")
    assert (colour_at(frame, 0.4), colour_at(frame, 0.6)) == (RED, BLUE)
    desktop.select_option("#left", label="float32 PyTorch (reference)")
    assert (colour_at(frame, 0.4), colour_at(frame, 0.6)) == (GREEN, BLUE)
    assert captions.all_text_contents() == ["float32 PyTorch (reference)", "fast"]
    desktop.select_option("#picture", label="second.png")
    # There is no reference for this one, so the input takes its place; `fast` stays.
    assert (colour_at(frame, 0.4), colour_at(frame, 0.6)) == ((90, 90, 0), (0, 90, 90))
    assert captions.all_text_contents() == ["input", "fast"]
    box = frame.bounding_box()
    assert box["width"] == box["height"] > 300


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, rich, tmp_path):
    report = copy.deepcopy(rich)
    report["unavailable"][0]["reason"] = "x" * 300
    report["device"]["machine"] = "y" * 300
    report = renamed(report, {"eager": "z" * 300})
    file = tmp_path / "phone.html"
    file.write_text(html(report, plain_pictures()), "utf-8")
    with opened(browser, file, width=390, has_touch=True, is_mobile=True) as page:
        page.eval_on_selector_all("details", "all => all.forEach((one) => (one.open = true))")
        assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
        boxes = page.eval_on_selector_all(
            ".scroll", "all => all.map((e) => [e.scrollWidth, e.clientWidth])"
        )
        assert any(content > room for content, room in boxes)  # tables do scroll, in their boxes
        charts = page.eval_on_selector_all(
            ".plot", "all => all.map((e) => [e.clientWidth, e.querySelector('svg').clientWidth])"
        )
        assert len(charts) == 7
        assert all(250 < drawn <= room <= 390 for room, drawn in charts)
        panels = page.eval_on_selector_all(
            ".plot rect.nsewdrag", "all => all.map((e) => e.getBoundingClientRect().width)"
        )
        assert len(panels) >= len(charts)
        assert min(panels) > 200  # labels leave room to draw in

        frame = page.locator("#frame")
        frame.scroll_into_view_if_needed()
        box = frame.bounding_box()
        page.touchscreen.tap(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2)
        assert float(page.locator("#cut").input_value()) == pytest.approx(80, abs=1)
        assert (colour_at(frame, 0.77), colour_at(frame, 0.83)) == (RED, GREEN)
        assert is_quiet(page)


def luminance(colour: str) -> float:
    """Of a colour as the browser computes it, ``rgb(r, g, b)``."""
    parts = np.array([float(c) for c in colour[colour.index("(") + 1 : -1].split(",")[:3]]) / 255
    linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


TEXTS = [
    *("body", "h2", ".plain li", "thead th", "td", "summary", "#download", ".kind", ".badge"),
    *("#plot-latency .xtick text", "#plot-latency .annotation-text"),
    *("#plot-latency .textpoint text", ".keys button", "#plot-soak [class^=g-y] text"),
    *(".alarm h2", ".alarm li", "figcaption", "select"),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_light_and_dark(desktop, scheme):
    desktop.emulate_media(color_scheme=scheme)
    corner = pixels(desktop)[5, 5]
    assert corner.max() < 60 if scheme == "dark" else corner.min() > 240
    for text in TEXTS:
        ink, behind = desktop.locator(text).first.evaluate(
            """(e) => {
                const style = getComputedStyle(e);
                let at = e;
                while (at && /, 0\\)|transparent/.test(getComputedStyle(at).backgroundColor))
                    at = at.parentElement;
                return [e.closest("svg") ? style.fill : style.color,
                        getComputedStyle(at ?? document.body).backgroundColor];
            }"""
        )
        low, high = sorted((luminance(ink), luminance(behind)))
        assert (high + 0.05) / (low + 0.05) > 4.5, (text, ink, behind)


def test_hostile_text_is_shown_as_it_is(browser, rich, tmp_path):
    names = dict(zip(("eager", "fast", "small"), HOSTILE[3:6], strict=True))
    hostile = "".join(HOSTILE)
    report = spread(renamed(rich, names), hostile)
    pictures = [Picture(hostile, p.before, {hostile: p.before}) for p in plain_pictures()]
    file = tmp_path / "hostile.html"
    file.write_text(html(report, pictures), "utf-8")
    with opened(browser, file) as page:
        assert page.title().startswith("elir-bench: tiny")
        assert page.evaluate("document.documentElement.dataset.charts") == "drawn"
        assert page.locator("a:not(.modebar-btn), b, i, main img:not(#before, #after)").count() == 0
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in hostile)
        wanted = [f"{name}{shown}"[:47] + "…" for name in names.values()]
        assert key_names(page, "time") == [f"{name}{shown}" for name in names.values()]
        assert page.locator("#plot-latency .annotation-text").all_text_contents() == wanted
        assert page.locator("#picture option").first.text_content() == shown
        assert page.locator("#speeds tbody th").first.text_content() == f"{HOSTILE[3]}{shown}"
        assert is_quiet(page)


def test_a_page_that_was_tampered_with_runs_nothing_and_fetches_nothing(browser, file, tmp_path):
    tampered = tmp_path / "tampered.html"
    added = """<script>window.ran = true</script>
        <img src="https://example.org/a.png" onerror="window.ran = true">
        <link rel="stylesheet" href="https://example.org/a.css"></body>"""
    source = file.read_text("utf-8")
    tampered.write_text(source.replace("</body>", added), "utf-8")
    watch = """window.refused = [];
        document.addEventListener("securitypolicyviolation",
            (event) => refused.push(event.effectiveDirective));"""
    with opened(browser, tampered, script=watch) as page:
        page.evaluate("fetch('https://example.org/').catch(() => 0)")
        assert page.evaluate("window.ran") is None
        assert page.evaluate("document.documentElement.dataset.charts") == "drawn"
        wanted = {"script-src-elem", "img-src", "style-src-elem", "connect-src", "script-src-attr"}
        assert set(page.evaluate("refused")) == wanted
    # The charts' own library is held to its hash as well: this one has a letter in it changed.
    start = source.index('id="plotly">') + 1000
    letter = "A" if source[start] != "A" else "B"
    tampered.write_text(source[:start] + letter + source[start + 1 :], "utf-8")
    with opened(browser, tampered) as page:
        assert page.evaluate("document.documentElement.dataset.charts") == "failed"


def test_the_json_can_be_downloaded(desktop, rich):
    with desktop.expect_download() as download:
        desktop.locator("#download").click()
    assert download.value.suggested_filename == "elir-bench.json"
    assert json.loads(download.value.path().read_text("utf-8")) == rich


def test_on_paper(desktop):
    desktop.emulate_media(media="print", color_scheme="dark")
    paper = desktop.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    assert not desktop.locator(".choices").is_visible()
    desktop.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert desktop.locator("details:not([open])").count() == 0
    widths = desktop.eval_on_selector_all(".plot .main-svg", "all => all.map((e) => e.clientWidth)")
    assert set(widths) == {680}
    desktop.evaluate("dispatchEvent(new Event('afterprint'))")
    assert desktop.locator("details[open]").count() == 0
    assert desktop.locator("#plot-time .main-svg").first.evaluate("e => e.clientWidth") > 680


def test_a_browser_that_cannot_unpack_says_so(browser, file):
    with opened(browser, file, script="delete window.DecompressionStream") as page:
        assert page.evaluate("document.documentElement.dataset.charts") == "failed"
        assert "cannot draw the chart" in page.locator("#plot-latency").text_content()
        assert page.locator("#speeds td").count() > 0
        assert page.locator(".keys button:disabled").count() > 0
        use_keys_and_print(page)
        assert is_quiet(page)


def test_a_chart_that_cannot_be_drawn_leaves_the_others_alone(browser, file, tmp_path):
    source = file.read_text("utf-8")
    start = source.index('id="charts">') + len('id="charts">')
    end = source.index("</script>", start)
    charts = json.loads(source[start:end])
    del charts["time"]
    damaged = tmp_path / "damaged.html"
    damaged.write_text(source[:start] + json.dumps(charts) + source[end:], "utf-8")
    with opened(browser, damaged) as page:
        assert page.evaluate("document.documentElement.dataset.charts") == "failed"
        assert "cannot draw the chart" in page.locator("#plot-time").text_content()
        use_keys_and_print(page)
        assert page.locator("#time .keys button:enabled").count() == 0
        for name in charts:
            assert page.locator(f"#plot-{name} .main-svg").count() > 0
            assert page.locator(f"#{name} .keys button:disabled").count() == 0
        key = page.locator(".keys button:enabled").first
        key.click()
        assert key.get_attribute("aria-pressed") == "false"
        assert is_quiet(page)


def test_keys_wait_for_their_charts(browser, file):
    never = """window.DecompressionStream = class {
            constructor() {
                document.documentElement.dataset.charts = "waiting";
                return new TransformStream({ transform: () => new Promise(() => {}) });
            }
        };"""
    with opened(browser, file, script=never) as page:
        use_keys_and_print(page)
        assert page.evaluate("document.documentElement.dataset.charts") == "waiting"
        assert is_quiet(page)


def use_keys_and_print(page) -> None:
    """What must do nothing where there are no charts."""
    assert page.locator("#time .keys button").count() > 1
    # As a finger would: the browser holds back the click on what is disabled.
    page.locator("#time .keys button").first.click(force=True)
    assert page.locator(".keys button:not([aria-pressed=true])").count() == 0
    for event in ("beforeprint", "afterprint"):
        page.evaluate(f"dispatchEvent(new Event('{event}'))")


def test_a_chart_can_be_saved_as_an_image_and_sent_nowhere(desktop):
    chart = desktop.locator("#plot-quality")
    chart.scroll_into_view_if_needed()
    chart.hover()
    titles = [b.get_attribute("data-title") for b in chart.locator(".modebar-btn").all()]
    assert titles == ["Save as an image", "Zoom", "Pan", "Reset axes"]
    with desktop.expect_download() as download:
        chart.locator(".modebar-btn").first.click()
    assert download.value.suggested_filename == "quality.png"
    with Image.open(download.value.path()) as image:
        assert image.width == 2000
        # As numbers, since 1.6 million tuples take seconds.
        packed = (np.asarray(image.convert("RGBA")).view(">u4") >> 8)[..., 0]
    assert packed[0, 0] == 0xFFFFFF
    for colour in html_charts.COLOURS[1:3]:
        rows = np.unique(np.nonzero(packed == int(colour[1:], 16))[0])
        assert np.count_nonzero(np.diff(rows) > 10) == 1  # in the legend and in the chart
