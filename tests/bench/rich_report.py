"""A report with everything that a report can hold, and pictures to go with it."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any

import numpy as np

from elir_deploy.bench.device import describe_device
from elir_deploy.bench.html_report import Picture
from elir_deploy.bench.protocols import BenchProtocol, Measurement
from elir_deploy.bench.report import Conditions, Results, build_report
from elir_deploy.bench.runners import Fidelity, Unavailable
from elir_deploy.runtime import Bundle
from tests.bench.synthetic import FakeClock, SyntheticRunner

#: Shown or run, each would be seen: as a tag, a script, a link in a chart, a template's value.
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
    elsewhere: dict[str, float] | None = None,
) -> dict[str, Any]:
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
            "eager": Fidelity(None, 0, "the reference itself"),
            "fast": Fidelity(math.inf, 2, "x"),
        },
        unavailable=[Unavailable("onnxruntime-cuda", "no driver")],
        measurement=measurement,
    )
    conditions = Conditions(seed=0, threads=2, device=describe_device(), cores_elsewhere=elsewhere)
    return build_report(results, bundle, conditions)


def rich_report(bundle: Bundle, images: int = 30) -> dict[str, Any]:
    """Of three runners that scatter, with every optional part."""
    report = plain_report(bundle, images)
    rows = report["runners"]
    rows.append(copy.deepcopy(rows[1]) | {"label": "small"})
    rows[2]["fidelity"] = {"psnr_db": 41.5, "identical": False, "images": 2, "note": "x"}
    rows[2]["artifacts"] = [
        {"file": "fused.int8.onnx", "precision": "int8", "bytes": 1234, "sha256": "ab" * 32}
    ]
    rng = np.random.default_rng(0)
    for row in rows:
        image = row["image"]
        noise = rng.gamma(2.0, 0.02, images)
        image["samples_s"] = [image["min_s"] * (1 + float(part)) for part in noise]
        for key, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            image[f"{key}_s"] = float(np.quantile(image["samples_s"], share))
        row["yardstick_s"] = rng.normal(0.002, 0.00005, images).tolist()
    rows[2] |= {
        "cold": {
            "import_s": 0.5,
            "load_s": 1.25,
            "first_result_s": 1.75,
            "peak_rss_bytes": 300 * 2**20,
            "device_bytes": None,
        },
        "energy": {"joules_per_image": 2.5, "watts": 12.5},
        "arithmetic": {"f32": 12, "i8": 300},
        "warmup": {"images": 40, "seconds": 3.2, "settled": False},
        "half_width": 0.034,
        "stable": False,
    }
    rows[2]["behaviour"] |= {
        "step": {"at": 20, "ratio": 1.2},
        "two_speeds": {"fast_s": 0.1, "slow_s": 0.2, "fast_share": 0.6},
    }
    report["warnings"] = ["a warning"]
    report["energy"] = {
        "source": "INA3221",
        "scope": "the whole board",
        "problems": [],
        "missing": [],
    }
    report["yardstick"] = {"what": "a sum"}
    labels = [row["label"] for row in rows]
    names = ("encoder", "estimator", "step 1", "step 2", "step 3", "decoder", "runtime")
    shares = (0.1, 0.2, 0.15, 0.15, 0.15, 0.2, 0.05)
    report["stages"] = [
        {
            "label": label,
            "parts": [
                {
                    "name": name,
                    "mean_s": share * 0.1,
                    "share": share,
                    "low": 0.9 * share,
                    "high": 1.1 * share,
                }
                for name, share in zip(names, shares, strict=True)
            ],
        }
        for label in labels
    ]
    report["steps"] = [
        {
            "steps": steps,
            "label": label,
            "fps": 30 / steps,
            "mean_s": steps / 30,
            "psnr_db": 25 + 3 * steps**0.5,
            "psnr_to_full_db": 30.0 + 5 * steps if steps < 4 else None,
        }
        for label in labels[1:]
        for steps in (1, 2, 3, 4)
    ]
    report["throughput"] = [
        {
            "label": labels[1],
            "way": way,
            "concurrency": count,
            "fps": 10 * count / (1 + 0.2 * count) * factor,
            "fps_by_pass": [9.0 * count, 11.0 * count],
            "seconds": 5.0,
            "images": 100 * count,
            "fidelity": {"psnr_db": 40.0, "identical": False, "images": 2, "note": "worst image"},
            "std_s": 0.01,
            "p50_s": 0.1 * count,
            "p90_s": 0.12 * count,
            "p95_s": 0.13 * count,
            "p99_s": 0.15 * count,
            "samples_s": [0.1 * count, 0.15 * count],
        }
        for way, factor in (("callers", 1.0), ("batch", 1.3))
        for count in (1, 2, 4, 8)
    ]
    report["soak"] = [
        {
            "label": label,
            "complete": True,
            "windows": [
                {
                    "at_s": 60.0 * window,
                    "seconds": 60.0,
                    "images": 600,
                    "p50_s": 0.1 + 0.001 * window,
                    "p99_s": 0.12 + 0.001 * window,
                    "max_s": 0.2,
                    "samples_s": [0.1, 0.2],
                    "rss_bytes": 2**28 + window * 2**16,
                    "celsius": 45.0 + 2 * window,
                    "mhz": None,
                }
                for window in range(10)
            ],
            "drift_percent_per_hour": 6.0,
            "drift_interval": [5.5, 6.5],
            "rss_growth_bytes_per_hour": 3.9e6,
            "rss_growth_interval": [3.8e6, 4.0e6],
        }
        for label in labels[1:2]
    ]
    end = rows[0]["started_s"][-1]
    report["device"]["sensors"] = {
        "before": {"mhz": 2100.0},
        "after": {"mhz": 1800.0},
        "during": [
            {
                "at_s": end * index / 19,
                "mhz": 2100.0 - 15 * index,
                "celsius": 50.0 + index,
                "throttled": index > 15,
                "watts": None,
            }
            for index in range(20)
        ],
    }
    return report


def renamed(value: Any, names: dict[str, str]) -> Any:
    """Plain JSON values with other strings in the place of some."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, dict):
        return {key: renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [renamed(inner, names) for inner in value]
    return value


def spread(value: Any, text: str) -> Any:
    """Plain JSON values with ``text`` at the end of every string in them."""
    if isinstance(value, str):
        return value + text
    if isinstance(value, dict):
        return {key: spread(inner, text) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [spread(inner, text) for inner in value]
    return value


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
