"""Engines built for real, by TensorRT-RTX, which needs no GPU for it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from elir_deploy.errors import UnavailableError, UsageError
from elir_deploy.export.convolutions import convolution_precisions
from elir_deploy.export.detectors import prepare_detector
from elir_deploy.export.float16 import to_float16
from elir_deploy.export.graphs import fuse_stages
from elir_deploy.export.islands import Float16Plan
from elir_deploy.export.quantization import (
    conv_layers,
    place,
    quantize_graph,
)
from elir_deploy.export.shapes import for_shapes
from elir_deploy.export.tensorrt import builder
from elir_deploy.export.tensorrt.builder import BuildOptions, BuiltEngine, build_engine
from elir_deploy.export.tensorrt.layers import layers_in_log
from elir_deploy.export.tensorrt.profiles import DetectorEnds, StageEnds
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Shape, Stage
from elir_deploy.runtime.tensorrt_library import Library, load_library
from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.targets import RTX
from tests.export.tensorrt.graphs import SIDE, convolutions, stage
from tests.export.test_detectors import centerface
from tests.photo.pictures import description

try:
    LIBRARY = load_library(RTX)
except UnavailableError as error:
    pytest.skip(f"TensorRT-RTX is not here: {error}", allow_module_level=True)

CONVOLUTIONS = ("Conv", "ConvTranspose")


def built(
    precision: str,
    capability: str = "sm75",
    *,
    progress: ProgressCallback = no_progress,
    model: Any = None,
) -> BuiltEngine:
    content = (model or convolutions(precision)).SerializeToString(deterministic=True)
    options = BuildOptions(capability)
    return build_engine(LIBRARY, content, StageEnds([stage()]), precision, options, progress)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_computes_in_the_precision_of_its_graph(precision: str) -> None:
    engine = built(precision)
    assert engine.convolutions == {"int8": 0, "fp16": 0, "fp32": 0} | {precision: 3}
    assert engine.layers >= 3
    assert len(engine.content) > 10_000


def test_int8_runs_in_int8_from_ampere_on_and_in_float16_on_turing() -> None:
    assert built("int8", "sm86").convolutions == {"int8": 1, "fp16": 2, "fp32": 0}
    assert built("int8", "sm75").convolutions == {"int8": 0, "fp16": 3, "fp32": 0}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_float32_is_not_computed_in_tf32(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX allows it by default, as TensorRT does."""
    kind, tf32 = LIBRARY.module.Builder, LIBRARY.module.BuilderFlag.TF32
    real = kind.create_builder_config
    made: list[Any] = []

    def noted(builder: Any) -> Any:
        made.append(real(builder))
        assert made[-1].get_flag(tf32)
        return made[-1]

    monkeypatch.setattr(kind, "create_builder_config", noted)
    built(precision, "sm86")
    (config,) = made
    assert not config.get_flag(tf32)


def test_two_builds_are_identical() -> None:
    assert built("fp16").content == built("fp16").content
    assert built("int8", "sm86").content == built("int8", "sm86").content


def test_an_engine_needs_the_gpu_it_is_for() -> None:
    """Without a driver the library refuses, and says so in its log."""
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("this machine has a GPU")
    trt = LIBRARY.module
    runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
    assert runtime.deserialize_cuda_engine(built("fp16").content) is None


def test_progress_is_reported() -> None:
    told: list[tuple[str, int, int]] = []
    built("fp16", progress=lambda *step: told.append(step))
    assert told[0][1] == 0
    assert len({(what, total) for what, _, total in told}) == 1, "of the outermost phase"
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


@pytest.mark.parametrize(
    ("number", "raised", "exit_code"),
    [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)],
)
def test_a_signal_ends_a_build(
    number: signal.Signals, raised: type[BaseException], exit_code: int | None
) -> None:
    before = signal.getsignal(number)
    told: list[int] = []

    def interrupt(what: str, done: int, total: int) -> None:
        told.append(done)
        os.kill(os.getpid(), number)

    with pytest.raises(raised) as caught:
        built("fp16", progress=interrupt)
    assert getattr(caught.value, "code", None) == exit_code
    assert len(told) < 4, "the library stops at the next step"
    assert signal.getsignal(number) is before
    assert built("fp16").convolutions, "the next one builds"


