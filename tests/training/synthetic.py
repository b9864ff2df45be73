"""A model without a network that adds levels to its input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from elir_deploy.paired_images import Sample
from elir_deploy.training.subjects import Restored, Subject, Trace, Variant, plan_variants
from tests.training.small import photo


class Shifter(Subject):
    """Restores by adding M levels; the coarse estimate is 20 levels too bright."""

    task = "tiny"
    upscale = 1
    faces = False

    def __init__(
        self, side: int = 32, *, steps: Sequence[int] = (), coarse: bool = True, task: str = "tiny"
    ) -> None:
        self.side = side
        self.task = task
        self.random = False
        self.has_coarse = coarse
        self.plan = plan_variants(Variant(2, 0.1), steps)
        self.description = {
            "kind": "checkpoint", "source": "shifter", "sha256": None, "random_weights": False,
            "task": task, "image_size": side, "steps": 2, "sigma_s": 0.1, "noise_seed": 0,
            "parameters": 1, "backend": "torch", "precision": "fp32",
        }  # fmt: skip

    def restore(self, low: np.ndarray) -> Restored:
        pictures = tuple(low + np.uint8(variant.steps) for variant in self.plan.variants)
        return Restored(low, low + np.uint8(20) if self.has_coarse else None, pictures)


def samples(count: int, side: int = 32) -> list[Sample]:
    """Truths of 100 to 200 and low-quality images 40 levels below."""
    result = []
    for number in range(count):
        truth = photo(number, side, side).clip(100, 200)
        result.append(Sample(number, f"{number}.png", truth, truth - np.uint8(40)))
    return result


def trace(name: str = "a.png", steps: int = 3, side: int = 64, channels: int = 4) -> Trace:
    """Latents that move on straight lines, mostly in channels 1 and 3; pictures that turn from red
    to green on a curve."""
    rng = np.random.default_rng(0)
    cells = side // 8
    start, way = rng.normal(size=(2, channels, cells, cells))
    way *= np.array([0.01, 1, 0.02, 3])[:channels, None, None]
    times = np.linspace(0, 1, steps + 1)[:, None, None, None]
    latents = (start + times * way).astype(np.float32)
    pictures = np.zeros((steps + 1, side, side, 3), np.uint8)
    for k in range(steps + 1):
        pictures[k, :, :, 0] = 200 - 200 * k // steps
        pictures[k, :, :, 1] = 200 * (k / steps) ** 4
    truth = photo(0, side, side)
    return Trace(
        name, latents, pictures, truth // 2, truth // 3, truth, latents[-1] + np.float32(0.5)
    )
