"""What a film costs beside its model, and how far the work overlaps.

    elir-export random --task bsr --precision fp32 -o bsr
    python benchmarks/film_speed.py bsr docs/results/film-speed.md

Each turn measures everything once, in one process, so that other load meets all of it: with
``bsr`` the whole film and ``Restorer.map`` alone; with ``tiny``, whose share is smaller, the whole
and each part by itself, decoding, map and encoding. Ratios are medians over turns of ratios within
a turn. On a busy machine the ratio of CPU times is the one that says something: where all work
fills the cores, the wall time's would be the same.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from rewrites import environment

from elir_deploy.output_files import write_text
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.photos import large_photograph
from elir_deploy.text import pipes
from elir_deploy.video import Encoding, Span, WholeFrames, open_film, restore_film
from elir_deploy.video.colours import Colours, FromFilm
from elir_deploy.video.reading import Pictures

Pixels = NDArray[np.uint8]
ENCODING = Encoding("libx264", preset="veryfast")


def make_film(path: Path, width: int, height: int, count: int) -> Path:
    """A photograph that moves, in H.264."""
    photograph = large_photograph()
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", 25, options={"preset": "veryfast"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for number in range(count):
            part = photograph[2 * number :][:height, 3 * number :][:, :width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(part), format="rgb24")
            container.mux(video.encode(frame.reformat(format="yuv420p")))
        container.mux(video.encode(None))
    return path


def pictures_of(path: Path) -> Pictures:
    film = open_film(path)
    return Pictures(film, Span(), FromFilm(Colours.of(film, False), 8))


class Given:
    """A restorer that gives pictures that were restored before."""

    bits = 8
    faces: int | None = None

    def __init__(self, restored: list[Pixels], scale: int) -> None:
        self.scale, self._restored = scale, restored

    def map(self, frames: Iterable[NDArray[Any]]) -> Generator[NDArray[Any], None, None]:
        for _, restored in zip(frames, self._restored, strict=True):
            yield restored


def seconds(work: Callable[[], object]) -> NDArray[np.float64]:
    """Wall time and CPU time of all threads."""
    start = time.perf_counter(), time.process_time()
    work()
    return np.subtract((time.perf_counter(), time.process_time()), start)


def consume(items: Iterable[object]) -> None:
    deque(items, maxlen=0)


#: Wall and CPU seconds of each part, by turn.
Series = list[dict[str, NDArray[np.float64]]]


def measure(bundle: str, film: Path, turns: int, backend: str, parts: bool) -> tuple[str, Series]:
    out = film.with_name("out.mp4")
    with Restorer(bundle, backend) as restorer:
        frames = list(pictures_of(film))
        restored = list(restorer.map(frames))
        scale = restorer.bundle.manifest.model.upscale
        work: dict[str, Callable[[], object]] = {
            "film": lambda: restore_film(open_film(film), out, WholeFrames(restorer), ENCODING),
            "map": lambda: consume(restorer.map(frames)),
        }
        if parts:
            work["decoding"] = lambda: consume(pictures_of(film))
            work["ends"] = lambda: restore_film(
                open_film(film), out, Given(restored, scale), ENCODING
            )
        series: Series = []
        for turn in range(turns):
            names = list(work)[:: 1 if turn % 2 else -1]
            series.append({name: seconds(work[name]) for name in names})
            print(bundle, {k: v.round(2).tolist() for k, v in series[-1].items()}, flush=True)
        return f"{restorer}, {len(frames)} frames", series


def medians(ratios: list[NDArray[np.float64]]) -> tuple[str, str]:
    wall, cpu = np.median(ratios, axis=0)
    return f"{wall:.3f}", f"{cpu:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bsr")
    parser.add_argument("output", type=Path)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--backend", default="openvino")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        small = make_film(Path(folder) / "small.mp4", 64, 64, 12)
        what, series = measure(arguments.bsr, small, arguments.turns, arguments.backend, False)
        ratio = medians([turn["map"] / turn["film"] for turn in series])
        rows.append((f"{what}: map's over the film's", *ratio))
        large = make_film(Path(folder) / "large.mp4", 256, 256, 30)
        what, series = measure("tiny", large, arguments.turns, arguments.backend, True)
        ratio = medians([turn["film"] / (turn["map"] + turn["ends"]) for turn in series])
        rows.append(
            (f"{what}: the film's over the sum of map's and decoding and encoding's", *ratio)
        )
        for name, text in (("map", "map"), ("decoding", "decoding"), ("ends", "both ends")):
            ratio = medians([turn[name] / turn["film"] for turn in series])
            rows.append((f"{what}: {text} over the film's", *ratio))
    table = pipes(("ratio of seconds, median of turns", "wall", "CPU"), rows)
    load = f"Load average at the end: {os.getloadavg()[1]:.0f} on {os.cpu_count()} cores."
    write_text(arguments.output, f"# Speed of films\n\n{table}\n\n{load} {environment()}\n")


if __name__ == "__main__":
    main()
