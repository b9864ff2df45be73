"""The HTML page in a real browser: its charts can be read, it fits, and it fetches nothing."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from elir_deploy.bench.html_report import Picture, html
from elir_deploy.bench.report_file import to_json
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
    """The page; ``messages`` is what it complained of, ``requests`` what it fetched."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    context.set_offline(True)
    if script:
        context.add_init_script(script)
    page = context.new_page()
    page.messages, page.requests = [], []
    page.on("console", lambda message: page.messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.messages.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(file.as_uri())
    try:
        yield page
    finally:
        context.close()


def is_quiet(page) -> bool:
    """Nothing went wrong in it, and it wanted nothing but itself."""
    assert page.messages == []
    assert [url for url in page.requests if not url.startswith(("data:", "blob:"))] == [page.url]
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


#: Texts of the charts that lie on a line.
TEXTS_OVERLAP = """() => {
    const texts = [...document.querySelectorAll(
        ".name, .axis span, .ticks span, .note, .legend > span")];
    const boxes = texts.flatMap((text) => [...text.getClientRects()].map((box) => [text, box]));
    const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1
        || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
    return boxes.flatMap(([one, a], at) => boxes.slice(at + 1)
        .filter(([other, b]) => one !== other && !apart(a, b))
        .map(([other]) => `${one.textContent} / ${other.textContent}`));
}"""
#: Marks that lie outside of their chart.
MARKS_OUTSIDE = """() => [...document.querySelectorAll(".chart i")].filter((mark) => {
    const chart = mark.closest(".chart").getBoundingClientRect();
    const box = mark.getBoundingClientRect();
    return box.left < chart.left - 8 || box.right > chart.right + 8;
}).length"""


@pytest.mark.parametrize("width", [1280, 390])
def test_no_label_lies_on_another_and_no_mark_outside(browser, file, width):
    with opened(browser, file, width=width) as page:
        assert page.locator(".chart").count() == 3
        assert page.locator(".chart .axis span").count() > 10
        assert page.evaluate(TEXTS_OVERLAP) == []
        assert page.evaluate(MARKS_OUTSIDE) == 0


def test_seven_runners_fit_on_a_screen(desktop, rich):
    assert len(rich.runners) == 7
    assert desktop.locator("#latency .chart").bounding_box()["height"] < 500


def test_labels_of_axes_at_the_edge_are_on_one_line(desktop):
    """One that begins just before the edge would be wrapped after every digit."""
    heights = desktop.evaluate(
        """() => [...document.querySelectorAll('.axis span')].map(span => {
            const copy = span.parentNode.appendChild(span.cloneNode())
            copy.style.left = '99.9%'
            copy.textContent = '1 500'
            const height = copy.offsetHeight
            copy.remove()
            return height
        })"""
    )
    assert heights
    assert max(heights) < 20


def test_latencies_are_drawn_where_they_are_on_the_axis(desktop, rich):
    left, right = desktop.eval_on_selector(
        "#latency .axis", "(e) => [e.getBoundingClientRect().left, e.getBoundingClientRect().right]"
    )
    ticks = desktop.eval_on_selector_all(
        "#latency .axis span",
        """all => all.map((e) => {
            const box = e.getBoundingClientRect();
            return [Number(e.textContent), (box.left + box.right) / 2];
        })""",
    )[1:]  # the 0 stands to the right of its place
    per_ms = (ticks[-1][1] - left) / ticks[-1][0]
    medians = desktop.eval_on_selector_all(
        "#latency .median", "all => all.map((e) => e.getBoundingClientRect().left + 1)"
    )
    expected = sorted(1e3 * row.image.statistics.p50 for row in rich.runners)
    assert [(at - left) / per_ms for at in medians] == pytest.approx(expected, rel=0.02)
    assert max(medians) < right


def test_bars_are_as_long_as_the_shares_and_follow_each_other(desktop, rich):
    ends = desktop.locator(".stack").first.evaluate(
        """(bar) => [...bar.children].map((e) => {
            const box = e.getBoundingClientRect();
            return [box.left, box.right];
        })"""
    )
    begin, width = ends[0][0], ends[-1][1] - ends[0][0]
    shares = [stage.share.value for stage in rich.runners[0].stages]
    assert [(right - begin) / width for _, right in ends] == pytest.approx(
        np.cumsum(shares), abs=0.01
    )
    assert [left for left, _ in ends[1:]] == pytest.approx([right for _, right in ends[:-1]], abs=1)


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
    names = {"eager": "z" * 300, "no driver": "x" * 300}
    report = renamed(rich, names)
    file = tmp_path / "phone.html"
    file.write_text(html(report, plain_pictures()), "utf-8")
    with opened(browser, file, width=390, has_touch=True, is_mobile=True) as page:
        page.eval_on_selector_all("details", "all => all.forEach((one) => (one.open = true))")
        assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
        boxes = page.eval_on_selector_all(
            ".scroll", "all => all.map((e) => [e.scrollWidth, e.clientWidth])"
        )
        assert any(content > room for content, room in boxes)  # tables do scroll, in their boxes
        plots = page.eval_on_selector_all(
            ".strip, .stack, .plot", "all => all.map((e) => e.clientWidth)"
        )
        assert min(plots) > 250  # labels leave room to draw in

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
    *("body", "h2", ".plain li", "thead th", "td", "#download", ".kind", "summary"),
    *(".axis span", ".ticks span", ".name b", ".name span", ".note", ".legend > span"),
    *(".alarm strong", ".alarm p", "figcaption", "select"),
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
                return [style.color,
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
        assert page.locator("a, main img:not(#before, #after)").count() == 0
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in hostile)
        assert page.locator(".stack").count() == len(rich.runners)
        assert f"{HOSTILE[3]}{shown}" in page.locator("#stages .name b").all_text_contents()
        assert page.locator("#picture option").first.text_content() == shown
        assert page.locator("#speed tbody th").first.text_content() == f"{HOSTILE[3]}{shown}"
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
        wanted = {"script-src-elem", "img-src", "style-src-elem", "connect-src", "script-src-attr"}
        assert set(page.evaluate("refused")) == wanted


def test_the_json_can_be_downloaded(desktop, rich):
    with desktop.expect_download() as download:
        desktop.locator("#download").click()
    assert download.value.suggested_filename == "elir-bench.json"
    assert json.loads(download.value.path().read_text("utf-8")) == json.loads(to_json(rich))


def test_on_paper(desktop):
    desktop.emulate_media(media="print", color_scheme="dark")
    paper = desktop.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    assert not desktop.locator(".choices").is_visible()
    desktop.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert desktop.locator("details:not([open])").count() == 0
    desktop.evaluate("dispatchEvent(new Event('afterprint'))")
    assert desktop.locator("details[open]").count() == 0
