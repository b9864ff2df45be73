"""Parameters of requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from elir_deploy.errors import UsageError
from elir_deploy.runtime.images import OUTPUT_FORMATS
from elir_deploy.runtime.strength import rounded_strength

__all__ = ["RestoreParameters", "v2_strength"]

T = TypeVar("T")

#: Parameters of ``/restore``.
_PARAMETERS = ("model", "faces", "scale", "strength", "format", "quality")


@dataclass(frozen=True)
class RestoreParameters:
    """The parameters of ``/restore``."""

    model: str
    faces: str | None
    scale: int
    strength: float
    format: str
    quality: Any

    @classmethod
    def of(cls, values: Mapping[str, str], default_model: str) -> RestoreParameters:
        unknown = [name for name in values if name not in _PARAMETERS]
        if unknown:
            raise UsageError(
                f"unknown parameter {unknown[0]!r}, expected one of {', '.join(_PARAMETERS)}"
            )
        format = values.get("format", "same")
        if format != "same" and f".{format}" not in OUTPUT_FORMATS:
            names = ", ".join(suffix[1:] for suffix in OUTPUT_FORMATS)
            raise UsageError(f"format is {format!r}, expected same or one of {names}")
        quality: Any = values.get("quality")
        if quality is not None and quality != "lossless":
            quality = _number("quality", quality, int)
        return cls(
            values.get("model", default_model),
            values.get("faces"),
            _number("scale", values.get("scale", "1"), int),
            rounded_strength(_number("strength", values.get("strength", "1"), float)),
            format,
            quality,
        )

    def suffix(self, body: bytes) -> str:
        """That of the result's format, which may be that of the image in ``body``."""
        if self.format != "same":
            return f".{self.format}"
        if body.startswith(b"\xff\xd8"):
            return ".jpg"
        if body.startswith((b"II*", b"II+", b"MM")):
            return ".tif"
        if body[8:12] == b"WEBP":
            return ".webp"
        if body[4:12] == b"ftypavif" and OUTPUT_FORMATS[".avif"].available:
            return ".avif"
        return ".png"


def _number(name: str, text: str, kind: Callable[[str], T]) -> T:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{name} is {text[:80]!r}, expected a number") from None


def v2_strength(parameters: Mapping[str, Any]) -> float:
    """The strength in the parameters of a request of the protocol V2.

    Raises:
        UsageError: there are others, or it is none.
    """
    unknown = [name for name in parameters if name != "strength"]
    if unknown:
        raise UsageError(f"unknown parameter {unknown[0]!r}, expected strength")
    value = parameters.get("strength", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"strength is {repr(value)[:80]}, expected a number from 0 to 1")
    # An integer may be too large for a float.
    return rounded_strength(float(min(max(value, -1), 2)))
