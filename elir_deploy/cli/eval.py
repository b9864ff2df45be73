"""``elir-eval``: how good a model is, on a folder of images."""

from __future__ import annotations

import enum
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elir_deploy.atomic import check_writable, write_text
from elir_deploy.cli.choices import Precision
from elir_deploy.cli.imports import require_packages
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.errors import MissingDependencyError, OutputError, UnavailableError, UsageError
from elir_deploy.printable import printable_values
from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime import BACKENDS, Bundle, Restorer, write_image
from elir_deploy.samples import SampleFolder
from elir_deploy.tasks import TASKS, task_named
from elir_deploy.training import figures
from elir_deploy.training.evaluation import Evaluation, evaluate
from elir_deploy.training.metrics import ALWAYS, METRICS, MetricSet, default_metrics
from elir_deploy.training.quality import build_report, curve_metric, markdown, text, to_json
from elir_deploy.training.subjects import BundleSubject, Pixels, Subject

if TYPE_CHECKING:
    from elir_deploy.training.eager import CheckpointSubject

#: What ``--backend`` calls a checkpoint's.
TORCH = "torch"
#: Rows of the contact sheet.
SHEET_ROWS = 6
#: Warnings about single images that are printed.
MOST_WARNINGS = 10
#: Images whose steps are drawn.
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
    """What was asked of the model."""

    model: str
    task: str | None
    backend: str | None
    precision: str | None
    size: int | None
    steps: Sequence[int]
    sigmas: Sequence[float]
    show_steps: bool
    autoencoder: Path | None


def evaluate_quality(
    model: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE|CHECKPOINT",
            help="A bundle's folder, 'tiny', or a checkpoint as elir-export takes it, which runs "
            "in eager PyTorch.",
        ),
    ],
    images: Annotated[
        Path,
        typer.Argument(help="Folder of undegraded images; folders in it are looked into."),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Folder for the results; made if needed."),
    ],
    degraded: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="DIR",
            help="Folder with the degraded image of each, of the same name but for the suffix. "
            "[default: the images, degraded as the task is]",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(TASKS)}; needed where a checkpoint does not tell."),
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
        typer.Option(help="Of the bundle. [default: as elir-restore takes it]"),
    ] = None,
    metric: Annotated[
        list[MetricName] | None,
        typer.Option(
            help=f"Beside {', '.join(ALWAYS)}, which are always measured; repeat for several. One "
            "that cannot run is then an error. [default: those of the paper's table]"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many files, by name.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the degradations, with the image's number.")
    ] = 0,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Side in pixels, for a checkpoint. [default: the task's]"),
    ] = None,
    euler_steps: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Euler steps M, for a checkpoint; repeat for a curve. [default: its own]"
        ),
    ] = None,
    sigma_s: Annotated[
        list[float] | None,
        typer.Option(
            min=0, help="Noise sigma_s, for a checkpoint; repeat for a curve. [default: its own]"
        ),
    ] = None,
    steps: Annotated[
        bool,
        typer.Option(
            "--steps",
            help=f"Draw every Euler step and the latents' paths, for a checkpoint: of its first "
            f"{TRACED_IMAGES} images.",
        ),
    ] = False,
    autoencoder: Annotated[
        Path | None,
        typer.Option(
            help="What the checkpoint was trained with: the truths' latents in the paths that "
            "--steps draws are its encoder's. [default: they are left out]"
        ),
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--figures/--no-figures", help="Draw pictures beside the tables.")
    ] = True,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Measure how well a model restores a folder of images.

    Writes quality.md, a table to paste, quality.json with the value of every image, and pictures:
    sheet.png always, curve-steps.png and curve-sigma-s.png with several --euler-steps or --sigma-s,
    steps.png and trajectories.png with --steps.

    Images larger than the model's are cut to their middle, aligned faces scaled; smaller ones are
    left out, since an enlarged image holds no detail to compare with. Image number k is degraded
    with the seed and k alone, so that a part of a folder gives the values it has in the whole.

    PSNR, SSIM and blur need the extra 'eval'. LPIPS, FID, NIQE, MUSIQ and CLIPQA need pyiqa, of
    the extra 'metrics', which downloads weights and whose licence is non-commercial; without it
    they are listed as not run.

    Examples:

    * `elir-eval bfr faces/ -o quality`
    * `elir-eval model.ckpt photos/ --task bsr --limit 100 --steps -o quality`
    * `elir-eval denoise.safetensors faces/ --euler-steps 1 --euler-steps 3 -o curve`
    * `elir-eval bfr truths/ --input degraded/ --backend onnxruntime --precision fp16 -o fp16`
    """
    # A damaged file can make Pillow warn; what matters comes as an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    require_packages(("skimage",), "eval", "measure quality")
    if pictures:
        require_packages(("matplotlib",), "eval", "draw the pictures (--no-figures: none)")
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
        _make_folder(output, images, stack)
        say = stack.enter_context(progress())
        subject, tracer = _open_subject(request, say)
        stack.callback(subject.close)
        if subject.random:
            tell("warning: the weights are random: figures of quality will mean nothing")
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
            on_progress=say,
            on_input_warning=_InputWarnings(),
        )
        drawn = _draw(subject, evaluation, say) if pictures else {}
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


# The model ------------------------------------------------------------------------------------


def _open_subject(
    request: Request, say: ProgressCallback
) -> tuple[Subject, CheckpointSubject | None]:
    """The model; once more where it is a checkpoint, which can show its steps."""
    say("loading", 0, 0)
    if Path(request.model).is_dir() or request.model == "tiny":
        return _open_bundle(request), None
    subject = _open_checkpoint(request, say)
    return subject, subject if request.show_steps else None


def _open_bundle(request: Request) -> Subject:
    bundle = Bundle.open(request.model)
    model = bundle.manifest.model
    if request.task not in (None, model.task):
        raise UsageError(
            f"{request.model} is for task {model.task}, not {request.task}: leave out --task"
        )
    for option, given, exported, export_option in (
        ("--euler-steps", request.steps, f"M = {model.steps}", "--steps"),
        ("--sigma-s", request.sigmas, f"sigma_s = {model.sigma_s:g}", "--sigma-s"),
        ("--size", request.size, f"images of {bundle.manifest.image_size}", "--image-size"),
    ):
        if given:
            raise UsageError(
                f"{option}: {request.model} was exported with {exported}, which is fixed in a "
                f"bundle: give the checkpoint, or export another one (elir-export {export_option})"
            )
    if request.show_steps:
        raise UsageError(
            f"--steps: {request.model} is a bundle, whose steps cannot be looked into: give "
            "the checkpoint"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        restorer = Restorer(bundle, request.backend or "auto", precision=request.precision)
    for warning in caught:
        tell(f"warning: {warning.message}")
    tell(str(restorer))
    return BundleSubject(restorer)


def _open_checkpoint(request: Request, say: ProgressCallback) -> CheckpointSubject:
    for option, value, only in (
        ("--backend", request.backend, TORCH),
        ("--precision", request.precision, "fp32"),
    ):
        if value not in (None, only):
            raise UsageError(
                f"{option} {value}: {request.model} is taken as a checkpoint, which runs on "
                f"{TORCH} in fp32: export it, and give the bundle"
            )
    try:
        require_packages(("torch", "safetensors"), "export", "evaluate a checkpoint")
    except MissingDependencyError as error:
        raise UnavailableError(
            f"{request.model} is no bundle's folder; taken as a checkpoint it needs "
            f"{error.package}: pip install 'elir-deploy[{error.extra}]'"
        ) from None
    from elir_deploy.checkpoints import load_autoencoder, load_checkpoint
    from elir_deploy.training.eager import CheckpointSubject

    checkpoint = load_checkpoint(request.model, request.task, progress=say)
    return CheckpointSubject(
        checkpoint,
        image_size=request.size,
        steps=request.steps,
        sigmas=request.sigmas,
        clean_encoder=load_autoencoder(request.autoencoder)[0] if request.autoencoder else None,
    )


# Results --------------------------------------------------------------------------------------


def _make_folder(output: Path, images: Path, stack: ExitStack) -> None:
    """Make the folder now: not after the measurement shows that it cannot be written."""
    if output.resolve().is_relative_to(images.resolve()):
        raise UsageError(
            f"-o {output} is inside {images}, where its pictures would be measured the next time: "
            "choose another folder"
        )
    try:
        output.mkdir(parents=True)
        stack.callback(_remove_if_empty, output)
    except FileExistsError:
        if not output.is_dir():
            raise OutputError(f"{output} is a file, wanted a folder") from None
    except OSError as error:
        raise OutputError(f"{output} cannot be made a folder: {error.strerror}") from None
    check_writable(output / "quality.json")


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


class _InputWarnings:
    """Tells the first warnings about images; a folder can hold thousands to warn of."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, message: str) -> None:
        self._told += 1
        if self._told <= MOST_WARNINGS:
            tell(f"warning: {message}")
        elif self._told == MOST_WARNINGS + 1:
            tell("warning: more like these; what is left out stands in quality.json")


