"""A model in, an export-ready module out, in which everything but the images is fixed.

The over-parametrised convolutions are collapsed, the Euler loop is unrolled over M steps, the noise
becomes a constant or an input, and a few exact rewrites make the graph smaller or faster. Each
rewrite is one function on a model, computes the same function up to rounding, and can be switched
off; which of them pay, and where, is measured in ``docs/decisions.md``.
"""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elir_deploy.errors import UsageError
from elir_deploy.model.convolution import compose_with_pointwise
from elir_deploy.model.elir import Elir, collapse_convolutions
from elir_deploy.model.estimator import DenseBlock
from elir_deploy.model.vector_field import ResidualBlock, VectorField
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.scopes import (
    DECODER,
    ENCODER,
    ESTIMATOR,
    FLOW,
    IMAGE_INPUT,
    IMAGE_OUTPUT,
    STAGE_SCOPES,
    Outline,
)
from elir_deploy.static_modules import (
    Chain,
    FixedAddition,
    ImageInput,
    ImageOutput,
    InputAddition,
    IoFormat,
    StepBiasedBlock,
    UnrolledFlow,
)
from elir_deploy.tasks import Architecture

__all__ = [
    "MAX_IMAGE_SIZE",
    "NOISE_GENERATOR",
    "FixedNoise",
    "ImageSize",
    "Noise",
    "Rewrites",
    "StaticElir",
    "build_static_graph",
    "check_size",
    "fixed_noise",
    "noise_values",
]

#: Bounds of what is worth unrolling; larger pictures are restored in tiles.
MAX_IMAGE_SIZE = 4096
MAX_STEPS = 100
#: Size of an image in pixels: the side of a square, or (height, width).
ImageSize = int | tuple[int, int]
#: The generator whose stream NumPy promises never to change.
NOISE_GENERATOR = "numpy.random.RandomState.standard_normal, float64 rounded to float32"


@dataclass(frozen=True)
class Rewrites:
    """Which exact rewrites are applied.

    Attributes:
        collapse: over-parametrised convolutions become single 3x3 convolutions.
        fold_time: the time MLP becomes one bias vector per residual block and step.
        merge_projection: the U-Net's last 3x3 convolution absorbs the 1x1 projection after it.
        fold_scalars: the dense blocks' 0.2, the step 1/M and the decoder's 3 move into weights.
    """

    collapse: bool = True
    fold_time: bool = True
    merge_projection: bool = True
    fold_scalars: bool = True

    @classmethod
    def none(cls) -> Rewrites:
        """The plain graph: unrolled, nothing rewritten."""
        return cls(collapse=False, fold_time=False, merge_projection=False, fold_scalars=False)


@dataclass(frozen=True)
class FixedNoise:
    """The noise of Algorithm 1, fixed: epsilon with standard deviation ``sigma_s``.

    Attributes:
        values: (1, latent_channels, h, w) float32, already scaled.
        seed: of the generator.
        sha256: of the values' bytes, little-endian, row-major.
    """

    values: Tensor
    seed: int
    sha256: str


def fixed_noise(seed: int, sigma_s: float, shape: tuple[int, int, int, int]) -> FixedNoise:
    """Draw the noise that is baked into a graph, the same on every processor.

    ``torch.randn`` differs between CPU kernels; NumPy's legacy generator promises its stream. It
    computes in float64, so that the last bit of a platform's logarithm is lost in the rounding.

    Raises:
        UsageError: the seed is outside [0, 2**32) or sigma_s is negative or not finite.
    """
    if not 0 <= seed < 2**32:
        raise UsageError(f"the seed of the noise is {seed}, expected 0 to {2**32 - 1}")
    if not (np.isfinite(sigma_s) and sigma_s >= 0):
        raise UsageError(f"sigma_s is {sigma_s}, expected a number >= 0")
    unit = np.random.RandomState(seed).standard_normal(shape)
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(sigma_s * unit, dtype="<f4")
    if not np.isfinite(values).all():
        raise UsageError(f"sigma_s is {sigma_s:g}, too large for float32")
    return FixedNoise(torch.from_numpy(values), seed, hashlib.sha256(values.tobytes()).hexdigest())


#: The noise of a graph: a constant of it, or the field that its second input is filled from.
Noise = FixedNoise | NoiseField


def noise_values(noise: Noise, shape: tuple[int, int, int, int]) -> Tensor:
    """The noise of one whole picture, whose latent has ``shape`` (1, c, h, w), scaled, float32."""
    if isinstance(noise, FixedNoise):
        return noise.values
    values = np.empty(shape, np.float32)
    noise.fill(values[0], 0, 0)
    return torch.from_numpy(values)


