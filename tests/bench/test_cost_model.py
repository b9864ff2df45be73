"""What layers cost, against hand calculations, and the roofline over them."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from elir_deploy.bench import devices
from elir_deploy.bench.cost_model import (
    Layer,
    Totals,
    fit_launch_seconds,
    predict,
    totals,
    unknown_rates,
)
from elir_deploy.bench.devices import DEVICES, Device, device_named, measure_cpu
from elir_deploy.bench.graph_cost import bundle_layers, graph_layers, graph_precisions, read_graph
from elir_deploy.bench.paper import EAGER_LAUNCH_SECONDS, FITTED, PAPER_SPEEDS, PaperSpeed
from elir_deploy.errors import BundleError, MissingDependencyError, UnavailableError, UsageError
from elir_deploy.runtime import Bundle
from elir_deploy.tasks import TASKS, Architecture
from tests.bundles import make_bundle

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
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, kinds.get(n, kind), s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", out_kind or kind, output)],
        [
            numpy_helper.from_array(np.ones(shape, NUMPY[kinds.get(name, kind)]), name)
            for name, shape in (weights or {}).items()
        ],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])


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
    made = 12 * 8 * 8  # each sums over 4 of the 8 channels and 3 x 3
    read = 4 * (8 * 16 * 16 + 12 * 4 * 9 + 12)
    assert numbers(only(model)) == (made * 4 * 9, made, read, 4 * made)
    assert only(model).flops == 2 * made * 36 + made
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


def test_matrix_products() -> None:
    model = graph([node("MatMul", "x w")], {"x": (2, 3, 5)}, (2, 3, 7), {"w": (5, 7)})
    assert numbers(only(model)) == (2 * 3 * 7 * 5, 0, 4 * (30 + 35), 4 * 42)
    model = graph(
        [node("Gemm", "x w b", transA=1)], {"x": (5, 3)}, (3, 7), {"w": (5, 7), "b": (7,)}
    )
    assert numbers(only(model)) == (3 * 7 * 5, 21, 4 * (15 + 35 + 7), 4 * 21)


@pytest.mark.parametrize(
    ("operator", "attributes", "shape", "flops"),
    [
        ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2]}, (1, 4, 3, 4), 48 * 6),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}, (1, 4, 4, 4), 64 * 4),
        ("GlobalAveragePool", {}, (1, 4, 1, 1), 256),
        ("ReduceMean", {"keepdims": 1}, (1, 1, 1, 1), 256),
        ("Transpose", {"perm": [0, 2, 3, 1]}, (1, 8, 8, 4), 0),
        ("Sigmoid", {}, (1, 4, 8, 8), 256),
    ],
)
def test_windows_reductions_and_copies(operator, attributes, shape, flops) -> None:
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
    apart = graph_layers(model, fuse=False)
    assert [one.operators for one in apart] == ["Conv", "Sigmoid", "Mul", "Add"]
    assert Totals.of(apart).macs == layer.macs
    # c is written and read twice, s and m are written and read, x is read again.
    assert Totals.of(apart).bytes == layer.bytes + 4 * 256 * (3 + 2 + 2 + 1)


def test_what_others_have_read_is_not_changed_any_more() -> None:
    nodes = [
        node("Conv", "x w", "c", pads=PAD),
        node("MaxPool", "c", "p", kernel_shape=[1, 1]),
        node("Relu", "c", "r"),
        node("Add", "p r"),
    ]
    layers = graph_layers(graph(nodes, CONV, (1, 4, 8, 8), WEIGHT))
    assert [layer.operators for layer in layers] == ["Conv", "MaxPool", "Relu+Add"]
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


def test_what_makes_a_smaller_tensor_is_not_joined() -> None:
    nodes = [node("GlobalAveragePool", "x", "g"), node("Mul", "x g")]
    pool, scale = graph_layers(graph(nodes, CONV, (1, 4, 8, 8)))
    assert (pool.operators, pool.bytes_written) == ("GlobalAveragePool", 4 * 4)
    assert (scale.operators, scale.bytes_read) == ("Mul", 4 * (256 + 4))


# Types ----------------------------------------------------------------------------------------


def test_float16_halves_the_bytes_and_casts_are_done_on_the_narrow_side() -> None:
    nodes = [
        node("Cast", "x", "h", to=HALF),
        node("Conv", "h w", "c", pads=PAD),
        node("Cast", "c", "f", to=FLOAT),
        node("Exp", "f"),
    ]
    model = graph(nodes, CONV, (1, 4, 8, 8), WEIGHT, kinds={"w": HALF})
    cast, conv = graph_layers(model)
    assert (cast.bytes_read, cast.bytes_written) == (4 * 256, 2 * 256)
    assert (conv.operators, conv.precision) == ("Conv+Exp", "fp16")
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
        node("MaxPool", "h", kernel_shape=[1, 1]),
    ]
    weights = {"s": (), "z": ()}
    model = graph(nodes, CONV, (1, 4, 8, 8), weights, kind=HALF, kinds={"z": INT8, "s": FLOAT})
    entry, pool = graph_layers(model)
    assert (entry.operators, entry.bytes_written) == ("QuantizeLinear", 256)
    assert (pool.operators, pool.bytes_read, pool.bytes_written) == ("MaxPool", 256, 2 * 256)


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


def test_unfused_a_quantised_graph_is_what_it_says() -> None:
    layers = graph_layers(quantized(), fuse=False)
    assert len(layers) == 9
    assert {layer.precision for layer in layers if layer.macs} == {"fp32"}
    assert layers[2].operators == "DequantizeLinear"
    assert (layers[2].bytes_read, layers[2].bytes_written) == (144 + 4 + 1, 4 * 144)


# Whole networks -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> dict[str, list[Layer]]:
    bundle = Bundle.open("tiny")
    return {precision: bundle_layers(bundle, precision) for precision in graph_precisions(bundle)}


def test_the_packaged_bundle_in_every_precision(tiny) -> None:
    assert list(tiny) == ["fp32", "fp16", "int8"]
    macs = {precision: Totals.of(layers).macs for precision, layers in tiny.items()}
    assert len(set(macs.values())) == 1
    moved = {precision: Totals.of(layers).bytes for precision, layers in tiny.items()}
    assert moved["fp16"] == pytest.approx(moved["fp32"] / 2, rel=0.03)
    assert moved["int8"] < moved["fp16"]
    for layers in tiny.values():
        assert list(totals(layers)) == ["encoder", "estimator", "flow", "decoder"]
        assert sum(own.bytes for own in totals(layers).values()) == Totals.of(layers).bytes


@pytest.fixture(scope="module")
def bfr() -> list[Layer]:
    from elir_deploy.bench.peers import eager_model_layers

    task = TASKS["bfr"]
    return eager_model_layers(task.architecture, image_size=task.image_size, steps=task.steps)


def test_multiply_accumulates_of_bfr(bfr) -> None:
    gmacs = {part: own.macs / 1e9 for part, own in totals(bfr).items()}
    # Every weight of the estimator's 5.5 M meets each of the 64 x 64 latent pixels once.
    weights = 3 * 3 * 9 * (96 * (16 + 112 + 208 + 304) + 16 * 400)
    assert gmacs["estimator"] == pytest.approx(weights * 64 * 64 / 1e9, rel=1e-12)
    assert gmacs["encoder"] == pytest.approx(61.2, abs=0.05)
    assert gmacs["flow"] == pytest.approx(95.0, abs=0.1)
    assert gmacs["decoder"] == pytest.approx(70.7, abs=0.05)


def test_the_exported_graph_computes_what_pytorch_does_but_the_exact_rewrites(tiny) -> None:
    from elir_deploy.bench.peers import eager_model_layers

    task = TASKS["tiny"]
    arch, steps = task.architecture, task.steps
    eager = totals(eager_model_layers(arch, image_size=task.image_size, steps=steps))
    exported = totals(tiny["fp32"])
    for part in ("encoder", "estimator", "decoder"):
        assert exported[part].macs == eager[part].macs
    width, latent, pixels = arch.vector_field_width, 16, (task.image_size // 8) ** 2
    merged = 9 * width * width + width * latent - 9 * width * latent
    blocks = [32, 32, 64, 64, 128, 64, 64, 32, 32]  # the widths whose biases the time MLP makes
    time = arch.time_width * (arch.time_frequencies + arch.time_width + sum(blocks))
    assert eager["flow"].macs - exported["flow"].macs == steps * (merged * pixels + time)


def test_eager_pytorch_is_not_fused(bfr) -> None:
    kernels = [layer for layer in bfr if layer.part == "decoder"]
    assert [layer.operators for layer in kernels[:4]] == ["div", "tanh", "mul", "convolution"]
    bias = kernels[4]
    assert (bias.operators, bias.macs) == ("bias", 0)
    assert bias.bytes == 2 * 4 * 64 * 64 * 64 + 4 * 64
    norms = [layer.operators for layer in bfr if layer.part == "flow"]
    start = norms.index("moments")
    assert norms[start : start + 4] == ["moments", "factors", "native_group_norm", "silu"]


def test_a_call_that_is_not_known() -> None:
    from elir_deploy.bench.eager_cost import eager_layers

    class Numbers:
        shape = (2, 3)

        def element_size(self) -> int:
            return 4

    assert eager_layers("view", [Numbers()], [Numbers()], "flow") == []
    with pytest.raises(UsageError, match="erfinv"):
        eager_layers("erfinv", [Numbers()], [Numbers()], "flow")


# The paper ------------------------------------------------------------------------------------


#: How far each prediction is from the paper's figure, in per cent: the errors that
#: docs/results/cost-model.md states, with fitted launches.
ERRORS = {
    "BFR at 512x512, 37 M, K = 5": 6.2,
    "BSR, 18 M, K = 3": -5.6,
    "Pixel CFM, K = 3": -33.5,
    "Latent FM, 25 steps": -8.5,
    "face tasks, 27 M, K = 3": 0.0,
    "13 M, K = 3": -2.6,
    "19 M, K = 3": -1.6,
    "37 M, K = 3": 4.8,
    "27 M, K = 1": 7.2,
    "27 M, K = 5": 0.7,
}
CARD = DEVICES["rtx2080ti"]


@functools.cache
def traced(architecture: Architecture, image_size: int, steps: int) -> list[Layer]:
    from elir_deploy.bench.peers import eager_model_layers

    return eager_model_layers(architecture, image_size=image_size, steps=steps)


def eager(speed: PaperSpeed) -> list[Layer]:
    """What PyTorch runs, traced for three Euler steps at most: all steps are alike."""
    network = speed.architecture, speed.image_size
    if speed.steps <= 3:
        return traced(*network, speed.steps)
    three = traced(*network, 3)
    end = max(index for index, layer in enumerate(three) if layer.part == "flow") + 1
    step = three[end - (len(three) - len(traced(*network, 2))) : end]
    return three[:end] + (speed.steps - 3) * step + three[end:]


def test_steps_are_alike(bfr) -> None:
    assert eager(PAPER_SPEEDS[0]) == bfr


@pytest.mark.parametrize("speed", PAPER_SPEEDS, ids=lambda speed: speed.title)
def test_one_number_is_fitted_and_the_others_are_tested(speed: PaperSpeed) -> None:
    told = predict(eager(speed), CARD, launch_seconds=EAGER_LAUNCH_SECONDS)
    assert round(100 * (told.fps / speed.fps - 1), 1) == pytest.approx(ERRORS[speed.title])


def test_the_fitted_number() -> None:
    fitted = fit_launch_seconds(eager(FITTED), CARD, FITTED.seconds)
    assert fitted == pytest.approx(EAGER_LAUNCH_SECONDS, rel=1e-3)
    assert 5e-6 < fitted < 25e-6  # what is published of PyTorch's host time a call


def test_bfr_at_512_keeps_the_card_busy(bfr) -> None:
    """So the roofline alone, without any fitted number, is as near."""
    alone = predict(bfr, CARD)
    assert alone.fps == pytest.approx(19.51, rel=0.07)
    fitted = predict(bfr, CARD, launch_seconds=EAGER_LAUNCH_SECONDS)
    assert alone.fps == pytest.approx(fitted.fps, rel=0.01)


def test_what_is_assumed_has_the_number_of_parameters_that_the_paper_states() -> None:
    import torch

    from elir_deploy.model.elir import Elir, count_parameters

    sizes = [s for s in PAPER_SPEEDS if s.assumed and s.architecture.autoencoder_width]
    for speed in (FITTED, *sizes):
        with torch.device("meta"):
            millions = count_parameters(Elir(speed.architecture)) / 1e6
        stated = int(speed.title.split(" M,")[0].split()[-1])
        assert millions == pytest.approx(stated, abs=0.6), speed.title


def test_the_paper_has_ten_figures() -> None:
    assert {(speed.source, speed.fps) for speed in PAPER_SPEEDS} == {
        *(("1(a)", 19.51), ("1(b)", 52.20), ("5", 7.32), ("5", 11.20), ("5, 9, 10", 49.26)),
        *(("9", 50.55), ("9", 50.05), ("9", 42.94), ("10", 70.30), ("10", 36.35)),
    }
    assert len(ERRORS) == len(PAPER_SPEEDS) == 10
    assert sum(speed is FITTED for speed in PAPER_SPEEDS) == 1


# The roofline ---------------------------------------------------------------------------------

DEVICE = Device("d", "a device", {"fp32": 100.0, "int8": 400.0}, 10.0, 0.0, "invented")


def layer(
    macs: int = 0, other: int = 0, read: int = 0, written: int = 0, precision: str = "fp32"
) -> Layer:
    return Layer("l", "Op", "flow", precision, macs, other, read, written)


def test_the_longer_of_two_times_counts() -> None:
    computes, moves = layer(macs=100, other=100, read=10), layer(macs=5, read=20, written=20)
    told = predict([computes, moves], DEVICE)
    first, second = told.layers
    assert (first.compute_seconds, first.memory_seconds, first.seconds) == (3.0, 1.0, 3.0)
    assert (first.bound, second.bound, second.seconds) == ("compute", "memory", 4.0)
    assert (told.seconds, told.fps) == (7.0, 1 / 7)
    assert (told.bound_seconds("compute"), told.bound_seconds("memory")) == (3.0, 4.0)
    assert told.bound == "memory"
    assert told.costliest(1) == [second]
    assert Totals.of([computes, moves]).intensity == 310 / 50


def test_precision_speeds_up_the_product_only() -> None:
    (time,) = predict([layer(macs=200, other=100, precision="int8")], DEVICE).layers
    assert time.compute_seconds == 400 / 400 + 100 / 100


def test_short_kernels_wait_for_the_host_and_long_ones_hide_it() -> None:
    short, long = layer(read=1), layer(read=100)  # 0.1 s and 10 s
    told = predict([short, short, short], DEVICE, launch_seconds=1.0)
    assert told.seconds == pytest.approx(3.1)
    assert told.waiting_seconds == pytest.approx(2.8)
    assert told.bound == "launches"
    # While the long one runs, the host launches what follows.
    assert predict([long, short, short], DEVICE, launch_seconds=1.0).seconds == pytest.approx(11.2)
    slow = replace(DEVICE, launch_seconds=1.0)
    assert predict([short], slow).seconds == pytest.approx(1.1)


def test_the_fitted_launch_time_gives_the_time_back() -> None:
    layers = [layer(read=1)] * 20
    for launch in (0.05, 0.3, 2.0):
        seconds = predict(layers, DEVICE, launch_seconds=launch).seconds
        fitted = fit_launch_seconds(layers, DEVICE, seconds)
        again = predict(layers, DEVICE, launch_seconds=fitted).seconds
        assert again == pytest.approx(seconds, rel=1e-9)
    with pytest.raises(UsageError, match="no launch time explains it"):
        fit_launch_seconds(layers, DEVICE, 1.9)


def test_what_cannot_be_predicted() -> None:
    with pytest.raises(UsageError, match="without layers"):
        predict([], DEVICE)
    with pytest.raises(UsageError, match="wanted at least 0"):
        predict([layer()], DEVICE, launch_seconds=-1.0)
    half = layer(macs=1, precision="fp16")
    assert unknown_rates([layer(precision="fp16"), half, half], DEVICE) == ["fp16"]
    with pytest.raises(UnavailableError, match="no fp16 rate is known, only fp32, int8"):
        predict([half], DEVICE)


# Devices --------------------------------------------------------------------------------------

#: What the vendor states: dense INT8 TOPS of the GPU, half of those with sparsity.
VENDOR_TOPS = {
    "rtx2080ti": 215.2,
    "orin-nano-4gb": 10,
    "orin-nano-8gb": 20,
    "orin-nano-4gb-super": 34 / 2,
    "orin-nano-8gb-super": 67 / 2,
    "orin-nx-8gb": (70 - 20) / 2,
    "orin-nx-16gb": (100 - 40) / 2,
    "orin-nx-8gb-super": (117 - 40) / 2,
    "orin-nx-16gb-super": (157 - 80) / 2,
    "agx-orin-32gb": 108 / 2,
    "agx-orin-64gb": 170 / 2,
}


def test_devices_have_the_rates_that_their_vendor_states() -> None:
    assert list(DEVICES) == list(VENDOR_TOPS)
    for name, device in DEVICES.items():
        assert device.peaks["int8"] == pytest.approx(VENDOR_TOPS[name] * 1e12, rel=0.03), name
        assert device.peaks["fp32"] < device.peaks["fp16"] < device.peaks["int8"]
        assert "NVIDIA" in device.source
    card = DEVICES["rtx2080ti"]
    assert card.peaks["fp32"] == pytest.approx(13.4e12, rel=0.005)
    assert card.peaks["fp16"] == pytest.approx(53.8e12, rel=0.005)
    assert card.bandwidth == 616e9
    assert DEVICES["agx-orin-64gb"].peaks["fp32"] == pytest.approx(5.3e12, rel=0.01)


def test_devices_by_name(monkeypatch) -> None:
    assert device_named("agx-orin-32gb") is DEVICES["agx-orin-32gb"]
    monkeypatch.setattr(devices, "measure_cpu", lambda: DEVICE)
    assert device_named("cpu") is DEVICE
    with pytest.raises(UsageError, match=r"no device 'orin': choose one of rtx2080ti, .*cpu"):
        device_named("orin")


def test_the_cpu_is_measured(monkeypatch) -> None:
    clock = iter([0.0, 9.0, 10.0, 12.0, 20.0, 21.0, *(30.0, 39.0, 40.0, 40.5, 50.0, 51.0)])
    monkeypatch.setattr(devices.time, "perf_counter", lambda: next(clock))
    cpu = measure_cpu(side=64, megabytes=1, repeats=2)
    assert cpu.peaks == {"fp32": 2 * 64**3 / 1.0}  # the first run does not count
    assert cpu.bandwidth == pytest.approx(2 * 2**20 / 0.5, rel=1e-3)
    assert (cpu.name, cpu.launch_seconds) == ("cpu", 0.0)
    assert "measured here" in cpu.source


# What is no graph -----------------------------------------------------------------------------


def test_shapes_must_be_fixed() -> None:
    model = graph([node("Relu", "x")], {"x": (1, "height")}, (1, "height"))
    with pytest.raises(BundleError, match=r"shape of tensor '[xy]' is not fixed"):
        graph_layers(model)


def test_operators_must_be_known() -> None:
    model = graph([node("Hardmax", "x")], {"x": (1, 4)}, (1, 4))
    with pytest.raises(BundleError, match="Hardmax:y: the cost of operator Hardmax is not known"):
        graph_layers(model)
    model = graph([node("Relu", "x", domain="my.own")], {"x": (1, 4)}, (1, 4))
    model.opset_import.append(helper.make_opsetid("my.own", 1))
    with pytest.raises(BundleError, match=r"my\.own\.Relu is not known"):
        graph_layers(model)


def test_an_inconsistent_graph() -> None:
    model = graph([node("MatMul", "x w")], {"x": (2, 3)}, (2, 5), {"w": (4, 5)})
    with pytest.raises(BundleError, match="the graph is inconsistent: "):
        graph_layers(model)


def test_files_that_are_no_graphs(tmp_path: Path) -> None:
    file = tmp_path / "x.onnx"
    with pytest.raises(BundleError, match="cannot be read: No such file"):
        read_graph(file)
    file.write_bytes(b"this is no ONNX file")
    with pytest.raises(BundleError, match=r"x\.onnx is no ONNX file or is damaged"):
        read_graph(file)
    file.write_bytes(b"")
    with pytest.raises(BundleError, match="holds no ONNX graph"):
        read_graph(file)


def test_bundles(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", stages="split", precisions=("fp32", "fp16"))
    bundle = Bundle.open(path)
    assert graph_precisions(bundle) == ["fp32", "fp16"]
    layers = bundle_layers(bundle, "fp32")
    assert list(totals(layers)) == ["encoder", "estimator", "flow", "decoder"]
    assert layers == bundle_layers(bundle, "bf16")  # which the float32 files serve
    with pytest.raises(BundleError, match=r"holds no int8 ONNX graph of encoder.*holds fp32, fp16"):
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
