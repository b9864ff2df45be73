"""One face in 12 megapixels: the time of every step beside the model's, and the memory.

    elir-export random --task bfr --precision fp32 --detector yunet -o yunet
    elir-export random --task bfr --precision fp32 --detector centerface -o centerface
    python benchmarks/photo.py yunet centerface docs/results/photo.md

Bundles take turns, photograph by photograph, on every backend in float32; a step is compared with
the model's run in the same photograph, so that other load meets both. Random weights are as fast as
trained ones. Memory is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from rewrites import environment

from elir_deploy.output_files import write_text
from elir_deploy.photo import PhotoRestorer
from elir_deploy.photo.steps import PHOTO_STEPS, StepTimes
from elir_deploy.runtime.photos import large_photograph
from elir_deploy.text import pipes

BACKENDS = ("openvino", "onnxruntime")
#: Seconds by step, with the whole.
Times = dict[str, float]


class Measured:
    """A bundle on a backend, and the wall and CPU times of its photographs."""

    def __init__(self, bundle: str, backend: str) -> None:
        self.backend = backend
        self.restore = PhotoRestorer(bundle, backend=backend, precision="fp32", threads=2)
        detector = self.restore.restorer.bundle.manifest.detector
        assert detector is not None
        self.detector = detector.name
        self.wall: list[Times] = []
        self.cpu: list[Times] = []
        self._clocks = StepTimes(), StepTimes(time.process_time_ns)
        self.restore.timer = self._both

    @contextmanager
    def _both(self, step: str) -> Iterator[None]:
        wall, cpu = self._clocks
        with wall(step), cpu(step):
            yield

    def photograph(self, keep: bool = True) -> None:
        starts = time.perf_counter_ns(), time.process_time_ns()
        for clock in self._clocks:
            clock.reset()
        [face] = self.restore(large_photograph()).faces
        assert face.restored
        ends = time.perf_counter_ns(), time.process_time_ns()
        for series, clock, start, end in zip(
            (self.wall, self.cpu), self._clocks, starts, ends, strict=True
        ):
            rest = end - start - sum(clock.ns.values())
            if keep:
                series.append({k: v / 1e9 for k, v in (clock.ns | {"rest": rest}).items()})


def beside(times: Times) -> float:
    """What finding, aligning and putting back takes of the model's time."""
    return sum(v for step, v in times.items() if step != "run") / times["run"]


def speed_table(measured: Sequence[Measured]) -> str:
    steps = (*PHOTO_STEPS, "rest")
    rows = []
    for each in measured:
        medians = [statistics.median(t[step] for t in each.wall) for step in steps]
        shares = [f"{statistics.median(map(beside, s)):.1%}" for s in (each.wall, each.cpu)]
        milliseconds = [f"{1000 * median:.0f}" for median in medians]
        rows.append((f"{each.detector}, {each.backend}", *milliseconds, *shares))
    return pipes(("detector, backend", *steps, "beside run, wall", "CPU"), rows)


# Memory ---------------------------------------------------------------------------------------


def resident(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def measure_memory(bundle: str, backend: str) -> None:
    """Print the bytes that a photograph needs beside itself, its result and the backend.

    A small photograph is restored first, after which the backend has all that it keeps: the
    detector sees both at 1280 x 960.
    """
    picture = large_photograph()
    small = np.asarray(Image.fromarray(picture).resize((1280, 960)))
    with PhotoRestorer(bundle, backend=backend, precision="fp32", threads=2) as restore:
        for _ in range(2):
            assert restore(small).faces
        ctypes.CDLL(None).malloc_trim(0)  # what is free, but not given back, would hide a need
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident("VmRSS")
        photo = restore(picture)
        assert photo.faces[0].restored
        print(json.dumps(resident("VmHWM") - before - photo.pixels.nbytes))


def memory_table(bundles: Sequence[str], names: Sequence[str]) -> str:
    rows = []
    for bundle, name in zip(bundles, names, strict=True):
        for backend in BACKENDS:
            done = subprocess.run(
                [sys.executable, __file__, "--memory", backend, bundle, "-"],
                capture_output=True,
                text=True,
                check=True,
            )
            rows.append((f"{name}, {backend}", f"{json.loads(done.stdout) / 1e6:.0f}"))
    return pipes(("detector, backend", "MB"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("output", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", metavar="BACKEND", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        measure_memory(arguments.bundles[0], arguments.memory)
        return
    measured = []
    for backend in BACKENDS:
        turns = [Measured(bundle, backend) for bundle in arguments.bundles]
        for number in range(arguments.repeats + 1):
            for each in turns if number % 2 else turns[::-1]:
                each.photograph(keep=number > 0)
        for each in turns:
            each.restore.close()
        measured += turns
    names = [each.detector for each in measured[: len(arguments.bundles)]]
    write_text(
        arguments.output,
        _REPORT.format(
            environment=environment(),
            load=os.getloadavg()[0],
            cores=os.cpu_count(),
            repeats=arguments.repeats,
            speed=speed_table(measured),
            memory=memory_table(arguments.bundles, names),
        ),
    )


_REPORT = """\
# Photographs: time and memory

Written by `benchmarks/photo.py`. One face, whose aligned square is 1,500 pixels wide, in a
photograph of 4000x3000; the face model (bfr, 512x512) in float32 with random weights, which are as
fast as trained ones; two threads. Load average at the end: {load:.0f} on {cores} cores.
{environment}

## Time

Milliseconds, medians of {repeats} photographs, and what everything but the model's run takes of
that run's time: the median over the photographs of the ratio in each, so that other load on the
machine meets both.

{speed}

`rest` is mostly the copy of the picture. `elir-bench --protocol photo` measures the same on any
machine.

## Memory

Peak of resident memory beside the photograph, its result (36 MB each) and what the backend keeps.

{memory}
"""

if __name__ == "__main__":
    main()
