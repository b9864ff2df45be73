"""A measurement written down: plain JSON values first, tables made from those.

The JSON holds every sample. Latencies in it are seconds; a name ends in its unit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench import stability
from elir_deploy.bench.clocks import clock_resolution_ns
from elir_deploy.bench.cold import ColdStart
from elir_deploy.bench.protocols import BenchProtocol, Measurement, Samples, Warmup
from elir_deploy.bench.runners import Fidelity, Preparation, Runner, Unavailable
from elir_deploy.bench.soak import Soak, Trend, lasting_step
from elir_deploy.bench.statistics import (
    STEADY_VARIATION,
    Summary,
    paired_speedup,
    student_95,
)
from elir_deploy.bench.throughput import Load
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.bundle import file_sha256
from elir_deploy.runtime.manifest_file import MANIFEST_NAME
from elir_deploy.tasks import TASKS

__all__ = [
    "BUSY_CORES",
    "SCHEMA_VERSION",
    "Conditions",
    "Picture",
    "Results",
    "build_report",
    "to_json",
]

#: 2 came with protocols beside the paper's, the yardstick, sensors and stages.
SCHEMA_VERSION = 2
#: What the paper's figures were measured on (FPS of Tables 1, 2 and 9).
PAPER_DEVICE = "NVIDIA RTX 2080 Ti, PyTorch float32"
#: Cores busy with something else, on average, above which a measurement is doubtful.
BUSY_CORES = 0.1
#: Shorter stretches are not resolved by meters of energy.
_METERED_S = 1.0
#: How long a soak takes at least to be warned of.
_SOAKED_S = 300.0
#: Growth that a soak warns of, an hour and within the run: less is allocators settling.
_LEAK_BYTES_PER_HOUR, _LEAK_BYTES = 4 * 2**20, 2**20
_STEADIER = (
    "close other programs, fix the clock rate (cpupower frequency-set -g performance), "
    "cool the device, and measure again"
)


@dataclass
class Conditions:
    """What a run was made under.

    Attributes:
        seed: of the images.
        threads: CPU threads of every runner.
        device: of :func:`elir_deploy.bench.device.describe_device`.
        cores_elsewhere: of :meth:`elir_deploy.bench.device.CpuMeter.cores_elsewhere`.
        sensors: ``before``, ``after`` and ``during`` the run, as plain JSON values.
        held_back: sentences on what throttled the machine.
        unreadable: what of that could not be seen.
        yardstick: what it is; None: none was measured.
        energy: where the joules come from; None: nowhere.
        energy_scope: what they are of.
        energy_problems: why they are not to be believed.
        energy_missing: whose energy was not to be had, and why.
    """

    seed: int
    threads: int | None
    device: Mapping[str, Any]
    cores_elsewhere: dict[str, float] | None = None
    sensors: dict[str, Any] | None = None
    held_back: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    yardstick: dict[str, Any] | None = None
    energy: str | None = None
    energy_scope: str | None = None
    energy_problems: list[str] = field(default_factory=list)
    energy_missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Picture:
    """An image before and after; all arrays are (H, W, 3) uint8 RGB.

    Attributes:
        name: of the image.
        before: what the model is given.
        after: the restored image by the label of the runner that made it.
    """

    name: str
    before: NDArray[np.uint8]
    after: Mapping[str, NDArray[np.uint8]]


@dataclass
class Results:
    """What was measured; a protocol fills its part.

    Attributes:
        protocol: that was followed.
        runners: in the order of the rows; the first measured is what others are compared with.
        complete: whether the run went to its end.
        fidelities: by label.
        unavailable: asked for, but not measured.
        measurement: of runners in turns.
        colds: first starts, by label.
        loads: of the throughput protocol.
        steps: rows of the steps protocol, as in the report.
        soaks: of the soak protocol.
        pictures: for a report that shows them.
    """

    protocol: BenchProtocol
    runners: Sequence[Runner]
    complete: bool = False
    fidelities: dict[str, Fidelity] = field(default_factory=dict)
    unavailable: list[Unavailable] = field(default_factory=list)
    measurement: Measurement | None = None
    colds: dict[str, ColdStart] = field(default_factory=dict)
    loads: Sequence[Load] = ()
    steps: list[dict[str, Any]] = field(default_factory=list)
    soaks: list[Soak] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


def build_report(results: Results, bundle: Bundle, conditions: Conditions) -> dict[str, Any]:
    """Everything known about a run, as plain JSON values."""
    measurement = results.measurement
    failures = measurement.failures if measurement else {}
    samples = measurement.samples if measurement else {}
    warmups = measurement.warmups if measurement else {}
    shown = [c for c in results.runners if c.label not in failures]
    rows = [_row(c, samples.get(c.label, Samples()), results, warmups.get(c.label)) for c in shown]
    if samples:
        reference = shown[0].label
        for row in rows:
            row["speedup"] = _speedup(
                reference, samples[reference], samples[row["label"]], results.protocol.block
            )
    failed = [Unavailable(label, why) for label, why in failures.items()]
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "elir-bench",
        "complete": results.complete,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "protocol": _protocol(results.protocol, conditions.seed),
        "threads": conditions.threads,
        "model": _model(bundle),
        "paper": _paper(bundle),
        "device": {
            **conditions.device,
            "cores_busy_elsewhere": conditions.cores_elsewhere,
            "sensors": conditions.sensors,
            "held_back": conditions.held_back,
            "unreadable": conditions.unreadable,
        },
        "yardstick": conditions.yardstick,
        "energy": {
            "source": conditions.energy,
            "scope": conditions.energy_scope,
            "problems": conditions.energy_problems,
            "missing": conditions.energy_missing,
        },
        "runners": rows,
        "stages": [stages for row in shown if (stages := _stages(row, samples))] or None,
        "throughput": [_load(load, results.fidelities) for load in results.loads] or None,
        "steps": results.steps or None,
        "soak": [_soak(soak) for soak in results.soaks] or None,
        "unavailable": [asdict(item) for item in [*results.unavailable, *failed]],
    }
    report["warnings"] = _warnings(report)
    return report


def to_json(report: dict[str, Any]) -> str:
    """Strict JSON: no NaN, no infinity."""
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


# Rows -----------------------------------------------------------------------------------------


def _protocol(protocol: BenchProtocol, seed: int) -> dict[str, Any]:
    values = asdict(protocol)
    if protocol.images is not None:  # these end a run that has no number of images
        values |= {"seconds": None, "at_most_s": None, "tolerance": None}
    if not values.pop("in_turns"):
        values |= {"at_most_s": None, "tolerance": None, "block": None}
    return {
        **values,
        "batch": None if protocol.name == "throughput" else 1,
        "seed": seed,
        "clock_resolution_ns": clock_resolution_ns(),
    }


def _row(
    runner: Runner, samples: Samples, results: Results, warmup: Warmup | None
) -> dict[str, Any]:
    image = _seconds(samples.image_ns)
    device = _seconds([ns for ns in samples.device_ns if ns is not None])
    if len(device) != len(image):
        device = []
    cold = results.colds.get(runner.label)
    tolerance = results.protocol.tolerance
    known = stability.half_width(image) if image else math.inf
    return {
        "label": runner.label,
        "backend": runner.backend,
        "precision": runner.precision,
        "library": runner.version,
        "weights": runner.weights,
        "on_cpu": runner.on_cpu,
        "preparation": _preparation(runner.preparation),
        "artifacts": list(runner.artifacts),
        "arithmetic": runner.arithmetic,
        "fidelity": _fidelity(results.fidelities.get(runner.label)),
        "fps": _rounded(Summary.of(image).fps) if image else None,
        "image": _series(image),
        "device": _series(device),
        "started_s": _seconds(samples.started_ns),
        "yardstick_s": _known(samples.yardstick_ns) if runner.on_cpu else None,
        "half_width": _rounded(known) if math.isfinite(known) else None,
        "stable": None if results.protocol.images or not image else known <= tolerance,
        "warmup": asdict(warmup) if warmup else None,
        "behaviour": _behaviour(image, _seconds(samples.started_ns)),
        "cold": _cold(cold),
        "energy": _energy(samples),
        "speedup": None,
    }


def _preparation(found: Preparation | None) -> dict[str, Any] | None:
    return None if found is None else {"what": found.what, "seconds": _rounded(found.seconds)}


def _known(yardstick_ns: Sequence[int | None]) -> list[float] | None:
    known = [ns / 1e9 for ns in yardstick_ns if ns is not None]
    return known if known and len(known) == len(yardstick_ns) else None


def _cold(cold: ColdStart | None) -> dict[str, Any] | None:
    if cold is None:
        return None
    times = ("import_s", "load_s", "first_result_s")
    return {**asdict(cold), **{name: _rounded(getattr(cold, name)) for name in times}}


def _energy(samples: Samples) -> dict[str, Any] | None:
    pairs = zip(samples.joules, samples.image_ns, strict=True)
    known = [(joules, ns) for joules, ns in pairs if joules is not None]
    if not known:
        return None
    joules, seconds = sum(joules for joules, _ in known), sum(ns for _, ns in known) / 1e9
    return {
        "joules_per_image": _rounded(joules / len(known)),
        "watts": _rounded(joules / seconds) if seconds else None,
    }


def _behaviour(samples: list[float], started: list[float]) -> dict[str, Any]:
    """Whether the series stays where it is: drift, a step, two speeds."""
    drift = stability.drift(samples, started)
    step = stability.level_shift(samples)
    modes = stability.two_speeds(samples)
    return {
        "drift": None
        if drift is None
        else {name: _rounded(value) for name, value in asdict(drift).items()},
        "step": None if step is None else {"at": step.at, "ratio": _rounded(step.ratio)},
        "two_speeds": None
        if modes is None
        else {
            "fast_s": _rounded(modes.fast),
            "slow_s": _rounded(modes.slow),
            "fast_share": _rounded(modes.share),
        },
    }


def _stages(runner: Runner, samples: Mapping[str, Samples]) -> dict[str, Any] | None:
    """Where the time of an image goes, in the order it is spent; the runtime's own at the end."""
    series = samples.get(runner.label)
    if series is None or not runner.part_names or not series.image_ns:
        return None
    image = np.array(series.image_ns, dtype=np.float64)
    parts = np.array(series.parts_ns, dtype=np.float64)
    outside = image - parts.sum(axis=1)
    columns = [*parts.T, outside]
    names = [*runner.part_names, "runtime"]
    return {
        "label": runner.label,
        "parts": [
            {"name": name, "mean_s": _rounded(float(part.mean()) / 1e9), **_share(part, image)}
            for name, part in zip(names, columns, strict=True)
        ],
    }


