r"""What the service and workers on Ray cost beside ``Restorer.map``, on the same pictures.

    elir-export random --task bsr --precision fp32 --batch 4 -o bsr4
    python benchmarks/serving.py docs/results/serving.md --bundle bsr4 --count 24 \
        --worker-bundle bsr4

Everything is measured in turns, so that what else the machine does meets all alike; the service and
the workers are started before.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rewrites import environment

from elir_deploy.batch.cluster import Cluster, open_cluster
from elir_deploy.batch.places import plan_batch
from elir_deploy.batch.worker import WorkerOptions
from elir_deploy.output_files import write_text
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.runtime.jobs import Naming
from elir_deploy.text import pipes

BACKEND = ("onnxruntime", "fp32")
Pixels = NDArray[np.uint8]


def pictures(count: int, side: int) -> list[Pixels]:
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (count, side // 8, side // 8, 3), np.uint8)
    return [np.asarray(Image.fromarray(each).resize((side, side))) for each in small]


def png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def service(bundle: str) -> Iterator[str]:
    """A running service; gives its address."""
    backend, precision = BACKEND
    command = [sys.executable, "-m", "elir_deploy.cli.serve", bundle, "--port", "0"]
    command += ["--queue", "64", "--backend", backend, "--precision", precision]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def in_turns(runs: Sequence[Callable[[], None]], rounds: int) -> list[list[float]]:
    """Seconds of each run, in each round."""
    seconds: list[list[float]] = []
    for number in range(rounds + 1):
        times = []
        for run in runs:
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        if number:  # the first one warms up
            seconds.append(times)
            print(" ".join(f"{each:.2f}" for each in times), flush=True)
    return seconds


def ratio(seconds: Sequence[Sequence[float]], of: int, to: int) -> str:
    """Median of ``seconds[to] / seconds[of]`` by rounds: the speed of one over the other's."""
    ratios = sorted(each[to] / each[of] for each in seconds)
    low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
    return f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})"


def of_service(bundle: str, clients: int, count: int, rounds: int) -> tuple[str, str]:
    """Speed of the service over that of ``map``."""
    backend, precision = BACKEND
    with (
        service(bundle) as url,
        Restorer(bundle, backend, precision=precision) as restorer,
        httpx.Client(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None)) as http,
        ThreadPoolExecutor(clients) as threads,
    ):
        height, width = restorer.bundle.manifest.input_size
        images = pictures(count, max(height, width))
        bodies = [png(image) for image in images]

        def post(body: bytes) -> bytes:
            answer = http.post("/restore?format=png", content=body)
            answer.raise_for_status()
            return answer.content

        def by_map() -> None:
            for _ in restorer.map(images):
                pass

        def by_service() -> None:
            for _ in threads.map(post, bodies):
                pass

        seconds = in_turns([by_map, by_service], rounds)
        batches = [
            line.split()[1]
            for line in http.get("/metrics").text.splitlines()
            if line.startswith(("elir_batch_size_sum", "elir_batch_size_count"))
        ]
    mean = float(max(batches, key=float)) / float(min(batches, key=float))
    return ratio(seconds, 1, 0), f"{mean:.1f}"


def of_workers(bundle: str, side: int, count: int, rounds: int) -> tuple[str, float]:
    """Speed of two workers of one thread over that of one, and that one's seconds a picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for number, image in enumerate(pictures(count, side)):
            Image.fromarray(image).save(folder / "in" / f"{number:04}.png")
        backend, precision = BACKEND
        running = {"backend": backend, "precision": precision, "threads": 1}
        options = WorkerOptions(bundle, options=running)
        with open_cluster(options, None, 2) as both:

            def restore(workers: list[Any], out: str) -> Callable[[], None]:
                cluster = Cluster(both.ray, both.start, workers)

                def run() -> None:
                    plan = plan_batch(
                        *(str(folder / "in"), str(folder / out), Naming("png")),
                        existing="overwrite",
                    )
                    cluster.restore(plan.jobs, lambda result: None)

                return run

            runs = [restore(both.workers[:1], "one"), restore(both.workers, "two")]
            seconds = in_turns(runs, rounds)
            return ratio(seconds, 1, 0), statistics.median(each[0] for each in seconds) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--bundle", required=True, help="with batches, for the service")
    parser.add_argument("--worker-bundle", default="tiny", help="for the workers on Ray")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--count", type=int, default=16)
    # Two workers get full chunks of 16 pictures from 128 on.
    parser.add_argument("--worker-count", type=int, default=128, help="pictures for the workers")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    speed, batch = of_service(options.bundle, options.clients, options.count, options.rounds)
    bundle, count = options.worker_bundle, options.worker_count
    side = max(Bundle.open(bundle).manifest.input_size)
    workers, each_s = of_workers(bundle, side, count, options.rounds)
    name = os.path.basename(os.path.normpath(bundle))
    rows = [
        ("images a second of the service, over Restorer.map", speed),
        ("images in a run of the service, mean", batch),
        (
            f"images a second of two workers of one thread on Ray, over one: {name}, pictures of "
            f"{side}x{side}, {each_s:.2g} s each in one worker",
            workers,
        ),
    ]
    title = "# The service and workers on Ray beside `Restorer.map`"
    text = (
        f"{title}\n\n{environment()}\n\n{options.count} pictures for the service from "
        f"{options.clients} clients, {count} for the workers, PNG in and out; "
        f"{' '.join(BACKEND)}; {options.rounds} rounds in turns, medians and quartiles. "
        f"Bundle of the service: {os.path.basename(os.path.normpath(options.bundle))}. `map` gets "
        "and gives arrays: it neither decodes nor encodes. A worker alone has the other cores for "
        "what it and Ray's own processes do beside the model: reading, writing, passing jobs and "
        "results. Two workers on two cores have to share them with that, which weighs the less the "
        "longer the model takes for a picture.\n\n"
        f"{pipes(['', 'ratio'], rows)}\n"
    )
    write_text(options.output, text)


if __name__ == "__main__":
    main()
