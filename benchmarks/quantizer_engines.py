"""INT8 engines, each with the settings that TensorRT needs: the rows of quantizers.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from elir_deploy.errors import ElirError
from elir_deploy.export.block_choice import QuantizationOptions
from elir_deploy.export.calibration import CalibrationImage
from elir_deploy.export.int8 import calibrate
from elir_deploy.export.pixels import Feeder
from elir_deploy.export.quantization import CHANNEL_AXIS, conv_layers
from elir_deploy.export.verification import FLOORS_DB
from elir_deploy.tasks import task_named

TASK = task_named("tiny")
SIDE = TASK.image_size

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Material:
    """What every engine is given.

    Attributes:
        model: file of the fused float32 graph, uint8 at both ends.
        images: to calibrate with.
        output: what is to be written, without a suffix: ``.onnx``, or ``.xml`` of OpenVINO.
    """

    model: Path
    images: list[CalibrationImage]
    output: Path

    @property
    def onnx(self) -> Path:
        return self.output.with_suffix(".onnx")

    @property
    def batches(self) -> list[Bytes]:
        """The images as the graph takes them."""
        return [image.image[None] for image in self.images]

    @property
    def rgb_ends(self) -> list[str]:
        """Names of the convolutions that read or write RGB."""
        layers = conv_layers(onnx.load(self.model))
        ends = [
            nodes for layer, nodes in layers.items() if static().outline.block_of(layer) is None
        ]
        return [node.name for nodes in ends for node in nodes]


@cache
def static() -> Any:
    """The packaged model as the graph that is measured is made of it."""
    from elir_deploy.checkpoints import load_checkpoint
    from elir_deploy.static_graph import build_static_graph, fixed_noise, latent_shape

    network = load_checkpoint(TASK.name).model
    noise = fixed_noise(0, TASK.sigma_s, latent_shape(network, SIDE))
    return build_static_graph(network, image_size=SIDE, steps=TASK.steps, noise=noise)


@dataclass(frozen=True)
class Engine:
    """A row of the table.

    Attributes:
        name: with the settings that make it differ from its neighbours.
        make: writes the graph.
        needs: modules it imports.
    """

    name: str
    make: Callable[[Material], None]
    needs: tuple[str, ...] = ()


def ours(options: QuantizationOptions, floor_db: float | None = None) -> Callable[[Material], None]:
    def make(material: Material) -> None:
        model = onnx.load(material.model)
        outline = static().outline
        recipe, _ = calibrate(model, outline, material.images, Feeder("uint8"), options, floor_db)
        onnx.save(recipe.apply(model), material.onnx)

    return make


def nncf_onnx(*, corrected: bool, fast: bool = True) -> Callable[[Material], None]:
    def make(material: Material) -> None:
        import nncf

        quantized = nncf.quantize(
            onnx.load(material.model),
            nncf.Dataset([{"image": batch} for batch in material.batches]),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(material.images),
            fast_bias_correction=fast,
            ignored_scope=nncf.IgnoredScope(names=material.rgb_ends),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=not corrected
            ),
        )
        onnx.save(quantized, material.onnx)

    return make


def nncf_openvino(material: Material) -> None:
    import nncf
    import openvino

    model = openvino.Core().read_model(material.model)
    ends = [
        operation.get_friendly_name()
        for operation in model.get_ops()
        # A convolution with a bias is two operations there.
        if operation.get_friendly_name().removesuffix("/WithoutBiases") in material.rgb_ends
        and operation.get_type_name() == "Convolution"
    ]
    _check_rgb_ends(ends)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(material.batches),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(material.images),
        ignored_scope=nncf.IgnoredScope(names=ends),
    )
    openvino.save_model(quantized, material.output.with_suffix(".xml"), compress_to_fp16=False)


def _check_rgb_ends(found: list[Any]) -> None:
    expected = static().outline.rgb_ends
    if len(found) != len(expected):
        raise ElirError(f"found the RGB ends {found}, expected those of {', '.join(expected)}")


def _layer(node: Any) -> str:
    """Scope of the module that a node of ``torch.export`` comes from."""
    module, _ = list(node.meta["nn_module_stack"].values())[-1]
    return str(module.removeprefix("stages.").partition(".")[2])


def onnxruntime_static(
    method: str, operators: list[str] | None, **extra: Any
) -> Callable[[Material], None]:
    def make(material: Material) -> None:
        from onnxruntime import quantization

        batches = material.batches

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.rewind()

            def rewind(self) -> None:
                self.feeds = iter([{"image": batch} for batch in batches])

            def get_next(self) -> dict[str, Bytes] | None:
                return next(self.feeds, None)

        quantization.quantize_static(
            str(material.model),  # SmoothQuant refuses a Path
            str(material.onnx),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=operators,
            nodes_to_exclude=material.rgb_ends,
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod[method],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "QDQOpTypePerChannelSupportToAxis": dict(CHANNEL_AXIS),
                **extra,
            },
        )

    return make


def modelopt(method: str) -> Callable[[Material], None]:
    def make(material: Material) -> None:
        from modelopt.onnx import quantization

        quantization.quantize(
            str(material.model),
            quantize_mode="int8",
            calibration_data=np.concatenate(material.batches),
            calibration_method=method,
            calibration_eps=["cpu"],
            nodes_to_exclude=material.rgb_ends,
            high_precision_dtype="fp32",
            output_path=str(material.onnx),
        )

    return make


def torchao_pt2e(material: Material) -> None:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    example = (torch.from_numpy(material.batches[0]),)
    prepared = prepare_pt2e(torch.export.export(static(), example).module(), _torch_quantizer())
    for batch in material.batches:
        prepared(torch.from_numpy(batch))
    program = torch.onnx.export(
        convert_pt2e(prepared),
        example,
        dynamo=True,
        opset_version=18,
        input_names=["image"],
        output_names=["restored"],
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    # Half of the file would be source lines.
    for item in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del item.metadata_props[:]
    onnx.save(model, material.onnx)


def _torch_quantizer() -> Any:
    """Min-max, on what each convolution reads and on its weight."""
    import torch
    from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantizer import (
        QuantizationAnnotation,
        QuantizationSpec,
        Quantizer,
    )

    levels = {"dtype": torch.int8, "quant_min": -127, "quant_max": 127}
    activation = QuantizationSpec(
        **levels,
        qscheme=torch.per_tensor_symmetric,
        observer_or_fake_quant_ctr=MinMaxObserver,
    )
    weights = {
        axis: QuantizationSpec(
            **levels,
            qscheme=torch.per_channel_symmetric,
            ch_axis=axis,
            observer_or_fake_quant_ctr=PerChannelMinMaxObserver,
        )
        for axis in (0, 1)
    }

    class Convolutions(Quantizer):  # type: ignore[misc]
        def annotate(self, model: Any) -> Any:
            convolutions = [node for node in model.graph.nodes if "aten.conv" in str(node.target)]
            ends = [node for node in convolutions if _layer(node) in static().outline.rgb_ends]
            _check_rgb_ends(ends)
            for node in convolutions:
                if node in ends:
                    continue
                weight = weights[1 if "transpose" in str(node.target) else 0]
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map={node.args[0]: activation, node.args[1]: weight},
                    _annotated=True,
                )
            return model

        def validate(self, model: Any) -> None:
            pass

    return Convolutions()


CONVOLUTIONS = ["Conv", "ConvTranspose"]
ENGINES = (
    Engine("ours, every part", ours(QuantizationOptions())),
    Engine("ours, biases not corrected", ours(QuantizationOptions(correct_biases=False))),
    Engine("ours, channels not equalised", ours(QuantizationOptions(equalize=False))),
    Engine("ours, neither", ours(QuantizationOptions(correct_biases=False, equalize=False))),
    Engine(
        "ours, budget of 0.3 dB",
        ours(QuantizationOptions(max_psnr_drop_db=0.3), floor_db=FLOORS_DB["int8"]),
    ),
    Engine("NNCF on ONNX, biases not corrected", nncf_onnx(corrected=False), ("nncf",)),
    Engine("NNCF on ONNX, fast bias correction", nncf_onnx(corrected=True), ("nncf",)),
    Engine("NNCF on ONNX, slow bias correction", nncf_onnx(corrected=True, fast=False), ("nncf",)),
    Engine("NNCF on OpenVINO, mixed preset", nncf_openvino, ("nncf", "openvino")),
    Engine("onnxruntime, min-max", onnxruntime_static("MinMax", CONVOLUTIONS), ("onnxruntime",)),
    Engine(
        "onnxruntime, percentile",
        onnxruntime_static("Percentile", CONVOLUTIONS, CalibPercentile=99.99),
        ("onnxruntime",),
    ),
    Engine(
        "onnxruntime, min-max, every operator",
        onnxruntime_static("MinMax", None),
        ("onnxruntime",),
    ),
    Engine(
        "onnxruntime, min-max, SmoothQuant",
        onnxruntime_static("MinMax", CONVOLUTIONS, SmoothQuant=True),
        ("onnxruntime", "neural_compressor"),
    ),
    Engine("ModelOpt, max", modelopt("max"), ("modelopt",)),
    Engine("ModelOpt, entropy", modelopt("entropy"), ("modelopt",)),
    Engine("torchao PT2E, min-max", torchao_pt2e, ("torch", "torchao")),
)
