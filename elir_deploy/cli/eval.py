"""``elir-eval``: quality of a model on a folder of images."""

from __future__ import annotations

import enum
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elir_deploy.cli.choices import Precision
from elir_deploy.cli.imports import require_packages
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.errors import MissingDependencyError, OutputError, UnavailableError, UsageError
from elir_deploy.output_files import check_writable, write_text
from elir_deploy.paired_images import SampleFolder
from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime import BACKENDS, Bundle, Restorer, write_image
from elir_deploy.tasks import TASKS, task_named
from elir_deploy.text import printable_values
from elir_deploy.training import figures
from elir_deploy.training.evaluation import evaluate
from elir_deploy.training.metrics import ALWAYS, MetricSet, default_metrics
from elir_deploy.training.quality import build_report, markdown, text, to_json
from elir_deploy.training.subjects import BundleSubject, Pixels, Subject

if TYPE_CHECKING:
    from elir_deploy.training.eager import CheckpointSubject

#: The ``--backend`` of checkpoints.
TORCH = "torch"
#: Rows of the contact sheet.
SHEET_ROWS = 6
#: Maximum number of printed warnings about single images.
MAX_WARNINGS = 10
#: Number of images whose steps are drawn.
TRACED_IMAGES = 3


class MetricName(str, enum.Enum):
    psnr = "psnr"
    ssim = "ssim"
    lpips = "lpips"
    ids = "ids"
    fid = "fid"
    niqe = "niqe"
    musiq = "musiq"
    clipqa = "clipqa"
    blur = "blur"


@dataclass(frozen=True)
class Request:
    """Options that concern the model."""

    model: str
    task: str | None
    backend: str | None
    precision: str | None
    size: int | None
    steps: Sequence[int]
    sigmas: Sequence[float]
    show_steps: bool
    autoencoder: Path | None