def _share(part: np.ndarray[Any, Any], image: np.ndarray[Any, Any]) -> dict[str, float | None]:
    """Of the whole time, with the 95 % interval from eight stretches of time."""
    share = float(part.sum() / image.sum())
    batches = 8
    if image.size < 2 * batches:
        return {"share": _rounded(share), "low": None, "high": None}
    cuts = np.array_split(np.arange(image.size), batches)
    found = [float(part[cut].sum() / image[cut].sum()) for cut in cuts]
    reach = student_95(batches - 1) * float(np.std(found, ddof=1)) / math.sqrt(batches)
    return {
        "share": _rounded(share),
        "low": _rounded(max(0.0, share - reach)),
        "high": _rounded(min(1.0, share + reach)),
    }


def _load(load: Load, fidelities: Mapping[str, Fidelity]) -> dict[str, Any]:
    summary = Summary.of(load.latencies_s) if load.latencies_s else None
    times = {
        f"{name}_s": None if summary is None else _rounded(getattr(summary, name))
        for name in ("std", "p50", "p90", "p95", "p99")
    }
    return {
        "label": load.label,
        "way": load.way,
        "concurrency": load.concurrency,
        "fps": _rounded(load.mean_fps),
        "fps_by_pass": [_rounded(fps) for fps in load.fps],
        "seconds": _rounded(load.seconds),
        "images": load.images,
        "fidelity": _fidelity(load.fidelity or fidelities.get(load.label)),
        **times,
        "samples_s": list(load.latencies_s),
    }


