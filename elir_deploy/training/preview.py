"""Pictures of a run: samples before training, previews during it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from elir_deploy.degradations import degrade, enlarge
from elir_deploy.model import Elir
from elir_deploy.output_files import check_writable
from elir_deploy.pixels import as_pixels, psnr_db
from elir_deploy.runtime.images import check_fits, read_image, write_image
from elir_deploy.runtime.photos import sample_photos
from elir_deploy.static_graph import fixed_noise
from elir_deploy.training.autoencoder import AutoencoderObjective
from elir_deploy.training.data import PhotoFolder, TrainingSamples, as_images, fit_to_square
from elir_deploy.training.options import RunOptions

__all__ = ["Previews", "draw_samples"]

#: Number of photographs of a validation folder that are previewed.
_PREVIEWS = 8


def draw_samples(options: RunOptions, path: Path, count: int = 8) -> None:
    """Write a picture of a run's first samples: the clean images above the degraded ones.

    Raises:
        UsageError: the folder has no images, or the model cannot take images of the size.
        OutputError: ``path`` cannot be written.
    """
    options.check()
    check_fits(path, 2 * options.task.image_size, count * options.task.image_size)
    check_writable(path)
    samples = TrainingSamples(
        PhotoFolder.scan(options.images),
        options.task.image_size,
        task_name=options.task.name,
        noise_shape=None,
        whole=options.whole_images,
        seed=options.settings.seed,
    )
    items = [samples[k] for k in range(count)]
    rows = [
        np.concatenate([item[name] for item in items], axis=2) for name in ("clean", "degraded")
    ]
    write_image(path, np.ascontiguousarray(np.concatenate(rows, axis=1).transpose(1, 2, 0)))


class Previews:
    """Restores the same few photographs again and again during a run.

    Args:
        options: options of the run.
        on_message: called with lines of text for the user.
    """

    def __init__(self, options: RunOptions, on_message: Callable[[str], None]) -> None:
        self._options = options
        self._on_message = on_message
        self._photos: list[NDArray[np.uint8]] | None = None

    def draw(self, module: nn.Module, flow: bool) -> tuple[NDArray[np.uint8], dict[str, float]]:
        """Restore the photographs.

        Args:
            module: a whole model or an autoencoder.
            flow: whether the model's vector field is trained; there is no ``restored`` otherwise.

        Returns:
            (rows, width, 3) uint8: a row for each photograph, of input, coarse estimate, restored
            and truth, or of restored and truth for an autoencoder. And the mean PSNR in dB of
            each column but the truth, by its name.
        """
        rows, ratios = [], []
        for number, photo in enumerate(self._load_photos()):
            row = self._draw_row(module, photo, number, flow)
            rows.append(np.concatenate([*row.values(), photo], axis=1))
            ratios.append([psnr_db(image, photo) for image in row.values()])
        means = np.mean(ratios, axis=0)
        return np.concatenate(rows), dict(zip(row, means.tolist(), strict=True))

    def _load_photos(self) -> list[NDArray[np.uint8]]:
        if self._photos is None:
            task = self._options.task
            if self._options.validation is None:
                self._photos = list(sample_photos(task.image_size, task.faces).values())
            else:
                folder = PhotoFolder.scan(self._options.validation)
                if folder.unread:
                    self._on_message(f"not read: {folder.unread}")
                self._photos = [
                    fit_to_square(
                        read_image(file).opaque(),
                        task.image_size,
                        None,
                        whole=self._options.whole_images,
                    )
                    for file in folder.files[:_PREVIEWS]
                ]
        return self._photos

    @torch.no_grad()
    def _draw_row(
        self, module: nn.Module, photo: NDArray[np.uint8], number: int, flow: bool
    ) -> dict[str, NDArray[np.uint8]]:
        device = next(module.parameters()).device
        if not isinstance(module, Elir):
            assert isinstance(module, AutoencoderObjective)
            image = _as_batch(photo, device)
            return {"restored": _as_picture(module.decoder(module.encoder(image)))}
        task, objective = self._options.task, self._options.settings.objective
        rng = np.random.default_rng([self._options.settings.seed, number])
        low = enlarge(task.name, degrade(task.name, photo, rng))
        image = _as_batch(low, device)
        coarse = module.estimator(module.encoder(image))
        row = {"input": low, "coarse": _as_picture(module.decoder(coarse))}
        if not flow:
            return row
        noise = fixed_noise(0, objective.sigma_s, tuple(coarse.shape)).values.to(device)
        restored = module(image, self._options.euler_steps, noise)
        return row | {"restored": _as_picture(restored)}


def with_vector_field(model: Elir, field: nn.Module) -> Elir:
    """A copy of ``model`` with another vector field; the other parts are shared."""
    whole = copy.copy(model)
    whole._modules = {**model._modules, "vector_field": field}
    return whole.to(next(field.parameters()).device)


def _as_batch(image: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    return as_images(torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(device))


def _as_picture(batch: torch.Tensor) -> NDArray[np.uint8]:
    return as_pixels(batch[0].permute(1, 2, 0).float().cpu().numpy())