class StaticElir(nn.Module):
    """The network with everything fixed but its inputs, as four stages in order.

    Attributes:
        stages: ``encoder``, ``estimator``, ``flow``, ``decoder``; the first takes an image, the
            last gives one, between them are latents (1, c, h, w) float32. The names of their
            modules are the scopes of the exported graphs.
        takes_noise: whether ``flow`` has a second input, the noise, like a latent.
        outline: of the scopes.
        image_size: (H, W).
        latent_shape: (1, c, h, w).
    """

    def __init__(
        self,
        model: Elir,
        image_size: ImageSize,
        flow: UnrolledFlow,
        io: IoFormat,
    ) -> None:
        super().__init__()
        self.image_size = height_and_width(image_size)
        self.latent_shape = latent_shape(model, image_size)
        self.io = io
        self.takes_noise = isinstance(flow.noise, InputAddition)
        modules = {
            IMAGE_INPUT: ImageInput(io),
            ENCODER: model.encoder,
            ESTIMATOR: model.estimator,
            FLOW: flow,
            DECODER: model.decoder,
            IMAGE_OUTPUT: ImageOutput(io),
        }
        self.stages = nn.ModuleDict(
            {
                stage: Chain(OrderedDict((scope, modules[scope]) for scope in scopes))
                for stage, scopes in STAGE_SCOPES.items()
            }
        )
        scope_of = {
            module: scope
            for stage in self.stages.values()
            for scope, module in stage.named_modules()
        }
        self.outline = _outline(model, flow, scope_of)

    def forward(self, image: Tensor, *noise: Tensor) -> Tensor:
        """An image, and the noise where it is an input, to an image."""
        for name, stage in self.stages.items():
            image = stage(image, *noise) if name == FLOW else stage(image)
        return image

    def example_inputs(self) -> dict[str, tuple[Tensor, ...]]:
        """Inputs of the right shapes and types for each stage."""
        height, width = self.image_size
        image = (
            torch.zeros(1, height, width, 3, dtype=torch.uint8)
            if self.io == "uint8"
            else torch.zeros(1, 3, height, width)
        )
        latent = torch.zeros(self.latent_shape)
        inputs: dict[str, tuple[Tensor, ...]] = dict.fromkeys(self.stages, (latent,))
        inputs[ENCODER] = (image,)
        if self.takes_noise:
            inputs[FLOW] = (latent, latent.clone())  # the exporter takes one tensor for one input
        return inputs


def _outline(model: Elir, flow: UnrolledFlow, scope_of: Mapping[nn.Module, str]) -> Outline:
    """The outline of a static graph.

    A block is a layer or residual block of encoder and decoder, a residual dense block of the
    estimator, or a block, level or projection of the vector field.
    """
    field = flow.vector_field
    ends = (model.encoder.from_rgb, model.decoder.to_rgb)
    blocks = (
        *model.encoder.layers,
        *model.estimator.cascade,
        *(field.first_proj, *field.down, *field.middle, *field.up),
        *(field.final_block, field.final_proj),
        *model.decoder.layers,
    )
    return Outline(
        steps=len(flow.steps),
        blocks=tuple(scope_of[m] for m in blocks if _convolves(m) and m not in ends),
        rgb_ends=tuple(scope_of[end] for end in ends),
    )


def _convolves(module: nn.Module) -> bool:
    """Whether there is the weight (out, in, h, w) of a convolution in it."""
    return any(parameter.dim() == 4 for parameter in module.parameters())


