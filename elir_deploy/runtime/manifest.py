"""The one definition of ``bundle.json``, format 2.

An attribute is an entry of the same name. Reading, writing and the JSON Schema come from these
classes (:mod:`elir_deploy.runtime.manifest_file`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.targets import HardwareCompatibility

__all__ = [
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "PRECISIONS",
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
    "Int8Quality",
    "Manifest",
    "Model",
    "Quantization",
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
#: Every precision a stage can be exported in.
PRECISIONS = ("fp32", "fp16", "int8")
#: Every precision a stage can run in, the most exact first. There are no files of bf16: a backend
#: that has it rounds those of fp32.
RUN_PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_FILES_OF = {"bf16": "fp32"}
#: The stages of a split bundle, in order. A fused bundle has the one stage ``fused``.
SPLIT_STAGES = ("encoder", "estimator", "flow", "decoder")
#: The second input of the stage that adds the noise, where noise is an input.
NOISE_TENSOR = "noise"


# Python's $ also matches before a final newline, which the lookahead excludes.
_END = r"$(?!\n)"
Text = Annotated[str, Meta(max_length=1000)]
Name = Annotated[str, Meta(pattern=rf"^[a-z0-9][a-z0-9_.+-]{{0,63}}{_END}", max_length=64)]
Sha256 = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{64}}{_END}", max_length=64)]
FilePath = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,199}(/[A-Za-z0-9][A-Za-z0-9._+-]{0,199})?" + _END,
        max_length=401,
    ),
]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Bytes = Annotated[int, Meta(ge=1, le=2**53)]
Side = Annotated[int, Meta(ge=1, le=65536)]
Positive = Annotated[float, Meta(ge=0)]
FilePrecision = Literal["fp32", "fp16", "int8", "w8"]
RunPrecision = Annotated[str, Meta(pattern=rf"^(fp32|fp16|bf16|int8|w8){_END}", max_length=4)]
ConvolutionType = Annotated[str, Meta(pattern=rf"^(int8|fp16|fp32){_END}", max_length=4)]
Kind = Literal["onnx", "tensorrt", "tensorrt-rtx"]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An object of the manifest: no entry may be added, optional ones may be left out."""


class Model(_Record, frozen=True):
    """The network's numbers, as :class:`elir_deploy.tasks.TaskSpec` names them.

    Attributes:
        task: name of the task.
        steps: Euler steps M (paper, Algorithm 1).
        sigma_s: standard deviation of the noise added to the coarse latent.
        upscale: factor by which an input is enlarged before the network, which keeps the size.
        upscale_kernel: how it is enlarged.
        faces: trained on aligned face crops only.
        parameters: of the collapsed network.
        architecture: plain JSON values of :class:`elir_deploy.tasks.Architecture`.
    """

    task: Name
    steps: Annotated[int, Meta(ge=1, le=1000)]
    sigma_s: Positive
    upscale: Annotated[int, Meta(ge=1, le=16)]
    upscale_kernel: Literal["none", "nearest", "bicubic"]
    faces: bool
    parameters: Bytes
    architecture: dict[str, Any]


class Source(_Record, frozen=True):
    """The checkpoint: its name, the SHA-256 of its file if it had one, and whether it is random."""

    name: Annotated[str, Meta(max_length=255)]
    sha256: Sha256 | None
    random: bool


class BakedNoise(_Record, frozen=True, tag_field="kind", tag="baked"):
    """Noise that is a constant of the graph.

    Attributes:
        generator: that drew it.
        seed: of the generator.
        sha256: of the float32 values, scaled by sigma_s.
    """

    generator: Text
    seed: Count
    sha256: Sha256


class FieldNoise(_Record, frozen=True, tag_field="kind", tag="field"):
    """Noise that is an input of the graph, a function of seed, channel and place in the picture.

    Attributes:
        generator: that computes it.
        seed: where none is chosen.
    """

    generator: Text
    seed: Count


class Shape(_Record, frozen=True):
    """Images that the graphs take at once.

    Attributes:
        batch: up to this many.
        height, width: of each image in pixels.
        padded_height, padded_width: what the graph takes where the network needs multiples; None:
            ``height`` and ``width``.
    """

    batch: Annotated[int, Meta(ge=1, le=1024)]
    height: Side
    width: Side
    padded_height: Side | None = None
    padded_width: Side | None = None

    @property
    def graph_height(self) -> int:
        return self.padded_height or self.height

    @property
    def graph_width(self) -> int:
        return self.padded_width or self.width


class Tensor(_Record, frozen=True):
    """A tensor handed to or taken from a stage, for every shape.

    Attributes:
        dtype: of its values.
        layout: order of its four axes.
        channels: of the channel axis.
        stride: side of one of its pixels in pixels of the image.
        range: least and greatest value of an RGB image; None: it is a latent.
    """

    dtype: Literal["uint8", "float32"]
    layout: Literal["NHWC", "NCHW"]
    channels: Side
    stride: Annotated[int, Meta(ge=1, le=1024)]
    range: tuple[Count, Count] | None = None


