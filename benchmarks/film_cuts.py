"""How often cuts of films are seen, and motion is taken for one.

    python benchmarks/film_cuts.py PHOTOS docs/results/film-cuts.md \\
        --photographs "photographs of BSDS500 (every tenth by name of its train and test parts)"

Films are made of photographs: two equal pictures, so that nothing moves, and then one that is
another scene, or the same after motion that begins at once, which is the hardest to tell.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rewrites import environment

from elir_deploy.output_files import write_text
from elir_deploy.pixels import rounded
from elir_deploy.runtime.folders import images_of
from elir_deploy.text import pipes
from elir_deploy.video.tracks.cuts import Cuts

NOTES = """Films of {width}×{height} of {count} {photographs}: two equal pictures, and then what the
row says. The tones of a picture are its values by colour, sorted. Turns, zooms and pans begin at
once, as do changes of light and of the parts that move over a still ground."""

Pixels = NDArray[np.uint8]
#: Of films; photographs are larger, so that there is more to see where the camera moves.
WIDTH, HEIGHT = 288, 216
LARGE = 384, 288
#: How far after a photograph those come that follow it in a film.
FOLLOWING = (1, 3, 7, 11, 13)


def photographs(folder: Path) -> list[Pixels]:
    """All of a folder, (288, 384, 3), in the order of their names."""
    photos = (Image.open(path).convert("RGB") for path in images_of(folder).files)
    return [np.asarray(ImageOps.fit(photo, LARGE)) for photo in photos]


def middle(photograph: Pixels, right: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Pixels:
    """The middle of a photograph, or what is some pixels to the right of it."""
    height, width = photograph.shape[:2]
    left, top = (width - size[0]) // 2 + right, (height - size[1]) // 2
    return photograph[top : top + size[1], left : left + size[0]]


def with_tones(picture: Pixels, other: Pixels) -> Pixels:
    """A picture whose values are, by rank and colour, those of another of its size."""
    result = np.empty(picture.shape, np.uint8)
    for colour in range(3):
        order = np.argsort(picture[..., colour], axis=None, kind="stable")
        result[..., colour].flat[order] = np.sort(other[..., colour], axis=None)
    return result


def within(picture: Pixels, part: Pixels, right: int = 0) -> Pixels:
    """A picture with another in its middle, or some pixels to the right of that."""
    result = picture.copy()
    middle(result, right, (part.shape[1], part.shape[0]))[:] = part
    return result


def part_of(photograph: Pixels, share: float) -> Pixels:
    """The middle of a photograph, with a share of a film's area."""
    return middle(photograph, 0, (round(WIDTH * share**0.5), round(HEIGHT * share**0.5)))


def cuts(photograph: Pixels, other: Pixels) -> Iterator[tuple[str, Pixels, Pixels]]:
    """Pictures on both sides of a cut, and what is beyond it."""
    here, there = middle(photograph), middle(other)
    yield "another photograph", here, there
    yield "another with the tones of the first", here, with_tones(there, here)
    old, new = part_of(photograph, 0.4), part_of(other, 0.4)
    name = "two fifths of the picture another, with the tones of what was there"
    yield name, here, within(here, with_tones(new, old))


def motion(photograph: Pixels, other: Pixels) -> Iterator[tuple[str, Pixels, Pixels]]:
    """Pictures before and after motion, and its name."""
    here, image = middle(photograph), Image.fromarray(photograph)
    for pixels in (10, 20, 40):
        for right in (-pixels, pixels):
            yield f"a pan by {pixels} pixels", here, middle(photograph, right)
    for zoom in (1.1, 1.2):
        smaller = middle(photograph, 0, (round(WIDTH / zoom), round(HEIGHT / zoom)))
        enlarged = Image.fromarray(smaller).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        yield f"a zoom by {zoom}", here, np.asarray(enlarged)
    for angle in (-5, 5):
        turned = np.asarray(image.rotate(angle, Image.Resampling.BICUBIC))
        yield "a turn by 5°", here, middle(turned)
    for gain, name in ((0.9, "falls by a tenth"), (1.3, "rises by three tenths")):
        yield f"light that {name}", here, rounded(gain * here)
        moved = rounded(gain * middle(photograph, 20))
        yield f"a pan by 20 pixels, and light that {name}", here, moved
    part = part_of(other, 0.25)
    for pixels in (30, 60):
        moved = within(here, part, pixels // 2)
        name = f"a quarter of the picture moving by {pixels} pixels"
        yield name, within(here, part, -(pixels // 2)), moved


def is_cut(before: Pixels, after: Pixels) -> bool:
    """Whether a cut is seen between them, after two equal pictures."""
    seen = Cuts()
    return [seen(np.ascontiguousarray(picture)) for picture in (before, before, after)][-1]


def pairs(scenes: list[Pixels]) -> Iterator[tuple[str, Pixels, Pixels]]:
    """All pairs of pictures, and the rows that they belong to: cuts, then motion."""
    for number, scene in enumerate(scenes):
        yield "the first, mirrored", middle(scene), middle(scene)[:, ::-1]
        for step in FOLLOWING:
            yield from cuts(scene, scenes[(number + step) % len(scenes)])
    for number, scene in enumerate(scenes):
        yield from motion(scene, scenes[(number + 1) % len(scenes)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--photographs", default="photographs", help="what they are, for the page")
    arguments = parser.parse_args()
    scenes = photographs(arguments.photos)
    taken: dict[str, list[bool]] = defaultdict(list)
    for name, before, after in pairs(scenes):
        taken[name].append(is_cut(before, after))
    rows = [(name, f"{sum(found)} of {len(found)}") for name, found in taken.items()]
    table = pipes(("what comes after two equal pictures", "taken for a cut"), rows)
    told = {"width": WIDTH, "height": HEIGHT, "photographs": arguments.photographs}
    notes = NOTES.format(**told, count=len(scenes))
    write_text(arguments.output, f"# Cuts of films\n\n{notes}\n\n{table}\n\n{environment()}\n")


if __name__ == "__main__":
    main()
