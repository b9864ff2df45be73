"""The packaged model beside classical denoisers, on photographs it was not trained on.

    python benchmarks/denoisers.py PHOTOS docs/results/tiny-quality.md [--bundle BUNDLE] [--limit N]

Every method gets the same 256x256 pieces with the same noise (standard deviation 89.6, clipped to
8 bits). The classical ones are tuned on these very images: of each, the setting of the highest mean
PSNR is shown. BM3D is told the noise before clipping.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import blur_effect
from skimage.restoration import denoise_bilateral, denoise_tv_chambolle

from elir_deploy.degradations import DENOISE_NOISE
from elir_deploy.output_files import write_text
from elir_deploy.paired_images import Sample, SampleFolder
from elir_deploy.pixels import as_pixels, psnr_db
from elir_deploy.runtime import Restorer, write_image
from elir_deploy.text import pipes

SIDE = 256
Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]


def gaussian(image: Floats, sigma: float) -> Floats:
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="reflect")


def median(image: Floats, size: int) -> Floats:
    return ndimage.median_filter(image, (size, size, 1), mode="reflect")


def bilateral(image: Floats, settings: tuple[float, float]) -> Floats:
    colour, space = settings
    return denoise_bilateral(image, sigma_color=colour, sigma_spatial=space, channel_axis=2)


def total_variation(image: Floats, weight: float) -> Floats:
    return denoise_tv_chambolle(image, weight=weight, channel_axis=2)


def bm3d(image: Floats, deviation: float) -> Floats:
    from bm3d import bm3d_rgb

    return bm3d_rgb(image, deviation)


METHODS: dict[str, tuple[Callable[..., Floats], tuple[object, ...]]] = {
    "Gaussian blur, sigma": (gaussian, (1.5, 2.0, 2.5, 3.0, 3.5)),
    "median, size": (median, (5, 7, 9, 11)),
    "bilateral, (colour, space)": (bilateral, ((1.0, 2.5), (2.0, 2.5), (1.0, 4.0))),
    "total variation, weight": (total_variation, (0.3, 0.4, 0.5, 0.6, 0.7)),
    "BM3D, deviation": (bm3d, (DENOISE_NOISE / 255,)),
}


def samples(photos: Path, limit: int | None) -> Iterator[Sample]:
    for item in SampleFolder(photos, "tiny", side=SIDE, limit=limit):
        if isinstance(item, Sample):
            yield item


class Tally:
    """PSNR and blur of one setting of one method."""

    def __init__(self) -> None:
        self.psnr: list[float] = []
        self.blur: list[float] = []
        self.seconds: list[float] = []

    def add(self, restored: Bytes, truth: Bytes, seconds: float = 0.0) -> None:
        self.psnr.append(psnr_db(restored, truth))
        self.blur.append(float(blur_effect(restored, channel_axis=2)))
        self.seconds.append(seconds)

    def row(self, name: str) -> list[str]:
        return [
            name,
            f"{np.mean(self.psnr):.2f}",
            f"{np.mean(self.blur):.3f}",
            f"{np.median(self.seconds):.2f}" if any(self.seconds) else "",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--sheet", type=Path, help="also write a picture of the first four")
    arguments = parser.parse_args()

    noisy, truth, model = Tally(), Tally(), Tally()
    classical = {name: {s: Tally() for s in settings} for name, (_, settings) in METHODS.items()}
    sheet: list[Bytes] = []
    with Restorer(arguments.bundle) as restore:
        for number, sample in enumerate(samples(arguments.photos, arguments.limit)):
            noisy.add(sample.low, sample.truth)
            truth.add(sample.truth, sample.truth)
            began = time.perf_counter()
            restored = restore(sample.low)
            model.add(restored, sample.truth, time.perf_counter() - began)
            row = [sample.low]
            image = sample.low / 255
            for name, (method, settings) in METHODS.items():
                for setting in settings:
                    began = time.perf_counter()
                    result = as_pixels(method(image, setting))
                    tally = classical[name][setting]
                    tally.add(result, sample.truth, time.perf_counter() - began)
                row.append(result)
            if number < 4:
                sheet.append(np.concatenate([*row[:1], *row[-2:], restored, sample.truth], axis=1))
            print(f"{number + 1}: {noisy.psnr[-1]:.2f} -> {model.psnr[-1]:.2f} dB", flush=True)

    rows = [noisy.row("noisy input")]
    for name, tallies in classical.items():
        best = max(tallies, key=lambda s: float(np.mean(tallies[s].psnr)))
        shown = f"{best:.3g}" if isinstance(best, float) else str(best)
        rows.append(tallies[best].row(f"{name} {shown}"))
    rows.append(model.row("this model (tiny)"))
    rows.append(["truth", "", f"{np.mean(truth.blur):.3f}", ""])
    text = (
        "# tiny beside classical denoisers\n\n"
        f"{len(model.psnr)} photographs that were not trained on, the middle 256x256 of each, "
        "noise of standard deviation 89.6 clipped to 8 bits (seeded). Each classical method is "
        "shown with the setting that is best on these images; BM3D is told the deviation. "
        "Blur is scikit-image's `blur_effect` (0 sharp, 1 blurred; noise counts as sharp).\n\n"
        + pipes(["method", "PSNR dB", "blur", "s an image"], rows)
        + "\n"
    )
    write_text(arguments.output, text)
    if arguments.sheet:
        write_image(arguments.sheet, np.concatenate(sheet))
    print(text)


if __name__ == "__main__":
    main()
