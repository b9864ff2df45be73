"""The formats that images are written in, and what each can store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from PIL import Image

from elir_deploy.errors import UsageError

__all__ = ["OUTPUT_FORMATS", "TIFF", "OutputFormat", "Quality"]

#: From 1 to 100, of formats that lose some; ``lossless``; None: :data:`DEFAULT_QUALITY`.
Quality: TypeAlias = "int | Literal['lossless'] | None"
#: No difference to be seen beside the original.
DEFAULT_QUALITY = 95


@dataclass(frozen=True)
class OutputFormat:
    """An output format.

    Attributes:
        name: Pillow's name.
        largest: maximum side in pixels.
        lossy: options for a quality from 1 to 100, in which ``quality`` is added; None: the format
            is always lossless.
        lossless: options for no loss; None: it always loses some.
        alpha: whether it supports transparency.
        grey: whether it stores grey values as such; otherwise they become RGB.
        deep: whether it stores 16 bits; otherwise values are rounded to 8.
        largest_profile: maximum size of a colour profile in bytes; None: no limit.
        largest_content: maximum size of all values in bytes; None: no limit.
    """

    name: str
    largest: int
    lossy: dict[str, Any] | None
    lossless: dict[str, Any] | None
    alpha: bool = True
    grey: bool = True
    deep: bool = False
    largest_profile: int | None = None
    largest_content: int | None = None

    @property
    def available(self) -> bool:
        """Whether this Pillow writes it."""
        Image.init()
        return self.name in Image.SAVE

    def options(self, quality: Quality) -> dict[str, Any]:
        """Options for saving.

        Raises:
            UsageError: the format has no such quality.
        """
        if quality == "lossless":
            if self.lossless is None:
                raise UsageError(f"{self.name} always loses some quality: write PNG or WebP")
            return self.lossless
        if quality is not None and not 1 <= quality <= 100:
            raise UsageError(f"quality is {quality}, expected 1 to 100 or lossless")
        if self.lossy is None:
            return self.lossless or {}
        return self.lossy | {"quality": quality or DEFAULT_QUALITY}


_PNG = OutputFormat("PNG", 2**31 - 1, None, {}, deep=True)
# The format allows 65535 pixels, libjpeg fewer; profiles have up to 255 segments.
_JPEG = OutputFormat(
    "JPEG", 65500, {"subsampling": 0}, None, alpha=False, largest_profile=255 * 65519
)
# Exact: with the colours of transparent pixels.
_WEBP = OutputFormat("WEBP", 16383, {}, {"lossless": True, "exact": True}, grey=False)
# Offsets have 32 bits; what cannot be compressed grows a little.
TIFF = OutputFormat("TIFF", 2**31 - 1, None, {}, deep=True, largest_content=2**32 - 2**27)
_AVIF = OutputFormat("AVIF", 65536, {"subsampling": "4:4:4"}, None, grey=False)
#: By suffix.
OUTPUT_FORMATS = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".tif": TIFF,
    ".tiff": TIFF,
    ".avif": _AVIF,
}
