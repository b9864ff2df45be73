"""Flat pictures and gradients for training, so that brightness is kept where there is no detail.

python synthetic.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 288


def gradient(rng: np.random.Generator) -> np.ndarray:
    """A plane or a saddle through four random colours at the corners."""
    corners = rng.uniform(0, 255, (2, 2, 3))
    if rng.random() < 0.5:  # grey
        corners[:] = corners.mean(axis=2, keepdims=True)
    across = np.linspace(0, 1, SIDE)[None, :, None]
    down = np.linspace(0, 1, SIDE)[:, None, None]
    top = corners[0, 0] * (1 - across) + corners[0, 1] * across
    bottom = corners[1, 0] * (1 - across) + corners[1, 1] * across
    return top * (1 - down) + bottom * down


def main() -> None:
    folder = Path(sys.argv[1])
    rng = np.random.default_rng(0)
    flats = [np.full(3, level) for level in np.linspace(0, 255, 18)]
    flats += [rng.uniform(0, 255, 3) for _ in range(6)]
    pictures = [np.broadcast_to(colour, (SIDE, SIDE, 3)) for colour in flats]
    pictures += [gradient(rng) for _ in range(16)]
    for number, picture in enumerate(pictures):
        pixels = np.round(picture).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"synthetic-{number:02}.png")


if __name__ == "__main__":
    main()
