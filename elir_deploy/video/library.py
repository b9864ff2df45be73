"""PyAV, which brings FFmpeg's libraries; imported when a film is opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

from elir_deploy.errors import FilmError, MissingDependencyError

__all__ = ["clock", "reading", "require_av"]


def require_av() -> None:
    """Check that PyAV is installed.

    Raises:
        MissingDependencyError: it is not.
    """
    if find_spec("av") is None:
        raise MissingDependencyError("av", "video", "read and write films")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise FFmpeg's errors in the block as those of a film that cannot be read.

    Raises:
        FilmError: in place of them.
    """
    import av

    try:
        yield
    except av.error.InvalidDataError as error:
        raise FilmError(
            f"{path} cannot be read: it is no film, or was cut off before its index, which MP4 "
            "files have at their end"
        ) from error
    except av.error.FFmpegError as error:
        raise FilmError(f"{path} cannot be read: {error.strerror}") from error


def clock(seconds: Fraction | float) -> str:
    """A time in a film, such as 0:01:02.500."""
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"
