"""The images a model is measured on: truths, and what the model is given of them.

Everything is brought to the model's square by cutting out the middle, or, for aligned faces, by
scaling the largest square down. An image smaller than the square is left out: an enlarged one
holds no detail to compare with. One image is held at a time.
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
from elir_deploy.runtime.resampling import EnlargedPicture, resize_to_square

__all__ = ["Sample", "SampleFolder", "Skipped"]

#: Of the larger over the smaller side, above which an image is hardly an aligned face.
_SQUARE_ENOUGH = 1.1


@dataclass(frozen=True)
class Sample:
    """A truth and its low-quality image.

    Attributes:
        number: its place in the folder, from 0.
        name: of the file, below the folder.
        truth: (S, S, 3) uint8 RGB.
        low: (S / f, S / f, 3) uint8 RGB with the task's factor f.
        doubt: why it is hardly what the model was trained on; None where nothing speaks against it.
    """

    number: int
    name: str
    truth: NDArray[np.uint8]
    low: NDArray[np.uint8]
    doubt: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A file that is left out, and why."""

    name: str
    reason: str


class SampleFolder:
    """The images of a folder as samples, in the order of their names.

    Args:
        truths: folder of undegraded images; folders inside it are looked into.
        task_name: whose degradation is applied, where there are no degraded images.
        side: of the model's square in pixels.
        upscale: factor by which the low-quality images are smaller.
        faces: scale instead of cutting.
        degraded: folder with the low-quality image of each at the same place, the suffix aside.
        seed: of the degradations. Image number k draws from a generator seeded with (seed, k), so
            that it is the same whatever else is measured.
        limit: only the first so many files.

    Attributes:
        unread: what in the folders is not read.

    Raises:
        UsageError: a folder is not there or has no images, or an image has no partner.
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
        doubt = None
        if self.faces and max(height, width) > _SQUARE_ENOUGH * min(height, width):
            doubt = f"{file} is {width}x{height}, not square: wanted an aligned face crop"
        if self._partners is None:
            truth = self._square(whole, 1)
            rng = np.random.default_rng([self.seed, number])
            low = degrade(self.task_name, truth, rng)
        else:
            partner = self._partners[number]
            truth, low = self._pair(whole, read_image(partner).opaque(), partner)
        return Sample(number, self._places[number].as_posix(), truth, low, doubt)

    def _pair(
        self, whole: NDArray[np.uint8], low: NDArray[np.uint8], partner: Path
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        factor = self.upscale
        wanted = whole.shape[0] // factor, whole.shape[1] // factor
        if low.shape[:2] != wanted:
            ratio = f" (1/{factor} of the truth's)" if factor > 1 else ", as the truth"
            raise ImageError(
                f"{partner} is {low.shape[1]}x{low.shape[0]}, wanted {wanted[1]}x{wanted[0]}{ratio}"
            )
        whole = whole[: wanted[0] * factor, : wanted[1] * factor]
        return self._square(whole, factor), self._square(low, 1, factor)

    def _square(
        self, image: NDArray[np.uint8], multiple: int, shrunk: int = 1
    ) -> NDArray[np.uint8]:
        """The model's square out of an image, or out of one ``shrunk`` times smaller.

        Cut at multiples of ``multiple``, so that a truth and its smaller image show the same.
        """
        side = self.side // shrunk
        least = min(image.shape[:2])
        cut = least // multiple * multiple if self.faces else side
        top, left = ((length - cut) // 2 // multiple * multiple for length in image.shape[:2])
        piece = np.ascontiguousarray(image[top : top + cut, left : left + cut])
        return piece if cut == side else resize_to_square(EnlargedPicture(piece, 1, "none"), side)


def _partners(places: Sequence[Path], degraded: Path, others: Sequence[Path]) -> list[Path]:
    """The degraded image of each image, by its place without the suffix."""
    by_name: dict[Path, Path] = {}
    for place in others:
        other = by_name.setdefault(place.with_suffix(""), place)
        if other is not place:
            raise UsageError(
                f"{degraded / other} and {place.name} have one name: which is the degraded image?"
            )
    missing = [place for place in places if place.with_suffix("") not in by_name]
    if missing:
        more = f", nor have {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UsageError(f"{missing[0]} has no degraded image of that name in {degraded}{more}")
    return [degraded / by_name[place.with_suffix("")] for place in places]
