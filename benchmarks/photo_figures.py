"""The pictures of docs/guide-photo.md: a face found, aligned, restored and put back.

    python benchmarks/photo_figures.py docs/guide-photo --centerface centerface.onnx

The photograph is scikit-image's astronaut (NASA, public domain) with strong noise. No weights of a
face model can be shown here, so the packaged model, ``tiny``, is in its place.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from photo_groups import opened
from PIL import Image, ImageDraw

from elir_deploy.photo import Face, SquareRestorer, restore_photo
from elir_deploy.photo.alignment import crop, fit, template_units
from elir_deploy.photo.detectors import FACE_TEMPLATE, FACE_TEMPLATE_SIZE
from elir_deploy.photo.faces import units
from elir_deploy.pixels import rounded
from elir_deploy.runtime import Restorer, write_image

Pixels = NDArray[np.uint8]
SIDE = 256
NOISE = 50


def marked(picture: Pixels, face: Face) -> Pixels:
    """With the box, the landmarks and the outline of the aligned square."""
    template = template_units(FACE_TEMPLATE, FACE_TEMPLATE_SIZE, SIDE)
    s = fit(template, [(units(x), units(y)) for x, y in face.landmarks])
    corners = [(0, 0), (SIDE, 0), (SIDE, SIDE), (0, SIDE)]
    square = [
        ((s.a * u - s.b * v + s.x) / 2**20, (s.b * u + s.a * v + s.y) / 2**20) for u, v in corners
    ]
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    draw.rectangle(face.box, outline=(255, 220, 0), width=2)
    draw.polygon(square, outline=(0, 220, 255), width=2)
    for x, y in face.landmarks:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(255, 60, 60))
    return np.asarray(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--centerface", default="centerface")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    clean = skimage.data.astronaut()
    picture = rounded(clean + np.random.default_rng(0).normal(0, NOISE, clean.shape))
    [face] = opened(arguments.centerface)(picture)
    with Restorer("tiny", "onnxruntime", precision="fp32") as tiny:
        squares = SquareRestorer(tiny.run_pixels, SIDE, 1, FACE_TEMPLATE, FACE_TEMPLATE_SIZE)
        alone = restore_photo(picture, lambda _: [face], squares).pixels
        background = tiny.restore(picture)
        both = restore_photo(picture, lambda _: [face], squares, background=background).pixels
        template = template_units(FACE_TEMPLATE, FACE_TEMPLATE_SIZE, SIDE)
        place = fit(template, [(units(x), units(y)) for x, y in face.landmarks])
        square = crop(picture, place, SIDE)
        pair = np.concatenate([square, tiny.run_pixels(square)])
    for name, parts in {
        "found": (picture, marked(picture, face), pair),
        "restored": (picture, alone, both),
    }.items():
        write_image(arguments.folder / f"{name}.jpg", np.concatenate(parts, axis=1), quality=60)


if __name__ == "__main__":
    main()
