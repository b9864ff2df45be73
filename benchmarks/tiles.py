"""Tiles: repetition, seams, quality and speed by size and overlap, against one graph and batches.

    for size in 64 128 256 512 1280x720; do
        elir-export tiny --precision fp32 --noise field --image-size $size -o t$size; done
    elir-export tiny --precision fp32 --noise baked -o baked
    elir-export random --task bsr --precision fp32 --noise field --batch 4 -o bsr4
    elir-export random --task bsr --precision fp32 --noise field --image-size 512 -o bsr512
    python benchmarks/tiles.py PHOTOS docs/results/tiles.md --baked baked --whole t1280x720
        --tiles t64 t128 t256 t512 --batches bsr4 --speed bsr4 bsr512 --limit 4 --repeats 2

Times are taken in turns, so that what else the machine does meets all alike. Pictures are written
to a folder beside the output, which is written after each table.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elir_deploy.bench.device import describe_device
from elir_deploy.degradations import degrade
from elir_deploy.output_files import write_text
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime import Restorer, read_image
from elir_deploy.runtime.pool import PixelSession
from elir_deploy.runtime.resampling import EnlargedPicture
from elir_deploy.runtime.tiling import Span, Tile, choose_tiling, run_tiled, spans
from elir_deploy.text import pipes

SIDE = 928
LEAST_LAG = 128
BACKENDS = ("onnxruntime", "openvino")
Pixels = NDArray[np.uint8]


def grey(noisy: bool) -> Pixels:
    image = np.full((SIDE, SIDE, 3), 128.0)
    if noisy:
        image += np.random.default_rng(0).normal(0, 50, image.shape)
    result: Pixels = image.round().clip(0, 255).astype(np.uint8)
    return result


def correlation(image: Pixels) -> tuple[float, tuple[int, int]]:
    """The highest correlation of a picture with itself, shifted by at least LEAST_LAG, and the lag.

    Over at least a quarter of the picture.
    """
    values = image.mean(axis=2)
    values -= values.mean()
    size = (2 * SIDE, 2 * SIDE)
    ones = np.fft.rfft2(np.ones_like(values), size)
    transformed, squares = np.fft.rfft2(values, size), np.fft.rfft2(values**2, size)

    def shifted(spectrum: NDArray[Any]) -> NDArray[np.float64]:
        return np.fft.irfft2(spectrum, size)

    energy = shifted(squares * ones.conj()) * shifted(ones * squares.conj())
    result = shifted(abs(transformed) ** 2) / np.sqrt(energy.clip(1e-9))
    lags = np.fft.fftfreq(size[0], 1 / size[0]).astype(int)
    near = np.maximum(abs(lags[:, None]), abs(lags)) < LEAST_LAG
    result[near | (shifted(abs(ones) ** 2) < SIDE**2 / 4)] = 0
    row, column = np.unravel_index(np.argmax(result), result.shape)
    return float(result[row, column]), (int(lags[row]), int(lags[column]))


def seam(image: Pixels, axis: Sequence[Span]) -> float:
    """Mean step between neighbours where one tile takes over from another, to that elsewhere."""
    values = image.astype(float)
    steps = abs(np.diff(values, axis=1)).mean(axis=(0, 2)) + abs(np.diff(values, axis=0)).mean(
        axis=(1, 2)
    )
    across = np.zeros(len(steps), bool)
    for span in axis[1:]:
        across[span.begin - 1 : span.begin + span.ramp] = True
    return float(steps[across].mean() / steps[~across].mean())


def contrast(images: Sequence[Pixels], path: Path) -> None:
    """Write grey pictures at four times the contrast and half the size, side by side."""
    values = [128 + 4 * (image.mean(axis=2) - image.mean()) for image in images]
    halves = [v.reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3)) for v in values]
    levels = (np.hstack(halves).clip(0, 255) / 17).round() * 17
    image = Image.fromarray(levels.astype(np.uint8))
    image.quantize(16).save(path, optimize=True, bits=4)


def repetition(bundles: dict[str, str], folder: Path) -> Iterator[list[str]]:
    folder.mkdir(exist_ok=True)
    for name, bundle in bundles.items():
        with Restorer(bundle, "onnxruntime", precision="fp32") as restore:
            results = [restore(grey(noisy)) for noisy in (False, True)]
            stride = 1 if restore.noise is None else 8
        contrast(results, folder / f"{name}.png")
        for what, result in zip(("flat", "noise σ 50"), results, strict=True):
            highest, lag = correlation(result)
            ratio = seam(result, spans(SIDE, 256, 32, stride))
            yield [name, what, f"{highest:.3f}", f"{lag[1]}, {lag[0]}", f"{ratio:.3f}"]


def photographs(folder: Path, limit: int) -> list[tuple[Pixels, Pixels]]:
    """Noisy pictures and the truth."""
    pairs: list[tuple[Pixels, Pixels]] = []
    for path in sorted(folder.rglob("*.jpg"))[:limit]:
        truth = read_image(path).pixels
        if truth.shape[0] > truth.shape[1]:
            truth = np.ascontiguousarray(truth.swapaxes(0, 1))
        pairs.append((degrade("tiny", truth, np.random.default_rng(len(pairs))), truth))
    return pairs


def timed(call: Callable[[], Pixels]) -> tuple[Pixels, float]:
    began = time.perf_counter()
    result = call()
    return result, time.perf_counter() - began


def in_turns(
    restorers: dict[str, Restorer], pairs: Sequence[tuple[Pixels, Pixels]]
) -> dict[str, tuple[float, list[float]]]:
    """Mean PSNR and the seconds of each picture, by name; pictures are restored in turns."""
    psnr: dict[str, list[float]] = {name: [] for name in restorers}
    seconds: dict[str, list[float]] = {name: [] for name in restorers}
    for restore in restorers.values():
        restore(pairs[0][0])
    for low, truth in pairs:
        for name, restore in restorers.items():
            restored, taken = timed(partial(restore, low))
            psnr[name].append(psnr_db(restored, truth))
            seconds[name].append(taken)
    return {name: (statistics.mean(psnr[name]), seconds[name]) for name in restorers}


def sizes_and_overlaps(
    bundles: Sequence[str], pairs: Sequence[tuple[Pixels, Pixels]]
) -> Iterator[list[str]]:
    settings: dict[str, tuple[str, int, int]] = {}
    for bundle in bundles:
        with Restorer(bundle, "onnxruntime") as restore:
            side = restore.bundle.manifest.image_size
        for part in (0, 16, 8, 4) if side == 256 else (8,):
            overlap = side // part if part else 0
            settings[f"{side}, {overlap}"] = bundle, side, overlap
    results = {}
    for backend in BACKENDS:
        restorers = {
            name: Restorer(bundle, backend, precision="fp32", tile_overlap=overlap)
            for name, (bundle, _, overlap) in settings.items()
        }
        results[backend] = in_turns(restorers, pairs)
        if backend == BACKENDS[0]:
            noisy = {name: restore(grey(noisy=True)) for name, restore in restorers.items()}
        for restore in restorers.values():
            restore.close()
    first = results[BACKENDS[0]]
    for name, (_, side, overlap) in settings.items():
        axis = spans(SIDE, side, overlap, 8)
        row = [str(side), str(overlap), f"{first[name][0]:.2f}"]
        row.append(f"{seam(noisy[name], axis):.3f}" if len(axis) > 1 else "")
        for backend in BACKENDS:
            row += speed(results[backend][name][1], results[backend]["256, 32"][1], pairs)
        yield row


def speed(
    seconds: Sequence[float], others: Sequence[float], pairs: Sequence[tuple[Pixels, Pixels]]
) -> list[str]:
    """Seconds a megapixel, and the time in terms of the other's; medians."""
    each = [s * 1e6 / low[:, :, 0].size for s, (low, _) in zip(seconds, pairs, strict=True)]
    ratios = [s / other for s, other in zip(seconds, others, strict=True)]
    return [f"{statistics.median(each):.2f}", f"{statistics.median(ratios):.2f}"]


