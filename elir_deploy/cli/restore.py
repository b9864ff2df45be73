"""``elir-restore``: restore image files with a bundle."""

from __future__ import annotations

import enum
import warnings
from contextlib import ExitStack
from typing import Annotated

import typer

from elir_deploy.cli.options import (
    BackendOption,
    BackgroundOption,
    BitsOption,
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
    QualityOption,
    RecursiveOption,
    ScaleOption,
    SeedOption,
    SigmaOption,
    StrengthOption,
    SuffixOption,
    ThreadsOption,
    TileOverlapOption,
    chosen_strength,
    path_of,
)
from elir_deploy.cli.restore_report import RunReport
from elir_deploy.cli.restorers import choices_of, open_restorer
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command
from elir_deploy.errors import UsageError
from elir_deploy.runtime.files import check_bits, restore_files
from elir_deploy.runtime.images import OUTPUT_FORMATS, Quality
from elir_deploy.runtime.jobs import Plan, plan_jobs

EXIT_SOME_FAILED = 2


class Format(str, enum.Enum):
    png = "png"
    jpg = "jpg"
    webp = "webp"
    tif = "tif"
    avif = "avif"
    same = "same"


# Its length is that of the options, which Typer reads from the signature.
def restore(
    bundle: BundleArgument,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Image files, folders of images, or - for standard input."
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER|FILE",
            help="Folder for the results, created if needed. With one input: also a file such as "
            "name.png, or - for standard output.",
        ),
    ],
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
    format: Annotated[
        Format | None,
        typer.Option(
            help="Format of the results; 'same' keeps that of the input if it can be written. "
            "[default: that of -o if it is a file, else png]"
        ),
    ] = None,
    quality: QualityOption = None,
    bits: BitsOption = None,
    suffix: SuffixOption = "",
    recursive: RecursiveOption = False,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    mode: ModeOption = Mode.latency,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Also write NAME.compare.png: input and result side by side."
        ),
    ] = False,
    events: EventsOption = None,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Restore images with a bundle.

    Results have the names of their inputs and are PNG files, unless --format is given. Folders keep
    their structure. If a file fails, the others are still restored, and the exit code is 2; with
    --existing skip, the same command then tries only the failed ones again.

    Examples:

    * `elir-restore bfr portrait.jpg -o restored --compare`
    * `elir-restore bfr group.jpg --background bsr --scale 2 -o restored`
    * `elir-restore denoise album/ --recursive --format same --existing skip -o restored`
    * `elir-restore tiny photo.jpg -o better.webp --quality lossless`
    * `curl ... | elir-restore tiny - -o - > restored.png`
    """
    # Pillow warns about some damaged files; anything that matters is an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    strength = chosen_strength(strength)
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
    plan = plan_jobs(
        [path_of(text) for text in inputs],
        path_of(output),
        format=format.value if format else None,
        recursive=recursive,
        existing=existing.value,
        compare=compare,
        suffix=suffix,
    )
    encoding = image_quality(quality, plan)
    check_bits(bits, (job.format for job in plan.jobs), *choices.bits)
    with RunReport(plan, events) as report, ExitStack() as stack:
        restorer = None
        if plan.jobs:
            whole, restorer = open_restorer(choices, stack)
            on_progress = stack.enter_context(progress(show_time_left=True))
            report.outcome = restore_files(
                whole,
                plan.jobs,
                strength=strength,
                bits=bits,
                quality=encoding,
                on_result=report.result,
                on_progress=on_progress,
            )
    report.print_summary(restorer)
    if report.outcome.failures or plan.unread.closed:
        raise typer.Exit(EXIT_SOME_FAILED)


def image_quality(text: str | None, plan: Plan) -> Quality:
    if text is None:
        return None
    if text != "lossless" and not (text.isdecimal() and 1 <= int(text) <= 100):
        raise UsageError(f"--quality is {text!r}, expected 1 to 100, or lossless")
    quality: Quality = "lossless" if text == "lossless" else int(text)
    formats = [OUTPUT_FORMATS[job.format] for job in (*plan.jobs, *plan.skipped)]
    for format in formats:
        format.options(quality)
    if quality != "lossless" and all(format.lossy is None for format in formats):
        raise UsageError(
            f"--quality is {quality}, and {formats[0].name} is always lossless: leave it out, or "
            "write --format jpg or webp"
        )
    return quality


def main() -> None:
    run_command(restore)


if __name__ == "__main__":
    main()