def _draw(subject: Subject, evaluation: Evaluation, say: ProgressCallback) -> dict[str, Pixels]:
    """Name of the file to the picture."""
    say("drawing", 0, 0)
    drawn = {"sheet.png": figures.contact_sheet(evaluation.shown)}
    for name in subject.plan.curves:
        drawn[f"curve-{name.replace('_', '-')}.png"] = _draw_curve(subject, evaluation, name)
    if evaluation.traces:
        drawn["steps.png"] = figures.steps_strip(evaluation.traces)
        drawn["trajectories.png"] = figures.trajectories(evaluation.traces)
    return drawn


def _draw_curve(subject: Subject, evaluation: Evaluation, name: str) -> Pixels:
    metric = METRICS[curve_metric(evaluation)]
    points = []
    for variant in subject.plan.curves[name]:
        row = evaluation.restored(variant)
        x, y = row.mean("psnr"), row.mean(metric.name)
        if x is not None and y is not None and x.value is not None and y.value is not None:
            label = f"M = {variant.steps}" if name == "steps" else f"sigma_s = {variant.sigma_s:g}"
            points.append(figures.CurvePoint(label, x.value, y.value))
    side = "lower" if metric.lower_better else "higher"
    return figures.curve(
        points,
        title=f"{subject.task}, {len(evaluation.images)} images",
        x_title="PSNR dB (higher is better)",
        y_title=f"{metric.title} ({side} is better)",
    )


def _write(output: Path, report: dict[str, object], drawn: dict[str, Pixels]) -> None:
    for name, pixels in drawn.items():
        write_image(output / name, pixels)
    write_text(output / "quality.md", markdown(report))
    write_text(output / "quality.json", to_json(report))


def main() -> None:
    run_command(evaluate_quality)


if __name__ == "__main__":
    main()
