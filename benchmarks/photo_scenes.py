"""Faces in synthetic photographs: found, and put back without a trace.

    python benchmarks/photo_scenes.py PORTRAITS docs/results/photo-scenes.md \
        --centerface centerface.onnx [--yunet yunet_n_dynamic.onnx]

PORTRAITS is a folder of photographs with one upright face each. A group of 12 heads is cut out of
them, turned by up to 45 degrees, lit differently, set in front of a backdrop and mildly degraded as
for blind face restoration. Measured are what the detectors find, what the step across the masks'
borders is with a network that changes tone and texture, and how a face is best put back that is
larger than the network's square. A network that returns the undegraded face stands for a good one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from photo_groups import BOXES, Placed, degraded, group, matched, opened
from PIL import Image, ImageFilter
from rewrites import environment
from scipy import ndimage

from elir_deploy.degradations import FaceDegradation
from elir_deploy.output_files import write_text
from elir_deploy.photo import Face, FaceDetector, SquareRestorer, restore_photo
from elir_deploy.photo.alignment import Similarity, crop, fit, template_units
from elir_deploy.photo.detectors import FACE_TEMPLATE, FACE_TEMPLATE_SIZE
from elir_deploy.photo.faces import units
from elir_deploy.photo.paste import Change, change, mask, paste
from elir_deploy.pixels import decibels, rounded
from elir_deploy.runtime import write_image
from elir_deploy.runtime.resampling import EnlargedPicture
from elir_deploy.text import pipes

Pixels = NDArray[np.uint8]
SIDE = 512


# Networks -------------------------------------------------------------------------------------


def tone_and_texture(crops: Pixels) -> Pixels:
    """Brighter, warmer, sharper, and with a pattern."""
    y, x = np.mgrid[: crops.shape[1], : crops.shape[2]]
    pattern = 5 * np.sin(x * 0.9) * np.sin(y * 0.9)
    result = np.empty_like(crops)
    for i, square in enumerate(crops):
        blurred = np.asarray(Image.fromarray(square).filter(ImageFilter.GaussianBlur(3)))
        sharp = square + 0.7 * (square.astype(float) - blurred)
        toned = 255 * (np.clip(sharp, 0, 255) / 255) ** 0.85 + np.array([10, 0, -8])
        result[i] = rounded(toned + pattern[..., None])
    return result


def psnr(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    return decibels(float(((a.astype(float) - b) ** 2).mean()), 255)


def similarity_of(face: Face) -> Similarity:
    template = template_units(FACE_TEMPLATE, FACE_TEMPLATE_SIZE, SIDE)
    return fit(template, [(units(x), units(y)) for x, y in face.landmarks])


def weights(shape: tuple[int, ...], similarity: Similarity, side: int = SIDE) -> NDArray[np.int32]:
    """The mask in the picture: what is pasted of a change of 255 everywhere, times 1024 / 255."""
    black = np.zeros((*shape[:2], 3), np.uint8)
    full = Change(np.full((side, side, 3), 255, np.int16), 256)
    paste(black, EnlargedPicture(black.copy(), 1, "none"), similarity, full)
    return black[:, :, 0].astype(np.int32)


def steps(before: Pixels, after: Pixels, m: NDArray[np.int32]) -> tuple[float, float]:
    """Mean difference of neighbours across the mask's border, in the picture before and after."""
    rim = (m > 0) & ~ndimage.binary_erosion(m > 0)
    outer = (m == 0) & ndimage.binary_dilation(m > 0)
    result = []
    for pixels in (before, after):
        values = pixels.astype(float)
        total = count = 0.0
        for axis in (0, 1):
            step = np.abs(np.diff(values, axis=axis)).mean(axis=2)
            first, second = (
                (slice(None, -1), slice(1, None)) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
            )
            across = (rim[first] & outer[second]) | (outer[first] & rim[second])
            total, count = total + step[across].sum(), count + across.sum()
        result.append(total / count)
    return result[0], result[1]


def broad_step(before: Pixels, after: Pixels, m: NDArray[np.int32]) -> tuple[float, float]:
    """Mean over each channel of the difference between the rim's inner and outer third."""
    inner, outer = (m > 170) & (m < 250), ((m > 0) & (m < 85))
    result = []
    for pixels in (before, after):
        values = pixels.astype(float)
        result.append(float(np.abs(values[inner].mean(0) - values[outer].mean(0)).mean()))
    return result[0], result[1]


# Tables ---------------------------------------------------------------------------------------


def finding(detectors: dict[str, FaceDetector], scene: Pixels, placed: list[Placed]) -> str:
    rows = [("detector", "degraded", "found", "invented", "error of the eyes, mean / worst")]
    for name, detector in detectors.items():
        for how, picture in (("no", scene), ("yes", degraded(scene))):
            seen, invented, errors = matched(placed, detector(picture))
            error = f"{np.mean(errors):.3f} / {np.max(errors):.3f}"
            rows.append((name, how, f"{seen} of {len(placed)}", str(invented), error))
    return pipes(rows[0], rows[1:])


