"""Golden vectors: results of the Python runtime, for the tests of the C++ runtime.

    python runtime/tests/golden/make.py

writes ``geometry.json``, ``pictures.json``, ``noise.json`` and ``manifests.json`` next to this file. Inputs are
computed by formulas, so the files change only when the Python runtime does; ``tests/runtime_cpp``
checks that they are up to date.

Pictures and noise are stored as the SHA-256 of their values, manifests with whether they are
rejected.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from manifests import manifests
from numpy.typing import NDArray

from elir_deploy.runtime.noise import NoiseField, _quantiles
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into, resize_to_square
from elir_deploy.runtime.tiling import mirrored, run_tiled, spans

HERE = Path(__file__).parent
Pixels = NDArray[np.uint8]


def pattern(height: int, width: int, seed: int) -> Pixels:
    """The test picture of a seed; the same as ``pattern`` in C++."""
    y, x, c = np.ogrid[:height, :width, :3]
    value = (y * 2654435761 + x * 40503 + c * 97 + seed * 7919 + (x * y) * 31).astype(np.uint64)
    mixed = (value ^ (value >> np.uint64(7))) * np.uint64(0x9E3779B1)
    return ((mixed >> np.uint64(16)) & np.uint64(255)).astype(np.uint8)


def reference_model(source: Pixels, result: Pixels) -> None:
    """Compute what the reference backend does."""
    y, x, c = np.ogrid[: source.shape[0], : source.shape[1], :3]
    result[...] = (source + 7 * y + 13 * x + 31 * c).astype(np.uint8)


def digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def geometry() -> dict[str, Any]:
    lengths = [1, 2, 7, 8, 9, 31, 32, 33, 57, 60, 61, 88, 89, 100, 255, 256, 257, 1000, 4097]
    return {
        "spans": [
            {
                "length": length,
                "tile": tile,
                "spans": [[s.start, s.begin, s.end, s.ramp] for s in spans(length, tile)],
            }
            for tile in (1, 7, 8, 32, 64)
            for length in lengths
            if length // tile < 200
        ],
        "mirrored": [
            {"length": length, "count": count, "indices": mirrored(length, count).tolist()}
            for length, count in ((1, 5), (3, 20), (5, 5), (31, 32))
        ],
    }


#: Width, height, factor, kernel, side.
SQUARES = [
    (64, 64, 1, "none", 64),
    (100, 37, 1, "none", 64),
    (37, 100, 1, "none", 64),
    (64, 31, 1, "none", 64),
    (31, 64, 1, "none", 64),
    (1, 1, 1, "none", 16),
    (3, 500, 1, "none", 32),
    (500, 3, 1, "none", 32),
    (333, 222, 1, "none", 32),
    (1023, 777, 1, "none", 64),
    (9, 13, 8, "nearest", 64),
    (9, 13, 3, "nearest", 64),
    (21, 17, 4, "bicubic", 64),
    (16, 16, 4, "bicubic", 64),
    (5, 70, 2, "bicubic", 32),
    (1, 1, 16, "bicubic", 8),
]
#: Width, height, factor, kernel, tile.
TILED = [
    (100, 37, 1, "none", 32),
    (32, 32, 1, "none", 32),
    (33, 32, 1, "none", 32),
    (20, 9, 1, "none", 32),
    (20, 90, 1, "none", 32),
    (200, 150, 1, "none", 64),
    (61, 60, 1, "none", 8),
    (13, 11, 1, "none", 7),
    (19, 23, 8, "nearest", 64),
    (10, 70, 2, "nearest", 64),
    (40, 30, 4, "bicubic", 64),
    (7, 33, 4, "bicubic", 32),
    (2, 3, 16, "bicubic", 16),
    (16, 8, 2, "bicubic", 32),
]


def pictures() -> dict[str, Any]:
    results: dict[str, list[dict[str, Any]]] = {"squares": [], "tiled": []}
    for index, (width, height, factor, kernel, side) in enumerate(SQUARES):
        picture = EnlargedPicture(pattern(height, width, index), factor, kernel)
        square = resize_to_square(picture, side)
        back = np.empty((picture.height, picture.width, 3), np.uint8)
        resize_into(square, back)
        case = {"width": width, "height": height, "factor": factor, "kernel": kernel, "side": side}
        results["squares"].append(case | {"square": digest(square), "back": digest(back)})
    for index, (width, height, factor, kernel, tile) in enumerate(TILED):
        picture = EnlargedPicture(pattern(height, width, index), factor, kernel)
        output = np.empty((picture.height, picture.width, 3), np.uint8)
        run_tiled(picture, output, tile, reference_model)
        case = {"width": width, "height": height, "factor": factor, "kernel": kernel, "tile": tile}
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
        "noise.json": noise(),
        "manifests.json": manifests(),
    }
    for name, content in files.items():
        text = json.dumps(content, separators=(",", ":")).replace('},{"', '},\n{"')
        (into / name).write_text(text + "\n")


if __name__ == "__main__":
    main()
