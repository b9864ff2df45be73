"""The service in this process: answers, limits, refusals."""

from __future__ import annotations

import gc
import io
import json
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from elir_deploy.errors import DeviceLostError
from elir_deploy.photo.choices import Choices
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.images import read_image, write_image
from elir_deploy.runtime.png_writer import write_png
from elir_deploy.serve.app import Service, _faces_header
from elir_deploy.serve.dispatcher import Overloaded, _Answer
from elir_deploy.serve.limits import Limits, is_loopback
from elir_deploy.serve.models import Model, named_bundles
from tests.bundles import make_bundle

LIMITS = Limits(body_bytes=2**20, pixels=400 * 400, request_s=60, uploads_bytes=2**24)
BASE = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    shapes = [{"batch": 4, "height": 32, "width": 32}]
    make_bundle(folder / "half", gain=0.5, shapes=shapes)
    make_bundle(folder / "any", gain=0.9, stride=8, size=64, slope=0.5)
    make_bundle(folder / "large", upscale=4, kernel="bicubic")
    return folder


def opened(
    bundles: list[str], stack: ExitStack, token: str | None = None, **options: Any
) -> Service:
    models = {
        name: Model(name, Choices(bundle, None, "onnxruntime", "fp32", **options), stack)
        for name, bundle in named_bundles(bundles).items()
    }
    service = Service(models, 8, LIMITS, token)
    stack.callback(service.close)
    return service


@pytest.fixture
def service(bundles: Path) -> Iterator[Service]:
    with ExitStack() as stack:
        names = [str(bundles / "half"), str(bundles / "any")]
        yield opened(names, stack)


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(service.app, base_url=BASE) as client:
        yield client


def picture(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)


