"""A report with everything that a report can hold, and pictures to go with it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from elir_deploy.bench.cold import ColdStart
from elir_deploy.bench.device import CoresElsewhere
from elir_deploy.bench.html_report import Picture
from elir_deploy.bench.measurement import Measurement, Warmup
from elir_deploy.bench.protocols import BenchProtocol
from elir_deploy.bench.report import Results, build_report
from elir_deploy.bench.report_types import (
    Artifact,
    Energy,
    EulerRow,
    PaperRow,
    RelativeSpeed,
    Report,
    SoakRow,
    StageTime,
)
from elir_deploy.bench.runners import Fidelity, Unavailable
from elir_deploy.bench.soak import Window
from elir_deploy.bench.statistics import Estimate, Series
from elir_deploy.bench.throughput import Load
from elir_deploy.bench.watch import EnergySource
from elir_deploy.runtime import Bundle
from tests.bench.reports import conditions
from tests.bench.synthetic import FakeClock, SyntheticRunner

#: Shown or run, each would be seen: as a tag, a script, a link, a template's value.
HOSTILE = (
    "</script><script>document.title = 'pwned'</script>",
    "<!--<script>",
    "<img src=x onerror=\"document.title = 'pwned'\">",
    '"><svg onload="document.title = \'pwned\'">',
    "<a href='https://example.org'>link</a><b>bold</b> &lt;i&gt;",
    "{{ 7 * 7 }} {% raw %} %{fullData.name} ${1}",
    "turned \u202e around\x1b[31m\nsecond line \ud800",
)


def plain_report(
    bundle: Bundle,
    images: int = 20,
    *,
    stop_after: int | None = None,
    elsewhere: CoresElsewhere | None = None,
) -> Report:
    """Of two runners that never change, interrupted after so many images of the second."""
    clock = FakeClock()

    class Stopping(SyntheticRunner):
        def restore(self, image):
            if stop_after is not None and len(self.images) >= stop_after:
                raise KeyboardInterrupt
            return super().restore(image)

    runners = [SyntheticRunner("eager", clock, 0.4), Stopping("fast", clock, 0.1)]
    protocol = BenchProtocol("paper", "", 0, images)
    measurement = Measurement(runners, protocol, (8, 8, 3), clock=clock)
    with contextlib.suppress(KeyboardInterrupt):
        measurement.run()
    results = Results(
        protocol,
        runners,
        complete=measurement.complete,
        fidelities={
            "eager": Fidelity.unknown("the reference itself"),
            "fast": Fidelity.of(math.inf, 2, "x"),
        },
        unavailable=[Unavailable("onnxruntime-cuda", "no driver")],
        measurement=measurement,
    )
    return build_report(results, bundle, conditions(cores_busy_elsewhere=elsewhere))


def rich_report(bundle: Bundle, images: int = 30, runners: int = 7) -> Report:
    """Of runners that scatter, with every optional part."""
    report = plain_report(bundle, images)
    rng = np.random.default_rng(0)
    names = ("eager", "fast", "small", "a fp32", "b fp16", "c with a rather long name int8", "d")
    rows = []
    for number, label in enumerate(names[:runners]):
        noise = rng.gamma(2.0, 0.02, images)
        row = replace(
            report.runners[min(number, 1)],
            label=label,
            image=Series.of(
                ((0.4, 0.1, 0.08, 0.2, 0.13, 0.11, 0.3)[number] * (1 + noise)).tolist()
            ),
            half_width=0.034,
        )
        rows.append(row)
    rows[2] = replace(
        rows[2],
        fidelity=Fidelity(41.5, False, 2, "x"),
        artifacts=[Artifact("fused.int8.onnx", "int8", 1234, "ab" * 32)],
        cold=ColdStart(0.5, 1.25, 1.75, 300 * 2**20, None),
        energy=Energy(2.5, 12.5),
        arithmetic={"f32": 12, "i8": 300},
        warmup=Warmup(40, 3.2, False),
        stable=False,
    )
    names = ("encoder", "estimator", "step 1", "step 2", "step 3", "decoder", "runtime")
    shares = (0.1, 0.2, 0.15, 0.15, 0.15, 0.2, 0.05)
    times = [
        StageTime(name, 0.1 * share, Estimate(share, 0.9 * share, 1.1 * share))
        for name, share in zip(names, shares, strict=True)
    ]
    calls = np.array([0.1, 0.15])
    return replace(
        report,
        runners=[replace(row, stages=times) for row in rows],
        warnings=["the first warning", "another warning"],
        paper_table=[
            PaperRow("ELIR", None, "eager", None, 19_061_000, 18e6, 52.2, 1.0, []),
            PaperRow(
                *("Fast", "free", "fast", None, 9_000_000, 9e6, 26.1, 2.0),
                [RelativeSpeed("eager", Estimate(0.25, 0.24, 0.26))],
            ),
            PaperRow("Absent", None, None, "nobody has it", None, 2e9, 0.07, 746.0, []),
        ],
        energy=EnergySource("INA3221", "the whole board", (), ()),
        steps=[
            EulerRow(row.label, steps, *(Fidelity.of(db + steps, 2, "x") for db in (25.0, 30.0)))
            for row in rows[1:3]
            for steps in (1, 2, 3, 4)
        ],
        throughput=[
            Load(
                label=row.label,
                way=way,
                concurrency=count,
                fps=(10 + number) * count / (1 + 0.2 * count) * factor,
                fps_by_pass=(9.0 * count, 11.0 * count),
                seconds=5.0,
                images=100 * count,
                fidelity=Fidelity(40.0, False, 2, "worst image"),
                calls=Series.of((calls * count).tolist()),
            )
            for number, row in enumerate(rows[1:4])
            for way, factor in (("callers", 1.0), ("batch", 1.3))
            for count in (1, 2, 4, 8)
        ],
        soak=[
            SoakRow(
                row.label,
                True,
                [
                    Window(
                        at_s=60.0 * k,
                        seconds=60.0,
                        images=600,
                        p50_s=0.1 + 0.001 * k * number,
                        p99_s=0.12 + 0.001 * k * number,
                        samples_s=(0.1, 0.2),
                        rss_bytes=2**28 + k * number * 2**16,
                        celsius=45.0 + 2 * k,
                        mhz=None,
                    )
                    for k in range(10)
                ],
                Estimate(6.0, 5.5, 6.5),
                Estimate(3.9e6, 3.8e6, 4.0e6),
            )
            for number, row in enumerate(rows[1:3])
        ],
    )


def without(report: Report, part: str) -> Report:
    """A report without one of its optional parts."""
    if part == "stages":
        return replace(report, runners=[replace(row, stages=[]) for row in report.runners])
    return replace(report, **{part: []})


def with_text(value: Any, change: Callable[[str], str]) -> Any:
    """A report, or a part of one, with every string changed; nothing is checked."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
        return type(value)(**{n: with_text(getattr(value, n), change) for n in names})
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return type(value)(**{n: with_text(getattr(value, n), change) for n in names})
    if isinstance(value, dict):
        return {key: with_text(inner, change) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(with_text(inner, change) for inner in value)
    return value


def spread(report: Report, text: str) -> Report:
    """A report with ``text`` at the end of every string."""
    return with_text(report, lambda old: old + text)


def renamed(report: Report, names: dict[str, str]) -> Report:
    """A report with other strings in the place of some."""
    return with_text(report, lambda old: names.get(old, old))


def plain_pictures() -> list[Picture]:
    """Two pictures of one colour each before and after, so that a pixel says which it is."""

    def filled(*colour: int, side: int = 32) -> np.ndarray:
        return np.full((side, side, 3), colour, np.uint8)

    return [
        Picture(
            "first.png",
            filled(200, 0, 0),
            {
                "float32 PyTorch (reference)": filled(0, 200, 0),
                "fast": filled(0, 0, 200),
            },
        ),
        Picture(
            "second.png",
            filled(90, 90, 0, side=16),
            {"small": filled(9, 9, 9), "fast": filled(0, 90, 90)},
        ),
    ]
