"""What consistency is worth: M steps of consistency flow matching against plain flow matching.

    python benchmarks/flows.py PHOTOS OTHER_PHOTOS CHECKPOINT AUTOENCODER docs/results/flows.md

CHECKPOINT is tiny's, AUTOENCODER what it was trained with. Encoder and coarse estimator are kept:
no gradient of a vector field reaches them (Section 4.2), so that two fields can be trained on the
very same latents. Both get the same random start, batches, times, noise and number of updates; the
pixel loss is left out. Shown is what each restores of other photographs, over the number of Euler
steps.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from skimage.measure import blur_effect
from torch import Tensor

from elir_deploy.checkpoints import load_autoencoder, load_checkpoint
from elir_deploy.model import Elir
from elir_deploy.model.vector_field import VectorField
from elir_deploy.output_files import replacing, write_text
from elir_deploy.paired_images import Sample, SampleFolder
from elir_deploy.pixels import as_pixels, psnr_db
from elir_deploy.static_graph import fixed_noise, latent_shape
from elir_deploy.text import pipes
from elir_deploy.training.data import PhotoFolder, TrainingSamples, as_images, collate
from elir_deploy.training.objective import LatentFlow, RestorationObjective
from elir_deploy.training.settings import settings_for

STEPS = (1, 2, 3, 5, 10, 25)
NAMES = {True: "consistency flow matching", False: "plain flow matching"}


@torch.no_grad()
def latents(model: Elir, autoencoder: Path, photos: Path, count: int) -> tuple[Tensor, Tensor]:
    """Coarse estimates and the clean images' latents, ``count`` of each."""
    teacher, _ = load_autoencoder(autoencoder)
    samples = TrainingSamples(
        PhotoFolder.scan(photos), 256, task_name="tiny", noise_shape=None, whole=False, seed=1
    )
    coarse, clean = [], []
    for first in range(0, count, 4):
        batch = collate([samples[first + k] for k in range(4)])
        with torch.autocast("cpu", torch.bfloat16):
            coarse.append(model.estimator(model.encoder(as_images(batch["degraded"]))).float())
            clean.append(teacher(as_images(batch["clean"])).float())
        print(f"latents {first + 4}/{count}", end="\r", flush=True)
    return torch.cat(coarse), torch.cat(clean)


def trained_field(
    model: Elir, coarse: Tensor, clean: Tensor, updates: int, consistency: bool
) -> VectorField:
    torch.manual_seed(0)
    settings = settings_for("tiny")
    objective = RestorationObjective(
        LatentFlow(VectorField(model.arch, collapsible=True)),
        replace(settings.objective, consistency=consistency, beta=0.0),
    )
    field = objective.model.vector_field
    optimizer = torch.optim.AdamW(
        field.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    generator = torch.Generator().manual_seed(2)
    for update in range(updates):
        chosen = torch.randint(len(clean), (8,), generator=generator)
        time = torch.rand(8, generator=generator)
        noise = torch.randn(clean[chosen].shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective(clean[chosen], coarse[chosen], time, noise)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if update % 100 == 99:
            print(f"{NAMES[consistency]}: {update + 1}/{updates}, loss {float(loss):.4f}")
    return field.eval()


@torch.no_grad()
def measured(
    model: Elir, field: VectorField, samples: SampleFolder, sigma_s: float
) -> list[list[float]]:
    """[M, mean PSNR, mean blur] for each number of steps; M = 0 is the coarse estimate."""
    noise = fixed_noise(0, sigma_s, latent_shape(model, 256)).values
    found: dict[int, list[tuple[float, float]]] = {steps: [] for steps in (0, *STEPS)}
    for sample in samples:
        if not isinstance(sample, Sample):
            continue
        low = torch.from_numpy(sample.low.copy()).permute(2, 0, 1)[None]
        coarse = model.estimator(model.encoder(as_images(low)))
        for steps in found:
            z = coarse if steps == 0 else coarse + noise
            for k in range(steps):
                z = z + field(z, torch.tensor([k / steps])) / steps
            picture = as_pixels(model.decoder(z)[0].permute(1, 2, 0).numpy())
            blur = float(blur_effect(picture, channel_axis=2))
            found[steps].append((psnr_db(picture, sample.truth), blur))
    return [[steps, *np.mean(values, axis=0)] for steps, values in found.items()]


def plot(path: Path, results: dict[bool, list[list[float]]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for column, (title, axes) in enumerate(
        zip(("PSNR in dB", "blur (lower is sharper)"), figure.subplots(1, 2), strict=True), 1
    ):
        for consistency, rows in results.items():
            steps = [row[0] for row in rows[1:]]
            axes.plot(steps, [row[column] for row in rows[1:]], "o-", label=NAMES[consistency])
        axes.axhline(results[True][0][column], color="grey", ls=":", label="coarse estimate")
        axes.set_xscale("log")
        axes.set_xticks(STEPS, [str(step) for step in STEPS])
        axes.set_xlabel("Euler steps M")
        axes.set_title(title)
        axes.legend()
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("photos", "others", "checkpoint", "autoencoder", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--latents", type=int, default=2000)
    parser.add_argument("--limit", type=int, help="of the other photographs")
    arguments = parser.parse_args()

    checkpoint = load_checkpoint(arguments.checkpoint)
    model = checkpoint.model
    coarse, clean = latents(model, arguments.autoencoder, arguments.photos, arguments.latents)
    others = SampleFolder(arguments.others, "tiny", side=256, limit=arguments.limit)
    results = {}
    for consistency in (True, False):
        field = trained_field(model, coarse, clean, arguments.updates, consistency)
        results[consistency] = measured(model, field, others, checkpoint.task.sigma_s)
    picture = arguments.output.with_suffix(".png")
    plot(picture, results)
    rows = []
    for (steps, *values), (_, *plain) in zip(results[True], results[False], strict=True):
        name = f"M = {steps:.0f}" if steps else "coarse estimate"
        rows.append([name, *(f"{v:.2f}" if k == 0 else f"{v:.3f}" for k, v in enumerate(values))])
        rows[-1] += [f"{v:.2f}" if k == 0 else f"{v:.3f}" for k, v in enumerate(plain)]
    photographs = len(PhotoFolder.scan(arguments.photos).files)
    text = (
        "# Consistency against plain flow matching\n\n"
        f"Two vector fields of `tiny`'s size, {arguments.updates} updates of 8 latents each out "
        f"of {arguments.latents} made from {photographs} photographs, the same start, "
        "batches, times and noise; encoder, coarse estimator and decoder are `tiny`'s. AdamW in "
        "bfloat16, errors relative to the estimator's, without the pixel loss. Means over "
        "photographs that were not trained on.\n\n"
        + pipes(
            ["steps", "consistency: PSNR dB", "blur", "plain: PSNR dB", "blur"],
            rows,
        )
        + f"\n\n![the same as a picture]({picture.name})\n"
    )
    write_text(arguments.output, text)
    print(text)


if __name__ == "__main__":
    main()