def encoded(pixels: Any, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("model", ["half", "any"])
@pytest.mark.parametrize("strength", [1, 0.25])
def test_the_bytes_are_those_of_files(
    client: TestClient, bundles: Path, tmp_path: Path, model: str, strength: float
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    (tmp_path / "in.jpg").write_bytes(encoded(picture(70, 90), "JPEG", exif=exif))
    loaded = read_image(tmp_path / "in.jpg")
    with Restorer(bundles / model, "onnxruntime", precision="fp32") as restorer:
        restored = restorer(loaded.pixels, strength=strength)
    write_image(tmp_path / "out.jpg", restored, metadata=loaded.metadata)
    answer = client.post(
        f"/restore?model={model}&strength={strength}", content=(tmp_path / "in.jpg").read_bytes()
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content == (tmp_path / "out.jpg").read_bytes()


def test_what_a_picture_loses_is_told(client: TestClient) -> None:
    buffer = io.BytesIO()
    write_png(buffer, picture(32, 32).astype(np.uint16) * 257 + 1, {})
    answer = client.post("/restore", content=buffer.getvalue())
    assert answer.status_code == 200, answer.text
    assert "reduced to 8 bits" in answer.headers["elir-warning"]


def test_sixteen_bits_stay_where_the_bundle_has_them(tmp_path: Path) -> None:
    deep = picture(32, 32).astype(np.uint16) * 257 + 1
    with ExitStack() as stack:
        bundle = make_bundle(tmp_path / "floats", io="float32")
        service = opened([str(bundle)], stack)
        client = stack.enter_context(TestClient(service.app, base_url=BASE))
        buffer = io.BytesIO()
        write_png(buffer, deep, {})
        pixels = (deep >> 8).astype(np.uint8)
        for body, bits, expected in (
            (buffer.getvalue(), "", deep),
            (buffer.getvalue(), "?bits=16", deep),
            (buffer.getvalue(), "?bits=8", pixels),
            (encoded(pixels), "?bits=16", pixels * np.uint16(257)),
        ):
            answer = client.post(f"/restore{bits}", content=body)
            assert (answer.status_code, "elir-warning" in answer.headers) == (200, False)
            (tmp_path / "out.png").write_bytes(answer.content)
            result = read_image(tmp_path / "out.png", deep=True).pixels
            np.testing.assert_array_equal(result, expected, strict=True)
        answer = client.post("/restore?bits=16&format=jpg", content=buffer.getvalue())
        assert "bits is 16, and JPEG stores 8" in answer.json()["error"]


def test_results_have_as_many_pixels_as_images_at_most(bundles: Path) -> None:
    with ExitStack() as stack:
        service = opened([str(bundles / "large")], stack)
        client = stack.enter_context(TestClient(service.app, base_url=BASE))
        for side, status in ((100, 200), (101, 400)):
            answer = client.post("/restore", content=encoded(picture(side, side)))
            assert answer.status_code == status, answer.text
        tensor = {"name": "image", "datatype": "UINT8", "shape": [2, 80, 80, 3]}
        binary = {"inputs": [tensor | {"parameters": {"binary_data_size": 38400}}]}
        header = json.dumps(binary).encode()
        answer = client.post(
            "/v2/models/large/infer",
            content=header + bytes(38400),
            headers={"Inference-Header-Content-Length": str(len(header))},
        )
        assert (answer.status_code, "the results have 204800 pixels" in answer.text) == (400, True)


def test_models_run_as_the_options_say(bundles: Path) -> None:
    options = {"seed": 7, "sigma_s": 0.5, "tile_overlap": 2}
    pixels = picture(70, 90)
    with Restorer(bundles / "any", "onnxruntime", precision="fp32", **options) as restorer:
        expected = restorer(pixels)
        wider = restorer.with_options(tile_overlap=16)
        assert (wider(pixels) != expected).any()
    with ExitStack() as stack:
        service = opened([str(bundles / "any")], stack, **options)
        client = stack.enter_context(TestClient(service.app, base_url=BASE))
        answer = client.post("/restore", content=encoded(pixels))
    np.testing.assert_array_equal(Image.open(io.BytesIO(answer.content)), expected)


@pytest.mark.parametrize(
    "options", [{"seed": 7, "sigma_s": 0.5}, {"tile_overlap": 2}, {"fit": "resize", "sigma_s": 0}]
)
def test_requests_choose_how_they_run(bundles: Path, options: dict[str, Any]) -> None:
    started: dict[str, Any] = {"seed": 3, "tile_overlap": 16}
    pixels, any_ = picture(70, 90), bundles / "any"
    with Restorer(any_, "onnxruntime", precision="fp32", **(started | options)) as restorer:
        expected = restorer(pixels)
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 70, 90, 3]}
    body = {"inputs": [tensor | {"data": pixels.tolist()}], "parameters": options}
    with ExitStack() as stack:
        service = opened([str(any_)], stack, **started)
        client = stack.enter_context(TestClient(service.app, base_url=BASE))
        answer = client.post("/restore", params=options, content=encoded(pixels))
        assert answer.status_code == 200, answer.text
        np.testing.assert_array_equal(Image.open(io.BytesIO(answer.content)), expected)
        answer = client.post("/v2/models/any/infer", json=body)
        assert answer.status_code == 200, answer.text
    np.testing.assert_array_equal(np.ravel(expected), answer.json()["outputs"][0]["data"])


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"long_side": 640}, "long_side is an option of the service, not of a request"),
        ({"tile-overlap": 4}, "unknown parameter 'tile-overlap': it is called tile_overlap here"),
        ({"long-side": 640}, "elir-serve as --long-side"),
        ({"precision": "fp32"}, "elir-serve as --precision"),
        ({"x" * 500: 1}, "unknown parameter 'xxx"),
        ({"fit": "crop" * 500}, "fit is 'crop"),
        ({"seed": -5}, "seed of the noise is -5"),
        ({"seed": 2**64}, "seed of the noise is 18446744073709551616"),
        ({"seed": 10**2000}, r"seed is 10{39}\.\.\. \(2001 characters\), expected a number below"),
        ({"seed": 1.5}, "seed is .*1.5.*, expected a whole number"),
        ({"sigma_s": "x"}, "sigma_s is 'x', expected a number"),
        ({"sigma_s": 10**400}, r"sigma_s is 10{39}\.\.\. \(401 characters\)"),
        ({"sigma_s": -2.5}, "sigma_s is -2.5"),
        ({"tile_overlap": 33}, "tile_overlap is 33, expected 0 to 32"),
        ({"strength": -7}, "strength is -7"),
    ],
)
def test_options_that_are_refused(
    client: TestClient, parameters: dict[str, Any], reason: str
) -> None:
    body = {"inputs": [TENSOR | {"data": [1, 2, 3]}], "parameters": parameters}
    for answer in (
        client.post("/restore", params={"model": "any"} | parameters, content=PNG),
        client.post("/v2/models/any/infer", json=body),
    ):
        assert answer.status_code == 400, answer.text
        assert re.search(reason, answer.json()["error"]), answer.text
        assert len(answer.text) < 300
    answer = client.post("/restore?model=half&seed=1", content=PNG)
    assert (answer.status_code, "noise is baked" in answer.text) == (400, True)
    answer = client.post("/restore?seed=1&seed=2", content=PNG)
    assert (answer.status_code, "seed is given more than once" in answer.text) == (400, True)


