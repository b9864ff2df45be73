"""The one definition of the JSON that ``elir-bench`` writes, version 3.

An attribute is an entry of the same name; names end in their unit. Reading, writing and the JSON
Schema (:mod:`elir_deploy.bench.report_file`), the text and the HTML page come from these classes.
Dataclasses of the benchmark, such as the state of the sensors, are entries as they are.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from elir_deploy.bench.cold import ColdStart
from elir_deploy.bench.measurement import Warmup
from elir_deploy.bench.runners import Preparation, Unavailable
from elir_deploy.bench.sensors import Affinity, State
from elir_deploy.bench.soak import Trend, Window
from elir_deploy.bench.stability import Drift, LevelShift, Modes
from elir_deploy.bench.statistics import Ratio, Summary
from elir_deploy.bench.throughput import Way
from elir_deploy.runtime.manifest import Model, Source

__all__ = [
    *("SCHEMA_VERSION", "Artifact", "Behaviour", "BundleEntry", "CoresElsewhere", "Cpu", "Device"),
    *("Energy", "EnergySource", "EulerRow", "FidelityEntry", "LoadRow", "Memory", "Paper"),
    *("ProtocolEntry", "Reading", "Report", "RunnerRow", "Sensors", "Series", "SoakRow", "Speedup"),
    *("StageRow", "StageTime", "Yardstick"),
]

SCHEMA_VERSION: Literal[3] = 3

Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]
#: Outside of these, logarithms and ratios would overflow.
Latency = Annotated[float, Meta(ge=1e-12, le=1e6)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object of the report: every entry is there, and no other."""


class Series(_Record, frozen=True):
    """Latencies in seconds, in the order they were measured, and their statistics."""

    statistics: Summary
    samples_s: Annotated[list[Latency], Meta(min_length=1)]


class FidelityEntry(_Record, frozen=True):
    """Agreement with float32 PyTorch on the bundle's reference images.

    Attributes:
        psnr_db: of the worst image; null where it is identical or was not compared.
        identical: every image is.
        images: how many were compared.
        note: what with, or why not.
    """

    psnr_db: float | None
    identical: bool
    images: Count
    note: str


class Artifact(_Record, frozen=True):
    """A file that runs."""

    file: str
    precision: str
    bytes: Count
    sha256: Sha256


class Behaviour(_Record, frozen=True):
    """Whether a series stays where it is; null where it does, or where it is too short to tell."""

    drift: Drift | None
    level_shift: LevelShift | None
    two_speeds: Modes | None


class Energy(_Record, frozen=True):
    """Energy of an image, and power while images are restored."""

    joules_per_image: Amount
    watts: Amount | None


class Speedup(_Record, frozen=True):
    """How many times faster than the runner ``over``, by the means over the same images."""

    over: str
    ratio: Ratio


class RunnerRow(_Record, frozen=True):
    """One runner, and its series where the protocol takes turns.

    Attributes:
        preparation: once, before the first image; null where loading is all.
        artifacts: none for PyTorch.
        arithmetic: convolutions by the type they run in; null where that is unknown.
        image: from the 8-bit image to the restored 8-bit image.
        device: of that, inside the backend.
        started_s: when each sample began, since the first did.
        yardstick_s: the yardstick next to each sample; null for what the processor does not run.
        half_width: of the 95 % interval of the median, relative to it; null with few samples.
        stable: whether the median is known to protocol.tolerance; null where the number of images
            was fixed.
        cold: a new process up to its first image.
    """

    label: Annotated[str, Meta(min_length=1)]
    backend: str
    precision: str
    library: str
    weights: str
    on_cpu: bool
    preparation: Preparation | None
    artifacts: list[Artifact]
    arithmetic: dict[str, Count] | None
    fidelity: FidelityEntry | None
    image: Series | None
    device: Series | None
    started_s: list[Amount]
    yardstick_s: list[Latency] | None
    half_width: Amount | None
    stable: bool | None
    warmup: Warmup | None
    behaviour: Behaviour
    cold: ColdStart | None
    energy: Energy | None
    speedup: Speedup | None


class StageTime(_Record, frozen=True):
    """What one stage takes of an image; low and high are null with few images."""

    name: str
    mean_s: float
    share: float
    low: float | None
    high: float | None


class StageRow(_Record, frozen=True):
    """Where the time of an image goes, in order; the runtime's work is last."""

    label: str
    stages: Annotated[list[StageTime], Meta(min_length=2)]