def _soak(soak: Soak) -> dict[str, Any]:
    slowdown, growth = soak.slowdown(), soak.growth()
    return {
        "label": soak.runner.label,
        "complete": soak.complete,
        "windows": [asdict(window) for window in soak.windows],
        "drift_percent_per_hour": None if slowdown is None else _rounded(100 * slowdown.per_hour),
        "drift_interval": _ends(slowdown, 100),
        "rss_growth_bytes_per_hour": None if growth is None else _rounded(growth.per_hour),
        "rss_growth_interval": _ends(growth, 1),
    }


def _ends(found: Trend | None, factor: float) -> list[float] | None:
    return None if found is None else [_rounded(factor * e) for e in (found.low, found.high)]


def _series(samples: list[float]) -> dict[str, Any] | None:
    if not samples:
        return None
    summary = Summary.of(samples)
    return {
        "count": summary.count,
        "mean_s": _rounded(summary.mean),
        "std_s": _rounded(summary.std),
        "variation": _rounded(summary.variation),
        "min_s": _rounded(summary.minimum),
        "p50_s": _rounded(summary.p50),
        "p90_s": _rounded(summary.p90),
        "p95_s": _rounded(summary.p95),
        "p99_s": _rounded(summary.p99),
        "max_s": _rounded(summary.maximum),
        "samples_s": samples,
    }


