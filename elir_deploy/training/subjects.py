"""Models to evaluate: a bundle on a backend, or a checkpoint.

Nothing here needs PyTorch; checkpoints are in :mod:`elir_deploy.training.eager`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import UsageError
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.resampling import EnlargedPicture

__all__ = ["BundleSubject", "Plan", "Restored", "Subject", "Trace", "Variant", "plan_variants"]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Variant:
    """The parameters of a model that can be changed without training (Algorithm 1).

    Attributes:
        steps: Euler steps M.
        sigma_s: standard deviation of the noise added to the coarse latent.
    """

    steps: int
    sigma_s: float

    def __str__(self) -> str:
        return f"M = {self.steps}, sigma_s = {self.sigma_s:g}"


@dataclass(frozen=True)
class Plan:
    """The variants of a run.

    Attributes:
        main: the variant in the contact sheet.
        variants: all measured variants; ``main`` is the first.
        curves: for a varied parameter, ``steps`` or ``sigma_s``, its variants in order.
    """

    main: Variant
    variants: tuple[Variant, ...]
    curves: dict[str, tuple[Variant, ...]]


def plan_variants(
    default: Variant, steps: Sequence[int] = (), sigmas: Sequence[float] = ()
) -> Plan:
    """The variants to measure: one value replaces the default, several make a curve.

    Args:
        default: the model's own parameters.
        steps: requested values of M.
        sigmas: requested values of sigma_s.
    """
    steps, sigmas = sorted(set(steps)), sorted(set(sigmas))
    main = Variant(
        steps[0] if len(steps) == 1 else default.steps,
        sigmas[0] if len(sigmas) == 1 else default.sigma_s,
    )
    curves = {}
    if len(steps) > 1:
        curves["steps"] = tuple(Variant(value, main.sigma_s) for value in steps)
    if len(sigmas) > 1:
        curves["sigma_s"] = tuple(Variant(main.steps, value) for value in sigmas)
    everything = [main, *(variant for curve in curves.values() for variant in curve)]
    return Plan(main, tuple(dict.fromkeys(everything)), curves)


@dataclass(frozen=True)
class Restored:
    """A model's results for one image; all pictures are (S, S, 3) uint8 RGB.

    Attributes:
        input: the network's input: the low-quality image, enlarged if the task does so.
        coarse: the coarse estimate, decoded; None if the subject has none.
        pictures: the restored image of each variant.
    """

    input: Pixels
    coarse: Pixels | None
    pictures: tuple[Pixels, ...]


@dataclass(frozen=True)
class Trace:
    """The path of one image through the flow (paper, Figures 10 and 11).

    Attributes:
        name: name of the image.
        latents: z_0, with its noise, to z_M: (M + 1, c, h, w) float32.
        pictures: the decoded latents: (M + 1, S, S, 3) uint8.
        input: the network's input: (S, S, 3) uint8.
        coarse: the decoded coarse estimate without noise: (S, S, 3) uint8.
        truth: (S, S, 3) uint8.
        truth_latent: z_1, the truth encoded by the encoder of clean images: (c, h, w) float32;
            None if that encoder is unknown.
    """

    name: str
    latents: NDArray[np.float32]
    pictures: Pixels
    input: Pixels
    coarse: Pixels
    truth: Pixels
    truth_latent: NDArray[np.float32] | None


class Subject(ABC):
    """A model to evaluate.

    Attributes:
        plan: its variants.
        task: name of its task.
        side: side of its square images in pixels.
        upscale: factor by which its input is enlarged before the network.
        faces: whether it expects aligned faces.
        random: whether its weights are random.
        has_coarse: whether it returns the coarse estimate.
        description: JSON values for the report.
    """

    plan: Plan
    task: str
    side: int
    upscale: int
    faces: bool
    random: bool
    has_coarse: bool
    description: dict[str, Any]

    @abstractmethod
    def restore(self, low: Pixels) -> Restored:
        """Restore (S / upscale, S / upscale, 3) uint8 RGB in every variant."""

    def close(self) -> None:  # noqa: B027  # optional
        """Release its resources."""


class BundleSubject(Subject):
    """A bundle on one of the runtime's backends, with the variant it was exported with.

    Args:
        restorer: the opened bundle; closed with the subject. Its first square size is evaluated.

    Raises:
        UsageError: it has no square size.
    """

    def __init__(self, restorer: Restorer) -> None:
        info = restorer.bundle.manifest
        model = info.model
        variant = Variant(model.steps, model.sigma_s)
        self._restorer = restorer
        self._kernel = model.upscale_kernel
        self.plan = Plan(variant, (variant,), {})
        self.task = model.task
        self.side = _side_of(restorer)
        self.upscale = model.upscale
        self.faces = model.faces
        self.random = info.source.random
        self.has_coarse = False
        self.description = {
            "kind": "bundle",
            "source": info.source.name,
            "sha256": info.source.sha256,
            "random_weights": info.source.random,
            "task": model.task,
            "image_size": self.side,
            "steps": model.steps,
            "sigma_s": model.sigma_s,
            "noise_seed": info.noise.seed,
            "parameters": model.parameters,
            "backend": restorer.backend,
            "precision": restorer.precision,
        }

    def restore(self, low: Pixels) -> Restored:
        picture = EnlargedPicture(low, self.upscale, self._kernel)
        enlarged = picture.block(0, 0, self.side, self.side)
        return Restored(enlarged, None, (self._restorer.run_pixels(enlarged),))

    def close(self) -> None:
        self._restorer.close()


def _side_of(restorer: Restorer) -> int:
    shapes = restorer.bundle.manifest.shapes
    for shape in shapes:
        if shape.graph_height == shape.graph_width:
            return shape.graph_height
    sizes = ", ".join(f"{shape.width}x{shape.height}" for shape in shapes)
    raise UsageError(
        f"{restorer.bundle.path} is for images of {sizes}, and squares are evaluated: export it "
        "with a square --image-size as well"
    )
