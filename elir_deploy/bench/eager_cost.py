"""The kernels that eager PyTorch launches on a CUDA device, from the calls it makes.

Nothing is fused: every call reads its tensors from memory and writes its own. Two calls are several
kernels, as PyTorch's sources show: a convolution that cuDNN runs adds its bias in a second one
(aten/src/ATen/native/Convolution.cpp), and a group normalisation is three, statistics, factors and
their use (aten/src/ATen/native/cuda/group_norm_kernel.cu).

Nothing here imports PyTorch: tensors are whatever has a shape and an element size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from elir_deploy.bench.cost_model import Layer
from elir_deploy.errors import UsageError

__all__ = ["eager_layers"]


class _Tensor(Protocol):
    @property
    def shape(self) -> Sequence[int]: ...

    def element_size(self) -> int: ...


#: Calls that launch nothing: they make views.
_VIEWS = {
    *("alias", "detach", "expand", "permute", "select", "slice", "squeeze", "t", "transpose"),
    *("unsqueeze", "view"),
}
#: One operation for each number made, whatever it is.
_ELEMENTWISE = {
    *("add", "arange", "cat", "clamp", "cos", "div", "exp", "fill", "full", "mul", "relu"),
    *("sigmoid", "silu", "sin", "sub", "tanh", "upsample_nearest2d"),
}
#: What moves or sets numbers without computing any.
_MOVES = {"arange", "cat", "full", "fill", "upsample_nearest2d"}
#: As :data:`elir_deploy.bench.graph_cost` counts a normalisation: 4 for the statistics, 4 to use
#: them, of which weight and bias are folded into one factor and one summand a channel.
_STATISTICS_FLOPS, _USE_FLOPS = 4, 2


def eager_layers(
    call: str, arguments: Sequence[Any], results: Sequence[_Tensor], part: str
) -> list[Layer]:
    """Kernels of one call.

    Args:
        call: of ATen, without its overload, such as ``convolution``.
        arguments: tensors and others, as the call takes them.
        results: tensors that it makes.
        part: of the network.

    Raises:
        UsageError: the call is not known.
    """
    if call in _VIEWS:
        return []
    return [
        Layer(f"{part}.{call}", kernel, part, "fp32", macs, flops, read, written)
        for kernel, macs, flops, read, written in _kernels(call, arguments, results)
    ]


_Kernel = tuple[str, int, int, int, int]


def _kernels(call: str, arguments: Sequence[Any], results: Sequence[_Tensor]) -> Iterator[_Kernel]:
    made, count = results[0], _count(results[0])
    read, written = sum(map(_nbytes, _tensors(arguments))), _nbytes(made)
    if call == "convolution":
        image, weight, bias, *_, transposed, _, _ = arguments
        spread = math.prod(weight.shape[1:])
        macs = spread * (_count(image) if transposed else count)
        yield call, macs, 0, _nbytes(image) + _nbytes(weight), written
        if bias is not None:
            yield "bias", 0, count, written + _nbytes(bias), written
    elif call == "addmm":
        yield call, count * arguments[1].shape[1], count, read, written
    elif call == "native_group_norm":
        image, weight, bias = arguments[:3]
        factors = 2 * _nbytes(weight)
        statistics = sum(map(_nbytes, results[1:]))
        yield "moments", 0, _STATISTICS_FLOPS * count, _nbytes(image), statistics
        yield (
            *("factors", 0, 2 * _count(weight)),
            *(statistics + _nbytes(weight) + _nbytes(bias), factors),
        )
        yield call, 0, _USE_FLOPS * count, _nbytes(image) + factors, written
    elif call in _ELEMENTWISE:
        yield call, 0, 0 if call in _MOVES else count, read, written
    else:
        raise UsageError(f"the cost of PyTorch's {call} is not known")


def _tensors(values: Sequence[Any]) -> Iterator[_Tensor]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _tensors(value)
        elif hasattr(value, "element_size"):
            yield value


def _count(tensor: _Tensor) -> int:
    return math.prod(tensor.shape)


def _nbytes(tensor: _Tensor) -> int:
    return _count(tensor) * tensor.element_size()