def _speedup(
    reference_label: str, reference: Samples, other: Samples, block: int
) -> dict[str, Any] | None:
    if not reference.image_ns:
        return None
    ratio = paired_speedup(_seconds(reference.image_ns), _seconds(other.image_ns), run=block)
    return {
        "over": reference_label,
        "ratio": _rounded(ratio.value),
        "low": None if ratio.low is None else _rounded(ratio.low),
        "high": None if ratio.high is None else _rounded(ratio.high),
        "confidence": 0.95,
        "method": "ratio of means over the same images, Student's interval from the scatter of up "
        "to eight stretches of turns",
    }


def _fidelity(fidelity: Fidelity | None) -> dict[str, Any] | None:
    if fidelity is None:
        return None
    psnr = fidelity.psnr_db
    identical = psnr is not None and math.isinf(psnr)
    return {
        "psnr_db": None if psnr is None or identical else _rounded(psnr),
        "identical": identical,
        "images": fidelity.images,
        "note": fidelity.note,
    }


def _model(bundle: Bundle) -> dict[str, Any]:
    model, source = bundle.manifest.model, bundle.manifest.source
    return {
        "task": model.task,
        "image_size": bundle.manifest.image_size,
        "steps": model.steps,
        "sigma_s": model.sigma_s,
        "upscale": model.upscale,
        "parameters": model.parameters,
        "source": source.name,
        "source_sha256": source.sha256,
        "bundle_sha256": file_sha256(bundle.path / MANIFEST_NAME),
        "random_weights": source.random,
        "stages": [stage.name for stage in bundle.stages],
        "versions": dict(bundle.manifest.versions),
    }


def _paper(bundle: Bundle) -> dict[str, Any] | None:
    """The paper's figure, if the bundle holds the model that it is of."""
    model = bundle.manifest.model
    task = TASKS.get(model.task)
    if task is None or task.paper_fps is None:
        return None
    same = (bundle.manifest.image_size, model.steps) == (task.image_size, task.steps)
    if not same or dict(model.architecture) != task.architecture.to_dict():
        return None
    return {"fps": task.paper_fps, "device": PAPER_DEVICE}


def _warnings(report: dict[str, Any]) -> list[str]:
    """Reasons not to believe the figures, each with what to do."""
    return [
        *_unfinished(report),
        *_unknown(report),
        *_unsteady(report),
        *_moving(report),
        *_disturbed(report),
        *_soaked(report),
    ]


def _unfinished(report: dict[str, Any]) -> list[str]:
    if report["complete"]:
        return []
    done = max((len(row["started_s"]) for row in report["runners"]), default=0)
    wanted = report["protocol"]["images"]
    if report["soak"]:
        seconds = sum(w["seconds"] for soak in report["soak"] for w in soak["windows"])
        return [f"interrupted after {seconds:.0f} s"]
    if report["throughput"]:
        return [f"interrupted after {len(report['throughput'])} loads: the passes are not complete"]
    return [f"interrupted after {done}" + (f" of {wanted} images" if wanted else " images")]


def _unknown(report: dict[str, Any]) -> list[str]:
    protocol = report["protocol"]
    warnings = []
    wide = [
        f"{row['label']} {_percent(row['half_width'])}"
        for row in report["runners"]
        if row["image"] and row["stable"] is False
    ]
    if wide and report["complete"]:
        warnings.append(
            f"after {protocol['at_most_s']:g} s these medians were not known to "
            f"{100 * protocol['tolerance']:g}%: {', '.join(wide)}; {_STEADIER}, or give --at-most "
            "more"
        )
    cold = [
        row["label"]
        for row in report["runners"]
        if row["warmup"] and row["warmup"]["settled"] is False
    ]
    if cold:
        warnings.append(f"had not settled when the warm-up ended: {', '.join(cold)}; {_STEADIER}")
    return warnings


def _unsteady(report: dict[str, Any]) -> list[str]:
    unsteady = [
        f"{row['label']} {row['image']['variation']:.1%}"
        for row in report["runners"]
        if row["image"] and row["image"]["variation"] > STEADY_VARIATION
    ]
    if not unsteady:
        return []
    return [
        f"coefficient of variation above {STEADY_VARIATION:.1%}: {', '.join(unsteady)}; {_STEADIER}"
    ]


