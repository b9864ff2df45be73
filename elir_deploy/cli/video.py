"""``elir-video``: restore films with a bundle."""

from __future__ import annotations

import re
from contextlib import ExitStack
from fractions import Fraction
from typing import Annotated

import typer

from elir_deploy.cli.options import (
    BackendOption,
    BackgroundOption,
    BundleArgument,
    DeviceOption,
    EventsOption,
    Existing,
    ExistingOption,
    FacesOption,
    FitOption,
    ForceOption,
    LongSideOption,
    Mode,
    ModeOption,
    PrecisionOption,
    ScaleOption,
    SeedOption,
    SigmaOption,
    StrengthOption,
    ThreadsOption,
    TileOverlapOption,
    chosen_strength,
    path_of,
)
from elir_deploy.cli.restore import EXIT_SOME_FAILED
from elir_deploy.cli.restore_report import RunReport
from elir_deploy.cli.restorers import choices_of, open_and_tell
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command
from elir_deploy.errors import UsageError
from elir_deploy.photo import PhotoRestorer
from elir_deploy.photo.choices import Choices
from elir_deploy.runtime import Restorer
from elir_deploy.video import (
    CONTAINERS,
    Encoding,
    FrameRestorer,
    PhotographFrames,
    Span,
    TrackedFrames,
    WholeFrames,
    default_codec,
)
from elir_deploy.video.encoding import CRF
from elir_deploy.video.films import restore_films
from elir_deploy.video.jobs import plan_films

_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)")


# Its length is that of the options, which Typer reads from the signature.
def video(
    bundle: BundleArgument,
    films: Annotated[list[str], typer.Argument(metavar="FILM...", help="Film files.")],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER|FILE",
            help="Folder for the results, created if needed. With one film: also a file such as "
            "name.mp4, .mov, .mkv or .webm.",
        ),
    ],
    codec: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="FFmpeg's encoder, such as libx264, libx265, libsvtav1, libvpx-vp9 or h264_nvenc. "
            "[default: libx264; libvpx-vp9 for .webm]",
        ),
    ] = None,
    crf: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=63,
            metavar="NUMBER",
            help="Quality by the encoder's scale: lower is better and larger. [default: "
            f"{', '.join(f'{crf} of {name}' for name, crf in CRF.items())}]",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Speed of the encoder against size, such as veryfast. [default: the encoder's]",
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Begin there: seconds, or 1:02:03.5."),
    ] = None,
    end: Annotated[
        str | None, typer.Option(metavar="TIME", help="End there, in times of the film.")
    ] = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    fit: FitOption = None,
    force: ForceOption = False,
    tile_overlap: TileOverlapOption = None,
    faces: FacesOption = None,
    background: BackgroundOption = None,
    scale: ScaleOption = None,
    long_side: LongSideOption = None,
    sigma_s: SigmaOption = None,
    seed: SeedOption = None,
    strength: StrengthOption = 1.0,
    existing: ExistingOption = Existing.error,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    mode: ModeOption = Mode.latency,
    events: EventsOption = None,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Restore films with a bundle, picture by picture.

    Times of pictures, audio, subtitles, chapters, titles, rotation, aspect ratio and colours stay
    as they are. If a film is cut off, or with Ctrl-C, what was restored until then is in
    NAME.partial.mp4, which plays, and the exit code is 2 or 130.

    Examples:

    * `elir-video bsr holiday.mp4 -o restored`
    * `elir-video tiny old.mkv -o better.mkv --crf 16 --preset slow`
    * `elir-video bfr talk.mp4 -o restored --start 1:30 --end 2:00 --strength 0.7`
    """
    strength = chosen_strength(strength)
    span = _span(start, end)
    choices = choices_of(
        bundle,
        background,
        backend=backend,
        precision=precision,
        faces=faces,
        scale=scale,
        long_side=long_side,
        fit=fit,
        force=force,
        threads=threads,
        device=device,
        mode=mode,
        sigma_s=sigma_s,
        seed=seed,
        tile_overlap=tile_overlap,
    )
    choices.check()
    if events is not None:
        path_of(events)
    plan = plan_films([path_of(film) for film in films], path_of(output), existing.value)
    encodings = {
        suffix: Encoding(codec or default_codec(suffix), crf, preset)
        for suffix in {job.target.suffix.lower() for job in (*plan.jobs, *plan.skipped)}
    }
    for suffix in sorted({job.target.suffix.lower() for job in plan.jobs}):
        encodings[suffix].check(CONTAINERS[suffix])
    with RunReport(plan, events, "film") as report, ExitStack() as stack:
        restorer = None
        if plan.jobs:
            opened = open_and_tell(choices, stack)
            restorer = opened if isinstance(opened, Restorer) else opened.restorer
            frames = _frames(opened, choices, strength)
            on_progress = stack.enter_context(progress(show_time_left=True, unit="frames"))
            report.outcome = restore_films(
                frames,
                plan.jobs,
                encodings,
                span=span,
                on_result=report.result,
                on_progress=on_progress,
            )
    report.print_summary(restorer)
    if report.outcome.failures:
        raise typer.Exit(EXIT_SOME_FAILED)


def _frames(opened: Restorer | PhotoRestorer, choices: Choices, strength: float) -> FrameRestorer:
    if isinstance(opened, Restorer):
        return WholeFrames(opened, strength)
    kind = PhotographFrames if choices.faces == "aligned" else TrackedFrames
    return kind(opened, choices.faces or "auto", choices.scale or 1, strength)


def _span(start: str | None, end: str | None) -> Span:
    span = Span(_seconds("--start", start), _seconds("--end", end))
    if span.end is not None and span.end <= span.shift:
        raise UsageError(f"--end is {end}, expected a time after --start, {start or 0}")
    return span


def _seconds(option: str, text: str | None) -> Fraction | None:
    if text is None:
        return None
    match = _TIME.fullmatch(text)
    if match is None:
        raise UsageError(f"{option} is {text!r}, expected seconds, or a time such as 1:02:03.5")
    hours, minutes, seconds = match.groups()
    return Fraction(seconds) + 60 * int(minutes or 0) + 3600 * int(hours or 0)


def main() -> None:
    run_command(video)


if __name__ == "__main__":
    main()