def test_a_form_is_told_how_to_send_images(client: TestClient) -> None:
    answer = client.post("/restore", files={"file": PNG})
    assert (answer.status_code, "--data-binary" in answer.text) == (415, True)


def test_numbers_that_no_float_holds_are_told_as_sent(client: TestClient) -> None:
    body = '{"inputs": [], "parameters": {"sigma_s": 1e400}}'
    for answer in (
        client.post("/restore?model=any&sigma_s=1e400", content=PNG),
        client.post("/v2/models/any/infer", content=body),
    ):
        assert answer.status_code == 400, answer.text
        assert "1e400" in answer.json()["error"]
    for parameter in ("faces", "format"):
        answer = client.post(f"/restore?{parameter}={'x' * 5000}", content=PNG)
        assert (answer.status_code, len(answer.text) < 300) == (400, True)


def test_v2_in_json_and_binary(client: TestClient, bundles: Path) -> None:
    images = np.stack([picture(32, 32), picture(32, 32)[::-1]])
    with Restorer(bundles / "half", "onnxruntime", precision="fp32") as restorer:
        expected = np.stack([restorer(image) for image in images])
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(images.shape)}
    body = {"id": "7", "inputs": [tensor | {"data": images.tolist()}]}
    answer = client.post("/v2/models/half/infer", json=body)
    assert answer.status_code == 200, answer.text
    message = answer.json()
    assert (message["id"], message["model_name"]) == ("7", "half")
    [output] = message["outputs"]
    np.testing.assert_array_equal(np.reshape(output["data"], output["shape"]), expected)

    binary = {
        "inputs": [tensor | {"parameters": {"binary_data_size": images.nbytes}}],
        "outputs": [{"name": "restored", "parameters": {"binary_data": True}}],
    }
    header = json.dumps(binary).encode()
    answer = client.post(
        "/v2/models/half/versions/1/infer",
        content=header + images.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(header))},
    )
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][0]["shape"] == list(images.shape)
    np.testing.assert_array_equal(
        np.frombuffer(answer.content[length:], np.uint8).reshape(images.shape), expected
    )
    for version in ("", "/versions/1"):
        path = f"/v2/models/half{version}"
        assert client.get(f"{path}/ready").json() == {"name": "half", "ready": True}
        assert client.get(path).json()["inputs"][0]["name"] == "image"


