"""A blind model on photographs it was not trained on: clean, with noise, JPEG and blur.

    python benchmarks/noise_levels.py PHOTOS docs/results/noise-levels.md [--bm3d 4] [--sheet FILE]

The middle 256x256 of each photograph; the noise is Gaussian, seeded and clipped to 8 bits. BM3D is
told its deviation. The model is not told anything. The sheet is of photographs in the package.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.measure import blur_effect

from elir_deploy.checkpoints import load_autoencoder, load_checkpoint
from elir_deploy.degradations import BlindDegradation
from elir_deploy.output_files import write_text
from elir_deploy.paired_images import Sample, SampleFolder
from elir_deploy.pixels import as_pixels, psnr_db
from elir_deploy.runtime import Bundle, Restorer, write_image
from elir_deploy.runtime.photos import sample_photos
from elir_deploy.text import pipes
from elir_deploy.training.eager import CheckpointSubject

SIDE = 256
SIGMAS = (5.0, 15.0, 25.0, 50.0, 89.6)
CONDITIONS = {
    "clean": BlindDegradation(0.0, 0.0, None),
    **{f"noise {sigma:g}": BlindDegradation(0.0, sigma, None) for sigma in SIGMAS},
    "JPEG 40": BlindDegradation(0.0, 0.0, 40),
    "blur 1": BlindDegradation(1.0, 0.0, None),
}
#: Levels of the flat pictures.
FLATS = (10, 20, 40, 60, 80, 100, 128, 150, 180, 200, 220, 235, 245)
#: Crop of a packaged photograph in the sheet.
SHEET_SIDE = 160
Bytes = NDArray[np.uint8]
Means = dict[str, float]


def degraded(photo: Bytes, condition: str, number: int) -> Bytes:
    """Of photograph ``number``, whose noise is another than that of the others."""
    return CONDITIONS[condition].apply(photo, np.random.default_rng(number))


def bm3d(low: Bytes, sigma: float) -> Bytes:
    from bm3d import bm3d_rgb

    return as_pixels(bm3d_rgb(low / 255, sigma / 255))


def blur(image: Bytes) -> float:
    return float(blur_effect(image, channel_axis=2))


def photographs(folder: Path, limit: int | None) -> Iterator[Bytes]:
    for item in SampleFolder(folder, "denoise", side=SIDE, limit=limit):
        if isinstance(item, Sample):
            yield item.truth


class Autoencoder:
    """The autoencoder of clean photographs: what the model cannot exceed."""

    def __init__(self, file: Path) -> None:
        self._encoder, self._decoder = load_autoencoder(file)

    @torch.inference_mode()
    def __call__(self, photo: Bytes) -> Bytes:
        image = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() / 255
        return as_pixels(self._decoder(self._encoder(image))[0].permute(1, 2, 0).numpy())


class Table:
    """Mean numbers of each condition."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = {}

    def add(self, condition: str, **values: float) -> None:
        for name, value in values.items():
            self._values.setdefault(condition, {}).setdefault(name, []).append(value)

    def means(self) -> dict[str, Means]:
        return {
            condition: {name: float(np.mean(numbers)) for name, numbers in values.items()}
            for condition, values in self._values.items()
        }


def measure(
    subject: CheckpointSubject, photos: list[Bytes], peers: int
) -> tuple[dict[str, Means], dict[str, Means]]:
    """Of all photographs, and of the first ``peers`` beside BM3D."""
    table, beside = Table(), Table()
    for number, photo in enumerate(photos):
        for condition, degradation in CONDITIONS.items():
            low = degraded(photo, condition, number)
            found = subject.restore(low)
            assert found.coarse is not None
            restored = found.pictures[0]
            ratio, sharpness = psnr_db(restored, photo), blur(restored)
            table.add(
                condition,
                coarse=psnr_db(found.coarse, photo),
                restored=ratio,
                blur_coarse=blur(found.coarse),
                blur_restored=sharpness,
            )
            if condition != "clean":
                table.add(condition, input=psnr_db(low, photo))
            if degradation.noise_sigma and number < peers:
                other = bm3d(low, degradation.noise_sigma)
                beside.add(condition, bm3d=psnr_db(other, photo), blur_bm3d=blur(other))
                beside.add(condition, restored=ratio, blur_restored=sharpness)
        print(f"{number + 1} photographs", flush=True)
    return table.means(), beside.means()


def flat_means(subject: CheckpointSubject, bundle: str | None) -> dict[str, dict[str, float]]:
    """The mean of the result for flat grey pictures, by precision."""
    pictures = {f"{level}": np.full((SIDE, SIDE, 3), level, np.uint8) for level in FLATS}
    means = {
        "PyTorch": {
            name: float(subject.restore(flat).pictures[0].mean()) for name, flat in pictures.items()
        }
    }
    if bundle is not None:
        for precision in Bundle.open(bundle).manifest.precisions:
            with Restorer(bundle, backend="onnxruntime", precision=precision) as restore:
                means[precision] = {
                    name: float(restore(flat).mean()) for name, flat in pictures.items()
                }
    return means


