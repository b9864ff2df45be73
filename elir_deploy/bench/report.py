"""From what was measured to a report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

import msgspec
import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench import report_types as types
from elir_deploy.bench import stability
from elir_deploy.bench.cold import ColdStart
from elir_deploy.bench.measurement import Measurement, Samples, Warmup
from elir_deploy.bench.peers import Comparison
from elir_deploy.bench.protocols import BenchProtocol
from elir_deploy.bench.report_types import SCHEMA_VERSION, Conditions, Report
from elir_deploy.bench.report_warnings import build_warnings
from elir_deploy.bench.runners import Fidelity, Runner, Unavailable
from elir_deploy.bench.soak import Soak
from elir_deploy.bench.statistics import Estimate, Series, paired_speedup, rounded, student_95
from elir_deploy.bench.throughput import Load
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.bundle import file_sha256
from elir_deploy.runtime.manifest_file import MANIFEST_NAME
from elir_deploy.tasks import TASKS

__all__ = ["Picture", "Results", "build_report"]

#: Stretches of time that the interval of a stage's share comes from.
_BATCHES = 8


@dataclass(frozen=True)
class Picture:
    """An image before and after; all arrays are (H, W, 3) uint8 RGB.

    Attributes:
        before: the input of the model.
        after: restored images by the label of their runner.
    """

    name: str
    before: NDArray[np.uint8]
    after: Mapping[str, NDArray[np.uint8]]


@dataclass
class Results:
    """What was measured; a protocol fills its part.

    Attributes:
        runners: in the order of the rows; the first measured is what others are compared with.
        fidelities: by label, as ``colds``, the first starts.
        measurement: of runners in turns.
        pictures: for a report that shows them.
        rivals: the paper's model and those that it compares with, measured or not.
    """

    protocol: BenchProtocol
    runners: Sequence[Runner]
    complete: bool = False
    fidelities: dict[str, Fidelity] = field(default_factory=dict)
    unavailable: list[Unavailable] = field(default_factory=list)
    measurement: Measurement | None = None
    colds: dict[str, ColdStart] = field(default_factory=dict)
    loads: Sequence[Load] = ()
    steps: list[types.EulerRow] = field(default_factory=list)
    soaks: list[Soak] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    rivals: Sequence[Comparison] = ()


def build_report(results: Results, bundle: Bundle, conditions: Conditions) -> Report:
    """The report of a run."""
    measurement = results.measurement
    failures = measurement.failures if measurement else {}
    samples = measurement.samples if measurement else {}
    warmups = measurement.warmups if measurement else {}
    runners = [runner for runner in results.runners if runner.label not in failures]
    first = _seconds(samples[runners[0].label].image_ns) if samples else []
    report = Report(
        schema_version=SCHEMA_VERSION,
        kind="elir-bench",
        complete=results.complete,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        protocol=_protocol(results.protocol),
        bundle=_bundle(bundle),
        paper_fps=None if results.protocol.on_photograph else _paper_fps(bundle),
        **msgspec.structs.asdict(conditions),
        runners=[
            _runner(
                runner,
                samples.get(runner.label, Samples()),
                results,
                warmups.get(runner.label),
                None if runner is runners[0] else first,
            )
            for runner in runners
        ],
        throughput=[
            rounded(replace(load, fidelity=load.fidelity or results.fidelities.get(load.label)))
            for load in results.loads
        ],
        steps=results.steps,
        soak=[
            rounded(msgspec.convert(soak, types.SoakRow, from_attributes=True))
            for soak in results.soaks
        ],
        paper_table=_paper_table(results, bundle),
        unavailable=[*results.unavailable, *(Unavailable(*pair) for pair in failures.items())],
        warnings=[],
    )
    return msgspec.structs.replace(report, warnings=build_warnings(report))


# Rows -----------------------------------------------------------------------------------------


def _protocol(protocol: BenchProtocol) -> types.ProtocolEntry:
    values = dataclasses.asdict(protocol)
    if protocol.images is not None:  # these end a run that has no number of images
        values |= {"seconds": None, "at_most_s": None, "tolerance": None}
    if not protocol.in_turns:
        values |= {"at_most_s": None, "tolerance": None, "block": None}
    return types.ProtocolEntry(**values)


def _runner(
    runner: Runner,
    samples: Samples,
    results: Results,
    warmup: Warmup | None,
    reference: Sequence[float] | None,
) -> types.RunnerRow:
    """A row; ``reference`` has the first runner's latencies in seconds."""
    image, started = _seconds(samples.image_ns), _seconds(samples.started_ns)
    device = _known(samples.device_ns)
    speedup = paired_speedup(reference, image, run=results.protocol.block) if reference else None
    known = stability.half_width(image) if image else math.inf
    judged = image and not results.protocol.images
    return types.RunnerRow(
        label=runner.label,
        backend=runner.backend,
        precision=runner.precision,
        library=runner.version,
        weights=runner.weights,
        on_cpu=runner.on_cpu,
        preparation=rounded(runner.preparation),
        artifacts=msgspec.convert(runner.artifacts, list[types.Artifact], from_attributes=True),
        arithmetic=runner.arithmetic,
        fidelity=rounded(results.fidelities.get(runner.label)),
        image=Series.of(image),
        device=Series.of(device or []),
        stages=_stages(runner.stage_names, samples),
        started_s=started,
        yardstick_s=_known(samples.yardstick_ns) if runner.on_cpu else None,
        half_width=rounded(known) if math.isfinite(known) else None,
        stable=known <= results.protocol.tolerance if judged else None,
        warmup=warmup,
        drift=rounded(stability.drift(image, started)),
        level_shift=rounded(stability.level_shift(image)),
        two_speeds=rounded(stability.two_speeds(image)),
        cold=rounded(results.colds.get(runner.label)),
        energy=_energy(samples),
        speedup=rounded(speedup),
    )


