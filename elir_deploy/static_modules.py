"""Modules of a static graph that replace those of the model, and its image ends."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elir_deploy.model.vector_field import ResidualBlock, VectorField
from elir_deploy.scopes import step_name

__all__ = [
    "Chain",
    "EulerStep",
    "FixedAddition",
    "ImageInput",
    "ImageOutput",
    "InputAddition",
    "IoFormat",
    "StepBiasedBlock",
    "UnrolledFlow",
]

IoFormat = Literal["uint8", "float32"]


class ImageInput(nn.Module):
    """uint8 NHWC or float32 NCHW images to float32 NCHW in [0, 1]."""

    def __init__(self, io: IoFormat) -> None:
        super().__init__()
        self.io = io

    def forward(self, image: Tensor) -> Tensor:
        if self.io == "float32":
            return image
        # TensorRT wants the cast of a uint8 input before anything else.
        return image.to(torch.float32).permute(0, 3, 1, 2) / 255.0


class ImageOutput(nn.Module):
    """float32 NCHW, any range, to float32 NCHW clipped to [0, 1] or rounded uint8 NHWC."""

    def __init__(self, io: IoFormat) -> None:
        super().__init__()
        self.io = io

    def forward(self, image: Tensor) -> Tensor:
        image = image.clamp(0.0, 1.0)
        if self.io == "float32":
            return image
        return torch.round(image * 255.0).permute(0, 2, 3, 1).to(torch.uint8)


class FixedAddition(nn.Module):
    """``z + values``."""

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values.clone())

    def forward(self, z: Tensor) -> Tensor:
        return z + self.values


class InputAddition(nn.Module):
    """``z + values``, which are an input of the graph."""

    def forward(self, z: Tensor, values: Tensor) -> Tensor:
        return z + values


class Chain(nn.Sequential):
    """Modules in order; inputs besides the first go to the first module."""

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        first, *following = self
        x = first(x, *others)
        for module in following:
            x = module(x)
        return x


class EulerStep(nn.Module):
    """``z + step_size * v(z, time)``; a module so that the exported graph has a scope for each.

    Attributes:
        time: t = k/M as a tensor (1,), or k once the time embedding is folded.
        step_size: 1/M; 1 once it is folded into the last convolution.
    """

    def __init__(self, time: Tensor, step_size: float) -> None:
        super().__init__()
        self.time: Tensor | int = time
        self.step_size = step_size

    def forward(self, z: Tensor, vector_field: VectorField) -> Tensor:
        time = self.time.to(z) if isinstance(self.time, Tensor) else self.time
        velocity: Tensor = vector_field(z, time)
        if self.step_size != 1:
            velocity = velocity * self.step_size
        return z + velocity


class UnrolledFlow(nn.Module):
    """z + noise carried through M Euler steps; latents (1, c, h, w) in and out.

    The steps share the vector field, which is a module of the flow and of none of them.

    Args:
        vector_field: the U-Net.
        steps: Euler steps M.
        noise: adds the noise; an :class:`InputAddition` takes it from the flow's second input.
    """

    def __init__(self, vector_field: VectorField, steps: int, noise: nn.Module) -> None:
        super().__init__()
        self.vector_field = vector_field
        self.noise = noise
        self.steps = [
            EulerStep(torch.tensor([k / steps], dtype=torch.float64), 1 / steps)
            for k in range(steps)
        ]
        for k, step in enumerate(self.steps, 1):
            self.add_module(step_name(k), step)

    def forward(self, z: Tensor, *noise: Tensor) -> Tensor:
        z = self.noise(z, *noise)
        for step in self.steps:
            z = step(z, self.vector_field)
        return z


class StepBiasedBlock(nn.Module):
    """A residual block whose time embedding is one bias vector per step.

    The bias joins that of the first convolution, so no addition is left; the convolution's weight
    is shared by all steps.
    """

    def __init__(self, block: ResidualBlock, time_biases: Tensor) -> None:
        super().__init__()
        self.block1 = block.block1
        self.block2 = block.block2
        self.skip = block.skip
        conv = self.block1.conv
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        self.conv_weight = conv.weight
        biases = (conv.bias.detach().double() + time_biases).to(conv.weight.dtype)
        self.biases = nn.ParameterList(nn.Parameter(b, requires_grad=False) for b in biases)

    def forward(self, x: Tensor, step: int) -> Tensor:
        normalized = F.silu(self.block1.norm(x))
        hidden = F.conv2d(normalized, self.conv_weight, self.biases[step], padding=1)
        out: Tensor = self.block2(hidden) + self.skip(x)
        return out
