"""Options of the commands that restore, and the values they give."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from elir_deploy.cli.choices import Precision
from elir_deploy.errors import UsageError
from elir_deploy.photo.faces import FACES
from elir_deploy.photo.restoring import SCALES
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.images import STANDARD_INPUT
from elir_deploy.runtime.strength import rounded_strength

__all__ = [
    "BackendOption",
    "BackgroundOption",
    "BitsOption",
    "BundleArgument",
    "DeviceOption",
    "EventsOption",
    "Existing",
    "ExistingOption",
    "Faces",
    "FacesOption",
    "Fit",
    "FitOption",
    "ForceOption",
    "LongSideOption",
    "Mode",
    "ModeOption",
    "PrecisionOption",
    "QualityOption",
    "RecursiveOption",
    "Scale",
    "ScaleOption",
    "SeedOption",
    "SigmaOption",
    "StrengthOption",
    "SuffixOption",
    "ThreadsOption",
    "TileOverlapOption",
    "chosen_strength",
    "path_of",
]


class Fit(str, enum.Enum):
    resize = "resize"
    tile = "tile"


Faces = enum.Enum("Faces", {name: name for name in FACES}, type=str)  # type: ignore[misc]
Scale = enum.Enum("Scale", {str(n): str(n) for n in SCALES}, type=str)  # type: ignore[misc]


class Mode(str, enum.Enum):
    latency = "latency"
    throughput = "throughput"


class Existing(str, enum.Enum):
    error = "error"
    skip = "skip"
    overwrite = "overwrite"


BackendOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"auto, {', '.join(BACKENDS)}. elir-inspect shows which of them can run here.",
    ),
]

PrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        help="Precision to run in; bf16 uses the fp32 files. [default: the fastest that the "
        "bundle allows by default]"
    ),
]

FitOption = Annotated[
    Fit | None,
    typer.Option(
        help="How to process images that do not have the model's size: 'resize' them, or split "
        "them into overlapping tiles ('tile'). [default: resize for face tasks, else tile]"
    ),
]

ForceOption = Annotated[bool, typer.Option("--force", help="Allow a face model to run in tiles.")]

TileOverlapOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="PIXELS",
        help="Width over which tiles are blended. [default: an eighth of a tile]",
    ),
]

FacesOption = Annotated[
    Faces | None,
    typer.Option(
        help="Of photographs, for bundles with a face detector: which faces are restored. "
        "'aligned': the picture is one aligned face, and none is searched for. 'auto': so if "
        "it looks like one, else all. [default: auto; aligned without a detector]"
    ),
]

BackgroundOption = Annotated[
    str | None,
    typer.Option(
        metavar="BUNDLE",
        help="Of photographs: a bundle that restores the rest of the picture, such as bsr's, "
        "or 'tiny'. [default: the rest stays as it is]",
    ),
]

ScaleOption = Annotated[
    Scale | None,
    typer.Option(help="Of photographs: how many times as large the result is. [default: 1]"),
]

LongSideOption = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        help="Of photographs: longer side that they are shrunk to before faces are searched; more "
        "finds smaller faces, and takes longer. [default: the bundle's, mostly 1280]",
    ),
]

SigmaOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Standard deviation of the noise: less is closer to the truth on average, more is "
        "sharper. For bundles exported with --noise field. [default: the bundle's]",
    ),
]

SeedOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Seed of the noise, for bundles exported with --noise field. [default: the bundle's]",
    ),
]

StrengthOption = Annotated[
    float,
    typer.Option(
        metavar="0-1",
        help="How much of the restoration is kept: 0 gives the input back, enlarged where the "
        "task enlarges.",
    ),
]

QualityOption = Annotated[
    str | None,
    typer.Option(
        metavar="1-100|lossless",
        help="Quality of results in a format that loses some. 'lossless' loses nothing, which "
        "JPEG cannot do. [default: 95]",
    ),
]

RecursiveOption = Annotated[bool, typer.Option("--recursive", "-r", help="Include subfolders.")]

SuffixOption = Annotated[
    str,
    typer.Option(
        metavar="TEXT", help="Append this to the names of results: '-x' gives photo-x.png."
    ),
]

BitsOption = Annotated[
    int | None,
    typer.Option(
        metavar="8|16",
        help="Bits of results; 16 for bundles exported with --io float32, in PNG and TIFF. "
        "[default: those of the input, where bundle and format have them]",
    ),
]

ExistingOption = Annotated[
    Existing,
    typer.Option(
        help="What happens if results exist. 'skip' goes on where an earlier run ended, "
        "however it ended, and tries its failures again: a result is known by its name alone, "
        "whatever input, options and bundle it is of."
    ),
]

ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads for the model. [default: all cores]")
]

DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="N|NAME",
        help="Number of the GPU, if there are several; or one of OpenVINO's devices, such as GPU, "
        "GPU.1 or NPU. [default: 0, and OpenVINO on the CPU]",
    ),
]

ModeOption = Annotated[
    Mode,
    typer.Option(
        help="'throughput' restores several images at the same time if that is faster on the "
        "backend; it takes more memory."
    ),
]

EventsOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.jsonl",
        help="Also write what became of each input, as one JSON object a line; - is standard "
        "output.",
    ),
]

BundleArgument = Annotated[
    str,
    typer.Argument(metavar="BUNDLE", help="A folder written by elir-export, or 'tiny' (included)."),
]


def chosen_strength(strength: float) -> float:
    """The value of :data:`StrengthOption`, rounded as it will be used.

    Raises:
        UsageError: it is none; told before anything is written.
    """
    try:
        return rounded_strength(strength)
    except UsageError as error:
        raise UsageError(f"--{error}") from None


def path_of(text: str) -> Path:
    """The path of a file or folder, or ``-``, which ``./-`` is not.

    Raises:
        UsageError: it is empty.
    """
    if not text:  # which would be the current folder
        raise UsageError(
            "a name is empty, expected a file, a folder or -: is a shell variable unset?"
        )
    path = Path(text)
    return path if text == STANDARD_INPUT or str(path) != STANDARD_INPUT else path.absolute()
