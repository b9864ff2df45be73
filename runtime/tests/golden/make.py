"""Golden vectors: results of the Python runtime, for the tests of the C++ runtime.

    python runtime/tests/golden/make.py

writes ``geometry.json``, ``pictures.json``, ``photos.json``, ``noise.json`` and ``manifests.json``
next to this file. Inputs are computed by formulas, so the files change only when the Python runtime
does; ``tests/runtime_cpp`` checks that they are up to date.

Pictures and noise are stored as the SHA-256 of their values, manifests with whether they are
rejected.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from manifests import manifests
from numpy.typing import NDArray
from patterns import Pixels, digest, pattern
from photos import photos

from elir_deploy.runtime.manifest import Shape
from elir_deploy.runtime.noise import NoiseField, _quantiles
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into, resize_to
from elir_deploy.runtime.tiling import Tile, choose_tiling, mirrored, overlap, run_tiled, spans

HERE = Path(__file__).parent


def reference_model(tile: Tile, noise: NDArray[np.float32] | None, stride: int) -> None:
    """Compute what the reference backend does."""
    height, width = tile.source.shape[:2]
    y, x, c = np.ogrid[:height, :width, :3]
    result = tile.source + 7 * y + 13 * x + 31 * c
    if noise is not None:
        result += (noise[c, y // stride, x // stride] * 4096).astype(np.int64)
    rows, columns = tile.result.shape[:2]
    tile.result[...] = result[:rows, :columns].astype(np.uint8)


def geometry() -> dict[str, Any]:
    lengths = [1, 2, 7, 8, 9, 31, 32, 33, 57, 60, 61, 88, 89, 100, 255, 256, 257, 1000, 1001, 4097]
    # Tile, multiple of its begin, overlap.
    tiles = [(tile, 1, overlap(tile)) for tile in (1, 7, 8, 32, 64)]
    tiles += [(32, 1, 0), (32, 1, 16), (64, 8, 8), (64, 8, 0), (64, 8, 9), (64, 8, 32), (40, 8, 20)]
    return {
        "spans": [
            {
                "length": length,
                "tile": tile,
                "step": step,
                "overlap": ramp,
                "spans": [
                    [s.start, s.begin, s.end, s.ramp] for s in spans(length, tile, ramp, step)
                ],
            }
            for tile, step, ramp in tiles
            for length in lengths
            if length // tile < 200
        ],
        "mirrored": [
            {"length": length, "count": count, "indices": mirrored(length, count).tolist()}
            for length, count in ((1, 5), (3, 20), (5, 5), (31, 32))
        ],
    }


#: Width, height, factor, kernel, width and height to which it is resized.
RESIZED = [
    (64, 64, 1, "none", (64, 64)),
    (100, 37, 1, "none", (64, 64)),
    (37, 100, 1, "none", (64, 64)),
    (64, 31, 1, "none", (64, 64)),
    (31, 64, 1, "none", (64, 48)),
    (1, 1, 1, "none", (16, 16)),
    (3, 500, 1, "none", (32, 32)),
    (500, 3, 1, "none", (32, 32)),
    (333, 222, 1, "none", (32, 32)),
    (1023, 777, 1, "none", (64, 32)),
    (9, 13, 8, "nearest", (64, 64)),
    (9, 13, 3, "nearest", (64, 64)),
    (21, 17, 4, "bicubic", (64, 64)),
    (16, 16, 4, "bicubic", (64, 64)),
    (5, 70, 2, "bicubic", (32, 40)),
    (1, 1, 16, "bicubic", (8, 8)),
]


def square(side: int, batch: int = 1) -> Shape:
    return Shape(batch, side, side)


WIDE = Shape(3, 24, 56, 32, 64)
#: Width, height, factor, kernel, shapes, stride of the noise (0: baked), overlap (None: default).
TILED: list[tuple[int, int, int, str, list[Shape], int, int | None]] = [
    (100, 37, 1, "none", [square(32)], 0, None),
    (32, 32, 1, "none", [square(32)], 0, None),
    (33, 32, 1, "none", [square(32)], 0, None),
    (20, 9, 1, "none", [square(32)], 0, None),
    (20, 90, 1, "none", [square(32)], 0, None),
    (200, 150, 1, "none", [square(64)], 0, None),
    (61, 60, 1, "none", [square(8)], 0, None),
    (13, 11, 1, "none", [square(7)], 0, None),
    (19, 23, 8, "nearest", [square(64)], 0, None),
    (10, 70, 2, "nearest", [square(64)], 0, None),
    (40, 30, 4, "bicubic", [square(64)], 0, None),
    (7, 33, 4, "bicubic", [square(32)], 0, None),
    (2, 3, 16, "bicubic", [square(16)], 0, None),
    (16, 8, 2, "bicubic", [square(32)], 0, None),
    (200, 150, 1, "none", [square(64)], 0, 0),
    (97, 97, 1, "none", [square(64)], 0, 32),
    (200, 150, 1, "none", [square(64, 4)], 0, 5),
    (200, 150, 1, "none", [square(64)], 8, None),
    (201, 149, 1, "none", [square(64, 5)], 8, None),
    (201, 149, 1, "none", [square(64, 16)], 8, 32),
    (97, 66, 1, "none", [square(32, 2)], 8, 3),
    (40, 30, 4, "bicubic", [square(64, 3)], 8, None),
    (56, 24, 1, "none", [WIDE], 8, None),
    (50, 20, 1, "none", [WIDE], 8, None),
    (111, 75, 1, "none", [WIDE], 8, None),
    (64, 32, 1, "none", [square(32), WIDE], 8, None),
    (56, 24, 1, "none", [square(32), WIDE, square(64, 2)], 8, None),
    (64, 64, 1, "none", [square(32), WIDE, square(64, 2)], 8, None),
    (31, 17, 1, "none", [square(64), square(32), WIDE], 8, None),
    (211, 115, 1, "none", [square(32), WIDE, square(64, 2)], 8, None),
    (115, 211, 1, "none", [square(32), WIDE, square(64, 2)], 8, 11),
]
SIGMA_S, SEED = 0.375, 4294967291  # of TILED


def restored(
    picture: EnlargedPicture, shapes: list[Shape], stride: int, ramp: int | None
) -> Pixels:
    """The result of the reference backend, in tiles."""
    output = np.empty((picture.height, picture.width, 3), np.uint8)
    size = picture.height, picture.width
    exact = [shape for shape in shapes if (shape.height, shape.width) == size]
    tiling = choose_tiling(exact or shapes, *size, stride or 1, ramp)

    def run(tiles: Sequence[Tile]) -> None:
        for tile in tiles:
            noise = None
            if stride:
                height, width = (side // stride for side in tile.source.shape[:2])
                noise = np.empty((16, height, width), np.float32)
                NoiseField(SEED, SIGMA_S).fill(noise, tile.noise_top, tile.noise_left)
            reference_model(tile, noise, stride)

    run_tiled(picture, output, tiling, run)
    return output


def pictures() -> dict[str, Any]:
    results: dict[str, Any] = {"resized": [], "tiled": [], "sigma_s": SIGMA_S, "seed": SEED}
    for index, (width, height, factor, kernel, (to_width, to_height)) in enumerate(RESIZED):
        picture = EnlargedPicture(pattern(height, width, index), factor, kernel)
        resized = resize_to(picture, to_height, to_width)
        back = np.empty((picture.height, picture.width, 3), np.uint8)
        resize_into(resized, back)
        case = {"width": width, "height": height, "factor": factor, "kernel": kernel}
        case |= {"to": [to_width, to_height]}
        results["resized"].append(case | {"resized": digest(resized), "back": digest(back)})
    for index, (width, height, factor, kernel, shapes, stride, ramp) in enumerate(TILED):
        picture = EnlargedPicture(pattern(height, width, index), factor, kernel)
        output = restored(picture, shapes, stride, ramp)
        case = {"width": width, "height": height, "factor": factor, "kernel": kernel}
        case |= {"shapes": msgspec.to_builtins(shapes), "stride": stride, "overlap": ramp}
        results["tiled"].append(case | {"output": digest(output)})
    return results


#: Seed, sigma_s, top, left, (channels, height, width).
FIELDS = [
    (0, 1.0, 0, 0, (16, 32, 32)),
    (1, 0.1, 3, 5, (17, 9, 13)),
    (12345, 0.3, 4095, 65535, (40, 5, 7)),
    (2**32 - 1, 0.025, 2**28, 2**28 - 1, (3, 16, 1)),
    (7, 0.0, 1, 1, (1, 1, 1)),
]


def noise() -> dict[str, Any]:
    quantiles = _quantiles().astype("<i2")
    fields = []
    for seed, sigma_s, top, left, shape in FIELDS:
        values = np.empty(shape, np.float32)
        NoiseField(seed, sigma_s).fill(values, top, left)
        case = {"seed": seed, "sigma_s": sigma_s, "top": top, "left": left, "shape": shape}
        fields.append(case | {"sha256": digest(values.astype("<f4"))})
    return {"quantiles": digest(quantiles), "fields": fields}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=HERE, help="folder to write to")
    into: Path = parser.parse_args().into
    files = {
        "geometry.json": geometry(),
        "pictures.json": pictures(),
        "photos.json": photos(),
        "noise.json": noise(),
        "manifests.json": manifests(),
    }
    for name, content in files.items():
        text = json.dumps(content, separators=(",", ":")).replace('},{"', '},\n{"')
        (into / name).write_text(text + "\n")


if __name__ == "__main__":
    main()