class LoadRow(_Record, frozen=True):
    """Throughput under one load.

    Attributes:
        concurrency: callers, or images in a batch.
        fps: over all passes, as ``seconds`` and ``images``.
        fidelity: of the images restored this way.
        calls: a batch is one call; null for files.
    """

    label: str
    way: Way
    concurrency: Annotated[int, Meta(ge=1)]
    fps: Amount
    fps_by_pass: Annotated[list[Amount], Meta(min_length=1, max_length=2)]
    seconds: Amount
    images: Count
    fidelity: FidelityEntry | None
    calls: Series | None


class EulerRow(_Record, frozen=True):
    """Speed and quality with ``steps`` Euler steps: PSNR to the truth, and to the model's M."""

    steps: Annotated[int, Meta(ge=1)]
    label: str
    fps: Amount
    mean_s: Amount
    psnr_db: float | None
    psnr_to_full_db: float | None


class SoakRow(_Record, frozen=True):
    """A long run of one runner; the trends are null where it was too short for one."""

    label: str
    complete: bool
    windows: list[Window]
    drift_percent: Trend | None
    rss_growth_bytes: Trend | None


class ProtocolEntry(_Record, frozen=True):
    """The protocol as :class:`elir_deploy.bench.protocols.BenchProtocol` has it.

    What did not apply is null: ``images`` until the medians are known, ``warmup`` until the
    latencies settle, ``block`` where runners take no turns.
    """

    name: str
    title: str
    warmup: Count | None
    images: Count | None
    seconds: Amount | None
    at_most_s: Amount | None
    tolerance: Amount | None
    block: Annotated[int, Meta(ge=1, le=1000)] | None
    input: str
    order: str
    timed: str
    seed: Count
    clock_resolution_ns: Amount


class BundleEntry(_Record, frozen=True):
    """The bundle that was measured; ``sha256`` is its manifest's."""

    sha256: Sha256
    image_size: Count
    stages: list[str]
    versions: dict[str, str]
    model: Model
    source: Source


class Paper(_Record, frozen=True):
    """The paper's figure for the same model."""

    fps: Amount
    device: str


class Cpu(_Record, frozen=True):
    """The processor; null where the system does not say."""

    model: str | None
    physical_cores: Count | None
    cache: str | None
    instruction_sets: list[str]
    virtual_machine: bool | None
    architecture: str
    logical_cores: Count | None
    usable_cores: Count
    governor: str | None
    mhz_now: Amount | None


class Memory(_Record, frozen=True):
    """Of the machine."""

    total_bytes: Count | None
    available_bytes: Count | None


class CoresElsewhere(_Record, frozen=True):
    """Average load by others during the run, in cores."""

    other_programs: Amount
    stolen: Amount


class Reading(_Record, frozen=True):
    """The sensors once during the run; throttled is since the reading before."""

    at_s: Amount
    mhz: Amount | None
    celsius: float | None
    throttled: bool | None
    watts: Amount | None


class Sensors(_Record, frozen=True):
    """The sensors before, after and during the run."""

    before: State
    after: State | None
    during: list[Reading]


class Device(_Record, frozen=True):
    """The machine; what throttled it during the run, and sensors that could not be read."""

    machine: str | None
    cpu: Cpu
    gpus: list[dict[str, str]]
    memory: Memory
    load_average: list[Amount]
    os: str
    kernel: str
    python: str
    elir_deploy: str
    libraries: dict[str, str]
    environment: dict[str, str]
    affinity: Affinity
    cores_busy_elsewhere: CoresElsewhere | None
    sensors: Sensors | None
    throttling: list[str]
    unreadable: list[str]


class Yardstick(_Record, frozen=True):
    """What yardstick_s is the time of."""

    work: str
    numpy: str
    blas: str | None


class EnergySource(_Record, frozen=True):
    """The energy meter, why not to trust it, and which meters are missing."""

    source: str | None
    scope: str | None
    problems: list[str]
    missing: list[str]


class Report(_Record, frozen=True):
    """A run of ``elir-bench``; lists that the protocol does not fill are empty."""

    schema_version: Literal[3]
    kind: Literal["elir-bench"]
    complete: bool
    created: str
    protocol: ProtocolEntry
    threads: Count | None
    bundle: BundleEntry
    paper: Paper | None
    device: Device
    yardstick: Yardstick | None
    energy: EnergySource
    runners: list[RunnerRow]
    stages: list[StageRow]
    throughput: list[LoadRow]
    steps: list[EulerRow]
    soak: list[SoakRow]
    unavailable: list[Unavailable]
    warnings: list[str]