def _paper_table(results: Results, bundle: Bundle) -> list[types.PaperRow]:
    """Empty where nobody asked for it."""
    measurement, ours = results.measurement, _paper_fps(bundle)
    samples = measurement.samples if measurement else {}
    failures = measurement.failures if measurement else {}
    series = {label: _seconds(each.image_ns) for label, each in samples.items() if each.image_ns}
    theirs = {compared.label for compared in results.rivals if compared.rival.network}
    rows = []
    for compared in results.rivals:
        rival, label = compared.rival, compared.label or ""
        speeds = {
            other: paired_speedup(series[label], times, run=results.protocol.block)
            for other, times in series.items()
            if label in series and other not in theirs and other != label
        }
        rows.append(
            types.PaperRow(
                name=rival.name,
                licence=rival.licence,
                label=label if label in series else None,
                reason=compared.reason or failures.get(label),
                parameters=compared.parameters,
                paper_parameters=rival.parameters,
                paper_fps=rival.fps,
                paper_ratio=rounded(ours / rival.fps) if ours else None,
                speeds=[types.RelativeSpeed(*pair) for pair in rounded(tuple(speeds.items()))],
            )
        )
    return rows


def _known(nanoseconds: Sequence[int | None]) -> list[float] | None:
    """In seconds; None where one is missing, or all are."""
    known = [ns for ns in nanoseconds if ns is not None]
    return _seconds(known) if known and len(known) == len(nanoseconds) else None


def _energy(samples: Samples) -> types.Energy | None:
    pairs = zip(samples.joules, samples.image_ns, strict=True)
    known = [(joules, ns) for joules, ns in pairs if joules is not None]
    if not known:
        return None
    joules, seconds = sum(joules for joules, _ in known), sum(ns for _, ns in known) / 1e9
    return types.Energy(
        rounded(joules / len(known)), rounded(joules / seconds) if seconds else None
    )


def _stages(names: Sequence[str], samples: Samples) -> list[types.StageTime]:
    if not names or not samples.image_ns:
        return []
    image = np.array(samples.image_ns, dtype=np.float64)
    stages = np.array(samples.stages_ns, dtype=np.float64)
    columns = [*stages.T, image - stages.sum(axis=1)]
    return [
        types.StageTime(name, rounded(float(stage.mean()) / 1e9), _share(stage, image))
        for name, stage in zip([*names, "runtime"], columns, strict=True)
    ]


def _share(stage: NDArray[np.float64], image: NDArray[np.float64]) -> Estimate:
    """Of the whole time, with the 95 % interval from eight stretches of time."""
    share = float(stage.sum() / image.sum())
    if image.size < 2 * _BATCHES:
        return Estimate(rounded(share), None, None)
    cuts = np.array_split(np.arange(image.size), _BATCHES)
    shares = [float(stage[cut].sum() / image[cut].sum()) for cut in cuts]
    reach = student_95(_BATCHES - 1) * float(np.std(shares, ddof=1)) / math.sqrt(_BATCHES)
    return Estimate(*map(rounded, (share, max(0.0, share - reach), min(1.0, share + reach))))


def _bundle(bundle: Bundle) -> types.BundleEntry:
    manifest = bundle.manifest
    return types.BundleEntry(
        sha256=file_sha256(bundle.path / MANIFEST_NAME),
        width=manifest.shapes[0].width,
        height=manifest.shapes[0].height,
        stages=[stage.name for stage in bundle.stages],
        versions=dict(manifest.versions),
        model=manifest.model,
        source=manifest.source,
    )


def _paper_fps(bundle: Bundle) -> float | None:
    """The paper's figure, if the bundle holds the model that it is of."""
    model, shape = bundle.manifest.model, bundle.manifest.shapes[0]
    task = TASKS.get(model.task)
    if task is None:
        return None
    side = task.image_size
    measured = (shape.height, shape.width, model.steps, dict(model.architecture))
    same = measured == (side, side, task.steps, task.architecture.to_dict())
    return task.paper_fps if same else None


def _seconds(nanoseconds: Sequence[int]) -> list[float]:
    return [ns / 1e9 for ns in nanoseconds]
