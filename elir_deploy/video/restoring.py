"""Restoring a film: reading, restoring and encoding at the same time, in bounded memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from elir_deploy.errors import FilmError, OutputError, UsageError
from elir_deploy.operating_system import file_identity
from elir_deploy.output_files import replacing_as
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.video.colours import Colours, FromFilm
from elir_deploy.video.copying import CopiedStreams, damaged_parts
from elir_deploy.video.encoding import CONTAINERS, Encoding
from elir_deploy.video.film import Film
from elir_deploy.video.frames import FrameRestorer
from elir_deploy.video.library import clock
from elir_deploy.video.reading import Pictures, Span, missing
from elir_deploy.video.writing import FilmWriter

__all__ = ["RestoredFilm", "partial_name", "restore_film"]


@dataclass(frozen=True)
class RestoredFilm:
    """What became of a film.

    Attributes:
        path: the file that was written; of one that ends early :func:`partial_name`.
        frames: number of restored pictures.
        until: time in the film at which it ends, in seconds.
        why_early: why it ends early, in words; None: it does not.
        interrupted: whether the caller ended it.
        remarks: what else the user may not expect, in words.
        seconds: that it took.
    """

    path: Path
    frames: int
    until: Fraction
    why_early: str | None
    interrupted: bool
    remarks: tuple[str, ...]
    seconds: float


def partial_name(target: Path) -> Path:
    """Where a film that ends early is written: ``a.mp4`` becomes ``a.partial.mp4``.

    Of a link, beside the file that it names.
    """
    if os.path.islink(target):
        target = Path(os.path.realpath(target))
    return target.with_name(f"{target.stem}.partial{target.suffix}")


def restore_film(
    film: Film,
    target: Path,
    restorer: FrameRestorer,
    encoding: Encoding,
    *,
    span: Span | None = None,
    on_progress: ProgressCallback = no_progress,
    interrupted: Callable[[], bool] = lambda: False,
) -> RestoredFilm:
    """Restore a film into a file, which appears when it is complete.

    A few pictures wait before and after the model, whatever the film's length. Times are those of
    the film; streams besides the pictures are copied packet by packet.

    Args:
        film: of :func:`~elir_deploy.video.film.open_film`.
        target: the file, with the suffix of one of ``CONTAINERS``.
        restorer: of its pictures.
        encoding: of the result.
        span: what is restored; None: all.
        on_progress: called after each picture.
        interrupted: whether to end, asked after each picture.

    Raises:
        FilmError: the film is refused, or no picture could be read.
        UsageError: container, codec and streams do not fit together, or :func:`partial_name` of
            the target is the film.
        OutputError: the file cannot be written.
        UnavailableError: the encoder's device is missing, or as of the restorer.
    """
    part = partial_name(target)
    if file_identity(part) == file_identity(film.path):
        raise UsageError(f"the result {target} would replace the input {film.path}: rename one")
    span = span or Span()
    started, faces = time.perf_counter(), restorer.faces
    with closing(CopiedStreams(film, span)) as copied, replacing_as(target) as output:
        colours = Colours.of(film, restorer.scale != 1)
        pictures = Pictures(film, span, FromFilm(colours, restorer.bits))
        writer = FilmWriter(
            output.file,
            CONTAINERS[target.suffix.lower()],
            film,
            copied,
            span,
            encoding,
            colours,
            restorer.scale,
            restorer.bits,
        )
        stopped = _write(pictures, restorer, writer, on_progress, interrupted)
        why_early = None if stopped else _why_early(pictures, copied, writer)
        remarks = tuple(_remarks(pictures, copied, writer, restorer, faces))
        path = target
        if stopped or why_early is not None:
            path, output.name = part, part.name
        else:
            part.unlink(missing_ok=True)  # what an earlier run had of it
    until, seconds = writer.end - film.origin, time.perf_counter() - started
    return RestoredFilm(path, writer.frames, until, why_early, stopped, remarks, seconds)


def _write(
    pictures: Pictures,
    restorer: FrameRestorer,
    writer: FilmWriter,
    on_progress: ProgressCallback,
    interrupted: Callable[[], bool],
) -> bool:
    """Write the whole file, or nothing; gives whether it was interrupted."""
    import av

    try:
        stopped = _pump(pictures, restorer, writer, on_progress, interrupted)
        if not writer.frames:
            reason = pictures.why_early or "there is no picture in this part of it"
            raise FilmError(f"{pictures.film.path}: nothing was restored: {reason}")
        writer.finish(early=stopped or pictures.why_early is not None)
    except av.error.FFmpegError as error:
        writer.discard()
        raise OutputError(
            f"the restored {pictures.film.path.name} cannot be encoded or written: {error.strerror}"
        ) from error
    except BaseException:
        writer.discard()
        raise
    return stopped


def _pump(
    pictures: Pictures,
    restorer: FrameRestorer,
    writer: FilmWriter,
    on_progress: ProgressCallback,
    interrupted: Callable[[], bool],
) -> bool:
    """Restore and write all pictures; gives whether it was interrupted."""
    film = pictures.film
    what = f"restoring {film.path.name}"
    expected = film.expected_frames(pictures.span.start, pictures.span.end)
    on_progress(what, 0, expected)
    with closing(restorer.map(iter(pictures))) as restored:
        for pixels in restored:
            writer.write(pixels, pictures.moments.popleft())
            del pixels
            # The header may be wrong.
            total = expected and max(expected, writer.frames + 1)
            on_progress(what, writer.frames, total)
            if interrupted():
                return True
    on_progress(what, writer.frames, writer.frames)
    return False


def _why_early(pictures: Pictures, copied: CopiedStreams, writer: FilmWriter) -> str | None:
    """Why a film that was read ends early; None: it does not."""
    why_early = pictures.why_early or copied.why_early
    if why_early or pictures.reached_end:
        return why_early
    film, container = pictures.film, copied.container
    if missing(film, container, pictures.span, writer.end, copied.end):
        return "its header promises more"
    return None


def _remarks(
    pictures: Pictures,
    copied: CopiedStreams,
    writer: FilmWriter,
    restorer: FrameRestorer,
    faces: int | None,
) -> Iterator[str]:
    """What the user may not expect; ``faces``: those restored before this film."""
    film, bits = pictures.film, restorer.bits
    yield from film.remarks
    yield from writer.remarks
    yield from copied.remarks()
    if faces is not None and restorer.faces == faces:
        yield "no face was restored"
    if film.bits > bits:
        yield (
            f"its {film.bits} bits were reduced to {bits}: a bundle exported with --io float32 "
            "keeps them"
        )
    joins = [seconds for seconds in pictures.joins if seconds < writer.end]
    if joins:
        elsewhere = ", and elsewhere" if joins[1:] else ""
        begin = clock(joins[0] - film.origin)
        yield (
            f"its times begin anew at {begin}{elsewhere}, as where films were joined: in the "
            "result they go on"
        )
    copies = copied.damaged + writer.damaged
    for number, what in ((pictures.damaged, "packet"), (copies, "copied packet")):
        if number:
            yield f"{_counted(number, f'damaged {what}')} left out"
    if pictures.incomplete:
        made = _counted(pictures.incomplete, "picture")
        were = "was" if pictures.incomplete == 1 else "were"
        yield (
            f"{made} {were} decoded from damaged packets and may show errors: restore another copy "
            "of the film if there is one"
        )
    gaps = damaged_parts(pictures, copied)
    if gaps:
        begin, end = (clock(seconds - film.origin) for seconds in gaps[0])
        elsewhere = ", and elsewhere" if gaps[1:] else ""
        yield f"it may be damaged: there is nothing from {begin} to {end}{elsewhere}"
    for number, what in ((pictures.disordered, "picture"), (writer.disordered, "copied packet")):
        if number:
            yield f"{_counted(number, what)} whose times go back left out"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
