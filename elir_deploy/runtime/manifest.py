"""The one definition of ``bundle.json``, format 2.

Attributes are entries of the same name. Reading, writing and the JSON Schema are derived from these
classes (:mod:`elir_deploy.runtime.manifest_file`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from elir_deploy.runtime.graph_ends import End, GraphEnds
from elir_deploy.runtime.manifest_fields import (
    PRECISIONS,
    RESIZE,
    RUN_PRECISIONS,
    SPLIT_STAGES,
    Bytes,
    Capability,
    ConvolutionType,
    Count,
    EngineKind,
    File,
    FilePrecision,
    Kind,
    Name,
    Positive,
    Record,
    Resize,
    RunPrecision,
    Sha256,
    Side,
    Text,
    file_precision,
)
from elir_deploy.runtime.manifest_quality import (
    BlockSensitivity,
    ImageFidelity,
    Quantization,
    QuantizationQuality,
    Verification,
)
from elir_deploy.runtime.manifest_shapes import BakedNoise, FieldNoise, Shape, Tensor
from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.targets import HardwareCompatibility

__all__ = [
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "NOISE_TENSOR",
    "PRECISIONS",
    "RESIZE",
    "RUN_PRECISIONS",
    "SPLIT_STAGES",
    "Artifact",
    "BakedNoise",
    "BlockSensitivity",
    "Detector",
    "ExportSettings",
    "FieldNoise",
    "File",
    "ImageFidelity",
    "Manifest",
    "Model",
    "Quantization",
    "QuantizationQuality",
    "Reference",
    "Resize",
    "Shape",
    "Source",
    "Stage",
    "StageEntry",
    "TargetEntry",
    "Tensor",
    "Verification",
    "file_precision",
]

FORMAT_NAME: Literal["elir-bundle"] = "elir-bundle"
FORMAT_VERSION: Literal[2] = 2
#: Name of the second input of the stage that adds the noise, if noise is an input.
NOISE_TENSOR = "noise"


class Model(Record, frozen=True):
    """Hyperparameters of the network, named as in :class:`elir_deploy.tasks.TaskSpec`.

    Attributes:
        task: name of the task.
        steps: Euler steps M (paper, Algorithm 1).
        sigma_s: standard deviation of the noise added to the coarse latent.
        upscale: factor by which an input is enlarged before the network, which keeps the size.
        upscale_kernel: interpolation of the enlargement.
        faces: whether it was trained on aligned face crops only.
        parameters: number of parameters of the collapsed network.
        architecture: JSON values of :class:`elir_deploy.tasks.Architecture`.
    """

    task: Name
    steps: Annotated[int, Meta(ge=1, le=1000)]
    sigma_s: Positive
    upscale: Annotated[int, Meta(ge=1, le=16)]
    upscale_kernel: Literal["none", "nearest", "bicubic"]
    faces: bool
    parameters: Bytes
    architecture: dict[str, Any]


class Source(Record, frozen=True):
    """The checkpoint: its name, the SHA-256 of its file, if any, and whether it is random."""

    name: Annotated[str, Meta(max_length=255)]
    sha256: Sha256 | None
    random: bool


class Artifact(File, frozen=True):
    """A file that a backend can load.

    Attributes:
        kind: kind of the file, which decides the backends that load it.
        precision: precision of the computation.
        target: compute capability of the GPUs that it runs on, such as ``sm75``; None: any device.
        tool, tool_version: the program that wrote it.
        convolutions: an engine's convolution kernels, by type of their input; None: unknown.
        version_compatible: whether an engine also runs with later releases of its library.
        hardware_compatibility: the GPUs an engine runs on besides those like its build GPU.
        graph_convolutions: an ONNX file's convolutions and matrix products by type of their input,
            with which engines built from it are compared; None: unknown.
    """

    kind: Kind
    precision: FilePrecision
    target: Text | None
    tool: Text
    tool_version: Text
    convolutions: dict[ConvolutionType, Count] | None = None
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = "none"
    graph_convolutions: dict[ConvolutionType, Count] | None = None


class StageEntry(Record, frozen=True):
    """A stage and its files.

    Attributes:
        name: ``fused``, or one of :data:`SPLIT_STAGES`.
        inputs: names of tensors: the output of the stage before, and possibly the noise.
        output: name of the output tensor.
        artifacts: its files.
    """

    name: Literal["fused", "encoder", "estimator", "flow", "decoder"]
    inputs: Annotated[list[Name], Meta(min_length=1, max_length=2)]
    output: Name
    artifacts: Annotated[list[Artifact], Meta(min_length=1, max_length=1000)]


@dataclass(frozen=True)
class Stage:
    """A stage with its tensors for one shape; ``noise`` is its second input, if it has one."""

    name: str
    input: TensorSpec
    output: TensorSpec
    artifacts: tuple[Artifact, ...]
    noise: TensorSpec | None = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (self.input,) if self.noise is None else (self.input, self.noise)

    @property
    def ends(self) -> GraphEnds:
        """Its inputs and outputs, at this shape."""
        inputs = [End(spec.name, spec.dtype, spec.shape) for spec in self.inputs]
        return GraphEnds(inputs, [End(self.output.name, self.output.dtype, self.output.shape)])


class ExportSettings(Record, frozen=True):
    """Other settings that the graphs depend on.

    Attributes:
        opset: ONNX opset of the files.
        float16_normalization: which normalisations are float32 in float16 graphs.
        int8_fallback: type of the layers of int8 graphs that are not int8.
        rewrites: the exact rewrites, and whether each was applied.
    """

    opset: Annotated[int, Meta(ge=1, le=1000)]
    float16_normalization: Literal["measured", "float32", "float16"]
    int8_fallback: Literal["float32", "float16"]
    rewrites: dict[Name, bool]


class Reference(Record, frozen=True):
    """A network input and its float32 PyTorch output: two 8-bit RGB PNG files."""

    name: Name
    input: File
    output: File


class TargetEntry(Record, frozen=True):
    """A target of the export; engines of kind ``tensorrt`` are built on the device."""

    name: Name
    kind: EngineKind
    capability: Capability


Point = tuple[float, float]


class Detector(Record, frozen=True):
    """A face detector, and how to decode its outputs.

    Attributes:
        name: name of the network.
        decoder: convention of its outputs, such as ``centerface`` or ``yunet``.
        licence: short name of its licence.
        licence_file: text of its licence.
        input: name of the input tensor, (1, 3, H, W) float32 in 0..255.
        outputs: meaning of each output tensor, by name.
        color: order of the input's channels.
        multiple: number that the sides of the input must be multiples of.
        long_side: longer side to which pictures are scaled.
        score_threshold: minimum score of a face.
        overlap_threshold: intersection over union above which the lower score is dropped.
        template: eyes, nose and corners of the mouth in an aligned square.
        template_size: side of that square in pixels.
        artifacts: its files.
    """

    name: Name
    decoder: Name
    licence: Text
    licence_file: File
    input: Text
    outputs: dict[Text, Name]
    color: Literal["RGB", "BGR"]
    multiple: Annotated[int, Meta(ge=1, le=1024)]
    long_side: Side
    score_threshold: Annotated[float, Meta(ge=0, le=1)]
    overlap_threshold: Annotated[float, Meta(ge=0, le=1)]
    template: tuple[Point, Point, Point, Point, Point]
    template_size: Side
    artifacts: Annotated[list[Artifact], Meta(min_length=1, max_length=1000)]


class Manifest(Record, frozen=True):
    """``bundle.json``.

    Attributes:
        model, source, noise: what the network computes.
        shapes: shapes of the input.
        tensors: inputs and outputs of the stages, by name.
        stages: the stages, in order.
        resize: how images of other sizes are resized.
        precisions: precisions of the files.
        export: other settings that the graphs depend on.
        verification: results by precision run; ``bf16`` runs the fp32 files.
        references: small inputs with float32 PyTorch outputs.
        versions: versions of the packages that wrote the bundle.
        targets: targets of the export.
        quantization: calibration and quality of INT8, if there are INT8 files.
        detector: a face detector, if the bundle has one.
    """

    format: Literal["elir-bundle"]
    format_version: Literal[2]
    model: Model
    source: Source
    noise: BakedNoise | FieldNoise
    shapes: Annotated[list[Shape], Meta(min_length=1, max_length=64)]
    tensors: dict[Name, Tensor]
    stages: Annotated[list[StageEntry], Meta(min_length=1, max_length=16)]
    resize: Resize
    precisions: Annotated[list[FilePrecision], Meta(min_length=1, max_length=4)]
    export: ExportSettings
    verification: dict[RunPrecision, Verification]
    references: Annotated[list[Reference], Meta(max_length=1000)]
    versions: dict[Text, Text]
    targets: Annotated[list[TargetEntry], Meta(max_length=1000)] = field(default_factory=list)
    quantization: Quantization | None = None
    detector: Detector | None = None

    @property
    def image_size(self) -> int:
        """Height of the first shape in the graphs, which is a square for most models."""
        return self.shapes[0].graph_height

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of an image that fills the first shape once it is enlarged."""
        shape, upscale = self.shapes[0], self.model.upscale
        return shape.height // upscale, shape.width // upscale

    @property
    def several(self) -> bool:
        """Whether graphs and engines are for several shapes or batches."""
        return len(self.shapes) > 1 or self.shapes[0].batch > 1

    @property
    def trial_shapes(self) -> list[Shape]:
        """Shapes to try graphs of several sizes with, the smallest first; of one size, none.

        Squares that divide all sides, and the smallest of :attr:`shapes`. In squares of twice the
        strides nothing has one pixel, which would fit anything.
        """
        if len(self.shapes) == 1:
            return []
        common = math.gcd(*(side for shape in self.shapes for side in shape.graph_size))
        side = 2 * math.lcm(*(tensor.stride for tensor in self.tensors.values()))
        trials = []
        while common % side == 0:
            trials.append(Shape(1, side, side))
            side *= 2
        smallest = min(self.shapes, key=lambda shape: shape.graph_height * shape.graph_width)
        return [*trials, smallest.with_batch(1)]

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Artifacts of all stages, in order."""
        return tuple(artifact for stage in self.stages for artifact in stage.artifacts)

    @property
    def input(self) -> TensorSpec:
        """Input of the first stage, for the first shape."""
        return self.tensor(self.stages[0].inputs[0])

    @property
    def output(self) -> TensorSpec:
        """Output of the last stage, for the first shape."""
        return self.tensor(self.stages[-1].output)

    def files(self) -> list[File]:
        """All files of the bundle except the manifest, in the manifest's order."""
        files: list[File] = [*self.artifacts]
        for reference in self.references:
            files += [reference.input, reference.output]
        if self.quantization is not None:
            files.append(self.quantization)
        if self.detector is not None:
            files += [*self.detector.artifacts, self.detector.licence_file]
        return files

    def tensor(self, name: str, shape: Shape | None = None) -> TensorSpec:
        """A tensor for ``shape``; None: for the first."""
        entry, shape = self.tensors[name], shape or self.shapes[0]
        height, width = shape.graph_height // entry.stride, shape.graph_width // entry.stride
        if entry.layout == "NHWC":
            return TensorSpec(
                name, entry.dtype, (shape.batch, height, width, entry.channels), "NHWC"
            )
        return TensorSpec(name, entry.dtype, (shape.batch, entry.channels, height, width), "NCHW")

    def dimensions(self, name: str) -> tuple[int | None, ...]:
        """Dimensions of a tensor in the graphs; None: free, since shapes differ in it."""
        spec = self.tensor(name)
        free: set[int] = set()
        if any(shape.batch > 1 for shape in self.shapes):
            free.add(0)
        if len(self.shapes) > 1:
            free.update((1, 2) if spec.layout == "NHWC" else (2, 3))
        return tuple(None if axis in free else side for axis, side in enumerate(spec.shape))

    def graph_ends(self, stage: Stage) -> GraphEnds:
        """Inputs and outputs of a stage's graph, which leaves open where shapes differ."""
        inputs, outputs = (
            [end._replace(dims=self.dimensions(end.name)) for end in ends] for ends in stage.ends
        )
        return GraphEnds(inputs, outputs)

    def stages_in(self, shape: Shape | None = None) -> tuple[Stage, ...]:
        """The stages with their tensors for ``shape``; None: for the first."""
        return tuple(
            Stage(
                stage.name,
                self.tensor(stage.inputs[0], shape),
                self.tensor(stage.output, shape),
                tuple(stage.artifacts),
                self.tensor(NOISE_TENSOR, shape) if NOISE_TENSOR in stage.inputs[1:] else None,
            )
            for stage in self.stages
        )
