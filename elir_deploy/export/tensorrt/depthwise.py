"""Depthwise convolutions for GPUs on which TensorRT-RTX cannot store them well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["widen_depthwise"]

#: Channels of a group: the smallest number for which the engine keeps kernels alone.
_GROUP = 4


def widen_depthwise(library: Any, network: trt.INetworkDefinition) -> list[Any]:
    """Turn depthwise convolutions into grouped ones of four channels, whose new weights are 0.

    They compute the same. For compute capability 7.5, TensorRT-RTX 1.7.1 stores some constants of
    the size of the activations for each depthwise convolution: see docs/decisions.md.

    Returns:
        The weights, which must live until the engine is built.
    """
    weights = []
    for index in range(network.num_layers):
        layer: Any = network.get_layer(index)
        if layer.type != library.LayerType.CONVOLUTION:
            continue
        layer.__class__ = library.IConvolutionLayer
        channels, groups = layer.num_output_maps, layer.num_groups
        kernel = np.asarray(layer.kernel)
        side = kernel.size // channels
        if groups != channels or channels % _GROUP or side * channels != kernel.size:
            continue
        wide = np.zeros((channels, _GROUP, side), kernel.dtype)
        wide[np.arange(channels), np.arange(channels) % _GROUP] = kernel.reshape(channels, side)
        layer.num_groups = channels // _GROUP
        layer.kernel = wide
        weights.append(wide)
    return weights