def test_health_models_metrics_and_page(client: TestClient) -> None:
    assert client.post("/restore", content=encoded(picture(32, 32))).status_code == 200
    assert client.get("/health").json() == {"status": "ok"}
    names = [model["name"] for model in client.get("/models").json()["models"]]
    assert names == ["half", "any"]
    text = client.get("/metrics").text
    for line in (
        'elir_stage_seconds_count{model="half",stage="restore"} 1.0',
        'elir_batch_size_count{model="half"} 1.0',
        'elir_requests_total{path="/restore",status="200"} 1.0',
        'elir_queue_length{model="any"} 0.0',
    ):
        assert line in text
    page = client.get("/")
    assert "http" not in page.text.replace("http-equiv", "")  # nothing from elsewhere
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_requests_are_counted_by_routes(service: Service) -> None:
    """Also by a Starlette that does not put the route into the scope."""

    async def without_route(scope: Any, receive: Any, send: Any) -> None:
        async def ask(message: Any = None) -> Any:
            scope.pop("route", None)
            return await receive()

        await service.app(scope, ask, send)

    with TestClient(without_route, base_url=BASE) as client:
        for name in ("half", "odd%22name", "x" * 1000):
            client.post(f"/v2/models/{name}/infer", content=b"{}")
        text = client.get("/metrics").text
    paths = re.findall(r'^elir_requests_total\{path="(.*)",status="(\d+)"\} (\S+)', text, re.M)
    pattern = "/v2/models/{name}/infer"
    assert sorted(paths) == [(pattern, "400", "1.0"), (pattern, "404", "2.0")]


def test_formats_without_their_package(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    Image.init()
    for formats in (Image.OPEN, Image.SAVE):
        monkeypatch.delitem(formats, "AVIF", raising=False)
    heic, avif = (b"\0\0\0\x18ftyp" + brand + bytes(100) for brand in (b"heic", b"avif"))
    for path, body, told in (
        ("/restore", heic, "pillow-heif is needed to read HEIC files"),
        ("/restore", avif, "needed to read AVIF files"),
        ("/restore?format=avif", PNG, "needed to write AVIF files"),
    ):
        answer = client.post(path, content=body)
        assert (answer.status_code, told in answer.json()["error"]) == (415, True), answer.text


def test_a_lost_device_is_told_and_not_healthy(client: TestClient, service: Service) -> None:
    service._failure(DeviceLostError("the GPU fell off the bus"))
    assert client.get("/health").status_code == 503
    answer = client.post("/restore", content=encoded(picture(32, 32)))
    assert (answer.status_code, answer.json()["error"]) == (503, "the GPU fell off the bus")


PNG = encoded(picture(32, 32))


def test_what_takes_too_long_is_abandoned(
    client: TestClient,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endless = _Answer()
    endless.set_running_or_notify_cancel()
    dispatcher = service._dispatchers["half"]
    monkeypatch.setattr(dispatcher, "submit", lambda *arguments: [endless])
    monkeypatch.setattr(service, "_limits", replace(LIMITS, request_s=0.01))
    assert client.post("/restore", content=PNG).status_code == 504
    assert endless.abandoned
    with pytest.raises(Overloaded):
        dispatcher.check(9)
    endless.set_exception(RuntimeError())
    dispatcher.check(9)
    gc.collect()
    assert caplog.text == ""


def bomb() -> bytes:
    """A small PNG of a huge picture."""
    side = 20_000
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0),
        b"IDAT": zlib.compress(bytes(side * (side // 8 + 1)), 1),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


TENSOR: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3]}


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/restore", b"", {}, 400),
        ("/restore", PNG[:100], {}, 400),
        ("/restore", b"GIF89a" + bytes(100), {}, 400),
        ("/restore", encoded(picture(500, 500)), {}, 400),
        ("/restore", bytes(2**20 + 1), {}, 413),
        ("/restore", PNG, {"Content-Encoding": "gzip"}, 415),
        ("/restore", PNG, {"Origin": "http://example.org"}, 403),
        ("/restore", PNG, {"Host": "example.org"}, 421),
        ("/restore", PNG, {"Host": "example.org@127.0.0.1"}, 421),
        ("/restore?model=../../etc/passwd", PNG, {}, 404),
        ("/restore?strength=2", PNG, {}, 400),
        ("/restore?strength=nan", PNG, {}, 400),
        ("/restore?format=exe", PNG, {}, 400),
        ("/restore?format=png&quality=900", PNG, {}, 400),
        ("/restore?faces=all", PNG, {}, 400),
        ("/restore?bits=16", PNG, {}, 400),
        ("/restore?bits=10", PNG, {}, 400),
        ("/restore?sizes=1", PNG, {}, 400),
        ("/restore", bomb(), {}, 400),
        ("/v2/models/none/infer", b"{}", {}, 404),
        ("/v2/models/..%2F..%2Fetc%2Fpasswd/infer", b"{}", {}, 404),
        ("/v2/models/../../restore/infer", b"{}", {}, 404),
        ("/v2/models/%00half/infer", b"{}", {}, 404),
        ("/v2/models/half%2Finfer%3F/infer", b"{}", {}, 404),
        (f"/v2/models/{'x' * 5000}/infer", b"{}", {}, 404),
        ("/v2/models/half/infer", b"{}", {}, 400),
        ("/v2/models/half/infer", b"[" * 100_000, {}, 400),
        ("/v2/models/half/infer", b"{}", {"Inference-Header-Content-Length": "9"}, 400),
        ("/v2/models/half/infer", b"{}", {"Inference-Header-Content-Length": "-1"}, 400),
    ],
)
def test_refusals(
    client: TestClient, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = client.post(path, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]
    assert client.post("/restore", content=PNG).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"datatype": "FP32"},
        {"name": "x"},
        {"shape": [1, 1, 3]},
        {"shape": [1, 0, 1, 3]},
        {"shape": [2**30, 2**30, 2**30, 3]},
        {"shape": [65, 1, 1, 3], "data": [0] * 195},
        {"shape": [1, 401, 400, 3]},
        {"name": "x" * 10**5},
        {"shape": ["1", 1, 1, 3]},
        {"shape": 7},
        {"data": [1, 2]},
        {"data": [1, 2, 256]},
        {"data": [1, 2, 0.5]},
        {"data": [[[[[[1]]]]], 2, 3]},
        {"data": "abc"},
        {"parameters": {"binary_data_size": 3}},
        {"parameters": []},
    ],
)
def test_tensors_that_are_refused(client: TestClient, change: dict[str, Any]) -> None:
    body = {"inputs": [TENSOR | {"data": [1, 2, 3]} | change]}
    answer = client.post("/v2/models/any/infer", json=body)
    assert answer.status_code == 400, answer.text
    assert len(answer.text) < 300


