"""``elir-train``: train a model by the paper's method."""

from __future__ import annotations

import enum
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elir_deploy.cli.imports import require_packages
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.errors import UsageError
from elir_deploy.interrupts import raise_interruption
from elir_deploy.tasks import TASKS, TaskSpec, task_named

if TYPE_CHECKING:
    from elir_deploy.training.run import Result

#: The autoencoder that the packaged model was trained with.
PACKAGED_AUTOENCODER = "tiny.autoencoder.safetensors"
_PACKAGES = ("torch", "lightning_fabric", "safetensors", "tensorboard")


class NumberFormat(str, enum.Enum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Device(str, enum.Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Shape(str, enum.Enum):
    constant = "constant"
    cosine = "cosine"


class Fit(str, enum.Enum):
    auto = "auto"
    crop = "crop"
    resize = "resize"


_FORMATS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


# Long because Typer reads the options from the signature.
def train(
    images: Annotated[
        Path, typer.Argument(help="Folder of clean photographs, searched recursively.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Folder for the run. Repeating the command continues it."
        ),
    ],
    task: Annotated[str, typer.Option(help=f"One of {', '.join(TASKS)}.")],
    autoencoder: Annotated[
        Path | None,
        typer.Option(
            help="Weights of the autoencoder: taesd3's, a run's autoencoder.safetensors or a "
            "checkpoint. [default: train one on the images first]"
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Checkpoint to fine-tune, as for elir-export. Needs --autoencoder (except for "
            "tiny, whose autoencoder is in the package), since its encoder was fine-tuned.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the images. [default: the task's]")
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(help="Number of updates, instead of --epochs. [default: the task's]"),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Images per update, over all devices. [default: the task's]"),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="AdamW's learning rate. A run may continue with a lower one. [default: the task's]"
        ),
    ] = None,
    schedule: Annotated[
        Shape | None, typer.Option(help="Learning rate schedule. [default: the task's]")
    ] = None,
    sigma_s: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of the noise added to the coarse latent. [default: the task's]"
        ),
    ] = None,
    segments: Annotated[
        int | None,
        typer.Option(
            help="Segments K of the flow and Euler steps M of the trained model. "
            "[default: the task's]"
        ),
    ] = None,
    delta_t: Annotated[
        float | None,
        typer.Option(help="Time between the two points compared (Eq. 3). [default: the task's]"),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="Weight of the velocity term (Eq. 3). [default: 0.001]"),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            help="Weight of the pixel loss (Eq. 4); 0: none. [default: 0 for tiny, else 0.001]"
        ),
    ] = None,
    sigma_min: Annotated[
        float | None,
        typer.Option(help="Fraction of the starting point that remains at time 1. [default: 1e-5]"),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="AdamW's weight decay, not with Muon. [default: 0.02]")
    ] = None,
    ema_decay: Annotated[
        float | None,
        typer.Option(help="Decay of the moving average of the weights. [default: 0.999]"),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(
            help="Updates over which the learning rate rises from 0. [default: the task's]"
        ),
    ] = None,
    flow_iterations: Annotated[
        int | None,
        typer.Option(
            help="Updates of the vector field alone, on latents computed once by the encoder and "
            "coarse estimator, which are trained without it before; 0: all together. "
            "[default: 4500 for tiny, else 0]"
        ),
    ] = None,
    plain_flow: Annotated[
        bool | None,
        typer.Option(
            "--plain-flow/--consistency",
            help="Flow matching without consistency, the paper's ablation and the default of tiny.",
        ),
    ] = None,
    frozen_encoder: Annotated[
        bool, typer.Option("--frozen-encoder", help="Ablation: do not train the encoder.")
    ] = False,
    no_estimator: Annotated[
        bool, typer.Option("--no-estimator", help="Ablation: no coarse estimator.")
    ] = False,
    pixel_space: Annotated[
        bool,
        typer.Option("--pixel-space", help="Ablation: no autoencoder, the flow runs on pixels."),
    ] = False,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the samples in pixels. [default: the task's]")
    ] = None,
    fit: Annotated[
        Fit,
        typer.Option(
            help="Crop the images, or resize them whole. [default: resize for aligned faces, "
            "crop otherwise]",
            show_default=False,
        ),
    ] = Fit.auto,
    autoencoder_iterations: Annotated[
        int | None,
        typer.Option(
            help="Updates of the autoencoder, if one is trained, after 1000 of a linear one. "
            "[default: 3000]"
        ),
    ] = None,
    autoencoder_learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Muon's learning rate, if an autoencoder is trained; the autoencoder's other "
            "rates change by the same factor. May be lowered like --learning-rate. "
            "[default: 0.002]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    precision: Annotated[
        NumberFormat,
        typer.Option(
            help="Number format of the convolutions; weights stay float32. auto: bf16 where the "
            "hardware supports it, else fp32."
        ),
    ] = NumberFormat.auto,
    device: Annotated[Device, typer.Option(help="Device to train on.")] = Device.auto,
    devices: Annotated[int, typer.Option(min=1, help="Number of GPUs, or of CPU processes.")] = 1,
    nodes: Annotated[
        int,
        typer.Option(min=1, help="Number of machines; start the command on each with torchrun."),
    ] = 1,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that prepare images, per device.")
    ] = 1,
    validation: Annotated[
        Path | None,
        typer.Option(help="Folder of photographs to preview. [default: those in the package]"),
    ] = None,
    preview_every: Annotated[
        int, typer.Option(min=0, help="Updates between previews; 0: no previews.")
    ] = 500,
    save_every: Annotated[float, typer.Option(min=0, help="Minutes between saved states.")] = 5.0,
    show_samples: Annotated[
        Path | None,
        typer.Option(help="Only draw training samples into this file."),
    ] = None,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Train a model on a folder of photographs, which are degraded on the fly.

    The defaults are the paper's for the task. Without --autoencoder, an autoencoder is trained on
    the same images first. The run's folder gets checkpoints (NAME.safetensors for elir-export), a
    log, TensorBoard files and previews (input, coarse estimate, restored, truth). Ctrl-C saves
    the state, and the same command continues from there, as it does after a crash.

    Examples:

    * `elir-train photos --task tiny -o runs/tiny`
    * `elir-train ffhq --task bfr --autoencoder taesd3.safetensors --devices 4 -o runs/bfr`
    * `elir-train photos --task tiny --from tiny --iterations 500 -o runs/mine`
    * `elir-train photos --task bsr --from elir_bsr --autoencoder taesd3.safetensors -o runs/mine`
    """
    require_packages(_PACKAGES, "train", "train")
    from elir_deploy.training.options import RunOptions
    from elir_deploy.training.preview import draw_samples
    from elir_deploy.training.run import train as run_training
    from elir_deploy.training.settings import AutoencoderSettings, settings_for
    from elir_deploy.training.trainer import Stopped

    spec = _task_to_train(task, no_estimator, pixel_space, image_size)
    base = settings_for(task)
    objective = replace(
        base.objective,
        **_not_none(
            segments=segments,
            delta_t=delta_t,
            alpha=alpha,
            beta=beta,
            sigma_s=sigma_s,
            sigma_min=sigma_min,
        ),
        consistency=base.objective.consistency if plain_flow is None else not plain_flow,
        train_encoder=not frozen_encoder,
    )
    if not objective.consistency and (segments, delta_t, alpha) != (None, None, None):
        raise UsageError(
            "--segments, --delta-t and --alpha are of consistency, which is off: add --consistency"
        )
    settings = replace(
        base,
        objective=objective,
        seed=seed,
        **_not_none(
            epochs=epochs,
            iterations=iterations,
            batch_size=batch,
            learning_rate=learning_rate,
            schedule=schedule.value if schedule else None,
            weight_decay=weight_decay,
            ema_decay=ema_decay,
            warmup=warmup,
            flow_iterations=flow_iterations,
        ),
    )
    if epochs is not None and iterations is None:
        settings = replace(settings, iterations=None)
    autoencoder_settings = AutoencoderSettings(**_not_none(iterations=autoencoder_iterations))
    if autoencoder_learning_rate is not None:
        autoencoder_settings = autoencoder_settings.with_learning_rate(autoencoder_learning_rate)
    options = RunOptions(
        images=images,
        output=output,
        task=spec,
        settings=settings,
        autoencoder=_autoencoder_file(autoencoder, start_from),
        autoencoder_settings=autoencoder_settings,
        start_from=start_from,
        whole_images=spec.faces if fit is Fit.auto else fit is Fit.resize,
        validation=validation,
        precision=_FORMATS[_number_format(precision, device)],
        accelerator=device.value,
        devices=devices,
        nodes=nodes,
        workers=workers,
        preview_every=preview_every,
        save_seconds=60 * save_every,
    )
    if show_samples is not None:
        draw_samples(options, show_samples)
        print(f"{show_samples}: clean images above their degraded versions")
        return
    with progress() as on_progress:
        try:
            result = run_training(options, on_progress, tell)
        except Stopped as stopped:
            tell(f"{output}: the state is saved; the same command continues from it")
            raise_interruption(stopped.signal)
    if result is not None:
        _print_result(result)


def _task_to_train(
    name: str, no_estimator: bool, pixel_space: bool, image_size: int | None
) -> TaskSpec:
    spec = task_named(name)
    architecture = spec.architecture
    if no_estimator:
        architecture = replace(architecture, estimator_blocks=0)
    if pixel_space:
        architecture = replace(architecture, autoencoder_width=0, latent_channels=3)
    return replace(spec, architecture=architecture, image_size=image_size or spec.image_size)


def _autoencoder_file(autoencoder: Path | None, start_from: str | None) -> Path | None:
    if start_from is None or autoencoder is not None:
        return autoencoder
    if start_from == "tiny":
        return Path(str(resources.files("elir_deploy"))) / "data" / PACKAGED_AUTOENCODER
    raise UsageError(
        "--from needs --autoencoder: the checkpoint's encoder was fine-tuned on degraded images, "
        "and clean images need the encoder that its decoder was trained with"
    )


def _print_result(result: Result) -> None:
    skipped = f", {result.unreadable} of them unreadable" if result.unreadable else ""
    print(f"trained on {result.images} images{skipped}, {result.updates} updates")
    for phase, rates in result.learning_rates.items():
        if len(rates) > 1:
            changes = ", ".join(f"{rate:g} from update {update} on" for update, rate in rates)
            print(f"learning rate:     {phase}: {changes}")
    print(f"to export:         {result.checkpoint}")
    print(f"to train further:  {result.expanded_checkpoint}")


def _not_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _number_format(chosen: NumberFormat, device: Device) -> str:
    if chosen is not NumberFormat.auto:
        return str(chosen.value)
    import torch

    if device is not Device.cpu and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def main() -> None:
    run_command(train)


if __name__ == "__main__":
    main()
