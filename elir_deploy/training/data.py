"""Folders of images as training samples.

Sample number k of a run is fixed by the seed and k alone: which image, which crop, whether it is
flipped, its degradation, its time and its noise. So a run that continues from the middle, or on
another number of processes or workers, sees the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from elir_deploy.degradations import degrade, enlarge
from elir_deploy.errors import ImageError
from elir_deploy.runtime.folders import Unread, images_of
from elir_deploy.runtime.images import read_image

__all__ = [
    "LatentSamples",
    "PhotoFolder",
    "SampleNumbers",
    "TrainingSamples",
    "as_images",
    "collate",
    "fit_to_square",
]

# Purposes of random generators; part of their seeds.
_ORDER, _SAMPLE, _LATENT = 0, 1, 2
#: Unreadable images in a row after which a folder is given up.
_MAX_UNREADABLE = 100


@dataclass(frozen=True)
class PhotoFolder:
    """The image files of a folder, searched recursively, sorted by path.

    Attributes:
        root: the folder.
        files: paths of the images.
        unread: other files in it.
    """

    root: Path
    files: tuple[Path, ...]
    unread: Unread = field(default_factory=Unread)

    @classmethod
    def scan(cls, root: str | Path) -> PhotoFolder:
        """List the images without opening them.

        Raises:
            UsageError: the folder does not exist or has no images.
            ImageError: the folder cannot be listed.
        """
        listed = images_of(Path(root))
        return cls(listed.folder, tuple(listed.files), listed.unread)


def fit_to_square(
    image: NDArray[np.uint8], side: int, rng: np.random.Generator | None, *, whole: bool
) -> NDArray[np.uint8]:
    """Crop or scale an image to a square.

    Args:
        image: (H, W, 3) uint8.
        side: side of the result in pixels.
        rng: chooses the position of the crop; None: the middle.
        whole: scale the largest square to ``side`` (aligned faces) instead of cropping. Images
            smaller than the crop are enlarged first.

    Returns:
        (side, side, 3) uint8, C-contiguous.
    """
    height, width = image.shape[:2]
    crop_side = min(height, width) if whole else side
    if not whole and min(height, width) < side:
        factor = side / min(height, width)
        height = max(side, round(height * factor))
        width = max(side, round(width * factor))
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
    if whole or rng is None:
        top, left = (height - crop_side) // 2, (width - crop_side) // 2
    else:
        top, left = (int(rng.integers(n - crop_side + 1)) for n in (height, width))
    crop = image[top : top + crop_side, left : left + crop_side]
    if crop_side != side:
        crop = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(crop)


class _Order:
    """Maps sample numbers to images: each epoch has all images, in a new order."""

    def __init__(self, seed: int, count: int) -> None:
        self._seed = seed
        self._count = count
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    def __getitem__(self, sample: int) -> int:
        epoch, position = divmod(sample, self._count)
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self._seed, _ORDER, epoch])
            self._epoch = epoch, rng.permutation(self._count)
        return int(self._epoch[1][position])


def _draw_time_and_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "time": np.float32(rng.random(dtype=np.float32)),
        "noise": rng.standard_normal(shape, dtype=np.float32),
    }


class TrainingSamples(Dataset[dict[str, Any]]):
    """Training samples by number.

    Args:
        photos: the clean images.
        side: side of the samples in pixels.
        task_name: task whose degradation is applied; None: samples have no ``degraded``.
        noise_shape: shape of a sample's ``noise``; None: samples have no noise and no time.
        whole: scale whole images instead of cropping; see :func:`fit_to_square`.
        seed: seed of all random numbers.

    A sample is a dict of ``clean`` and ``degraded``, (3, side, side) uint8; ``time``, a float32
    uniform in [0, 1); ``noise``, standard normal float32; and ``unreadable``, numbers of the files
    that were skipped.
    """

    def __init__(
        self,
        photos: PhotoFolder,
        side: int,
        *,
        task_name: str | None,
        noise_shape: tuple[int, ...] | None,
        whole: bool,
        seed: int,
    ) -> None:
        self.photos = photos
        self.side = side
        self.task_name = task_name
        self.noise_shape = noise_shape
        self.whole = whole
        self.seed = seed
        self._order = _Order(seed, len(photos.files))

    def __len__(self) -> int:
        return len(self.photos.files)

    def file_number(self, sample: int) -> int:
        """Number of the file that sample number ``sample`` is taken from."""
        return self._order[sample]

    def __getitem__(self, sample: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, _SAMPLE, sample])
        image, unreadable = self._read(sample)
        clean = fit_to_square(image, self.side, rng, whole=self.whole)
        if rng.random() < 0.5:
            clean = np.ascontiguousarray(clean[:, ::-1])
        item: dict[str, Any] = {"clean": _planes(clean), "unreadable": unreadable}
        if self.task_name is not None:
            low = degrade(self.task_name, clean, rng)
            item["degraded"] = _planes(enlarge(self.task_name, low))
        if self.noise_shape is not None:
            item |= _draw_time_and_noise(rng, self.noise_shape)
        return item

    def _read(self, sample: int) -> tuple[NDArray[np.uint8], list[int]]:
        """The image of a sample, or the next one that can be read."""
        unreadable: list[int] = []
        for following in range(min(len(self), _MAX_UNREADABLE)):
            number = self.file_number(sample + following)
            try:
                return read_image(self.photos.files[number]).opaque(), unreadable
            except ImageError:
                unreadable.append(number)
        raise ImageError(
            f"{self.photos.root}: {len(unreadable)} images in a row cannot be read, the first "
            f"{self.photos.files[unreadable[0]].name}"
        )


class LatentSamples(Dataset[dict[str, Any]]):
    """Training samples made of precomputed latents.

    Args:
        photos: the photographs that the latents were computed from.
        coarse: coarse estimates (N, c, h, w), float32.
        clean: latents of the clean images, of the same shape.
        seed: seed of the order, the times and the noise.

    Like :class:`TrainingSamples`, with latents for ``clean`` and ``degraded``.
    """

    def __init__(self, photos: PhotoFolder, coarse: Tensor, clean: Tensor, seed: int) -> None:
        self.photos = photos
        self._coarse = coarse.numpy()
        self._clean = clean.numpy()
        self._seed = seed
        self._order = _Order(seed, len(coarse))

    def __len__(self) -> int:
        return len(self._coarse)

    def __getitem__(self, sample: int) -> dict[str, Any]:
        number = self._order[sample]
        clean = self._clean[number]
        rng = np.random.default_rng([self._seed, _LATENT, sample])
        return {
            "clean": clean,
            "degraded": self._coarse[number],
            **_draw_time_and_noise(rng, clean.shape),
            "unreadable": [],
        }


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples to a batch of tensors; ``unreadable`` becomes one list."""
    batch: dict[str, Any] = {
        key: torch.from_numpy(np.stack([item[key] for item in items]))
        for key in items[0]
        if key != "unreadable"
    }
    return batch | {"unreadable": [number for item in items for number in item["unreadable"]]}


def _planes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def as_images(planes: Tensor) -> Tensor:
    """uint8 images (N, 3, H, W) as float32 in [0, 1], laid out channels-last."""
    return planes.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)


class SampleNumbers(Sampler[list[int]]):
    """One process's share of the sample numbers of each update.

    Args:
        first: first update, from 0.
        last: update to stop before.
        batch_size: samples per update, over all processes; a multiple of ``processes``.
        rank: number of this process.
        processes: number of processes.
    """

    def __init__(self, first: int, last: int, batch_size: int, rank: int, processes: int) -> None:
        self._updates = range(first, last)
        self._batch_size = batch_size
        share = batch_size // processes
        self._share = range(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return len(self._updates)

    def __iter__(self) -> Iterator[list[int]]:
        for update in self._updates:
            yield [update * self._batch_size + k for k in self._share]
