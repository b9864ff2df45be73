"""What an engine's kernels are told to compute in, read from logs and inspectors."""

from __future__ import annotations

import json

import pytest

from elir_deploy.errors import QualityError
from elir_deploy.export.tensorrt.layers import (
    EngineLayer,
    check_layers,
    engine_precisions,
    layers_in_log,
    layers_of_inspector,
)

#: As TensorRT-RTX 1.7 writes it at verbose severity, shortened.
TENSOR = "{{ Name: {0}, Dimensions: [1,16,32,32], Datatype: {1}, Format: (NHWC) }}"
LINE = "Name: {}, LayerType: {}, Inputs: [ {} ], Constants: [], Outputs: [ {} ], TacticName: t"


def listed(name: str, kind: str, *types: str) -> str:
    tensors = ", ".join(TENSOR.format(f"t{index}", t) for index, t in enumerate(types))
    return LINE.format(name, kind, tensors, TENSOR.format("out", "Float"))


def test_a_log_lists_all_layers_in_one_message() -> None:
    message = "\n".join(
        [
            "Engine layers:",
            listed("decoder.conv_U729_myl0_378", "correlation", "Half"),
            listed("__myl_Conc_myl0_360", "runtime_function", "Float", "Half"),
            listed("__myl_CorrMulAdd_myl0_144", "runtime_fusion", "Int8", "Half"),
            listed("__myl_Move_myl0_361", "kgen", "Int32"),
            listed("conv1", "CaskConvolution", "Row major linear FP16"),
        ]
    )
    assert layers_in_log(message) == [
        EngineLayer("decoder.conv_U729_myl0_378", "correlation", "fp16"),
        EngineLayer("__myl_Conc_myl0_360", "runtime_function", "fp32"),
        EngineLayer("__myl_CorrMulAdd_myl0_144", "runtime_fusion", "int8"),
        EngineLayer("__myl_Move_myl0_361", "kgen", None),
        EngineLayer("conv1", "CaskConvolution", "fp16"),
    ]
    assert layers_in_log("Parsing node: decoder.conv [Conv]") == []


@pytest.mark.parametrize(
    ("tensor", "precision"),
    [
        ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, "fp16"),
        ({"Format/Datatype": "Row major linear FP32"}, "fp32"),
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}, "int8"),
        ({"Format": "Row major linear", "Datatype": "Half"}, "fp16"),
        ({"Format": "Row major linear", "Datatype": "Float"}, "fp32"),
        ({"Datatype": "Int32"}, None),
        ({}, None),
    ],
)
def test_both_forms_of_the_inspectors_json(tensor: dict[str, str], precision: str | None) -> None:
    layer = {"Name": "conv1 + relu1", "LayerType": "CaskConvolution", "Inputs": [tensor]}
    assert layers_of_inspector(json.dumps({"Layers": [layer]})) == [
        EngineLayer("conv1 + relu1", "CaskConvolution", precision)
    ]


def test_an_inspector_that_reports_names_only() -> None:
    assert layers_of_inspector('{"Layers": ["conv1"], "Bindings": []}') == []
    assert layers_of_inspector("{}") == []


def test_only_what_convolves_counts() -> None:
    layers = [
        EngineLayer("a", "correlation", "int8"),
        EngineLayer("b", "deconv", "fp16"),
        EngineLayer("c", "CaskGemmConvolution", "fp32"),
        EngineLayer("__myl_CorrMulAdd", "runtime_fusion", "int8"),
        EngineLayer("__myl_Silu", "runtime_fusion", "fp32"),
        EngineLayer("next.to.a.conv.relu", "kgen", "fp32"),
        EngineLayer("d", "correlation", None),
    ]
    assert engine_precisions(layers) == {"int8": 2, "fp16": 1, "fp32": 1}


def counts(int8: int = 0, fp16: int = 0, fp32: int = 0) -> dict[str, int]:
    return {"int8": int8, "fp16": fp16, "fp32": fp32}


def test_an_engine_of_its_precision() -> None:
    check_layers("e", "fp32", counts(fp32=3), counts(fp32=3))
    check_layers("e", "fp16", counts(fp16=2, fp32=1), counts(fp16=3, fp32=1))
    check_layers("e", "int8", counts(int8=3, fp16=1), counts(int8=2, fp16=2))


def test_an_fp16_engine_that_runs_float32() -> None:
    with pytest.raises(
        QualityError, match=r"e is not fp16: .* run as 3 fp16, 2 fp32, expected at most 1"
    ):
        check_layers("e", "fp16", counts(fp16=4, fp32=1), counts(fp16=3, fp32=2))


def test_an_int8_engine_without_int8() -> None:
    with pytest.raises(QualityError, match="e is not int8: its convolutions run as 4 fp16"):
        check_layers("e", "int8", counts(int8=3, fp16=1), counts(fp16=4))


def test_an_int8_engine_with_a_few_other_convolutions() -> None:
    check_layers("e", "int8", counts(int8=206, fp16=8), counts(int8=103, fp16=111))
    with pytest.raises(QualityError, match="run as 1 int8, 202 fp16, expected 203 int8"):
        check_layers("e", "int8", counts(int8=203), counts(int8=1, fp16=202))


def test_the_others_run_in_the_fallback_dtype() -> None:
    check_layers("e", "int8", counts(int8=206, fp32=8), counts(int8=200, fp32=14))
    with pytest.raises(QualityError, match="expected at most 0 fp32"):
        check_layers("e", "int8", counts(int8=206, fp16=8), counts(int8=200, fp16=8, fp32=6))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_of_unknown_types(precision: str) -> None:
    with pytest.raises(QualityError, match="types of its 4 convolutions are not known"):
        check_layers("e", precision, counts() | {precision: 4}, counts())
    check_layers("e", precision, counts(), counts())


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_graph_without_convolutions_of_its_precision(precision: str) -> None:
    with pytest.raises(
        QualityError, match=f"e is not {precision}: its graph has no {precision} convolution"
    ):
        check_layers("e", precision, counts(fp32=3), counts(fp32=3))