def _moving(report: dict[str, Any]) -> list[str]:
    """Steps, else drift; and two speeds, which are no drift."""
    warnings = []
    for row in report["runners"]:
        found, label = row["behaviour"], row["label"]
        drift, step, modes = found["drift"], found["step"], found["two_speeds"]
        if step is not None:
            slower = "slower" if step["ratio"] > 1 else "faster"
            change = max(step["ratio"], 1 / step["ratio"]) - 1
            warnings.append(
                f"{label} was {change:.0%} {slower} from image {step['at']} on: the device "
                "throttled, or something else began or ended; look at clocks and temperatures"
            )
        elif drift is not None and abs(drift["change"]) > STEADY_VARIATION and _shown(drift):
            slower = "slower" if drift["change"] > 0 else "faster"
            warnings.append(
                f"{label} became {abs(drift['change']):.1%} {slower} during the run: let the "
                "device reach its working temperature first"
            )
        if modes is not None and step is None:
            warnings.append(
                f"{label} has two speeds, {modes['fast_s'] * 1e3:.4g} ms in "
                f"{modes['fast_share']:.0%} of the images and {modes['slow_s'] * 1e3:.4g} ms "
                "else: a mean describes neither; cores of two kinds, two clocks, or another "
                "program (pin the threads with taskset, fix the clock)"
            )
    return warnings


def _shown(drift: Mapping[str, float]) -> bool:
    return bool(drift["low"] > 0 or drift["high"] < 0)


def _disturbed(report: dict[str, Any]) -> list[str]:
    warnings = []
    elsewhere = report["device"]["cores_busy_elsewhere"] or {}
    causes = {"other_programs": "other programs", "stolen": "other virtual machines"}
    for name, who in causes.items():
        if elsewhere.get(name, 0) > BUSY_CORES:
            warnings.append(
                f"{who} kept {elsewhere[name]:.2f} cores busy during the run: neither speeds nor "
                "ratios hold, since libraries suffer unequally; measure on an idle machine"
            )
    warnings += [f"during the run {what}" for what in report["device"]["held_back"]]
    warnings += [f"energies do not hold: {what}" for what in report["energy"]["problems"]]
    block = report["protocol"]["block"]
    short = [
        f"{row['label']} {row['image']['mean_s'] * block:.2g} s"
        for row in report["runners"]
        if row["energy"] and row["image"] and row["image"]["mean_s"] * block < _METERED_S
    ]
    if short:
        warnings.append(
            "energies are rough, since meters move in steps and average: a turn should last "
            f"{_METERED_S:g} s, and these were {', '.join(short)}"
        )
    return warnings


def _soaked(report: dict[str, Any]) -> list[str]:
    """Steps, else drift; and memory. What a run did not show itself is not extrapolated."""
    warnings = []
    for soak in report["soak"] or ():
        label, windows = soak["label"], soak["windows"]
        seconds = sum(window["seconds"] for window in windows)
        if seconds < _SOAKED_S:
            continue
        step = lasting_step([window["p50_s"] for window in windows])
        drift = soak["drift_percent_per_hour"]
        change = None if drift is None else drift * seconds / 3600
        if step is not None:
            warnings.append(
                f"{label} was {_change(step.ratio - 1)} from minute "
                f"{windows[step.at]['at_s'] / 60:.1f} on: the device throttled, or something else "
                "began or ended; look at clocks and temperatures"
            )
        elif (
            change is not None
            and abs(change) > 100 * STEADY_VARIATION
            and _beyond_chance(soak["drift_interval"])
        ):
            warnings.append(
                f"{label} became {_change(change / 100)} within {seconds / 60:.0f} min "
                f"({drift:+.1f} % an hour)"
            )
        growth, ends = soak["rss_growth_bytes_per_hour"], soak["rss_growth_interval"]
        if ends and ends[0] > _LEAK_BYTES_PER_HOUR and growth * seconds / 3600 > _LEAK_BYTES:
            warnings.append(
                f"{label}: memory grows by {growth / 2**20:.0f} MiB an hour, and not by chance"
            )
    return warnings


def _change(slower: float) -> str:
    return f"{abs(slower):.1%} {'slower' if slower > 0 else 'faster'}"


def _beyond_chance(ends: Sequence[float] | None) -> bool:
    return ends is not None and (ends[0] > 0 or ends[1] < 0)


def _percent(fraction: float | None) -> str:
    return "unknown" if fraction is None else f"{fraction:.1%}"


def _seconds(nanoseconds: Sequence[int]) -> list[float]:
    return [ns / 1e9 for ns in nanoseconds]


def _rounded(value: float) -> float:
    """Six significant digits: more than any measurement holds."""
    return float(f"{value:.6g}")