class File(_Record, frozen=True):
    """A file of the bundle: its path inside, with ``/``; hash and size of its content."""

    file: FilePath
    sha256: Sha256
    bytes: Bytes


class Artifact(File, frozen=True):
    """One stage made into one file.

    Attributes:
        kind: of file, which decides the backends that load it.
        precision: of the computation.
        target: compute capability of the GPUs it was made for, such as ``sm75``; None: any device.
        tool, tool_version: what made it.
        convolutions: of an engine: kernels that convolve, by what they read; None: not known.
        version_compatible: an engine for later releases of its library too.
        hardware_compatibility: the GPUs an engine is for beside the one it was built on.
        graph_convolutions: of an ONNX file: its convolutions and matrix products, by what they
            read, which engines made from it are held against; None: not known.
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


class StageEntry(_Record, frozen=True):
    """One graph of the chain and the files that hold it.

    Attributes:
        name: ``fused``, or one of :data:`SPLIT_STAGES`.
        inputs: names of tensors; the first is what the stage before gives, a second the noise.
        output: name of the tensor it gives.
        artifacts: the files it was made into.
    """

    name: Literal["fused", "encoder", "estimator", "flow", "decoder"]
    inputs: Annotated[list[Name], Meta(min_length=1, max_length=2)]
    output: Name
    artifacts: Annotated[list[Artifact], Meta(min_length=1, max_length=1000)]


@dataclass(frozen=True)
class Stage:
    """A stage with its tensors in one shape."""

    name: str
    input: TensorSpec
    output: TensorSpec
    artifacts: tuple[Artifact, ...]


class Resize(_Record, frozen=True):
    """How an image of another size is brought to the model's and back."""

    kernel: Literal["bicubic"]
    a: float
    antialias: bool
    rounding: Text


#: What both runtimes do; ``rounding`` says it exactly enough for another implementation.
RESIZE = Resize(
    kernel="bicubic",
    a=-0.5,
    antialias=True,
    rounding="Pillow: coefficients in 22-bit fixed point, rows first, then columns, each pass "
    "rounded half up to uint8",
)


class ExportSettings(_Record, frozen=True):
    """What else decides the bytes of the graphs.

    Attributes:
        opset: of the ONNX files.
        float16_normalization: where sums over feature maps are float32 in float16 graphs.
        int8_fallback: what int8 graphs compute in where they are not int8.
        rewrites: exact rewrites, and whether each was applied.
    """

    opset: Annotated[int, Meta(ge=1, le=1000)]
    float16_normalization: Literal["measured", "float32", "float16"]
    int8_fallback: Literal["float32", "float16"]
    rewrites: dict[Name, bool]


class ImageFidelity(_Record, frozen=True):
    """Agreement of one image with float32 PyTorch.

    Attributes:
        name: of the picture.
        width, height: in pixels.
        synthetic: drawn, and unlike any photograph.
        psnr_db: peak signal-to-noise ratio of 8-bit pixels; None where they are identical.
        max_error, mean_error: in units of [0, 1]; None where the network gave numbers that are
            not finite.
    """

    name: Name
    width: Side
    height: Side
    synthetic: bool
    psnr_db: float | None
    max_error: float | None
    mean_error: float | None


class Verification(_Record, frozen=True):
    """Agreement of one precision with float32 PyTorch.

    Attributes:
        psnr_db: of the worst photograph, in dB; None where every one is identical.
        max_error, mean_error: of the photographs, in units of [0, 1]; None where the network gave
            numbers that are not finite.
        floor_db: what ``psnr_db`` had to reach.
        passed: whether it did.
        automatic: may run where the user names no precision: it passed, and loses little on
            synthetic pictures, too.
        backend: what ran it.
        images: each picture's figures.
        boundaries: signal-to-error ratio in dB after each part of the network, in order; None
            where there is no error.
        parts: the same for each part alone, given exact input.
        worst_part: the part that loses most, if one stands out.
        kept_float32: layers left in floating point, with the reason.
    """

    psnr_db: float | None
    max_error: float | None
    mean_error: float | None
    floor_db: float
    passed: bool
    automatic: bool
    backend: Text
    images: Annotated[list[ImageFidelity], Meta(max_length=1000)]
    boundaries: dict[Text, float | None]
    parts: dict[Text, float | None]
    worst_part: Text | None
    kept_float32: Annotated[list[Text], Meta(max_length=10000)]

    @property
    def finite(self) -> bool:
        """Whether the network gave only finite numbers for the photographs."""
        return self.max_error is not None


class Reference(_Record, frozen=True):
    """A network input and the float32 PyTorch output for it: two 8-bit RGB PNG files."""

    name: Name
    input: File
    output: File


class TargetEntry(_Record, frozen=True):
    """A device that the bundle was exported for.

    Attributes:
        name: such as ``rtx2080ti``.
        kind: of its engines; those of kind ``tensorrt`` are built on the device.
        capability: compute capability of its GPU.
    """

    name: Name
    kind: Literal["tensorrt", "tensorrt-rtx"]
    capability: Annotated[str, Meta(pattern=rf"^sm[0-9]{{2,3}}{_END}", max_length=5)]


