"""A checkpoint to evaluate: the PyTorch model in float32 on the CPU, one image at a time.

The noise is that of an export, so that a checkpoint and its bundle have the same results.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elir_deploy.checkpoints import Checkpoint
from elir_deploy.degradations import enlarge
from elir_deploy.errors import UsageError
from elir_deploy.export.pixels import from_network, to_network
from elir_deploy.model import Elir, collapse_convolutions, count_parameters
from elir_deploy.model.autoencoder import Encoder
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.static_graph import check_size, fixed_noise, noise_values
from elir_deploy.tasks import Architecture, TaskSpec
from elir_deploy.training.subjects import (
    Pixels,
    Restored,
    Subject,
    Trace,
    Variant,
    plan_variants,
)

__all__ = ["CheckpointSubject", "euler_path"]

#: Seed of the noise, the default of ``elir-export``.
NOISE_SEED = 0


def _noise(task: TaskSpec, sigma_s: float, shape: tuple[int, int, int, int]) -> Tensor:
    """The noise of a bundle exported by default."""
    if task.noise == "field":
        return noise_values(NoiseField(NOISE_SEED, sigma_s), shape)
    return fixed_noise(NOISE_SEED, sigma_s, shape).values


def _check_size(arch: Architecture, side: int, steps: int) -> None:
    if arch.autoencoder_width:
        check_size(arch, side, steps)
    elif side % arch.image_multiple:  # a flow over pixels, an ablation
        raise UsageError(f"image size is {side}, expected a multiple of {arch.image_multiple}")


def euler_path(model: Elir, coarse: Tensor, steps: int, noise: Tensor) -> Iterator[Tensor]:
    """z_0, z_1, ..., z_M of Algorithm 1, each (N, c, h, w).

    Args:
        model: the model with the vector field.
        coarse: latent of the coarse estimate (N, c, h, w).
        steps: Euler steps M.
        noise: scaled by sigma_s, of the latent's shape.
    """
    z = coarse + noise
    yield z
    for k in range(steps):
        t = torch.full((z.shape[0],), k / steps, dtype=z.dtype, device=z.device)
        z = z + model.vector_field(z, t) / steps
        yield z


class CheckpointSubject(Subject):
    """A checkpoint in eager PyTorch.

    Args:
        checkpoint: not modified; over-parametrised convolutions are collapsed in a copy.
        image_size: side of the square in pixels; None: the task's.
        steps: values of M to measure; see :func:`plan_variants`.
        sigmas: values of sigma_s to measure.
        clean_encoder: the encoder of the model's training targets, for the truths in a trace; the
            model's own encoder was then trained on degraded images.

    Raises:
        UsageError: the model does not support a size, a number of steps or a sigma_s.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        image_size: int | None = None,
        steps: Sequence[int] = (),
        sigmas: Sequence[float] = (),
        clean_encoder: Encoder | None = None,
    ) -> None:
        task = checkpoint.task
        self.side = task.image_size if image_size is None else image_size
        self.plan = plan_variants(Variant(task.steps, task.sigma_s), steps, sigmas)
        arch = checkpoint.model.arch
        for variant in self.plan.variants:
            _check_size(arch, self.side, variant.steps)
        latent = self.side // arch.latent_stride
        shape = (1, arch.latent_channels, latent, latent)
        self._noises = {
            variant.sigma_s: _noise(task, variant.sigma_s, shape) for variant in self.plan.variants
        }
        self._model = copy.deepcopy(checkpoint.model).eval().requires_grad_(False)
        collapse_convolutions(self._model)
        self._clean_encoder = clean_encoder
        self.task = task.name
        self.upscale = task.upscale
        self.faces = task.faces
        self.random = checkpoint.random
        self.has_coarse = True
        self.description = {
            "kind": "checkpoint",
            "source": checkpoint.name,
            "sha256": checkpoint.sha256,
            "random_weights": checkpoint.random,
            "task": task.name,
            "image_size": self.side,
            "steps": self.plan.main.steps,
            "sigma_s": self.plan.main.sigma_s,
            "noise_seed": NOISE_SEED,
            "parameters": count_parameters(self._model),
            "backend": "torch",
            "precision": "fp32",
        }

    @torch.inference_mode()
    def restore(self, low: Pixels) -> Restored:
        pixels = enlarge(self.task, low)
        coarse = self._coarse(pixels)
        pictures = []
        for variant in self.plan.variants:
            for z in self._path(coarse, variant):
                last = z
            pictures.append(self._decode(last))
        return Restored(pixels, self._decode(coarse), tuple(pictures))

    @torch.inference_mode()
    def trace(self, name: str, low: Pixels, truth: Pixels) -> Trace:
        """The path of the main variant through the flow.

        Args:
            name: name of the image.
            low: the low-quality image, as for :meth:`restore`.
            truth: (S, S, 3) uint8.
        """
        pixels = enlarge(self.task, low)
        coarse = self._coarse(pixels)
        path = list(self._path(coarse, self.plan.main))
        return Trace(
            name,
            torch.cat(path).numpy().copy(),
            np.stack([self._decode(z) for z in path]),
            pixels,
            self._decode(coarse),
            truth,
            self._clean_latent(truth),
        )

    def _clean_latent(self, truth: Pixels) -> NDArray[np.float32] | None:
        if self._clean_encoder is None:
            return None
        latent = self._clean_encoder(torch.from_numpy(to_network(truth, "float32")))
        array: NDArray[np.float32] = latent[0].numpy().copy()
        return array

    def _coarse(self, pixels: NDArray[np.uint8]) -> Tensor:
        image = torch.from_numpy(to_network(pixels, "float32"))
        latent: Tensor = self._model.estimator(self._model.encoder(image))
        return latent

    def _path(self, coarse: Tensor, variant: Variant) -> Iterator[Tensor]:
        return euler_path(self._model, coarse, variant.steps, self._noises[variant.sigma_s])

    def _decode(self, latent: Tensor) -> Pixels:
        return from_network(self._model.decoder(latent).numpy())