def test_a_build_in_another_thread() -> None:
    made: list[BuiltEngine] = []
    thread = threading.Thread(target=lambda: made.append(built("fp16")))
    thread.start()
    thread.join()
    assert made[0].content == built("fp16").content


# What TensorRT reads ------------------------------------------------------------------------------


def parsed_types(library: Library, model: onnx.ModelProto) -> dict[str, str]:
    """The type of each tensor of the parsed network."""
    trt = library.module
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()), parser.get_error(0).desc()
    types = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for output in range(layer.num_outputs):
            tensor = layer.get_output(output)
            types[tensor.name] = str(tensor.dtype).rpartition(".")[2]
    return types


_ONNX_TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}


def onnx_types(model: onnx.ModelProto) -> dict[str, str]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = [*inferred.graph.value_info, *inferred.graph.output]
    return {value.name: _ONNX_TYPES[value.type.tensor_type.elem_type] for value in values}


def packaged(precision: str) -> onnx.ModelProto:
    return onnx.load(Bundle.open("tiny").path / f"fused.{precision}.onnx")


def misread(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """Tensors whose type is one in the file and another in the parsed network."""
    meant, read = onnx_types(model), parsed_types(LIBRARY, model)
    shared = meant.keys() & read.keys()
    assert len(shared) > 0.9 * len(meant), "names are kept, so that types can be compared"
    return {name: (meant[name], read[name]) for name in shared if meant[name] != read[name]}


@pytest.mark.parametrize(
    "model",
    [
        *(pytest.param(lambda p=p: packaged(p), id=f"tiny-{p}") for p in ("fp32", "fp16", "int8")),
        pytest.param(lambda: convolutions("int8"), id="int8-and-float16"),
    ],
)
def test_the_types_are_those_of_the_onnx_file(model: Callable[[], onnx.ModelProto]) -> None:
    assert misread(model()) == {}


@pytest.mark.parametrize("split", [False, True])
def test_int8_with_float16_around_it_is_read_as_it_is_exported(
    fused: onnx.ModelProto, stages: dict[str, onnx.ModelProto], split: bool
) -> None:
    for graph in stages.values() if split else [fused]:
        placement = place(graph, conv_layers(graph))
        amax = dict.fromkeys(placement.groups.values(), 1.0)
        model = to_float16(quantize_graph(graph, placement, amax), Float16Plan())
        assert misread(model) == {}
        # What reads an enlarged tensor is dequantised before that, and counts as float16.
        counts = convolution_precisions(model)
        assert counts["int8"] > counts["fp16"]
        assert counts["fp32"] == 0
        assert sum(counts.values()) == sum(n.op_type in CONVOLUTIONS for n in model.graph.node)


def test_a_type_that_the_parser_changes_is_found() -> None:
    model = convolutions("int8")
    (zero,) = [constant for constant in model.graph.initializer if constant.name == "zero"]
    zero.CopyFrom(numpy_helper.from_array(np.asarray(0, np.uint8), "zero"))
    assert misread(model)["relu.q"] == ("UINT8", "INT8")


# What goes wrong ----------------------------------------------------------------------------------


def test_a_capability_that_is_not_offered() -> None:
    with pytest.raises(UsageError, match=r"does not build for sm87: it offers .*sm75, .*sm86"):
        built("fp16", "sm87")


def test_a_file_that_is_not_a_graph() -> None:
    with pytest.raises(UnavailableError, match=r"tensorrt-rtx .* cannot parse fused\.fp16: \S+"):
        build_engine(
            LIBRARY, b"no graph", StageEnds([stage()]), "fp16", BuildOptions("sm75"), no_progress
        )


def test_a_graph_with_other_ends() -> None:
    content = convolutions("fp16").SerializeToString()
    ends = StageEnds([stage("float32")])
    with pytest.raises(UnavailableError, match="reads the input of fused as image"):
        build_engine(LIBRARY, content, ends, "fp16", BuildOptions("sm75"), no_progress)


def test_one_engine_for_several_shapes_and_batches(taking: dict[str, onnx.ModelProto]) -> None:
    shapes = [Shape(2, 64, 64), Shape(2, 96, 32)]

    def ends(shape: Shape) -> Stage:
        sides = {
            "image": (shape.height, shape.width, 3),
            "restored": (shape.height, shape.width, 3),
        }
        image, restored = (
            TensorSpec(name, "uint8", (shape.batch, *dims), "NHWC") for name, dims in sides.items()
        )
        latent = (shape.batch, 16, shape.height // 8, shape.width // 8)
        return Stage("fused", image, restored, (), TensorSpec("noise", "float32", latent, "NCHW"))

    model = fuse_stages(taking)
    sizes = []
    for made_for in ([Shape(1, 64, 64)], shapes):
        content = for_shapes(model, made_for).SerializeToString()
        stages, options = StageEnds([ends(shape) for shape in made_for]), BuildOptions("sm86")
        engine = build_engine(LIBRARY, content, stages, "fp32", options, no_progress)
        sizes.append(len(engine.content))
    assert sizes[0] < sizes[1] < 2.2 * sizes[0]


def test_a_detector_s_engine(tmp_path: Path) -> None:
    file = tmp_path / "detector.onnx"
    file.write_bytes(centerface().SerializeToString())
    content = prepare_detector(file, 18).graph
    ends = DetectorEnds(description("centerface"))
    options = BuildOptions("sm86")
    engine = build_engine(LIBRARY, content, ends, "fp32", options, no_progress)
    again = build_engine(LIBRARY, content, ends, "fp32", options, no_progress)
    assert engine.content == again.content
    assert engine.convolutions is not None
    assert engine.convolutions["fp32"] == sum(engine.convolutions.values()) > 5
    yunet = DetectorEnds(description("yunet"))
    with pytest.raises(UnavailableError, match=r"input of detector as input\.1.*expected input: "):
        build_engine(LIBRARY, content, yunet, "fp32", options, no_progress)


def test_the_ends_of_a_detector_s_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the runtimes expect of it, as the library's log lists it: without a GPU, none loads."""
    lines: list[str] = []

    def listed(text: str) -> list[Any]:
        lines.extend(line for line in text.splitlines() if ", IOMode: " in line)
        return layers_in_log(text)

    monkeypatch.setattr(builder, "layers_in_log", listed)
    file = tmp_path / "detector.onnx"
    file.write_bytes(centerface().SerializeToString())
    content, entry = prepare_detector(file, 18).graph, description("centerface")
    build_engine(LIBRARY, content, DetectorEnds(entry), "fp32", BuildOptions("sm86"), no_progress)
    ends = {line.split("Name: ")[1].split(",")[0]: line for line in lines}
    assert set(ends) == {entry.input, *entry.outputs}
    for name, line in ends.items():
        assert f"IOMode: {'Input' if name == entry.input else 'Output'}, DataType: Float" in line
        assert "Location: Device" in line
        assert line.count("(kLINEAR)") == 3
    picture = ends[entry.input]
    assert "Dimensions: [1,3,-1,-1]" in picture
    for size in ("960,1280", "1280,960", "1280,1280"):
        assert f"MinShape: [1,3,{size}], OptShape: [1,3,{size}], MaxShape: [1,3,{size}]" in picture


def test_a_float32_matrix_product_is_refused_on_turing() -> None:
    """Which is why the time embedding's must be folded away."""
    model = convolutions("fp32")
    weight = np.eye(SIDE, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "gemm"))
    (scaled,) = [node for node in model.graph.node if node.output[0] == "scaled"]
    scaled.output[0] = "before"
    index = list(model.graph.node).index(scaled)
    product = helper.make_node("MatMul", ["before", "gemm"], ["scaled"])
    model.graph.node.insert(index + 1, product)
    with pytest.raises(UnavailableError, match=r"cannot build fused\.fp32: \S+"):
        built("fp32", "sm75", model=model)


def test_the_graphs_of_this_package_have_no_matrix_product() -> None:
    for precision in ("fp32", "fp16", "int8"):
        kinds = {node.op_type for node in packaged(precision).graph.node}
        assert kinds.isdisjoint({"MatMul", "Gemm"})
