"""The kernels that eager PyTorch launches on a CUDA device for one image.

They are recorded from the model on PyTorch's ``meta`` device, without weights or data. Nothing is
fused: every call reads its tensors from memory and writes its own. Two calls are several kernels,
as PyTorch's sources show: a convolution that cuDNN runs adds its bias in a second one
(aten/src/ATen/native/Convolution.cpp), and a group normalisation is three, statistics, factors and
their use (aten/src/ATen/native/cuda/group_norm_kernel.cu).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from elir_deploy.cost.devices import Device
from elir_deploy.cost.roofline import Layer, predict
from elir_deploy.model import Elir
from elir_deploy.tasks import Architecture

#: Calls that launch nothing: they return views.
_VIEWS = {
    *("alias", "detach", "expand", "permute", "select", "slice", "squeeze", "t", "transpose"),
    *("unsqueeze", "view"),
}
#: One operation for each element of the output.
_ELEMENTWISE = {
    *("add", "arange", "cat", "clamp", "cos", "div", "exp", "fill", "full", "mul", "relu"),
    *("sigmoid", "silu", "sin", "sub", "tanh", "upsample_nearest2d"),
}
#: Calls that move or set numbers without computing any.
_MOVES = {"arange", "cat", "full", "fill", "upsample_nearest2d"}
#: As in :data:`elir_deploy.cost.operators.NORMALIZATIONS`: 4 for the statistics, 4 to use them, of
#: which weight and bias are folded into one factor and one summand per channel.
_STATISTICS_FLOPS, _USE_FLOPS = 4, 2


def eager_model_layers(arch: Architecture, *, image_size: int, steps: int) -> list[Layer]:
    """Kernels of eager float32 PyTorch for one image.

    Args:
        arch: of the network, in its collapsed form.
        image_size: side of the square image in pixels.
        steps: Euler steps M.
    """
    layers: list[Layer] = []
    part = "encoder"

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(
            self, call: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            output = call(*args, **(kwargs or {}))
            results = output if isinstance(output, tuple) else (output,)
            layers.extend(eager_layers(call.overloadpacket.__name__, args, results, part))
            return output

    def entering(name: str) -> Callable[..., None]:
        def enter(*_: object) -> None:
            nonlocal part
            part = name

        return enter

    with torch.device("meta"):
        model = Elir(arch).eval().requires_grad_(False)
        image = torch.empty(1, 3, image_size, image_size)
        side = image_size // arch.latent_stride
        noise = torch.empty(1, arch.latent_channels, side, side)
    model.estimator.register_forward_pre_hook(entering("estimator"))
    model.estimator.register_forward_hook(entering("flow"))
    model.decoder.register_forward_pre_hook(entering("decoder"))
    # Not inference_mode, under which a convolution arrives as a call that is not CUDA's yet.
    with torch.no_grad(), torch.device("meta"), Recorder():
        model(image, steps, noise)
    return layers


def eager_layers(
    call: str, arguments: Sequence[Any], results: Sequence[Tensor], part: str
) -> list[Layer]:
    """Kernels of one call.

    Args:
        call: name in ATen without its overload, such as ``convolution``.
        arguments: tensors and others, as the call takes them.
        results: its output tensors.
        part: of the network.

    Raises:
        ValueError: the call is unknown.
    """
    if call in _VIEWS:
        return []
    return [
        Layer(f"{part}.{call}", kernel, part, "fp32", macs, flops, read, written)
        for kernel, macs, flops, read, written in _kernels(call, arguments, results)
    ]


def fit_launch_seconds(layers: Sequence[Layer], device: Device, seconds: float) -> float:
    """The launch time with which :func:`predict` gives ``seconds``.

    Raises:
        ValueError: ``seconds`` is less than the time without any launches.
    """
    least = predict(layers, replace(device, launch_seconds=0)).seconds
    if seconds < least:
        raise ValueError(
            f"{seconds * 1e3:.3g} ms is less than the {least * 1e3:.3g} ms that {device.name} "
            "takes at its peak: no launch time explains it"
        )
    low, high = 0.0, seconds
    for _ in range(60):  # the time grows with the launch time: bisect down to rounding
        middle = (low + high) / 2
        if predict(layers, replace(device, launch_seconds=middle)).seconds < seconds:
            low = middle
        else:
            high = middle
    return high


_Kernel = tuple[str, int, int, int, int]


def _kernels(call: str, arguments: Sequence[Any], results: Sequence[Tensor]) -> Iterator[_Kernel]:
    output, count = results[0], _count(results[0])
    read, written = sum(map(_nbytes, _tensors(arguments))), _nbytes(output)
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
        raise ValueError(f"the cost of PyTorch's {call} is unknown")


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _tensors(value)
        elif hasattr(value, "element_size"):
            yield value


def _count(tensor: Tensor) -> int:
    return math.prod(tensor.shape)


def _nbytes(tensor: Tensor) -> int:
    return _count(tensor) * tensor.element_size()