# Long because Typer reads the options from the signature.
def evaluate_quality(
    model: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE|CHECKPOINT",
            help="Folder of a bundle, 'tiny', or a checkpoint as for elir-export, which runs in "
            "eager PyTorch.",
        ),
    ],
    images: Annotated[
        Path,
        typer.Argument(help="Folder of clean images, searched recursively."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Folder for the results; created if it does not exist."
        ),
    ],
    degraded: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="DIR",
            help="Folder of degraded images, with the same names apart from the suffix. "
            "[default: the clean images are degraded by the task]",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(TASKS)}; needed if a checkpoint does not determine it."
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"For a bundle: auto, {', '.join(BACKENDS)}. A checkpoint runs on {TORCH}. "
            "[default: auto]",
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Precision to run the bundle in. [default: the fastest automatic one]"),
    ] = None,
    metric: Annotated[
        list[MetricName] | None,
        typer.Option(
            help=f"Metric to compute besides {', '.join(ALWAYS)}; repeat for several. It is an "
            "error if one cannot run. [default: those of the paper's table, if they can run]"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only the first files, by name.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the degradations.")] = 0,
    size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Side of the images in pixels (checkpoints only). [default: the task's]"
        ),
    ] = None,
    euler_steps: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Euler steps M (checkpoints only); repeat for a curve. [default: the task's]",
        ),
    ] = None,
    sigma_s: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            help="Noise sigma_s (checkpoints only); repeat for a curve. [default: the task's]",
        ),
    ] = None,
    steps: Annotated[
        bool,
        typer.Option(
            "--steps",
            help=f"Draw every Euler step and the paths of the latents, for the first "
            f"{TRACED_IMAGES} images (checkpoints only).",
        ),
    ] = False,
    autoencoder: Annotated[
        Path | None,
        typer.Option(
            help="Autoencoder that the checkpoint was trained with: --steps then draws the latents "
            "of the truths too."
        ),
    ] = None,
    pictures: Annotated[bool, typer.Option("--figures/--no-figures", help="Draw pictures.")] = True,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Measure how well a model restores a folder of images.

    Writes quality.md (tables), quality.json (the values of every image) and pictures: sheet.png,
    curve-steps.png and curve-sigma-s.png for several --euler-steps or --sigma-s, steps.png and
    trajectories.png with --steps.

    Larger images are cropped to their centre (aligned faces are scaled down). Smaller ones are
    skipped, since enlarging them adds no detail to compare with. The degradation of image number k
    depends only on the seed and k, so its values do not change with --limit.

    PSNR, SSIM and blur need the extra 'eval'. LPIPS, FID, NIQE, MUSIQ and CLIPQA need pyiqa (extra
    'metrics'), which downloads weights and has a non-commercial licence; without it they are
    listed as not run.

    Examples:

    * `elir-eval bfr faces/ -o quality`
    * `elir-eval model.ckpt photos/ --task bsr --limit 100 --steps -o quality`
    * `elir-eval denoise.safetensors faces/ --euler-steps 1 --euler-steps 3 -o curve`
    * `elir-eval bfr truths/ --input degraded/ --backend onnxruntime --precision fp16 -o fp16`
    """
    # Pillow warns about damaged files; what matters becomes an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    require_packages(("skimage",), "eval", "measure quality")
    if pictures:
        require_packages(("matplotlib",), "eval", "draw pictures (or use --no-figures)")
    if task is not None:
        task_named(task)
    if steps and not pictures:
        raise UsageError("--steps draws pictures: leave out --no-figures")
    request = Request(
        model,
        task,
        backend,
        precision.value if precision else None,
        size,
        euler_steps or (),
        sigma_s or (),
        steps,
        autoencoder,
    )
    with ExitStack() as stack:
        _create_folder(output, images, stack)
        on_progress = stack.enter_context(progress())
        subject, tracer = _open_subject(request, on_progress)
        stack.callback(subject.close)
        if subject.random:
            tell("warning: the weights are random: the results will not measure quality")
        samples = SampleFolder(
            images,
            subject.task,
            side=subject.side,
            upscale=subject.upscale,
            faces=subject.faces,
            degraded=degraded,
            seed=seed,
            limit=limit,
        )
        metrics = MetricSet(
            [name.value for name in metric] if metric else default_metrics(subject.task),
            required=metric is not None,
            faces=subject.faces,
            side=subject.side,
        )
        evaluation = evaluate(
            subject,
            samples,
            metrics,
            total=len(samples),
            show=SHEET_ROWS if pictures else 0,
            tracer=tracer.trace if tracer is not None else None,
            traces=TRACED_IMAGES if steps else 0,
            on_progress=on_progress,
            on_input_warning=_InputWarnings(),
        )
        on_progress("drawing", 0, 0)
        drawn = figures.draw_evaluation(subject, evaluation) if pictures else {}
        report = build_report(
            subject,
            evaluation,
            metrics,
            images=str(images),
            degraded=None if degraded is None else str(degraded),
            seed=seed,
            pictures=list(drawn),
        )
        _write(output, report, drawn)
    print(text(printable_values(report)))
    if samples.unread:
        tell(f"not read: {samples.unread}")
    print(f"written to {output}: quality.md, quality.json{''.join(f', {name}' for name in drawn)}")


# Model ------------------------------------------------------------------------------------


def _open_subject(
    request: Request, on_progress: ProgressCallback
) -> tuple[Subject, CheckpointSubject | None]:
    """The model, and again if it can trace its steps for ``--steps``."""
    on_progress("loading", 0, 0)
    if Path(request.model).is_dir() or request.model == "tiny":
        return _open_bundle(request), None
    subject = _open_checkpoint(request, on_progress)
    return subject, subject if request.show_steps else None


def _open_bundle(request: Request) -> Subject:
    bundle = Bundle.open(request.model)
    model, size = bundle.manifest.model, bundle.manifest.shapes[0]
    if request.task not in (None, model.task):
        raise UsageError(
            f"{request.model} is for task {model.task}, not {request.task}: leave out --task"
        )
    for option, value, exported, export_option in (
        ("--euler-steps", request.steps, f"M = {model.steps}", "--steps"),
        ("--sigma-s", request.sigmas, f"sigma_s = {model.sigma_s:g}", "--sigma-s"),
        ("--size", request.size, f"images of {size.width}x{size.height}", "--image-size"),
    ):
        if value:
            raise UsageError(
                f"{option}: {request.model} was exported with {exported}, which cannot be changed: "
                f"evaluate the checkpoint, or export again with elir-export {export_option}"
            )
    if request.show_steps:
        raise UsageError(
            f"--steps: {request.model} is a bundle, whose steps are not accessible: evaluate the "
            "checkpoint"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        restorer = Restorer(bundle, request.backend or "auto", precision=request.precision)
    for warning in caught:
        tell(f"warning: {warning.message}")
    tell(str(restorer))
    return BundleSubject(restorer)


def _open_checkpoint(request: Request, on_progress: ProgressCallback) -> CheckpointSubject:
    for option, value, only in (
        ("--backend", request.backend, TORCH),
        ("--precision", request.precision, "fp32"),
    ):
        if value not in (None, only):
            raise UsageError(
                f"{option} {value}: {request.model} is not a bundle, and a checkpoint runs on "
                f"{TORCH} in fp32: export it and evaluate the bundle"
            )
    try:
        require_packages(("torch", "safetensors"), "export", "evaluate a checkpoint")
    except MissingDependencyError as error:
        raise UnavailableError(
            f"{request.model} is not a bundle, and a checkpoint needs {error.package}: "
            f"pip install 'elir-deploy[{error.extra}]'"
        ) from None
    from elir_deploy.checkpoints import load_autoencoder, load_checkpoint
    from elir_deploy.training.eager import CheckpointSubject

    checkpoint = load_checkpoint(request.model, request.task, progress=on_progress)
    return CheckpointSubject(
        checkpoint,
        image_size=request.size,
        steps=request.steps,
        sigmas=request.sigmas,
        clean_encoder=load_autoencoder(request.autoencoder)[0] if request.autoencoder else None,
    )


# Results --------------------------------------------------------------------------------------


def _create_folder(output: Path, images: Path, stack: ExitStack) -> None:
    """Create the folder before the evaluation, in case it cannot be written."""
    if output.resolve().is_relative_to(images.resolve()):
        raise UsageError(
            f"-o {output} is inside {images}, so that the next run would evaluate its pictures: "
            "choose another folder"
        )
    try:
        output.mkdir(parents=True)
        stack.callback(_remove_if_empty, output)
    except FileExistsError:
        if not output.is_dir():
            raise OutputError(f"{output} is a file, expected a folder") from None
    except OSError as error:
        raise OutputError(f"{output} cannot be created: {error.strerror}") from None
    check_writable(output / "quality.json")


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


class _InputWarnings:
    """Prints the first warnings about images: a folder may cause thousands."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, message: str) -> None:
        self._count += 1
        if self._count <= MAX_WARNINGS:
            tell(f"warning: {message}")
        elif self._count == MAX_WARNINGS + 1:
            tell("warning: further warnings are not printed; quality.json lists the skipped images")


def _write(output: Path, report: dict[str, object], drawn: dict[str, Pixels]) -> None:
    for name, pixels in drawn.items():
        write_image(output / name, pixels)
    write_text(output / "quality.md", markdown(report))
    write_text(output / "quality.json", to_json(report))


def main() -> None:
    run_command(evaluate_quality)


if __name__ == "__main__":
    main()
