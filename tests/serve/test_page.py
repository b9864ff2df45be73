"""The service's page, in a browser."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.photo.choices import Choices, open_pictures
from elir_deploy.runtime import Restorer
from tests.bundles import make_bundle
from tests.photo.pictures import face_bundle
from tests.serve.running import Running, running

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium in PATH")

RUNNING = {"backend": "onnxruntime", "precision": "fp32"}
CPU = ("--backend", "onnxruntime", "--precision", "fp32")

#: Gives a file to the page as one that is dropped.
DROP = """([name, text]) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name));
    for (const kind of ["dragover", "drop"])
        document.body.dispatchEvent(
            new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("page") / "half", gain=0.5, stride=8)


@pytest.fixture(scope="module")
def service(bundle: Path) -> Iterator[Running]:
    with running(bundle, *CPU) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def messages() -> list[str]:
    """What the page writes on the console."""
    return []


@pytest.fixture
def page(browser: Any, messages: list[str]) -> Iterator[Any]:
    page = browser.new_page()
    page.set_default_timeout(20_000)
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    yield page
    page.close()


def photograph(path: Path, side: int, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def wait_for_message(page: Any, text: str) -> None:
    page.wait_for_selector(f"#message:has-text('{text}')")


def widths(page: Any) -> list[int]:
    """Of the picture before and of the restored one, as the page shows them."""
    script = """async () => {
        const images = ["before", "after"].map((id) => document.getElementById(id));
        await Promise.all(images.map((image) => image.decode()));
        return images.map((image) => image.naturalWidth);
    }"""
    found: list[int] = page.evaluate(script)
    return found


def downloaded(page: Any) -> tuple[str, NDArray[np.uint8]]:
    with page.expect_download() as download:
        page.click("#download")
    return download.value.suggested_filename, np.asarray(Image.open(download.value.path()))


def answered(service: Running, photo: Path, **choices: Any) -> NDArray[np.uint8]:
    """What the service makes of a photograph without the page."""
    answer = httpx.post(f"{service.url}/restore", params=choices, content=photo.read_bytes())
    return np.asarray(Image.open(io.BytesIO(answer.raise_for_status().content)))


@pytest.mark.parametrize(("width", "scale"), [(1280, 1), (390, 2)])
def test_the_page(
    tmp_path: Path, bundle: Path, page: Any, messages: list[str], width: int, scale: int
) -> None:
    if scale != 1:
        bundle = face_bundle(tmp_path / "half", gain=0.5, stride=8)
    photo = photograph(tmp_path / "photo.png", 300)
    page.set_viewport_size({"width": width, "height": 800})
    with running(bundle, *CPU) as service:
        page.goto(service.url)
        page.set_input_files("#file", photo)
        wait_for_message(page, "restored in")
        if scale != 1:
            page.select_option("#scale", str(scale))
            page.click("#again")
            wait_for_message(page, "restored in")
        page.fill("#slider", "20")
        assert page.evaluate("document.getElementById('view').style.getPropertyValue('--at')") == (
            "20%"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        name, restored = downloaded(page)
        assert name == "photo-restored.png"
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        # A file that is no picture says so, and the page can be used again.
        (tmp_path / "notes.txt").write_text("no picture")
        page.set_input_files("#file", tmp_path / "notes.txt")
        page.wait_for_selector("#message.error")
        assert "not an image" in page.inner_text("#message")
        assert page.is_enabled("#again")
    with ExitStack() as stack:
        opened = open_pictures(Choices.opened(bundle, None, **RUNNING), stack)
        if isinstance(opened, Restorer):
            expected = opened(np.asarray(Image.open(photo)))
        else:
            expected = opened.restore(np.asarray(Image.open(photo)), scale=scale).pixels
    np.testing.assert_array_equal(restored, expected)
    assert [m for m in messages if "400" not in m] == []  # the refusal is logged by the browser


def test_another_photograph_ends_the_one_before(
    tmp_path: Path, service: Running, page: Any, messages: list[str]
) -> None:
    slow = photograph(tmp_path / "slow.png", 2000)  # thousands of tiles
    quick = photograph(tmp_path / "quick.png", 100, seed=1)
    (tmp_path / "notes.txt").write_text("no picture")
    aborted: list[str] = []
    page.on("requestfailed", lambda request: aborted.append(request.failure))
    page.goto(service.url)
    page.set_input_files("#file", slow)
    wait_for_message(page, "restoring slow.png")
    page.set_input_files("#file", tmp_path / "notes.txt")
    wait_for_message(page, "not an image")
    assert aborted == ["net::ERR_ABORTED"]
    assert page.is_hidden("#result")
    page.set_input_files("#file", slow)
    wait_for_message(page, "restoring slow.png")
    page.set_input_files("#file", quick)
    wait_for_message(page, "restored in")
    assert aborted == ["net::ERR_ABORTED"] * 2
    assert widths(page) == [100, 100]
    name, restored = downloaded(page)
    assert name == "quick-restored.png"
    np.testing.assert_array_equal(restored, answered(service, quick))
    assert [m for m in messages if "400" not in m] == []


def test_another_photograph_before_the_models_are_known(
    tmp_path: Path, service: Running, page: Any, messages: list[str]
) -> None:
    held: list[Any] = []
    sent: list[str] = []
    page.route("**/models", lambda route: held.append(route))  # no builtin is taken
    page.on("request", lambda request: sent.append(request.method))
    page.goto(service.url)
    for side in (50, 60):
        page.set_input_files("#file", photograph(tmp_path / f"photo{side}.png", side))
    page.wait_for_timeout(100)
    for route in held:
        route.continue_()
    wait_for_message(page, "restored in")
    assert sent.count("POST") == 1
    assert widths(page) == [60, 60]
    assert downloaded(page)[0] == "photo60-restored.png"
    assert messages == []


def test_a_token_is_given_after_the_photograph(
    tmp_path: Path, bundle: Path, page: Any, messages: list[str]
) -> None:
    photo = photograph(tmp_path / "photo.png", 64)
    with running(bundle, *CPU, ELIR_TOKEN="secret") as service:
        page.goto(service.url)
        wait_for_message(page, "enter the token")
        with page.expect_response("**/models"):
            page.set_input_files("#file", photo)
        wait_for_message(page, "enter the token")
        page.fill("#token", "guess")
        page.press("#token", "Enter")
        wait_for_message(page, "this token is not accepted")
        page.fill("#token", "secret")
        page.press("#token", "Enter")
        wait_for_message(page, "restored in")
        assert widths(page) == [64, 64]
        # Before the photograph, it is taken as well.
        page.reload()
        wait_for_message(page, "enter the token")
        page.fill("#token", "secret")
        page.press("#token", "Enter")
        page.wait_for_selector("#message:not(.error)", state="attached")
        page.set_input_files("#file", photo)
        wait_for_message(page, "restored in")
    assert [m for m in messages if "401" not in m] == []


def test_a_dropped_photograph_and_the_strength(
    tmp_path: Path, service: Running, page: Any, messages: list[str]
) -> None:
    photo = photograph(tmp_path / "photo.png", 64)
    page.goto(service.url)
    page.fill("#strength", "40")
    assert page.inner_text("#percent") == "40 %"
    page.evaluate(DROP, ["dropped.png", base64.b64encode(photo.read_bytes()).decode()])
    wait_for_message(page, "restored in")
    name, weak = downloaded(page)
    assert name == "dropped-restored.png"
    np.testing.assert_array_equal(weak, answered(service, photo, strength=0.4))
    page.fill("#strength", "100")
    page.click("#again")
    wait_for_message(page, "restored in")
    full = downloaded(page)[1]
    np.testing.assert_array_equal(full, answered(service, photo))
    assert (full != weak).any()
    assert messages == []


def test_the_same_file_is_chosen_again(tmp_path: Path, service: Running, page: Any) -> None:
    photo = photograph(tmp_path / "photo.png", 64)
    page.goto(service.url)
    for side in (64, 80):
        photograph(photo, side)
        with page.expect_file_chooser() as chooser:
            page.click("#drop")
        # A browser tells of no change where the input still has this file.
        assert page.input_value("#file") == ""
        chooser.value.set_files(photo)
        wait_for_message(page, "restored in")
        assert widths(page) == [side, side]