def mosaic(pairs: Sequence[tuple[Pixels, Pixels]]) -> tuple[Pixels, Pixels]:
    """1280x720 of nine pictures; if there are fewer, some appear again."""
    both = []
    nine = [pairs[i % len(pairs)] for i in range(9)]
    for place in (0, 1):
        rows = [np.hstack([pair[place] for pair in nine[i : i + 3]]) for i in (0, 3, 6)]
        both.append(np.ascontiguousarray(np.vstack(rows)[:720, :1280]))
    return both[0], both[1]


def whole_against_tiles(
    whole: str, tiles: str, pairs: Sequence[tuple[Pixels, Pixels]], repeats: int
) -> Iterator[list[str]]:
    for backend in BACKENDS:
        restorers = {
            name: Restorer(bundle, backend, precision="fp32")
            for name, bundle in (("one graph", whole), ("tiles of 256", tiles))
        }
        results = in_turns(restorers, [mosaic(pairs)] * repeats)
        tiled = results["tiles of 256"][1]
        for name, (psnr, seconds) in results.items():
            ratio = statistics.median(s / t for s, t in zip(seconds, tiled, strict=True))
            taken = statistics.median(seconds)
            yield [backend, name, f"{taken:.2f}", f"{ratio:.2f}", f"{psnr:.2f}"]
        for restore in restorers.values():
            restore.close()


