"""Jitter and flicker of faces in films: each picture alone, and with faces followed.

    python benchmarks/film_tracks.py docs/results/film-tracks.md --yunet yunet_n_dynamic.onnx \\
        --centerface centerface.onnx

Films are made of stills: a head that moves over a background by whole pixels, so that what should
stay the same over time is known exactly; the noise moves with what it lies on, or is new in every
picture.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from msgspec import to_builtins
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from rewrites import environment

from elir_deploy.export.detectors import prepare_detector
from elir_deploy.output_files import write_text
from elir_deploy.photo import Face, PhotoRestorer
from elir_deploy.photo.restorer import PreparedPhoto
from elir_deploy.pixels import rounded
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.manifest import File
from elir_deploy.runtime.photos import sample_photos
from elir_deploy.text import pipes
from elir_deploy.video import PhotographFrames
from elir_deploy.video.tracks import TrackedFrames

NOTES = """Each picture alone → faces followed. Jitter: root mean square distance of a landmark
from its mean over time, relative to the head; its steps: the same of the change from one picture
to the next. Variance: over time, of the restored face, in squared levels; beside it that of the
film itself, which is 0 where the noise moves with the head and not where it is new in every
picture. Missed: pictures without a face. The head moves by a pixel a picture (steady), or to and
fro by one and two, turning at once (nodding). Each row is one film of {length} pictures of
{width}×{height} with one head, the astronaut's. Weights of a face model cannot be shown here: the
packaged model, `tiny`, stands in for one, and the variance is of what it makes of the face."""

Pixels = NDArray[np.uint8]
LENGTH = 45
HEAD = 160
SIZE = (288, 384)
#: Part of the head that holds the face.
FACE = slice(30, 110), slice(50, 115)


class Film:
    """A head moving over a background.

    Attributes:
        places: top and left edge of the head in each picture.
        pictures: (H, W, 3) uint8.
    """

    def __init__(self, motion: str, noise: str, sigma: float = 15) -> None:
        rng = np.random.default_rng(0)
        coffee = Image.fromarray(sample_photos(256, faces=False)["coffee"]).resize(SIZE[::-1])
        ground = np.asarray(coffee.filter(ImageFilter.GaussianBlur(4))).astype(float)
        head = sample_photos(HEAD, faces=False)["astronaut"].astype(float)
        still = rng.normal(0, sigma, ground.shape), rng.normal(0, sigma, head.shape)
        self.places = [_place(motion, number) for number in range(LENGTH)]
        self.pictures = []
        for top, left in self.places:
            new = [rng.normal(0, sigma, each.shape) for each in still]
            added = still if noise == "still" else new
            picture = ground + added[0]
            picture[top : top + HEAD, left : left + HEAD] = head + added[1]
            self.pictures.append(rounded(picture))

    def heads(self, pictures: Sequence[Pixels]) -> NDArray[np.uint8]:
        """(n, h, w, 3): the same part of the head in each picture."""
        return np.stack(
            [
                picture[top : top + HEAD, left : left + HEAD][FACE]
                for picture, (top, left) in zip(pictures, self.places, strict=True)
            ]
        )

    def landmarks(self, faces: Sequence[Face | None]) -> NDArray[np.float64]:
        """(n, 5, 2): relative to the head, of the pictures where it was found."""
        return np.array(
            [
                np.subtract(face.landmarks, (left, top))
                for face, (top, left) in zip(faces, self.places, strict=True)
                if face is not None
            ]
        )


def _place(motion: str, number: int) -> tuple[int, int]:
    """Whole pixels, so that the head is the same in every picture."""

    def to_and_fro(speed: int, far: int) -> int:
        return abs((speed * number + far) % (2 * far) - far)

    return {
        "steady": (50, 60 + number),
        "nodding": (50 + to_and_fro(1, 24), 90 + to_and_fro(2, 40)),
    }[motion]


def faces_of(prepared: Sequence[PreparedPhoto]) -> list[Face | None]:
    return [next(iter(each.faces or ()), None) for each in prepared]


def jitter(landmarks: NDArray[np.float64]) -> float:
    """Root mean square distance of landmarks from their mean over time, in pixels."""
    return float(np.sqrt(((landmarks - landmarks.mean(axis=0)) ** 2).sum(axis=2).mean()))


def steps(landmarks: NDArray[np.float64]) -> float:
    """The same of the change from one picture to the next."""
    return float(np.sqrt((np.diff(landmarks, axis=0) ** 2).sum(axis=2).mean()))


def flicker(heads: NDArray[np.uint8]) -> float:
    """Variance over time, in squared levels, mean over pixels."""
    return float(heads.astype(float).var(axis=0).mean())


def face_bundle(folder: Path, detector: str) -> Bundle:
    """``tiny`` as a model of faces, with a detector."""
    shutil.copytree(Bundle.open("tiny").path, folder)
    prepared = prepare_detector(detector, 17)
    (folder / "detector.onnx").write_bytes(prepared.graph)
    (folder / "detector.LICENSE").write_bytes(b"see the detector's own")
    files = [
        File(name, hashlib.sha256(data).hexdigest(), len(data))
        for name in ("detector.onnx", "detector.LICENSE")
        for data in [(folder / name).read_bytes()]
    ]
    manifest = json.loads((folder / "bundle.json").read_text("utf-8"))
    manifest["model"] |= {"task": "bfr", "faces": True}
    manifest["detector"] = to_builtins(prepared.entry(*files))
    (folder / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    return Bundle.open(folder)


def measured(restorer: PhotoRestorer, film: Film) -> Iterator[tuple[float, float, float, int]]:
    """Jitter, its steps, flicker, and pictures without a face: alone, then followed."""
    for frames in (PhotographFrames(restorer, "all"), TrackedFrames(restorer)):
        faces = faces_of(list(frames._prepared(iter(film.pictures))))
        landmarks = film.landmarks(faces)
        restored = list(frames.map(iter(film.pictures)))
        yield jitter(landmarks), steps(landmarks), flicker(film.heads(restored)), faces.count(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--yunet", required=True)
    parser.add_argument("--centerface", required=True)
    arguments = parser.parse_args()
    rows = []
    for name in ("yunet", "centerface"):
        with tempfile.TemporaryDirectory() as folder:
            bundle = face_bundle(Path(folder) / "b", getattr(arguments, name))
            with PhotoRestorer(bundle, backend="openvino", precision="fp32") as restorer:
                for motion in ("steady", "nodding"):
                    for noise in ("still", "new"):
                        film = Film(motion, noise)
                        alone, followed = measured(restorer, film)
                        cells = [
                            f"{was:.2f} → {now:.2f}"
                            for was, now in list(zip(alone, followed, strict=True))[:3]
                        ]
                        missed = f"{alone[3]} → {followed[3]}"
                        own = f"{flicker(film.heads(film.pictures)):.1f}"
                        rows.append((f"{name}, {motion}, {noise} noise", *cells, own, missed))
                        print(rows[-1], flush=True)
    header = (
        "detector, motion, noise",
        "jitter, px",
        "its steps, px",
        "variance",
        "of the film",
        "missed",
    )
    notes = NOTES.format(length=LENGTH, width=SIZE[1], height=SIZE[0])
    text = f"# Faces in films\n\n{notes}\n\n{pipes(header, rows)}\n\n{environment()}\n"
    write_text(arguments.output, text)


if __name__ == "__main__":
    main()
