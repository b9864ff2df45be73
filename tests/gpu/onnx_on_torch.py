"""The bundle's ONNX graphs on PyTorch, operator by operator, in the types that the graph says.

Nothing is fused and nothing widened, so a float16 graph on a GPU is computed as its types ask for:
every tensor that is float16 in the graph is rounded to it. Convolutions and normalisations add up
in float32 inside one operator, as PyTorch's kernels and matrix units do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

_TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT64: torch.int64,
}


class OnnxOnTorch:
    """A graph with one input and one output.

    Args:
        model: of the operators that exported ELIR graphs have, quantisation not among them.
        device: PyTorch's.
    """

    def __init__(self, model: onnx.ModelProto, device: str) -> None:
        self._graph = model.graph
        self._device = device
        self._constants = {
            tensor.name: torch.from_numpy(np.array(numpy_helper.to_array(tensor))).to(device)
            for tensor in model.graph.initializer
        }

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        values: dict[str, Tensor | None] = {"": None, **self._constants}
        for end, array in zip(self._graph.input, inputs, strict=True):
            values[end.name] = torch.from_numpy(array).to(self._device)
        with torch.no_grad():
            for node in self._graph.node:
                attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                arguments = [values[name] for name in node.input]
                values[node.output[0]] = _OPERATORS[node.op_type](attributes, *arguments)
        result = values[self._graph.output[0].name]
        assert result is not None
        made: np.ndarray = result.cpu().numpy()
        return made


def _convolution(attributes: dict[str, Any], x: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    assert attributes.get("dilations", [1, 1]) == [1, 1]
    padded = functional.pad(x, (left, right, top, bottom))
    strides = tuple(attributes.get("strides", (1, 1)))
    return functional.conv2d(padded, weight, bias, strides, groups=attributes.get("group", 1))


def _transposed(attributes: dict[str, Any], x: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    assert (top, left) == (bottom, right)
    strides = tuple(attributes.get("strides", (1, 1)))
    return functional.conv_transpose2d(x, weight, bias, strides, (top, left))


def _doubled(attributes: dict[str, Any], x: Tensor, _: Any, scales: Tensor, *more: Any) -> Tensor:
    assert attributes["mode"] == b"nearest"
    factors = [int(factor) for factor in scales.tolist()[2:]]
    return x.repeat_interleave(factors[0], 2).repeat_interleave(factors[1], 3)


def _reshaped(attributes: dict[str, Any], x: Tensor, shape: Tensor) -> Tensor:
    sides = [x.shape[i] if side == 0 else side for i, side in enumerate(shape.tolist())]
    return x.reshape(sides)


_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda a, x, y: x + y,
    "Cast": lambda a, x: x.to(_TYPES[a["to"]]),
    "Clip": lambda a, x, low, high: x.clamp(low, high),
    "Concat": lambda a, *parts: torch.cat(parts, a["axis"]),
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Div": lambda a, x, y: x / y,
    "Identity": lambda a, x: x,
    "InstanceNormalization": lambda a, x, scale, bias: functional.instance_norm(
        x, weight=scale, bias=bias, eps=a["epsilon"]
    ),
    "Mul": lambda a, x, y: x * y,
    "Relu": lambda a, x: x.relu(),
    "Reshape": _reshaped,
    "Resize": _doubled,
    "Round": lambda a, x: x.round(),
    "Sigmoid": lambda a, x: x.sigmoid(),
    "Sub": lambda a, x, y: x - y,
    "Tanh": lambda a, x: x.tanh(),
    "Transpose": lambda a, x: x.permute(a["perm"]),
}
