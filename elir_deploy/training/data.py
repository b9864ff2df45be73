"""Folders of images as training samples.

Sample number k of a run is fixed by the seed and k alone: which image, which crop, whether it is
flipped, its degradation, its time and its noise. So a run that goes on from the middle, or on
another number of processes or workers, sees what it would have seen.
"""

from __future__ import annotations

import math
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
from elir_deploy.errors import ImageError, UsageError
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
    "updates_of",
]

# What a random generator is for; a part of its seed.
_ORDER, _SAMPLE, _LATENT = 0, 1, 2
#: After so many unreadable images in a row a folder is taken for unusable.
_MOST_UNREADABLE = 100


@dataclass(frozen=True)
class PhotoFolder:
    """The image files of a folder and of the folders in it, sorted by their path.

    Attributes:
        root: the folder.
        files: paths below it.
        unread: what is in it besides.
    """

    root: Path
    files: tuple[Path, ...]
    unread: Unread = field(default_factory=Unread)

    @classmethod
    def scan(cls, root: str | Path) -> PhotoFolder:
        """List the images; none is opened yet.

        Raises:
            UsageError: there is no such folder, or no image in it.
            ImageError: it cannot be listed.
        """
        listed = images_of(Path(root))
        return cls(listed.folder, tuple(listed.files), listed.unread)


def fit_to_square(
    image: NDArray[np.uint8], side: int, rng: np.random.Generator | None, *, whole: bool
) -> NDArray[np.uint8]:
    """A square of ``side`` pixels out of an image.

    Args:
        image: (H, W, 3) uint8.
        side: of the result.
        rng: where to cut; in the middle when None.
        whole: scale the largest square down or up to ``side`` (aligned faces) instead of cutting
            a piece out. An image too small for a piece is first enlarged to hold one.

    Returns:
        (side, side, 3) uint8, C-contiguous.
    """
    height, width = image.shape[:2]
    cut = min(height, width) if whole else side
    if not whole and min(height, width) < side:
        factor = side / min(height, width)
        height = max(side, round(height * factor))
        width = max(side, round(width * factor))
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
    if whole or rng is None:
        top, left = (height - cut) // 2, (width - cut) // 2
    else:
        top, left = (int(rng.integers(length - cut + 1)) for length in (height, width))
    piece = image[top : top + cut, left : left + cut]
    if cut != side:
        piece = np.asarray(Image.fromarray(piece).resize((side, side), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(piece)


class _Order:
    """Sample number to image: every epoch has all of them, in a new order."""

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


def _time_and_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "time": np.float32(rng.random(dtype=np.float32)),
        "noise": rng.standard_normal(shape, dtype=np.float32),
    }


class TrainingSamples(Dataset[dict[str, Any]]):
    """Sample number to sample.

    Args:
        photos: where the clean images come from.
        side: of the samples in pixels.
        task_name: whose degradation is applied; None: none, the sample has no ``degraded``.
        noise_shape: of the ``noise`` of a sample; None: no noise and no time.
        whole: scale whole images instead of cutting pieces; see :func:`fit_to_square`.
        seed: of everything random.

    A sample is a dict of ``clean`` and ``degraded``, (3, side, side) uint8; ``time``, a float32
    uniform in [0, 1); ``noise``, standard normal float32; and ``unreadable``, numbers of the files
    that were passed over.
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
        """Which file sample number ``sample`` is cut from."""
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
            item |= _time_and_noise(rng, self.noise_shape)
        return item

    def _read(self, sample: int) -> tuple[NDArray[np.uint8], list[int]]:
        """The image of a sample, or the next one that can be read."""
        unreadable: list[int] = []
        for following in range(min(len(self), _MOST_UNREADABLE)):
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
    """Sample number to a pair of latents that were made once.

    Args:
        photos: what they were made of.
        coarse: coarse estimates (N, c, h, w), float32.
        clean: the clean images' latents, of the same shape.
        seed: of the order, the times and the noise.

    A sample is as one of :class:`TrainingSamples`, with latents for ``clean`` and ``degraded``.
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
            **_time_and_noise(rng, clean.shape),
            "unreadable": [],
        }


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples to a batch of tensors; ``unreadable`` is one list."""
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
    """The sample numbers of each update from ``first`` on, one process's share of them.

    Args:
        first: the update to begin with, from 0.
        last: the update to end before.
        batch_size: samples an update, over all processes.
        rank: number of this process.
        processes: how many there are; ``batch_size`` divides by it.
    """

    def __init__(self, first: int, last: int, batch_size: int, rank: int, processes: int) -> None:
        if batch_size % processes:
            raise UsageError(
                f"batch size is {batch_size}, wanted a multiple of the {processes} processes"
            )
        self._updates = range(first, last)
        self._batch_size = batch_size
        share = batch_size // processes
        self._own = range(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return len(self._updates)

    def __iter__(self) -> Iterator[list[int]]:
        for update in self._updates:
            yield [update * self._batch_size + k for k in self._own]


def updates_of(epochs: int, images: int, batch_size: int) -> int:
    """How many updates it takes to see ``images`` images ``epochs`` times."""
    return max(1, math.ceil(epochs * images / batch_size))
