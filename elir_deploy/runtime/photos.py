"""The photographs in the package; sources and licences are in their LICENSE.md."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from elir_deploy.errors import UsageError

__all__ = ["large_photograph", "sample_photos"]


@dataclass(frozen=True)
class _Photo:
    """A stored photograph.

    Attributes:
        file: in ``elir_deploy/data/photos``; square, 8-bit RGB.
        face: (left, top, right, bottom) in pixels of a crop that is aligned like FFHQ face crops;
            ``None``: there is no face.
    """

    file: str
    face: tuple[int, int, int, int] | None = None


_PHOTOS = {
    "astronaut": _Photo("astronaut.png", face=(28, 14, 212, 198)),
    "chelsea": _Photo("chelsea.png"),
    "coffee": _Photo("coffee.png"),
}


def sample_photos(size: int | tuple[int, int], faces: bool) -> dict[str, npt.NDArray[np.uint8]]:
    """Undegraded photographs by name, in a fixed order.

    Args:
        size: of the returned images in pixels, a side or (height, width), to which squares are cut;
            the stored ones have about 256, so larger sizes are enlarged (Lanczos) without finer
            detail.
        faces: only photographs of a face, cropped and aligned (one); otherwise all, uncropped
            (three).

    Returns:
        RGB images (height, width, 3), uint8, each C-contiguous and writable.

    Raises:
        UsageError: ``size`` is below 1.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise UsageError(f"sample photographs: size is {size}, expected at least 1")
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    folder: Any = resources.files("elir_deploy") / "data" / "photos"
    photos = {}
    for name, photo in _PHOTOS.items():
        if faces and photo.face is None:
            continue
        with (folder / photo.file).open("rb") as stream, Image.open(stream) as stored:
            image = stored.convert("RGB")
        box = photo.face if faces else None
        if image.size != (side, side) or box is not None:
            image = image.resize((side, side), Image.Resampling.LANCZOS, box=box)
        cut = image.crop((left, top, left + width, top + height))
        photos[name] = np.array(cut, dtype=np.uint8)
    return photos


@functools.cache
def large_photograph() -> npt.NDArray[np.uint8]:
    """(3000, 4000, 3) uint8 RGB, not to be written: 12 megapixels with one face, for measuring.

    The face's aligned square is about 1,500 pixels wide.
    """
    small = sample_photos(256, faces=False)
    picture = Image.fromarray(small["coffee"]).resize((4000, 3000), Image.Resampling.BICUBIC)
    head = Image.fromarray(small["astronaut"]).resize((2000, 2000), Image.Resampling.BICUBIC)
    picture.paste(head, (1000, 500))
    pixels = np.array(picture)
    pixels.setflags(write=False)
    return pixels
