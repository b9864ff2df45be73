"""Parameters of requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from elir_deploy.errors import UsageError
from elir_deploy.photo.choices import Choices
from elir_deploy.runtime.images import OUTPUT_FORMATS
from elir_deploy.runtime.strength import rounded_strength

__all__ = ["RestoreParameters", "RunOptions", "v2_parameters"]

#: The numbers of :class:`RunOptions`.
_NUMBERS: dict[str, type[Any]] = {"sigma_s": float, "seed": int, "tile_overlap": int}
#: No number is as large; the rest is for those who know its range.
_TOO_LARGE = 2.0**128
#: Parameters of the protocol V2, and of ``/restore``.
_V2_PARAMETERS = ("strength", "fit", *_NUMBERS)
_PARAMETERS = ("model", "faces", "scale", *_V2_PARAMETERS, "format", "quality", "bits")
#: Options of ``elir-restore`` that decide what is opened, or how much memory that takes.
_OF_THE_SERVICE = {field.name for field in fields(Choices)} - {"bundle", *_PARAMETERS}


@dataclass(frozen=True)
class RunOptions:
    """What a request may choose of how its images run; None: as the service was started.

    Attributes:
        fit, sigma_s, seed, tile_overlap: as of :class:`~elir_deploy.runtime.Restorer`.
    """

    fit: Any = None
    sigma_s: float | None = None
    seed: int | None = None
    tile_overlap: int | None = None

    @classmethod
    def of(cls, fit: str | None, numbers: Mapping[str, Any]) -> RunOptions:
        """With what ``numbers`` has of them, beside others."""
        own = {name: kind(numbers[name]) for name, kind in _NUMBERS.items() if name in numbers}
        return cls(fit, **own)

    @property
    def chosen(self) -> dict[str, Any]:
        """Those that the request chose."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class RestoreParameters:
    """The parameters of ``/restore``."""

    model: str
    faces: str | None
    scale: int
    strength: float
    run: RunOptions
    format: str
    quality: Any
    bits: int | None

    @classmethod
    def of(cls, given: Sequence[tuple[str, str]], default_model: str) -> RestoreParameters:
        values = dict(given)
        _check_names(values, _PARAMETERS)
        for name in values:
            if sum(name == each for each, _ in given) > 1:
                raise UsageError(f"{name} is given more than once")
        format = values.get("format", "same")
        if format != "same" and f".{format}" not in OUTPUT_FORMATS:
            names = ", ".join(suffix[1:] for suffix in OUTPUT_FORMATS)
            raise UsageError(f"format is {format[:80]!r}, expected same or one of {names}")
        quality: Any = values.get("quality")
        if quality is not None and quality != "lossless":
            quality = _number("quality", quality, int)
        numbers = {
            name: _number(name, values[name], kind)
            for name, kind in _NUMBERS.items()
            if name in values
        }
        return cls(
            values.get("model", default_model),
            values.get("faces"),
            _number("scale", values.get("scale", "1"), int),
            rounded_strength(_number("strength", values.get("strength", "1"), float)),
            RunOptions.of(values.get("fit"), numbers),
            format,
            quality,
            _number("bits", values["bits"], int) if "bits" in values else None,
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


def _check_names(names: Iterable[str], known: tuple[str, ...]) -> None:
    for name in names:
        option = name.replace("-", "_")
        if option in _OF_THE_SERVICE:
            raise UsageError(
                f"{name} is an option of the service, not of a request: it is given to elir-serve "
                f"as --{option.replace('_', '-')}"
            )
        if name not in known and option in known:
            raise UsageError(f"unknown parameter {name!r}: it is called {option} here")
        if name not in known:
            raise UsageError(f"unknown parameter {name[:80]!r}, expected one of {', '.join(known)}")


def _number(name: str, text: str, kind: type[Any]) -> Any:
    try:
        value = kind(text)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise UsageError(f"{name} is {text[:80]!r}, expected {expected}") from None
    _check_size(name, value, text)
    return value


def _check_size(name: str, value: Any, sent: str) -> None:
    """Refuse what would become another number, such as infinity, or a long message."""
    if abs(value) >= _TOO_LARGE:
        raise UsageError(f"{name} is {_shortened(sent)}, expected a number below 2^128")


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}... ({len(text)} characters)"


def v2_parameters(parameters: Mapping[str, Any]) -> tuple[float, RunOptions]:
    """The strength in the parameters of a request of the protocol V2, and how its images run.

    Raises:
        UsageError: there are others, or one is invalid.
    """
    _check_names(parameters, _V2_PARAMETERS)
    kind: tuple[type, ...]
    for name, value in parameters.items():
        kind, expected = (int, float), "a number"
        if name == "fit":
            kind, expected = (str,), "a string"
        elif _NUMBERS.get(name) is int:
            kind, expected = (int,), "a whole number"
        if isinstance(value, bool) or not isinstance(value, kind):
            raise UsageError(f"{name} is {repr(value)[:80]}, expected {expected}")
        if kind != (str,):
            _check_size(name, value, str(value))
    strength = rounded_strength(float(parameters.get("strength", 1.0)))
    return strength, RunOptions.of(parameters.get("fit"), parameters)
