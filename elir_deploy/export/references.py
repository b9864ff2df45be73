"""References that exports are verified against: images, and float32 PyTorch's results on them."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from elir_deploy.degradations import degrade, enlarge
from elir_deploy.errors import CheckpointError
from elir_deploy.export.pixels import from_network, to_network
from elir_deploy.export.synthetic import synthetic_pictures
from elir_deploy.model.elir import Elir
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.photos import sample_photos
from elir_deploy.static_graph import (
    ImageSize,
    Noise,
    height_and_width,
    latent_shape,
    noise_values,
)
from elir_deploy.tasks import TaskSpec

__all__ = ["Reference", "compute_references"]

#: Packaged photographs that every export is verified on: a face and fur. For the face tasks the
#: face is cropped as they expect it.
PHOTOGRAPHS = ("astronaut", "chelsea")


@dataclass(frozen=True)
class Reference:
    """One image and the untransformed model's result.

    Attributes:
        name: of the picture.
        image: (H, W, 3) uint8 RGB at the network's size; a photograph is degraded as the task
            expects, a synthetic picture is not.
        restored: (H, W, 3) uint8: clipped and rounded half to even, as the exported graphs do.
        boundaries: part of the network to the float32 tensor it ends with; ``decoder`` is the
            image (1, 3, H, W) before clipping. Empty for synthetic pictures.
        synthetic: drawn, and unlike any photograph.
    """

    name: str
    image: NDArray[np.uint8]
    restored: NDArray[np.uint8]
    boundaries: dict[str, NDArray[np.float32]]
    synthetic: bool = False


def compute_references(
    model: Elir,
    task: TaskSpec,
    *,
    image_size: ImageSize,
    steps: int,
    noise: Noise,
    synthetic: bool = False,
    progress: ProgressCallback = no_progress,
) -> list[Reference]:
    """Run the model as it is, in float32, on the packaged photographs degraded for the task.

    The images are the same on every machine: each is degraded with a seed made from its name.

    Args:
        model: as it was loaded.
        task: of the model.
        image_size, steps, noise: of the export.
        synthetic: also run it on the synthetic pictures, which are drawn at the size of users'
            images and enlarged as those are.
        progress: called before each picture.
    """
    size = height_and_width(image_size)
    photos = {name: sample_photos(size, faces=False)[name] for name in PHOTOGRAPHS}
    if task.faces:
        photos.update(sample_photos(size, faces=True))
    low = {
        name: degrade(task.name, photo, np.random.default_rng(zlib.crc32(name.encode())))
        for name, photo in photos.items()
    }
    drawn = synthetic_pictures(*(side // task.upscale for side in size)) if synthetic else {}
    values = noise_values(noise, latent_shape(model, size))
    references = []
    for done, (name, picture) in enumerate([*low.items(), *drawn.items()]):
        progress("running the PyTorch model", done, len(low) + len(drawn))
        image = enlarge(task.name, picture)
        with _one_thread():
            boundaries = _run_parts(model, image, steps, values)
        restored = from_network(boundaries["decoder"])
        if name in drawn:
            references.append(Reference(name, image, restored, {}, synthetic=True))
        else:
            references.append(Reference(name, image, restored, boundaries))
    return references


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run PyTorch with one thread: the order of its sums, and so their bits, depend on threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _run_parts(
    model: Elir, image: NDArray[np.uint8], steps: int, noise: torch.Tensor
) -> dict[str, NDArray[np.float32]]:
    """Outputs of all parts in Algorithm 1.

    Raises:
        CheckpointError: one is not finite, so that nothing can be compared with it.
    """
    x = torch.from_numpy(to_network(image, "float32"))
    parts = {"encoder": model.encoder(x)}
    parts["estimator"] = model.estimator(parts["encoder"])
    z = parts["estimator"] + noise
    for k in range(steps):
        z = z + model.vector_field(z, torch.tensor([k / steps])) / steps
        parts[f"step{k + 1}"] = z
    parts["decoder"] = model.decoder(z)
    for name, tensor in parts.items():
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"the model's {name} gives numbers that are not finite on a real image: its "
                "weights are damaged, or sigma_s is too large"
            )
    return {name: tensor.numpy().copy() for name, tensor in parts.items()}
