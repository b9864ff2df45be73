"""Depthwise convolutions, widened to groups of four channels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from elir_deploy.export.tensorrt.builder import BuildOptions, build_engine
from elir_deploy.export.tensorrt.depthwise import widen_depthwise
from elir_deploy.export.tensorrt.profiles import StageEnds
from elir_deploy.progress import no_progress
from elir_deploy.runtime.manifest import Stage
from elir_deploy.runtime.tensorrt_library import load_library
from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.targets import RTX


class Convolution:
    """As TensorRT has it, which gives and takes kernels as flat arrays."""

    type = "conv"

    def __init__(self, kernel: np.ndarray, groups: int) -> None:
        self.num_output_maps, self.num_groups = kernel.shape[0], groups
        self.kernel = kernel.ravel()

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        channels = values.shape[1] // self.num_groups
        weight = torch.from_numpy(np.ravel(self.kernel)).reshape(-1, channels, 3, 3)
        return torch.nn.functional.conv2d(values, weight, padding=1, groups=self.num_groups)


@pytest.mark.parametrize(
    ("maps", "per_group", "groups", "after"),
    [(32, 1, 32, 8), (4, 1, 4, 1), (10, 1, 10, 10), (16, 16, 1, 1), (16, 4, 4, 4)],
    ids=["depthwise", "one group", "not in fours", "dense", "grouped"],
)
def test_it_computes_the_same(maps: int, per_group: int, groups: int, after: int) -> None:
    random = np.random.default_rng(0)
    layer = Convolution(random.normal(size=(maps, per_group, 3, 3)), groups)
    values = torch.from_numpy(random.normal(size=(1, per_group * groups, 9, 7)))
    expected = layer(values)
    library: Any = SimpleNamespace(
        LayerType=SimpleNamespace(CONVOLUTION="conv"), IConvolutionLayer=Convolution
    )
    network: Any = SimpleNamespace(num_layers=1, get_layer=lambda index: layer)
    weights = widen_depthwise(library, network)
    assert layer.num_groups == after
    assert len(weights) == (after != groups)
    # Zeros change no sum but the order of its terms.
    torch.testing.assert_close(layer(values), expected, rtol=0, atol=1e-13)


def test_an_engine_for_turing_holds_kernels_and_not_activations() -> None:
    """Without widening it has 40 MB."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="no TensorRT-RTX")
    side, channels = 320, 32
    shape = (1, 3, side, side)
    random = np.random.default_rng(0)
    weights = {
        "first": (channels, 3, 3, 3),
        "deep": (channels, 1, 3, 3),
        "last": (3, channels, 1, 1),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "first"], ["a"], pads=[1] * 4),
            helper.make_node("Conv", ["a", "deep"], ["b"], pads=[1] * 4, group=channels),
            helper.make_node("Conv", ["b", "last"], ["restored"]),
        ],
        "depthwise",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("restored", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(random.normal(size=size).astype(np.float32), name)
            for name, size in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    ends = [TensorSpec(name, "float32", shape, "NCHW") for name in ("image", "restored")]
    engine = build_engine(
        load_library(RTX),
        model.SerializeToString(),
        StageEnds([Stage("fused", *ends, artifacts=())]),
        "fp32",
        BuildOptions("sm75"),
        no_progress,
    )
    assert len(engine.content) < 4e6
