"""``elir-train``: weights for a task of one's own, by the paper's method."""

from __future__ import annotations

import enum
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer

from elir_deploy.cli.imports import require_packages
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.errors import UsageError
from elir_deploy.interrupts import raise_interruption
from elir_deploy.tasks import TASKS, task_named

#: What the packaged model was trained with.
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


def train(
    images: Annotated[
        Path, typer.Argument(help="Folder of clean photographs; folders in it are searched too.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="The run's folder. The same command again goes on with it."
        ),
    ],
    task: Annotated[str, typer.Option(help=f"One of {', '.join(TASKS)}.")],
    autoencoder: Annotated[
        Path | None,
        typer.Option(
            help="Weights of the autoencoder to start from: taesd3's, a run's "
            "autoencoder.safetensors or a checkpoint. [default: train one on the images first]"
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Checkpoint to fine-tune, as elir-export takes it; needs --autoencoder, since "
            "its own encoder has been changed for its task (the package has tiny's).",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the images. [default: the task's]")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Updates, instead of --epochs. [default: the task's]")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Images an update, over all devices. [default: the task's]"),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Of AdamW. A run in the folder may go on with a lower one. [default: the task's]"
        ),
    ] = None,
    schedule: Annotated[
        Shape | None, typer.Option(help="Of the learning rate. [default: the task's]")
    ] = None,
    sigma_s: Annotated[
        float | None,
        typer.Option(help="Noise on the coarse latent. [default: the task's]"),
    ] = None,
    segments: Annotated[
        int | None,
        typer.Option(help="K, and the Euler steps M of the result. [default: the task's]"),
    ] = None,
    delta_t: Annotated[float | None, typer.Option(help="[default: the task's]")] = None,
    alpha: Annotated[float | None, typer.Option(help="[default: 0.001]")] = None,
    beta: Annotated[
        float | None,
        typer.Option(help="Weight of the pixel loss; 0 leaves it out. [default: 0.001]"),
    ] = None,
    sigma_min: Annotated[float | None, typer.Option(help="[default: 1e-5]")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW. [default: 0.02]")] = None,
    ema_decay: Annotated[
        float | None, typer.Option(help="Of the average of the weights. [default: 0.999]")
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(help="Updates in which the learning rate rises. [default: the task's]"),
    ] = None,
    flow_iterations: Annotated[
        int | None,
        typer.Option(
            help="Further updates of the vector field alone, on latents made once by the finished "
            "encoder and coarse estimator. [default: the task's; 0 for the paper's]"
        ),
    ] = None,
    plain_flow: Annotated[
        bool, typer.Option("--plain-flow", help="Ablation: flow matching without consistency.")
    ] = False,
    frozen_encoder: Annotated[
        bool, typer.Option("--frozen-encoder", help="Ablation: keep the encoder as it is.")
    ] = False,
    no_estimator: Annotated[
        bool, typer.Option("--no-estimator", help="Ablation: no coarse estimator.")
    ] = False,
    pixel_space: Annotated[
        bool, typer.Option("--pixel-space", help="Ablation: no autoencoder, flow over pixels.")
    ] = False,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the samples in pixels. [default: the task's]")
    ] = None,
    fit: Annotated[
        Fit,
        typer.Option(
            help="Cut pieces out of the images, or scale them whole. [default: resize for "
            "aligned faces, crop otherwise]",
            show_default=False,
        ),
    ] = Fit.auto,
    autoencoder_iterations: Annotated[
        int | None,
        typer.Option(help="Updates of the autoencoder, where one is trained. [default: 4000]"),
    ] = None,
    autoencoder_learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Of Muon, where an autoencoder is trained; its other rates change by the same "
            "factor. May be lowered as --learning-rate. [default: 0.005]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    precision: Annotated[
        NumberFormat,
        typer.Option(
            help="Of the convolutions; weights stay float32. auto: bf16 where the hardware "
            "computes in it, fp32 otherwise."
        ),
    ] = NumberFormat.auto,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.auto,
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or CPU processes, to use.")] = 1,
    nodes: Annotated[
        int, typer.Option(min=1, help="Machines; start the command on each with torchrun.")
    ] = 1,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that prepare images, for each device.")
    ] = 1,
    validation: Annotated[
        Path | None,
        typer.Option(
            help="Folder of photographs for the previews. [default: those in the package]"
        ),
    ] = None,
    preview_every: Annotated[
        int, typer.Option(min=0, help="Updates between previews; 0: none.")
    ] = 500,
    save_every: Annotated[float, typer.Option(min=0, help="Minutes between saved states.")] = 5.0,
    show_samples: Annotated[
        Path | None,
        typer.Option(help="Write a picture of training samples to this file, and end."),
    ] = None,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Train a model on a folder of photographs, which are degraded on the way.

    The defaults are the paper's for the task. Without --autoencoder, an autoencoder is trained on
    the same images first. The folder gets checkpoints (NAME.safetensors for elir-export), a log,
    TensorBoard's files and previews (input, coarse, restored, truth). Ctrl-C saves the state;
    the same command goes on from there, as it does after a crash.

    Examples:

    * `elir-train photos --task tiny -o runs/tiny`
    * `elir-train ffhq --task bfr --autoencoder taesd3.safetensors --devices 4 -o runs/bfr`
    * `elir-train photos --task tiny --from tiny --iterations 500 -o runs/mine`
    * `elir-train photos --task bsr --from elir_bsr --autoencoder taesd3.safetensors -o runs/mine`
    """
    require_packages(_PACKAGES, "train", "train")
    from elir_deploy.training.options import RunOptions
    from elir_deploy.training.run import draw_samples
    from elir_deploy.training.run import train as run_training
    from elir_deploy.training.settings import AutoencoderSettings, settings_for
    from elir_deploy.training.trainer import Stopped

    spec = task_named(task)
    if start_from == "tiny" and autoencoder is None:
        autoencoder = Path(str(resources.files("elir_deploy"))) / "data" / PACKAGED_AUTOENCODER
    if start_from is not None and autoencoder is None:
        raise UsageError(
            "--from needs --autoencoder: the encoder in a checkpoint has been fine-tuned on "
            "degraded images, and the clean ones need the one its decoder was trained with"
        )
    base = settings_for(task)
    objective = replace(
        base.objective,
        **_given(
            segments=segments,
            delta_t=delta_t,
            alpha=alpha,
            beta=beta,
            sigma_s=sigma_s,
            sigma_min=sigma_min,
        ),
        consistency=not plain_flow,
        train_encoder=not frozen_encoder,
    )
    settings = replace(
        base,
        objective=objective,
        seed=seed,
        **_given(
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
    if no_estimator:
        spec = replace(spec, architecture=replace(spec.architecture, estimator_blocks=0))
    if pixel_space:
        architecture = replace(spec.architecture, autoencoder_width=0, latent_channels=3)
        spec = replace(spec, architecture=architecture)
    if image_size is not None:
        spec = replace(spec, image_size=image_size)
    of_autoencoder = AutoencoderSettings(**_given(iterations=autoencoder_iterations))
    if autoencoder_learning_rate is not None:
        of_autoencoder = of_autoencoder.with_learning_rate(autoencoder_learning_rate)
    options = RunOptions(
        images=images,
        output=output,
        task=spec,
        settings=settings,
        autoencoder=autoencoder,
        autoencoder_settings=of_autoencoder,
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
        print(f"{show_samples}: clean images, and below them what the training makes of them")
        return
    with progress() as say:
        try:
            result = run_training(options, say, tell)
        except Stopped as stopped:
            tell(f"{output}: the state is saved; the same command goes on from it")
            raise_interruption(stopped.signal)
    if result is None:
        return
    passed_over = f", {result.unreadable} of them unreadable" if result.unreadable else ""
    print(f"trained on {result.images} images{passed_over}, {result.updates} updates")
    for stage, rates in result.learning_rates.items():
        if len(rates) > 1:
            steps = ", ".join(f"{rate:g} from update {update} on" for update, rate in rates)
            print(f"learning rate:  {stage}: {steps}")
    print(f"to export:      {result.checkpoint}")
    print(f"to train on:    {result.expanded_checkpoint}")


def _given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _number_format(chosen: NumberFormat, device: Device) -> str:
    if chosen is not NumberFormat.auto:
        return str(chosen.value)
    import torch

    if device is not Device.cpu and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def main() -> None:
    run_command(train)


if __name__ == "__main__":
    main()