def latent_shape(model: Elir, image_size: ImageSize) -> tuple[int, int, int, int]:
    """(1, c, h, w) of the latent of an image."""
    height, width = height_and_width(image_size)
    stride = model.arch.latent_stride
    return (1, model.arch.latent_channels, height // stride, width // stride)


def height_and_width(image_size: ImageSize) -> tuple[int, int]:
    """(H, W) of an image."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def build_static_graph(
    model: Elir,
    *,
    image_size: ImageSize,
    steps: int,
    noise: Noise | None,
    io: IoFormat = "uint8",
    rewrites: Rewrites | None = None,
) -> StaticElir:
    """Fix image size, steps and noise of a model and rewrite it; ``model`` is left as it is.

    Args:
        model: in either form.
        image_size: in pixels; the sides are multiples of ``arch.image_multiple``.
        steps: Euler steps M.
        noise: what is added to the coarse latent: a constant, or with a field, an input of the
            graph; ``None`` adds nothing.
        io: image format at both ends.
        rewrites: all that pay by default.

    Raises:
        UsageError: an image size the network cannot take, or fewer than one step.
    """
    rewrites = rewrites or Rewrites()
    check_size(model.arch, image_size, steps)
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if rewrites.collapse:
        collapse_convolutions(model)
    flow = UnrolledFlow(model.vector_field, steps, _addition_of(noise))
    if rewrites.fold_time:
        fold_time_embedding(flow)
    if rewrites.merge_projection and isinstance(model.vector_field.final_block.conv, nn.Conv2d):
        merge_final_projection(model.vector_field)
    if rewrites.fold_scalars:
        fold_residual_scales(model)
        fold_step_size(flow)
        fold_latent_scale(model)
    return StaticElir(model, image_size, flow, io).eval().requires_grad_(False)


def _addition_of(noise: Noise | None) -> nn.Module:
    if isinstance(noise, NoiseField):
        return InputAddition()
    if noise is None or not noise.values.any():
        return nn.Identity()
    return FixedAddition(noise.values)


def check_size(arch: Architecture, image_size: ImageSize, steps: int) -> None:
    """Check that the network accepts images of that size, and the graph that many steps.

    Raises:
        UsageError: it does not; the message names the nearest valid size. Or the model has no
            autoencoder.
    """
    if not arch.autoencoder_width:
        raise UsageError(
            "a model without an autoencoder is for comparisons in training and is not exported"
        )
    multiple = arch.image_multiple
    for side in height_and_width(image_size):
        if not multiple <= side <= MAX_IMAGE_SIZE or side % multiple:
            near = min(max(multiple, side // multiple * multiple), MAX_IMAGE_SIZE)
            raise UsageError(
                f"image size is {side}, expected a multiple of {multiple} up to "
                f"{MAX_IMAGE_SIZE}, such as {near}"
            )
    if not 1 <= steps <= MAX_STEPS:
        raise UsageError(f"steps is {steps}, expected at least 1 and at most {MAX_STEPS}")


def fold_time_embedding(flow: UnrolledFlow) -> None:
    """Evaluate the time MLP at each step's t, once, in float64; afterwards a time is an index.

    Raises:
        UsageError: the model is over-parametrised, so that no convolution has a single bias.
    """
    field = flow.vector_field
    blocks = [module for module in field.modules() if isinstance(module, ResidualBlock)]
    if not all(isinstance(block.block1.conv, nn.Conv2d) for block in blocks):
        raise UsageError("the time embedding folds into collapsed convolutions: collapse first")
    embed = copy.deepcopy(field.time_embedding).double()
    steps = len(flow.steps)
    times = torch.tensor([k / steps for k in range(steps)], dtype=torch.float64)
    activated = F.silu(embed(times))

    def folded(block: nn.Module) -> nn.Module:
        assert isinstance(block, ResidualBlock)
        return StepBiasedBlock(block, copy.deepcopy(block.time_bias).double()(activated))

    for level in (*field.down, *field.up):
        level.residual = folded(level.residual)
    field.middle = nn.ModuleList(folded(block) for block in field.middle)
    field.time_embedding = nn.Identity()  # type: ignore[assignment]  # an index passes through
    for k, step in enumerate(flow.steps):
        step.time = k


def merge_final_projection(field: VectorField) -> None:
    """``final_proj(conv(x))`` with nothing between becomes one convolution to the latent."""
    conv = field.final_block.conv
    assert isinstance(conv, nn.Conv2d)
    field.final_block.conv = compose_with_pointwise(conv, field.final_proj)
    field.final_proj = nn.Identity()  # type: ignore[assignment]  # nothing is left to project


def scale_convolution(conv: nn.Module, factor: float, *, scale_bias: bool) -> None:
    """Multiply a convolution's weight, and its bias where the factor stood behind it."""
    assert isinstance(conv, nn.Conv2d)
    with torch.no_grad():
        conv.weight.copy_(conv.weight.double() * factor)
        if scale_bias and conv.bias is not None:
            conv.bias.copy_(conv.bias.double() * factor)


def _last_convolution(module: nn.Module) -> nn.Module:
    """The linear layer a module ends with: itself, or the 1x1 of an over-parametrised one."""
    project = getattr(module, "project", None)
    return project if isinstance(project, nn.Module) else module


def fold_residual_scales(model: Elir) -> None:
    """The dense blocks' 0.2 moves into their last convolution. RRDB's outer 0.2 scales a sum
    with a skip and stays."""
    for block in model.estimator.modules():
        if isinstance(block, DenseBlock):
            last = _last_convolution(block.convs[-1])
            scale_convolution(last, block.residual_scale, scale_bias=True)
            block.residual_scale = 1.0


def fold_step_size(flow: UnrolledFlow) -> None:
    """1/M moves into the layer that ends the vector field."""
    field = flow.vector_field
    merged = isinstance(field.final_proj, nn.Identity)
    last = field.final_block.conv if merged else field.final_proj
    scale_convolution(last, 1 / len(flow.steps), scale_bias=True)
    for step in flow.steps:
        step.step_size = 1.0


def fold_latent_scale(model: Elir) -> None:
    """The factor behind the decoder's tanh moves into its first convolution (not its bias)."""
    scale_convolution(model.decoder.from_latent, model.decoder.latent_scale, scale_bias=False)
    model.decoder.latent_scale = 1.0
