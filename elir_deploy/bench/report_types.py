"""The one definition of the JSON that ``elir-bench`` writes.

An attribute is an entry of the same name; names end in their unit. Reading, writing and the JSON
Schema (:mod:`elir_deploy.bench.report_file`), the text and the HTML page come from these classes.
Dataclasses of the benchmark, such as the state of the sensors, are entries as they are.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from elir_deploy.bench.cold import ColdStart
from elir_deploy.bench.device import CoresElsewhere, Device
from elir_deploy.bench.measurement import Warmup
from elir_deploy.bench.runners import Fidelity, Preparation, Unavailable
from elir_deploy.bench.soak import Window
from elir_deploy.bench.stability import LevelShift, Modes
from elir_deploy.bench.statistics import Amount, Count, Estimate, Latency, Series
from elir_deploy.bench.throughput import Load
from elir_deploy.bench.watch import EnergySource, Sensors
from elir_deploy.bench.yardstick import Work
from elir_deploy.runtime.manifest import Model, Source

__all__ = [
    *("SCHEMA_VERSION", "Artifact", "BundleEntry", "Conditions", "Energy", "EulerRow"),
    *("PaperRow", "ProtocolEntry", "Record", "RelativeSpeed", "Report", "RunnerRow", "SoakRow"),
    "StageTime",
]

SCHEMA_VERSION: Literal[6] = 6

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object of the report: every entry is there, and no other."""


class Artifact(Record, frozen=True):
    """A file that runs."""

    file: str
    precision: str
    bytes: Count
    sha256: Sha256


class Energy(Record, frozen=True):
    """Energy of an image, and power while images are restored."""

    joules_per_image: Amount
    watts: Amount | None


class StageTime(Record, frozen=True):
    """What one stage takes of an image."""

    name: str
    mean_s: float
    share: Estimate


class RunnerRow(Record, frozen=True):
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
        drift: over the series, as a fraction of its median; null where it is too short to tell, as
            ``level_shift`` and ``two_speeds``, which are also null where there are none.
        stages: where the time of an image goes, in order, and last the runtime's work; empty where
            they are not timed.
        cold: a new process up to its first image.
        speedup: how many times faster than the first runner, by the means over the same images;
            null for that one.
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
    fidelity: Fidelity | None
    image: Series | None
    device: Series | None
    stages: list[StageTime]
    started_s: list[Amount]
    yardstick_s: list[Latency] | None
    half_width: Amount | None
    stable: bool | None
    warmup: Warmup | None
    drift: Estimate | None
    level_shift: LevelShift | None
    two_speeds: Modes | None
    cold: ColdStart | None
    energy: Energy | None
    speedup: Estimate | None


class EulerRow(Record, frozen=True):
    """Quality of the runner ``label``, which has ``steps`` Euler steps.

    Attributes:
        to_truth: mean agreement with the truth.
        to_full: agreement with float32 PyTorch with the model's M.
    """

    label: str
    steps: Annotated[int, Meta(ge=1)]
    to_truth: Fidelity
    to_full: Fidelity


class SoakRow(Record, frozen=True):
    """A long run of one runner; the trends are null where it was too short for one."""

    label: str
    complete: bool
    windows: list[Window]
    drift_percent: Estimate | None
    rss_growth_bytes: Estimate | None


class RelativeSpeed(Record, frozen=True):
    """How many times as fast as a model the runner ``label`` is, by means over the same images."""

    label: str
    ratio: Estimate


class PaperRow(Record, frozen=True):
    """A row of the paper's table of speeds: its own model, then those that it is compared with.

    Attributes:
        name: the paper's.
        licence: of its code; null for the first row, and where there is no code to measure.
        label: of its runner in eager PyTorch, with random weights but in the first row; null: it
            was not measured.
        reason: why not, and what to do; null: it was.
        parameters: counted.
        paper_parameters: the paper's figure.
        paper_fps: the paper's figure, on its device.
        paper_ratio: how many times as fast as this one the paper's own model is in the paper; null
            where the bundle's is another model.
        speeds: of the runners of the bundle's model, beside this one.
    """

    name: str
    licence: str | None
    label: str | None
    reason: str | None
    parameters: Count | None
    paper_parameters: Amount
    paper_fps: Amount
    paper_ratio: Amount | None
    speeds: list[RelativeSpeed]


class ProtocolEntry(Record, frozen=True):
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


class BundleEntry(Record, frozen=True):
    """The bundle; ``sha256`` is its manifest's, width and height are of the network's images."""

    sha256: Sha256
    width: Count
    height: Count
    stages: list[str]
    versions: dict[str, str]
    model: Model
    source: Source


class Conditions(Record, frozen=True, kw_only=True):
    """The circumstances of a run.

    Attributes:
        seed: of the images and of the order.
        cores_busy_elsewhere: average load by others during the run.
        throttling: sentences on what slowed the machine down during the run.
        unreadable: sensors that could not be read.
        yardstick: what yardstick_s is the time of.
    """

    seed: Count
    threads: Count | None
    device: Device
    cores_busy_elsewhere: CoresElsewhere | None
    sensors: Sensors | None
    throttling: tuple[str, ...]
    unreadable: tuple[str, ...]
    yardstick: Work | None
    energy: EnergySource


class Report(Conditions, frozen=True):
    """A run of ``elir-bench``; lists that the protocol does not fill are empty.

    ``paper_fps`` is the paper's figure for the same model, on its device.
    """

    schema_version: Literal[6]
    kind: Literal["elir-bench"]
    complete: bool
    created: str
    protocol: ProtocolEntry
    bundle: BundleEntry
    paper_fps: Amount | None
    runners: list[RunnerRow]
    throughput: list[Load]
    steps: list[EulerRow]
    soak: list[SoakRow]
    paper_table: list[PaperRow]
    unavailable: list[Unavailable]
    warnings: list[str]