@pytest.mark.parametrize("strength", [10**400, -(10**400), 1.5, True, "1", None])
def test_strengths_that_are_refused(client: TestClient, strength: Any) -> None:
    body = {"inputs": [TENSOR | {"data": [1, 2, 3]}], "parameters": {"strength": strength}}
    answer = client.post("/v2/models/any/infer", json=body)
    assert answer.status_code == 400, answer.text


def test_a_header_s_number_of_many_digits(client: TestClient) -> None:
    headers = {"Inference-Header-Content-Length": "1" * 5000}
    assert client.post("/v2/models/any/infer", content=b"{}", headers=headers).status_code == 400


def test_faces_in_a_header_are_json() -> None:
    face = {"box": [1.5, 2.5, 3.5, 4.5], "score": 0.9, "reason": "too small: é"}
    assert json.loads(_faces_header([face] * 2)) == [face] * 2
    many = json.loads(_faces_header([face] * 500))
    assert 10 < len(many) < 500


def test_the_token(bundles: Path) -> None:
    with ExitStack() as stack:
        service = opened([str(bundles / "half")], stack, "secret")
        client = stack.enter_context(TestClient(service.app, base_url="http://photos.example"))
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "secret"}):
            assert client.post("/restore", content=PNG, headers=headers).status_code == 401
            assert client.get("/metrics", headers=headers).status_code == 401
        for scheme in ("Bearer", "bearer"):
            right = {"Authorization": f"{scheme} secret"}
            assert client.post("/restore", content=PNG, headers=right).status_code == 200
        assert client.get("/health").status_code == 200


def test_loopback() -> None:
    assert [is_loopback(h) for h in ("localhost", "127.0.0.2", "::1")] == [True] * 3
    assert [is_loopback(h) for h in ("0.0.0.0", "::", "10.0.0.1", "host")] == [False] * 4
