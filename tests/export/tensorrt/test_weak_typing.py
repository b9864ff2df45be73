"""Which types the layers of a network are told, for TensorRT before 10."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from elir_deploy.errors import UnavailableError
from elir_deploy.export.convolutions import convolution_precisions
from elir_deploy.export.tensorrt.weak_typing import constrain_types, find_int8_kernels
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.tensorrt_library import load_library
from elir_deploy.targets import RTX
from tests.export.tensorrt.stand_in import BuilderFlag, Config, DataType, Network, StandIn


def constrained(precision: str) -> tuple[Network, set[Any]]:
    """A network whose layers were told types, and the flags that were set for it."""
    network, config = Network(DataType.FLOAT), Config(accepts_cache=True)
    config.flags.clear()
    constrain_types(StandIn("8.6.2.3"), network, config, precision)  # type: ignore[arg-type]
    return network, config.flags


def test_int8_kernels_get_no_type() -> None:
    """TensorRT would obey: a convolution that is told float16 is none in INT8."""
    network, flags = constrained("int8")
    assert flags == {BuilderFlag.FP16, BuilderFlag.INT8, BuilderFlag.OBEY_PRECISION_CONSTRAINTS}
    kernels = find_int8_kernels(StandIn("8.6.2.3"), network)  # type: ignore[arg-type]
    names = [layer.outputs[0].name for layer in network.layers]
    assert {names[number] for number in kernels.multiplying} == {"second", "third"}
    assert {names[number] for number in kernels.fused} == {"large", "added", "relu"}
    told = {layer.outputs[0].name: layer.output_types for layer in network.layers}
    for name in ("second", "large", "added", "relu"):
        assert told[name] == {}
    assert told["third"] == {0: DataType.HALF}, "no quantiser reads it"
    assert all(network.layers[n].precision is None for n in kernels.multiplying | kernels.fused)


def test_all_other_layers_keep_the_types_of_the_graph() -> None:
    network, _ = constrained("int8")
    held = {layer.outputs[0].name: layer.precision for layer in network.layers if layer.precision}
    assert held == {
        "first": DataType.HALF,
        "norm": DataType.FLOAT,
        "silu": DataType.FLOAT,  # it is quantised, but is no convolution's
        "rounded": DataType.HALF,
        "restored": DataType.FLOAT,
    }
    for layer in network.layers:
        if layer.precision is not None:
            assert layer.output_types == {0: layer.outputs[0].dtype}


def test_float32_is_left_alone() -> None:
    network, flags = constrained("fp32")
    assert flags == set()
    assert all(layer.precision is None and not layer.output_types for layer in network.layers)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_packaged_graphs_as_a_parser_reads_them(precision: str) -> None:
    """TensorRT-RTX has the parser of TensorRT, and needs no GPU."""
    try:
        trt = load_library(RTX).module
    except UnavailableError as error:
        pytest.skip(f"TensorRT-RTX is not here: {error}")
    model = onnx.load(Bundle.open("tiny").path / f"fused.{precision}.onnx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString())
    kernels = find_int8_kernels(trt, network)
    enlarged = 3 if precision == "int8" else 0  # read by convolutions behind an upsampling
    expected = convolution_precisions(model)["int8"] + enlarged
    assert len(kernels.multiplying) == expected
    kinds = {network.get_layer(number).type for number in kernels.fused}
    names = {network.get_layer(number).name for number in kernels.fused}
    if precision == "int8":
        element_wise = {trt.LayerType.ACTIVATION, trt.LayerType.ELEMENTWISE}
        assert kinds == {*element_wise, trt.LayerType.CONCATENATION, trt.LayerType.RESIZE}
        assert "encoder.layers.1.conv.1.relu" in names
    else:
        assert kinds == set()
