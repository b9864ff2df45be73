"""Operations and bytes of layers, against hand calculations."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from elir_deploy.cost.graphs import bundle_layers, graph_layers, graph_precisions
from elir_deploy.cost.operators import COPIES, ELEMENTWISE, NORMALIZATIONS, PRODUCTS, VIEWS
from elir_deploy.cost.roofline import Layer, Totals, totals
from elir_deploy.errors import BundleError, MissingDependencyError
from elir_deploy.export.shapes import free_shapes
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.onnx_rules import OPERATORS
from tests.bundles import make_bundle, put_graph, read_manifest, write_manifest

FLOAT, HALF, INT8, UINT8 = (
    *(TensorProto.FLOAT, TensorProto.FLOAT16),
    *(TensorProto.INT8, TensorProto.UINT8),
)
NUMPY = {FLOAT: np.float32, HALF: np.float16, INT8: np.int8, UINT8: np.uint8}


def graph(
    nodes: list[Any],
    inputs: dict[str, tuple[Any, ...]],
    output: tuple[Any, ...],
    weights: dict[str, tuple[int, ...]] | None = None,
    *,
    kind: int = FLOAT,
    out_kind: int | None = None,
    kinds: dict[str, int] | None = None,
) -> ModelProto:
    """A model from nodes; the last one's output is the graph's, called ``y``."""
    kinds = kinds or {}
    body = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, kinds.get(n, kind), s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", out_kind or kind, output)],
        [
            numpy_helper.from_array(np.ones(shape, NUMPY[kinds.get(name, kind)]), name)
            for name, shape in (weights or {}).items()
        ],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)])


def node(op: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), [output], name=f"{op}:{output}", **attributes)


def only(model: ModelProto, **options: Any) -> Layer:
    (layer,) = graph_layers(model, **options)
    return layer


def numbers(layer: Layer) -> tuple[int, int, int, int]:
    return layer.macs, layer.other_flops, layer.bytes_read, layer.bytes_written


# One operator ---------------------------------------------------------------------------------


def test_convolution_with_stride_groups_and_dilation() -> None:
    model = graph(
        [node("Conv", "x w b", group=2, strides=[2, 2], dilations=[2, 2], pads=[2, 2, 2, 2])],
        {"x": (1, 8, 16, 16)},
        (1, 12, 8, 8),
        {"w": (12, 4, 3, 3), "b": (12,)},
    )
    count = 12 * 8 * 8  # each sums over 4 of the 8 channels and 3 x 3
    read = 4 * (8 * 16 * 16 + 12 * 4 * 9 + 12)
    assert numbers(only(model)) == (count * 4 * 9, count, read, 4 * count)
    assert only(model).flops == 2 * count * 36 + count
    assert only(model).precision == "fp32"


def test_transposed_convolution() -> None:
    model = graph(
        [node("ConvTranspose", "x w", strides=[2, 2], pads=[1, 1, 1, 1], group=2)],
        {"x": (1, 6, 5, 5)},
        (1, 8, 10, 10),
        {"w": (6, 4, 4, 4)},
    )
    # Each of 150 numbers goes to 4 channels of its group and 4 x 4 pixels.
    assert numbers(only(model)) == (150 * 4 * 16, 0, 4 * (150 + 6 * 4 * 16), 4 * 800)


@pytest.mark.parametrize(
    ("operator", "attributes", "shape", "flops"),
    [
        ("Transpose", {"perm": [0, 2, 3, 1]}, (1, 8, 8, 4), 0),
        ("Sigmoid", {}, (1, 4, 8, 8), 256),
    ],
)
def test_copies_and_element_wise_operators(operator, attributes, shape, flops) -> None:
    model = graph([node(operator, "x", **attributes)], {"x": (1, 4, 8, 8)}, shape)
    assert numbers(only(model)) == (0, flops, 4 * 256, 4 * int(np.prod(shape)))


@pytest.mark.parametrize(("mode", "flops"), [("nearest", 0), ("linear", 8), ("cubic", 32)])
def test_resize(mode: str, flops: int) -> None:
    model = graph(
        [helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode)],
        {"x": (1, 4, 8, 8)},
        (1, 4, 16, 16),
    )
    scales = np.array([1, 1, 2, 2], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scales, "scales"))
    assert numbers(only(model)) == (0, flops * 1024, 4 * (256 + 4), 4 * 1024)


def test_broadcasting_reads_each_operand_as_it_is() -> None:
    model = graph([node("Add", "x w")], {"x": (1, 4, 8, 8)}, (1, 4, 8, 8), {"w": (4, 1, 1)})
    assert numbers(only(model)) == (0, 256, 4 * (256 + 4), 4 * 256)
    model = graph([node("Mul", "x x")], {"x": (1, 4, 8, 8)}, (1, 4, 8, 8))
    assert only(model).bytes_read == 4 * 256


def test_concatenation() -> None:
    inputs = {"x": (1, 4, 8, 8), "z": (1, 2, 8, 8)}
    model = graph([node("Concat", "x z", axis=1)], inputs, (1, 6, 8, 8))
    assert numbers(only(model)) == (0, 0, 4 * 384, 4 * 384)


# Fusion ---------------------------------------------------------------------------------------

CONV = {"x": (1, 4, 8, 8)}
WEIGHT = {"w": (4, 4, 3, 3)}
PAD = [1, 1, 1, 1]


def test_an_activation_joins_its_convolution() -> None:
    nodes = [
        node("Conv", "x w", "c", pads=PAD),
        node("Sigmoid", "c", "s"),
        node("Mul", "c s", "m"),
        node("Add", "m x"),
    ]
    model = graph(nodes, CONV, (1, 4, 8, 8), WEIGHT)
    layer = only(model)
    assert layer.operators == "Conv+Sigmoid+Mul+Add"
    assert layer.name == "Conv:c"
    # The skip is the convolution's own input: read once.
    assert numbers(layer) == (256 * 36, 3 * 256, 4 * (256 + 144), 4 * 256)


def test_what_others_have_read_is_not_changed_any_more() -> None:
    nodes = [
        node("Conv", "x w", "c", pads=PAD),
        node("Transpose", "c", "p", perm=[0, 1, 3, 2]),
        node("Relu", "c", "r"),
        node("Add", "p r"),
    ]
    layers = graph_layers(graph(nodes, CONV, (1, 4, 8, 8), WEIGHT))
    assert [layer.operators for layer in layers] == ["Conv", "Transpose", "Relu+Add"]
    assert [layer.bytes_written for layer in layers] == [1024, 1024, 1024]


def test_a_skip_joins_the_later_convolution_and_reads_the_earlier() -> None:
    nodes = [
        node("Conv", "x w", "a", pads=PAD),
        node("Conv", "x w", "b", pads=PAD),
        node("Add", "a b"),
    ]
    first, second = graph_layers(graph(nodes, CONV, (1, 4, 8, 8), WEIGHT))
    assert (first.name, second.operators) == ("Conv:a", "Conv+Add")
    # The shared weight is read by both.
    assert (first.bytes_read, second.bytes_read) == (4 * 400, 4 * (400 + 256))


def test_a_normalisation_reads_twice_and_reshapes_cost_nothing() -> None:
    nodes = [
        node("Reshape", "x to", "g"),
        node("InstanceNormalization", "g one zero", "n"),
        node("Reshape", "n back", "r"),
        node("Mul", "r scale"),
    ]
    model = graph(nodes, CONV, (1, 4, 8, 8), {"one": (2,), "zero": (2,), "scale": (4, 1, 1)})
    for name, values in (("to", [1, 2, -1]), ("back", [1, 4, 8, 8])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values), name))
    layer = only(model)
    assert layer.operators == "InstanceNormalization+Mul"
    assert numbers(layer) == (0, 8 * 256 + 256, 4 * (2 * 256 + 2 + 2 + 4), 4 * 256)


def test_copies_are_kernels_of_their_own() -> None:
    nodes = [node("Concat", "x x", "c", axis=1), node("Relu", "c")]
    copy, relu = graph_layers(graph(nodes, CONV, (1, 8, 8, 8)))
    assert (copy.operators, relu.operators) == ("Concat", "Relu")


def test_an_input_of_another_size_is_not_joined() -> None:
    nodes = [node("Concat", "x x", "c", axis=1), node("Relu", "x", "r"), node("Mul", "r w")]
    model = graph(nodes, CONV, (2, 4, 8, 8), {"w": (2, 1, 1, 1)})
    layers = graph_layers(model)
    assert [layer.operators for layer in layers] == ["Concat", "Relu", "Mul"]
    assert layers[2].bytes_read == 4 * (256 + 2)


# Types ----------------------------------------------------------------------------------------


def test_float16_halves_the_bytes_and_casts_are_done_on_the_narrow_side() -> None:
    nodes = [
        node("Cast", "x", "h", to=HALF),
        node("Conv", "h w", "c", pads=PAD),
        node("Cast", "c", "f", to=FLOAT),
        node("Tanh", "f"),
    ]
    model = graph(nodes, CONV, (1, 4, 8, 8), WEIGHT, kinds={"w": HALF})
    cast, conv = graph_layers(model)
    assert (cast.bytes_read, cast.bytes_written) == (4 * 256, 2 * 256)
    assert (conv.operators, conv.precision) == ("Conv+Tanh", "fp16")
    assert (conv.bytes_read, conv.bytes_written) == (2 * (256 + 144), 4 * 256)


def test_what_the_graph_gives_is_written_in_its_own_type() -> None:
    nodes = [node("Conv", "x w", "c", pads=PAD), node("Cast", "c", to=FLOAT)]
    layer = only(graph(nodes, CONV, (1, 4, 8, 8), WEIGHT, kind=HALF, out_kind=FLOAT))
    assert layer.operators == "Conv+Cast"
    assert (layer.bytes_read, layer.bytes_written) == (2 * (256 + 144), 4 * 256)


def test_a_quantiser_between_casts() -> None:
    """As INT8 with float16 beside it has them: the pair itself stays float32."""
    nodes = [
        node("Cast", "x", "f", to=FLOAT),
        node("QuantizeLinear", "f s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("Cast", "d", "h", to=HALF),
        node("InstanceNormalization", "h one zero"),
    ]
    weights = {"s": (), "z": (), "one": (4,), "zero": (4,)}
    model = graph(nodes, CONV, (1, 4, 8, 8), weights, kind=HALF, kinds={"z": INT8, "s": FLOAT})
    entry, norm = graph_layers(model)
    assert (entry.operators, entry.bytes_written) == ("QuantizeLinear", 256)
    assert (norm.bytes_read, norm.bytes_written) == (2 * 256 + 2 * 8, 2 * 256)


def quantized() -> ModelProto:
    """Two INT8 convolutions with a nearest Resize of INT8 numbers between them."""
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("DequantizeLinear", "xq s z", "xd"),
        node("DequantizeLinear", "w s z", "wd"),
        node("Conv", "xd wd", "c", pads=PAD),
        node("Relu", "c", "r"),
        node("QuantizeLinear", "r s z", "rq"),
        node("DequantizeLinear", "rq s z", "rd"),
        helper.make_node("Resize", ["rd", "", "scales"], ["u"], name="up", mode="nearest"),
        node("Conv", "u wd", pads=PAD),
    ]
    kinds = {"w": INT8, "z": INT8}
    weights = {"w": (4, 4, 3, 3), "s": (), "z": ()}
    model = graph(nodes, CONV, (1, 4, 16, 16), weights, kinds=kinds)
    scales = np.array([1, 1, 2, 2], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scales, "scales"))
    return model


def test_quantised_graphs_move_bytes_not_floats() -> None:
    entry, first, resize, second = graph_layers(quantized())
    assert (entry.bytes_read, entry.bytes_written) == (4 * 256 + 4 + 1, 256)
    assert (first.operators, first.precision) == ("Conv+Relu+QuantizeLinear", "int8")
    # One byte for each number and weight, and the quantiser's scale and zero point.
    assert numbers(first) == (256 * 36, 2 * 256, 256 + 144 + 4 + 1, 256)
    assert (resize.bytes_read, resize.bytes_written) == (256 + 16, 1024)
    assert second.precision == "int8"
    assert (second.bytes_read, second.bytes_written) == (1024 + 144, 4 * 1024)


# Whole graphs ---------------------------------------------------------------------------------


def test_every_operator_of_an_export_has_a_cost() -> None:
    known = ELEMENTWISE | COPIES | PRODUCTS | NORMALIZATIONS | VIEWS
    of_detectors = {"MaxPool"}  # whose graphs are in a bundle, too, but have no cost
    assert known | of_detectors == {name.decode() for name in OPERATORS}


@pytest.fixture(scope="module")
def tiny() -> dict[str, list[Layer]]:
    bundle = Bundle.open("tiny")
    return {precision: bundle_layers(bundle, precision) for precision in graph_precisions(bundle)}


def test_the_packaged_bundle_in_every_precision(tiny) -> None:
    assert list(tiny) == ["fp32", "fp16", "int8", "w8"]
    macs = {precision: Totals.of(layers).macs for precision, layers in tiny.items()}
    assert len(set(macs.values())) == 1
    moved = {precision: Totals.of(layers).bytes for precision, layers in tiny.items()}
    assert moved["fp16"] == pytest.approx(moved["fp32"] / 2, rel=0.03)
    assert moved["int8"] < moved["fp16"]
    for layers in tiny.values():
        assert list(totals(layers)) == ["encoder", "estimator", "flow", "decoder"]
        assert sum(own.bytes for own in totals(layers).values()) == Totals.of(layers).bytes


def test_a_graph_of_batches_costs_what_one_image_does(tiny, tmp_path: Path) -> None:
    folder = tmp_path / "batches"
    shutil.copytree(Bundle.open("tiny").path, folder)
    manifest = read_manifest(folder)
    manifest["shapes"][0]["batch"] = 4
    write_manifest(folder, manifest)
    for precision, layers in tiny.items():
        model = onnx.load(folder / f"fused.{precision}.onnx")
        put_graph(
            folder, free_shapes(model, batches=True, sizes=False).SerializeToString(), precision
        )
        assert bundle_layers(Bundle.open(folder), precision) == layers


def test_shapes_must_be_fixed() -> None:
    model = graph([node("Relu", "x")], {"x": (1, "height")}, (1, "height"))
    with pytest.raises(BundleError, match=r"shape of tensor '[xy]' is not fixed"):
        graph_layers(model)


def test_operators_must_be_known() -> None:
    model = graph([node("Hardmax", "x")], {"x": (1, 4)}, (1, 4))
    with pytest.raises(BundleError, match="Hardmax:y: the cost of operator Hardmax is unknown"):
        graph_layers(model)


def test_an_inconsistent_graph() -> None:
    model = graph([node("MatMul", "x w")], {"x": (2, 3)}, (2, 5), {"w": (4, 5)})
    with pytest.raises(BundleError, match="the graph is inconsistent: "):
        graph_layers(model)


def test_bundles(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", stages="split", precisions=("fp32", "fp16"))
    bundle = Bundle.open(path)
    assert graph_precisions(bundle) == ["fp32", "fp16"]
    layers = bundle_layers(bundle, "fp32")
    assert list(totals(layers)) == ["encoder", "estimator", "flow", "decoder"]
    assert layers == bundle_layers(bundle, "bf16")  # which the float32 files serve
    with pytest.raises(BundleError, match=r"has no int8 ONNX graph of encoder.*has fp32, fp16"):
        bundle_layers(bundle, "int8")
    file = path / "flow.fp32.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"flow\.fp32\.onnx"):
        bundle_layers(bundle, "fp32")


def test_without_onnx(tmp_path: Path, monkeypatch) -> None:
    bundle = Bundle.open(make_bundle(tmp_path / "b"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"elir-deploy\[export\]"):
        bundle_layers(bundle, "fp32")