class Int8Quality(_Record, frozen=True):
    """What INT8 costs on the calibration images.

    Attributes:
        psnr_drop_db: mean loss of PSNR to the truth; None without truths.
        fidelity_db: PSNR against float32, of the worst image; None where identical.
    """

    psnr_drop_db: float | None
    fidelity_db: float | None


class BlockSensitivity(_Record, frozen=True):
    """What one block of the network costs in INT8.

    Attributes:
        block: its name.
        macs: its multiplications.
        psnr_db: of the image against float32 with this block alone in INT8; None: identical.
        kept: in floating point.
    """

    block: Text
    macs: Count
    psnr_db: float | None
    kept: bool


class Quantization(File, frozen=True):
    """How INT8 was made: a file that makes the same graph again, and what was measured.

    Attributes:
        images: how many the ranges were taken from.
        max_psnr_drop_db: the budget; None where nothing was measured, as for random weights.
        measured: quality as chosen.
        everything_int8: quality with every block in INT8.
        blocks: what each costs.
        smallest_layer: convolutions of fewer weights stay in floating point.
    """

    images: Count
    max_psnr_drop_db: float | None
    measured: Int8Quality | None
    everything_int8: Int8Quality | None
    blocks: Annotated[list[BlockSensitivity], Meta(max_length=1000)]
    smallest_layer: Count = 0


Point = tuple[float, float]


class Detector(_Record, frozen=True):
    """A network that finds faces, and how to read what it gives.

    Attributes:
        name: of the network.
        decoder: the conventions of its outputs, such as ``centerface`` or ``yunet``.
        licence: its short name.
        licence_file: its text.
        input: name of the input tensor, (1, 3, H, W) float32 in 0..255.
        outputs: what each output tensor is, by name.
        color: order of the input's channels.
        multiple: sides of the input are multiples of this.
        long_side: that a picture is brought to before it is looked at.
        score_threshold: least score of a face.
        overlap_threshold: intersection over union above which the lower score is dropped.
        template: both eyes, nose and both corners of the mouth in an aligned square.
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


class Manifest(_Record, frozen=True):
    """``bundle.json``.

    Attributes:
        model, source, noise: what the network computes.
        shapes: the images it takes.
        tensors: those that stages hand over, by name.
        stages: the graphs, in order.
        resize: how images of other sizes are brought to the model's.
        precisions: those of the files.
        export: what else decides the bytes of the graphs.
        verification: by precision run; ``bf16`` is a run of the fp32 files.
        references: small inputs with float32 PyTorch outputs.
        versions: of the packages that made the bundle.
        targets: devices that it was exported for.
        quantization: how INT8 was made, where there is INT8.
        detector: of faces, where the bundle has one.
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
    targets: Annotated[list[TargetEntry], Meta(max_length=1000)] = []
    quantization: Quantization | None = None
    detector: Detector | None = None

    @property
    def image_size(self) -> int:
        """Side of the square that the first shape has."""
        return self.shapes[0].graph_height

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Of all stages, in order."""
        return tuple(artifact for stage in self.stages for artifact in stage.artifacts)

    @property
    def input(self) -> TensorSpec:
        """The image that the first stage takes, in the first shape."""
        return self.tensor(self.stages[0].inputs[0])

    @property
    def output(self) -> TensorSpec:
        """The image that the last stage gives, in the first shape."""
        return self.tensor(self.stages[-1].output)

    def files(self) -> list[File]:
        """Every file of the bundle but the manifest, in the manifest's order."""
        found: list[File] = [*self.artifacts]
        for reference in self.references:
            found += [reference.input, reference.output]
        if self.quantization is not None:
            found.append(self.quantization)
        if self.detector is not None:
            found += [*self.detector.artifacts, self.detector.licence_file]
        return found

    def tensor(self, name: str, shape: Shape | None = None) -> TensorSpec:
        """A tensor as it is in ``shape``; None: in the first."""
        entry, shape = self.tensors[name], shape or self.shapes[0]
        height, width = shape.graph_height // entry.stride, shape.graph_width // entry.stride
        if entry.layout == "NHWC":
            return TensorSpec(
                name, entry.dtype, (shape.batch, height, width, entry.channels), "NHWC"
            )
        return TensorSpec(name, entry.dtype, (shape.batch, entry.channels, height, width), "NCHW")

    def stages_in(self, shape: Shape | None = None) -> tuple[Stage, ...]:
        """The chain with its tensors as they are in ``shape``; None: in the first."""
        return tuple(
            Stage(
                stage.name,
                self.tensor(stage.inputs[0], shape),
                self.tensor(stage.output, shape),
                tuple(stage.artifacts),
            )
            for stage in self.stages
        )


def file_precision(precision: str) -> str:
    """The precision of the files that are loaded to run in ``precision``."""
    return _FILES_OF.get(precision, precision)
