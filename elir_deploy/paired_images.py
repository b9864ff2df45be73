"""Pairs of a ground truth and its low-quality image, from folders, for measuring quality.

Images are brought to the model's square by cropping the centre or, for aligned faces, by scaling
the largest square down. Images smaller than the square are skipped: enlarged, they would have no
detail to compare with. One image is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elir_deploy.degradations import degrade
from elir_deploy.errors import ImageError, UsageError
from elir_deploy.runtime.folders import Unread, images_of
from elir_deploy.runtime.images import read_image
from elir_deploy.runtime.resampling import EnlargedPicture, resize_to

__all__ = ["Sample", "SampleFolder", "Skipped"]

#: Ratio of the sides above which an image is unlikely to be an aligned face.
_MAX_FACE_ASPECT = 1.1


@dataclass(frozen=True)
class Sample:
    """A ground truth and its low-quality image.

    Attributes:
        number: index in the folder, from 0.
        name: path of the file, relative to the folder.
        truth: (S, S, 3) uint8 RGB.
        low: (S / f, S / f, 3) uint8 RGB with the task's factor f.
        warning: why it differs from the model's training data; None if nothing suggests so.
    """

    number: int
    name: str
    truth: NDArray[np.uint8]
    low: NDArray[np.uint8]
    warning: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A file that is skipped, and why."""

    name: str
    reason: str


class SampleFolder:
    """The images of a folder as samples, in the order of their names.

    Args:
        truths: folder of undegraded images, searched recursively.
        task_name: task whose degradation is applied, without ``degraded``.
        side: side of the model's square in pixels.
        upscale: factor by which the low-quality images are smaller.
        faces: scale instead of cropping.
        degraded: folder of low-quality images at the same relative paths, suffixes aside.
        seed: seed of the degradations. Image k draws from a generator seeded with (seed, k), so
            that it does not depend on which other images are measured.
        limit: maximum number of files, the first ones.

    Attributes:
        unread: files and folders that are not read.

    Raises:
        UsageError: a folder does not exist or has no images, or an image has no counterpart.
        ImageError: a folder cannot be listed.
    """

    def __init__(
        self,
        truths: Path,
        task_name: str,
        *,
        side: int,
        upscale: int = 1,
        faces: bool = False,
        degraded: Path | None = None,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.task_name = task_name
        self.side = side
        self.upscale = upscale
        self.faces = faces
        self.seed = seed
        self._truths = truths
        self.unread = Unread()
        self._places = self._listed(truths)[:limit]
        self._partners = (
            None if degraded is None else _partners(self._places, degraded, self._listed(degraded))
        )

    def _listed(self, folder: Path) -> tuple[Path, ...]:
        listed = images_of(folder)
        self.unread.add(listed.unread)
        return listed.places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Sample | Skipped]:
        for number in range(len(self)):
            yield self[number]

    def __getitem__(self, number: int) -> Sample | Skipped:
        if not 0 <= number < len(self):
            raise IndexError(number)
        try:
            return self._sample(number)
        except ImageError as error:
            return Skipped(self._places[number].as_posix(), str(error))

    def _sample(self, number: int) -> Sample:
        file = self._truths / self._places[number]
        whole = read_image(file).opaque()
        height, width = whole.shape[:2]
        if min(height, width) < self.side:
            raise ImageError(
                f"{file} is {width}x{height}, smaller than the model's {self.side}x{self.side}: "
                "left out"
            )
        warning = None
        if self.faces and max(height, width) > _MAX_FACE_ASPECT * min(height, width):
            warning = f"{file} is {width}x{height}, not square: expected an aligned face crop"
        if self._partners is None:
            truth = self._square(whole, 1)
            rng = np.random.default_rng([self.seed, number])
            low = degrade(self.task_name, truth, rng)
        else:
            partner = self._partners[number]
            truth, low = self._pair(whole, read_image(partner).opaque(), partner)
        return Sample(number, self._places[number].as_posix(), truth, low, warning)

    def _pair(
        self, whole: NDArray[np.uint8], low: NDArray[np.uint8], partner: Path
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        factor = self.upscale
        height, width = whole.shape[0] // factor, whole.shape[1] // factor
        if low.shape[:2] != (height, width):
            ratio = (
                f" (1/{factor} of the ground truth)" if factor > 1 else ", the ground truth's size"
            )
            raise ImageError(
                f"{partner} is {low.shape[1]}x{low.shape[0]}, expected {width}x{height}{ratio}"
            )
        whole = whole[: height * factor, : width * factor]
        return self._square(whole, factor), self._square(low, 1, factor)

    def _square(
        self, image: NDArray[np.uint8], multiple: int, shrunk: int = 1
    ) -> NDArray[np.uint8]:
        """The model's square from an image, or from one ``shrunk`` times smaller.

        Cropped at multiples of ``multiple``, so that a truth and its smaller image match.
        """
        side = self.side // shrunk
        least = min(image.shape[:2])
        cut = least // multiple * multiple if self.faces else side
        top, left = ((length - cut) // 2 // multiple * multiple for length in image.shape[:2])
        piece = np.ascontiguousarray(image[top : top + cut, left : left + cut])
        return piece if cut == side else resize_to(EnlargedPicture(piece, 1, "none"), side, side)


def _partners(places: Sequence[Path], degraded: Path, others: Sequence[Path]) -> list[Path]:
    """The degraded image for each image, by relative path without the suffix."""
    by_name: dict[Path, Path] = {}
    for place in others:
        other = by_name.setdefault(place.with_suffix(""), place)
        if other is not place:
            raise UsageError(
                f"{degraded / other} and {place.name} differ only in their suffix: remove one"
            )
    missing = [place for place in places if place.with_suffix("") not in by_name]
    if missing:
        more = f", nor do {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UsageError(f"{missing[0]} has no degraded image of the same name in {degraded}{more}")
    return [degraded / by_name[place.with_suffix("")] for place in places]