def seams(picture: Pixels, faces: list[Face], pictures: Path | None) -> str:
    """Steps with and without the fitted plane, for every face alone."""
    rows: list[tuple[str, ...]] = [
        (
            "eyes apart",
            "border, before",
            "border, after",
            "rim, before",
            "rim, after",
            "rim, tone not fitted",
            "rim, mean alone fitted",
        )
    ]
    for face in sorted(faces, key=lambda f: similarity_of(f).squared):
        similarity = similarity_of(face)
        square = crop(picture, similarity, SIDE)
        restored = tone_and_texture(square[None])[0]
        m = weights(picture.shape, similarity)
        plain = restored.astype(np.int16) - square
        rim = mask(SIDE) * (1024 - mask(SIDE))
        mean = (plain * rim[..., None]).sum(axis=(0, 1)) / rim.sum()
        results = []
        for variant in (
            change(square, restored, similarity),
            Change(plain, 256),
            Change(np.clip(plain - np.rint(mean), -255, 255).astype(np.int16), 256),
        ):
            output = picture.copy()
            paste(output, EnlargedPicture(picture, 1, "none"), similarity, variant)
            results.append(output)
        border, broad = steps(picture, results[0], m), [broad_step(picture, r, m) for r in results]
        eyes = np.hypot(*np.subtract(*face.landmarks[:2]))
        numbers = (*border, broad[0][0], *(after for _, after in broad))
        rows.append((f"{eyes:.0f} px", *(f"{number:.1f}" for number in numbers)))
        if pictures is not None and eyes > 100:
            write_image(
                pictures / f"seam-{eyes:.0f}.png", np.concatenate([picture, *results[:2]], 1)
            )
    return pipes(rows[0], rows[1:])


def larger(portraits: dict[str, tuple[Pixels, Face]], pictures: Path | None) -> str:
    """A face about twice as large as the square; the network returns the undegraded crop."""
    side = SIDE // 2
    rows: list[tuple[str, ...]] = [
        ("portrait", "degradation", "degraded", "change", "crop", "both by detail kept", "kept")
    ]
    for name, (clean, face) in portraits.items():
        template = template_units(FACE_TEMPLATE, FACE_TEMPLATE_SIZE, side)
        similarity = fit(template, [(units(x), units(y)) for x, y in face.landmarks])
        inside = weights(clean.shape, similarity, side) == 255
        truth = crop(clean, similarity, side)
        for what, low in degradations(clean).items():
            square = crop(low, similarity, side)
            plain = truth.astype(np.int16) - square
            whole = (truth.astype(np.int16) - 128).astype(np.int16)
            results = []
            ours = change(square, truth, similarity)
            for variant in (Change(plain, 256), Change(whole, 0), ours):
                output = low.copy()
                paste(output, EnlargedPicture(low, 1, "none"), similarity, variant)
                results.append(output)
            values = [f"{psnr(r[inside], clean[inside]):.1f}" for r in (low, *results)]
            rows.append((name, what, *values, f"{ours.detail / 256:.2f}"))
            if pictures is not None:
                left, top, right, bottom = (max(0, round(edge)) for edge in face.box)
                parts = [p[top:bottom, left:right] for p in (low, *results, clean)]
                write_image(
                    pictures / f"large-{name}-{what.replace(' ', '-')}.png",
                    np.concatenate(parts, 1),
                )
    return pipes(rows[0], rows[1:])


def degradations(clean: Pixels) -> dict[str, Pixels]:
    rng = np.random.default_rng(0)

    def noisy(deviation: float) -> Pixels:
        noise = rng.normal(0, deviation, clean.shape)
        return rounded(clean + noise)

    blurred = np.asarray(Image.fromarray(clean).filter(ImageFilter.GaussianBlur(3)))
    return {
        "none": clean,
        "noise 5": noisy(5),
        "noise 10": noisy(10),
        "noise 25": noisy(25),
        "blur 3": blurred,
        "bfr, mild": FaceDegradation(1.5, 0.7, 6, 70).apply(clean, rng),
        "bfr, heavy": FaceDegradation(5, 0.3, 15, 40).apply(clean, rng),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("portraits", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--centerface", default="centerface")
    parser.add_argument("--yunet", default="yunet")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures to look at")
    arguments = parser.parse_args()
    pictures: Path | None = arguments.pictures
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    detectors = {"CenterFace": opened(arguments.centerface), "YuNet": opened(arguments.yunet)}
    portraits = {}
    for path in sorted(arguments.portraits.glob("*.jpg")):
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB"))
        portraits[path.stem] = picture, detectors["CenterFace"](picture)[0]
    scene, placed = group(list(portraits.values()))
    picture = degraded(scene)
    found = detectors["CenterFace"](picture)
    if pictures is not None:
        squares = SquareRestorer(tone_and_texture, SIDE, 4, FACE_TEMPLATE, FACE_TEMPLATE_SIZE)
        photo = restore_photo(picture, lambda _: found, squares)
        write_image(pictures / "group.png", picture)
        write_image(pictures / "group-restored.png", photo.pixels)
    write_text(
        arguments.output,
        _REPORT.format(
            environment=environment(),
            boxes=", ".join(map(str, BOXES)),
            finding=finding(detectors, scene, placed),
            seams=seams(picture, found, pictures),
            larger=larger(portraits, pictures),
        ),
    )


_REPORT = """\
# Faces in photographs

Written by `benchmarks/photo_scenes.py`, with two official portraits of 1 and 2 megapixels.
{environment}

## Finding them

A group of 12 heads, turned by up to 45°, each lit differently; boxes of {boxes}
pixels. Errors are in distances of the eyes, from where CenterFace sees them in the portraits.

{finding}

## Borders

The degraded group, every face that CenterFace found alone, with a network that makes it brighter,
warmer and sharper and adds a pattern. `border` is the mean difference of neighbouring pixels of
which the mask contains one, `rim` the difference of mean colour between the inner and the outer
third of where the mask fades out.

{seams}

## Faces larger than the square

PSNR in dB to the undegraded portrait, inside the mask, with squares of 256 pixels, about half as
wide as the faces'. The network returns the undegraded square. `change` adds what it changed, `crop`
pastes its square; the next column is what is done: as much finer detail is kept as the network kept
of the finest that it saw.

{larger}
"""

if __name__ == "__main__":
    main()