def draw_sheet(subject: CheckpointSubject, path: Path, peers: bool) -> None:
    """A row for each noise; of each packaged photograph input, BM3D, coarse, restored, truth."""
    cut = slice((SIDE - SHEET_SIDE) // 2, (SIDE + SHEET_SIDE) // 2)
    rows = []
    for sigma in SIGMAS:
        row: list[Bytes] = []
        for number, photo in enumerate(sample_photos(SIDE, faces=False).values()):
            low = degraded(photo, f"noise {sigma:g}", number)
            found = subject.restore(low)
            assert found.coarse is not None
            other = [bm3d(low, sigma)] if peers else []
            row += [low, *other, found.coarse, found.pictures[0], photo]
        rows.append(np.concatenate([image[cut, cut] for image in row], axis=1))
    write_image(path, np.concatenate(rows), quality=90)


def text(report: dict[str, Any]) -> str:
    rows = []
    for condition, row in report["conditions"].items():
        low = f"{row['input']:.2f}" if "input" in row else "-"
        numbers = [f"{row[name]:.2f}" for name in ("coarse", "restored")]
        blurs = [f"{row[name]:.3f}" for name in ("blur_coarse", "blur_restored")]
        rows.append([condition, low, *numbers, *blurs])
    parts = [
        "# Quality by kind and strength of the degradation",
        "",
        "Made by `python benchmarks/noise_levels.py`. "
        f"{report['model']}, sigma_s {report['sigma_s']:g}, on {report['photographs']} photographs "
        "that were not trained on, the middle 256x256 of each. Noise is given by its deviation, "
        "clipped to 8 bits, JPEG by its quality, blur by the Gaussian's deviation in pixels; the "
        f"model is told none of them. The autoencoder alone: {report['ceiling']:.2f} dB. Blur is "
        "scikit-image's `blur_effect` (0 sharp, 1 blurred); of the truth "
        f"{report['blur_truth']:.3f}.",
        "",
        pipes(["", "input dB", "coarse dB", "restored dB", "blur, coarse", "blur, restored"], rows),
    ]
    if report["bm3d"]:
        rows = [
            [condition, *(f"{row[k]:.2f}" for k in ("bm3d", "restored"))]
            + [f"{row[k]:.3f}" for k in ("blur_bm3d", "blur_restored")]
            for condition, row in report["bm3d"].items()
        ]
        header = ["", "BM3D dB", "restored dB", "blur, BM3D", "blur, restored"]
        note = (
            f"Beside BM3D, which is told the deviation, on the first {report['bm3d_photographs']}:"
        )
        parts += ["", note, "", pipes(header, rows)]
    flats = report["flats"]
    rows = [
        [level, *(f"{means[level] - float(level):+.1f}" for means in flats.values())]
        for level in next(iter(flats.values()))
    ]
    parts += ["", "Mean of the results for flat grey pictures, in levels off:", ""]
    return "\n".join([*parts, pipes(["level", *flats], rows)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path, help="the table; the numbers go beside it as JSON")
    data = Path(str(resources.files("elir_deploy"))) / "data"
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--autoencoder", type=Path, default=data / "tiny.autoencoder.safetensors")
    parser.add_argument("--bundle", help="measure the flat pictures in each of its precisions")
    parser.add_argument("--bm3d", type=int, default=0, help="photographs to run BM3D on")
    parser.add_argument("--sigma-s", type=float, help="instead of the checkpoint's")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()

    checkpoint = load_checkpoint(arguments.checkpoint)
    sigmas = () if arguments.sigma_s is None else (arguments.sigma_s,)
    subject = CheckpointSubject(checkpoint, image_size=SIDE, sigmas=sigmas)
    autoencoder = Autoencoder(arguments.autoencoder)
    photos = list(photographs(arguments.photos, arguments.limit))
    conditions, beside = measure(subject, photos, arguments.bm3d)
    report = {
        "model": checkpoint.name,
        "sha256": checkpoint.sha256,
        "sigma_s": subject.plan.main.sigma_s,
        "photographs": len(photos),
        "ceiling": float(np.mean([psnr_db(autoencoder(photo), photo) for photo in photos])),
        "blur_truth": float(np.mean([blur(photo) for photo in photos])),
        "conditions": conditions,
        "bm3d_photographs": min(arguments.bm3d, len(photos)),
        "bm3d": beside,
        "flats": flat_means(subject, arguments.bundle),
    }
    write_text(arguments.output, text(report))
    write_text(arguments.output.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    if arguments.sheet:
        draw_sheet(subject, arguments.sheet, arguments.bm3d > 0)
    print(text(report))


if __name__ == "__main__":
    main()
