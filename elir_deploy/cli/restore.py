"""``elir-restore``: restore image files with a bundle."""

from __future__ import annotations

import enum
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from elir_deploy.cli.choices import Precision
from elir_deploy.cli.restore_report import RunReport
from elir_deploy.cli.restorers import Choices, open_restorer
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.errors import UsageError
from elir_deploy.photo.faces import FACES
from elir_deploy.photo.restoring import SCALES
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.files import check_bits, restore_files
from elir_deploy.runtime.images import OUTPUT_FORMATS, STANDARD_INPUT, Quality
from elir_deploy.runtime.jobs import Plan, plan_jobs
from elir_deploy.runtime.strength import rounded_strength

EXIT_SOME_FAILED = 2


class Fit(str, enum.Enum):
    resize = "resize"
    tile = "tile"


Faces = enum.Enum("Faces", {name: name for name in FACES}, type=str)  # type: ignore[misc]
Scale = enum.Enum("Scale", {str(n): str(n) for n in SCALES}, type=str)  # type: ignore[misc]


class Mode(str, enum.Enum):
    latency = "latency"
    throughput = "throughput"


class Format(str, enum.Enum):
    png = "png"
    jpg = "jpg"
    webp = "webp"
    tif = "tif"
    avif = "avif"
    same = "same"


class Existing(str, enum.Enum):
    error = "error"
    skip = "skip"
    overwrite = "overwrite"


# Its length is that of the options, which Typer reads from the signature.
def restore(
    bundle: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE", help="A folder written by elir-export, or 'tiny' (included)."
        ),
    ],
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
    backend: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"auto, {', '.join(BACKENDS)}. elir-inspect shows which of them can run here.",
        ),
    ] = "auto",
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Precision to run in; bf16 uses the fp32 files. [default: the fastest that the "
            "bundle allows by default]"
        ),
    ] = None,
    fit: Annotated[
        Fit | None,
        typer.Option(
            help="How to process images that do not have the model's size: 'resize' them, or split "
            "them into overlapping tiles ('tile'). [default: resize for face tasks, else tile]"
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Allow a face model to run in tiles.")
    ] = False,
    tile_overlap: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="PIXELS",
            help="Width over which tiles are blended. [default: an eighth of a tile]",
        ),
    ] = None,
    faces: Annotated[
        Faces | None,
        typer.Option(
            help="Of photographs, for bundles with a face detector: which faces are restored. "
            "'aligned': the picture is one aligned face, and none is searched for. 'auto': so if "
            "it looks like one, else all. [default: auto; aligned without a detector]"
        ),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="BUNDLE",
            help="Of photographs: a bundle that restores the rest of the picture, such as bsr's, "
            "or 'tiny'. [default: the rest stays as it is]",
        ),
    ] = None,
    scale: Annotated[
        Scale | None,
        typer.Option(help="Of photographs: how many times as large the result is. [default: 1]"),
    ] = None,
    sigma_s: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Standard deviation of the noise: less is closer to the truth on average, more is "
            "sharper. For bundles exported with --noise field. [default: the bundle's]",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Seed of the noise, for bundles exported with --noise field. [default: the "
            "bundle's]",
        ),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(
            metavar="0-1",
            help="How much of the restoration is kept: 0 gives the input back, enlarged where the "
            "task enlarges.",
        ),
    ] = 1.0,
    existing: Annotated[
        Existing,
        typer.Option(
            help="What happens if results exist. 'skip' goes on where an earlier run ended, "
            "however it ended, and tries its failures again: a result is known by its name alone, "
            "whatever input, options and bundle it is of."
        ),
    ] = Existing.error,
    format: Annotated[
        Format | None,
        typer.Option(
            help="Format of the results; 'same' keeps that of the input if it can be written. "
            "[default: that of -o if it is a file, else png]"
        ),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            metavar="1-100|lossless",
            help="Quality of results in a format that loses some. 'lossless' loses nothing, which "
            "JPEG cannot do. [default: 95]",
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            metavar="8|16",
            help="Bits of results; 16 for bundles exported with --io float32, in PNG and TIFF. "
            "[default: those of the input, where bundle and format have them]",
        ),
    ] = None,
    suffix: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Append this to the names of results: '-x' gives photo-x.png."
        ),
    ] = "",
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Include subfolders.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads for the model. [default: all cores]")
    ] = None,
    device: Annotated[
        int, typer.Option(min=0, metavar="N", help="Number of the GPU, if there are several.")
    ] = 0,
    mode: Annotated[
        Mode,
        typer.Option(
            help="'throughput' restores several images at the same time if that is faster on the "
            "backend; it takes more memory."
        ),
    ] = Mode.latency,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Also write NAME.compare.png: input and result side by side."
        ),
    ] = False,
    events: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Also write what became of each input, as one JSON object a line; - is standard "
            "output.",
        ),
    ] = None,
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
    try:  # wrong ones are refused before anything is written
        strength = rounded_strength(strength)
    except UsageError as error:
        raise UsageError(f"--{error}") from None
    choices = Choices(
        Bundle.open(bundle),
        Bundle.open(background) if background is not None else None,
        backend=backend,
        precision=precision.value if precision else None,
        faces=faces.value if faces else None,
        scale=int(scale.value) if scale else None,
        fit=fit.value if fit else None,
        force=force,
        threads=threads,
        device=device,
        mode=mode.value,
        sigma_s=sigma_s,
        seed=seed,
        tile_overlap=tile_overlap,
    )
    choices.check()
    if events is not None:
        _path(events)
    plan = plan_jobs(
        [_path(text) for text in inputs],
        _path(output),
        format=format.value if format else None,
        recursive=recursive,
        existing=existing.value,
        compare=compare,
        suffix=suffix,
    )
    encoding = image_quality(quality, plan)
    check_bits(bits, plan.jobs, *choices.bits)
    with RunReport(plan, events) as report, ExitStack() as stack:
        restorer = None
        if plan.jobs:
            whole, restorer = open_restorer(choices, stack)
            if device and not BACKENDS[restorer.backend].on_gpu:
                tell(f"warning: --device {device} has no effect: {restorer.backend} uses no GPU")
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


def _path(text: str) -> Path:
    """The path of a file or folder, or ``-``, which ``./-`` is not."""
    if not text:  # which would be the current folder
        raise UsageError(
            "a name is empty, expected a file, a folder or -: is a shell variable unset?"
        )
    path = Path(text)
    return path if text == STANDARD_INPUT or str(path) != STANDARD_INPUT else path.absolute()


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