def batches(bundle: str, repeats: int) -> Iterator[list[str]]:
    """Batches of tiles against tiles one by one, in the same session."""
    for backend in BACKENDS:
        with Restorer(bundle, backend, precision="fp32") as restore:
            session, shape = restore.session, restore.bundle.manifest.shapes[0]
            ratios, seconds = [], []
            for turn in range(repeats + 1):
                took = []
                for size in (1, shape.batch):
                    session.select(shape, size)
                    session.input[...] = turn
                    began = time.perf_counter()
                    for _ in range(shape.batch // size):
                        session.run()
                    took.append(time.perf_counter() - began)
                if turn:
                    ratios.append(took[0] / took[1])
                    seconds.append(took[1] / shape.batch)
            quartiles = np.quantile(ratios, [0.25, 0.5, 0.75])
            cells = [f"{value:.3f}" for value in quartiles]
            yield [backend, str(shape.batch), f"{statistics.median(seconds):.2f}", *cells]


def whole_in_batches(bundle: str, every: int) -> Iterator[list[str]]:
    """A result of 4000x3000 in batches, of which each ``every``-th also runs one by one."""
    low = np.random.default_rng(0).integers(0, 256, (750, 1000, 3), np.uint8)
    with Restorer(bundle, "onnxruntime", precision="fp32") as restore:
        session, manifest = restore.session, restore.bundle.manifest
        pixels = PixelSession(restore.bundle, session)
        picture = EnlargedPicture(low, manifest.model.upscale, manifest.model.upscale_kernel)
        tiling = choose_tiling(manifest.shapes, picture.height, picture.width, 8)
        ratios: list[float] = []
        peaks: list[float] = []

        def seconds(tiles: Sequence[Tile], together: bool) -> float:
            session.exact_batches = together  # if not, they run one by one
            began = time.perf_counter()
            pixels.run_tiles(tiling.shape, tiles, restore.noise)
            return time.perf_counter() - began

        def run(tiles: Sequence[Tile]) -> None:
            turn = len(peaks)
            if turn % every or len(tiles) < tiling.shape.batch:
                seconds(tiles, True)
            else:
                order = (True, False) if turn // every % 2 else (False, True)
                took = {together: seconds(tiles, together) for together in order}
                ratios.append(took[False] / took[True])
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

        run_tiled(picture, np.empty((picture.height, picture.width, 3), np.uint8), tiling, run)
    cells = [f"{value:.3f}" for value in np.quantile(ratios[1:], [0.25, 0.5, 0.75])]
    yield [str(tiling.count), str(len(ratios) - 1), *cells, f"{peaks[-1] - peaks[0]:.0f}"]


def tile_speeds(bundles: Sequence[str], repeats: int) -> Iterator[list[str]]:
    """Seconds a megapixel of a large picture in tiles of each bundle's size, with an eighth."""
    for backend in BACKENDS:
        restorers = [Restorer(bundle, backend, precision="fp32") for bundle in bundles]
        seconds: list[list[float]] = [[] for _ in bundles]
        for _ in range(repeats):
            for restore, taken in zip(restorers, seconds, strict=True):
                taken.append(timed(restore.session.run)[1])  # type: ignore[arg-type]
        each = []
        for restore, taken in zip(restorers, seconds, strict=True):
            side = restore.bundle.manifest.image_size
            each.append([1e6 * s / (side - side // 8) ** 2 for s in taken])
            ratio = statistics.median(a / b for a, b in zip(each[-1], each[0], strict=True))
            yield [backend, str(side), f"{statistics.median(each[-1]):.2f}", f"{ratio:.2f}"]
            restore.close()


def noise_share(bundle: str, repeats: int = 30) -> Iterator[list[str]]:
    """Time for the noise of a tile, in terms of a run of the model."""
    for backend in BACKENDS:
        with Restorer(bundle, backend, precision="fp32") as restore:
            session, noise = restore.session, restore.noise
            assert noise is not None
            assert session.noise is not None
            runs, fills = [], []
            for turn in range(repeats):
                _, filled = timed(partial(noise.fill, session.noise[0], turn, turn))  # type: ignore[arg-type]
                _, ran = timed(session.run)  # type: ignore[arg-type]
                runs.append(ran)
                fills.append(filled)
            run, fill = statistics.median(runs), statistics.median(fills)
            yield [backend, f"{1e3 * fill:.2f}", f"{1e3 * run:.1f}", f"{100 * fill / run:.2f} %"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--baked", required=True)
    parser.add_argument("--tiles", nargs="+", required=True)
    parser.add_argument("--whole", required=True)
    parser.add_argument("--batches")
    parser.add_argument("--speed", nargs="+")
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    pairs = photographs(arguments.photos, arguments.limit)
    (tiles,) = [name for name in arguments.tiles if Path(name).name.endswith("256")]
    report(arguments, pairs, tiles)


def report(
    arguments: argparse.Namespace, pairs: Sequence[tuple[Pixels, Pixels]], tiles: str
) -> None:
    folder = arguments.output.with_suffix("")
    machine = describe_device().cpu
    lines = [
        "# Tiles",
        "",
        f"Machine: {machine.model}, {machine.usable_cores} cores, shared with other work "
        "meanwhile: compare ratios. Float32.",
    ]

    def table(title: str, text: str, heading: list[str], rows: Iterator[list[str]]) -> None:
        lines.extend(["", f"## {title}", "", text, "", pipes(heading, list(rows))])
        print(lines[-1], flush=True)
        write_text(arguments.output, "\n".join(lines) + "\n")  # what is finished stays

    table(
        "Repetition",
        f"`tiny` on a grey picture of {SIDE}x{SIDE}, flat and with noise: the highest correlation "
        f"of the result with itself at a lag of {LEAST_LAG} pixels or more, and the mean step "
        "between pixels where tiles meet, to that elsewhere. At four times the contrast: "
        f"[baked]({folder.name}/baked.png), [field]({folder.name}/field.png) (flat, with noise).",
        ["noise", "picture", "correlation", "lag x, y", "step at borders"],
        repetition({"baked": arguments.baked, "field": tiles}, folder),
    )
    table(
        "Size and overlap",
        f"`tiny` on {len(pairs)} photographs of 481x321, degraded as its task says; the step where "
        "tiles meet is of the grey picture with noise. Times are medians, also in terms of those "
        "of tiles of 256 that overlap by 32.",
        ["tile", "overlap", "PSNR dB", "step at borders"]
        + [head for name in BACKENDS for head in (f"{name} s/megapixel", "ratio")],
        sizes_and_overlaps(arguments.tiles, pairs),
    )
    table(
        "One graph or tiles",
        "`tiny` on a mosaic of 1280x720 of nine noisy photographs.",
        ["backend", "how", "seconds", "ratio", "PSNR dB"],
        whole_against_tiles(arguments.whole, tiles, pairs, arguments.repeats),
    )
    table(
        "Noise",
        "Time for the noise of a tile of 256x256, and for the model.",
        ["backend", "noise ms", "model ms", "share"],
        noise_share(tiles),
    )
    report_bsr(arguments, table)


def report_bsr(arguments: argparse.Namespace, table: Callable[..., None]) -> None:
    if arguments.speed:
        table(
            "Size and speed of bsr",
            "Random weights, so speed only: a run on a tile, to a megapixel of result in tiles "
            "that overlap by an eighth, also in terms of the first.",
            ["backend", "tile", "s/megapixel", "ratio"],
            tile_speeds(arguments.speed, arguments.repeats),
        )
    if arguments.batches:
        table(
            "Batches",
            "bsr with random weights, tiles of 256x256: time one by one to that of a batch, "
            "in turns (quartiles). Of these two, the runtime uses batches on ONNX Runtime in "
            "float32 only: on OpenVINO they would change the bytes.",
            ["backend", "batch", "seconds a tile", "25 %", "median", "75 %"],
            batches(arguments.batches, arguments.repeats),
        )
        table(
            "A picture in batches",
            "bsr on ONNX Runtime, a result of 4000x3000 in batches of 4 tiles. Every fourth batch "
            "also ran one by one: the ratio of the times (quartiles), and how much the peak of "
            "memory grew after the first batch.",
            ["tiles", "pairs", "25 %", "median", "75 %", "MiB"],
            whole_in_batches(arguments.batches, every=4),
        )


if __name__ == "__main__":
    main()
