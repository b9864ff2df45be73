"""Small graphs from image to image, in each precision as the exporter writes them."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from elir_deploy.runtime.manifest import Stage
from elir_deploy.runtime.tensors import TensorSpec

SIDE = 32
WIDTH = 16


def stage(dtype: str = "uint8") -> Stage:
    shape = (1, SIDE, SIDE, 3) if dtype == "uint8" else (1, 3, SIDE, SIDE)
    layout = "NHWC" if dtype == "uint8" else "NCHW"
    ends = [TensorSpec(name, dtype, shape, layout) for name in ("image", "restored")]
    return Stage("fused", *ends, artifacts=())


def convolutions(precision: str, *, opset: int = 18) -> ModelProto:
    """uint8 image -> three convolutions, the inner one int8 where asked -> uint8 image."""
    rng = np.random.RandomState(0)
    half = precision != "fp32"
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    number = np.float16 if half else np.float32
    values: dict[str, np.ndarray] = {
        "one255": np.asarray(1 / 255, number),
        "n255": np.asarray(255, number),
        "low": np.asarray(0, number),
        "high": np.asarray(255, number),
    }
    nodes: list[NodeProto] = [
        helper.make_node("Cast", ["image"], ["cast"], to=kind),
        helper.make_node("Transpose", ["cast"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["nchw", "one255"], ["scaled"]),
    ]

    def conv(source: str, name: str, channels: tuple[int, int]) -> str:
        weight = rng.randn(channels[1], channels[0], 3, 3) / np.sqrt(9 * channels[0])
        values[f"{name}.weight"] = weight.astype(number)
        values[f"{name}.bias"] = np.zeros(channels[1], number)
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [name], name=name, pads=[1] * 4))
        return name

    def quantized(source: str, scale: str) -> str:
        """Q and DQ between casts, as around float16."""
        chain = [
            helper.make_node("Cast", [source], [f"{source}.f"], to=TensorProto.FLOAT),
            helper.make_node("QuantizeLinear", [f"{source}.f", scale, "zero"], [f"{source}.q"]),
            helper.make_node("DequantizeLinear", [f"{source}.q", scale, "zero"], [f"{source}.d"]),
            helper.make_node("Cast", [f"{source}.d"], [f"{source}.h"], to=TensorProto.FLOAT16),
        ]
        nodes.extend(chain)
        return f"{source}.h"

    first = conv("scaled", "first", (3, WIDTH))
    nodes.append(helper.make_node("Relu", [first], ["relu"]))
    if precision == "int8":
        values["zero"] = np.asarray(0, np.int8)
        values["step"] = np.asarray(0.02, np.float32)
        read = quantized("relu", "step")
        levels = rng.randint(-127, 128, (WIDTH, WIDTH, 3, 3)).astype(np.int8)
        values["inner.q"] = levels
        values["inner.s"] = np.full(WIDTH, 1e-3, np.float32)
        values["inner.z"] = np.zeros(WIDTH, np.int8)
        values["inner.bias"] = np.zeros(WIDTH, np.float16)
        nodes += [
            helper.make_node(
                "DequantizeLinear", ["inner.q", "inner.s", "inner.z"], ["inner.f"], axis=0
            ),
            helper.make_node("Cast", ["inner.f"], ["inner.w"], to=TensorProto.FLOAT16),
            helper.make_node(
                "Conv", [read, "inner.w", "inner.bias"], ["inner"], name="inner", pads=[1] * 4
            ),
        ]
    else:
        conv("relu", "inner", (WIDTH, WIDTH))
    last = conv("inner", "last", (WIDTH, 3))
    nodes += [
        helper.make_node("Mul", [last, "n255"], ["wide"]),
        helper.make_node("Clip", ["wide", "low", "high"], ["clipped"]),
        helper.make_node("Round", ["clipped"], ["round"]),
        helper.make_node("Transpose", ["round"], ["nhwc"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["nhwc"], ["restored"], to=TensorProto.UINT8),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.UINT8, [1, SIDE, SIDE, 3])
        for name in ("image", "restored")
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
