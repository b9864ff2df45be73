"""The protocols: what a run consists of.

To add one, list it in :data:`PROTOCOLS`, and write a subclass of :class:`BenchProtocol` where
runners do not just take turns.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from elir_deploy.bench.measurement import Measurement
from elir_deploy.bench.peers import check_rivals
from elir_deploy.bench.report_types import EulerRow
from elir_deploy.bench.runners import (
    BundleRunner,
    Unavailable,
    compare_with_references,
    compare_with_truth,
)
from elir_deploy.bench.sensors.process import rss_bytes
from elir_deploy.bench.soak import Soak
from elir_deploy.bench.throughput import Throughput
from elir_deploy.bench.yardstick import Yardstick
from elir_deploy.errors import ElirError, UsageError
from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.detector_graph import detector_of
from elir_deploy.runtime.manifest import SPLIT_STAGES
from elir_deploy.runtime.photos import large_photograph
from elir_deploy.tasks import TASKS

if TYPE_CHECKING:
    from elir_deploy.bench.runs import Run
    from elir_deploy.bench.watch import Watch

__all__ = ["PROTOCOLS", "BenchProtocol"]


@dataclass(frozen=True)
class BenchProtocol:
    """One kind of run; runners take turns unless a subclass measures otherwise.

    Attributes:
        name: as in ``--protocol``.
        title: one line for people.
        warmup: images before the first that counts; None: until the latencies settle.
        images: images that count; None: until the medians are known to ``tolerance``.
        seconds: least time for each runner where ``images`` is None; of each load for throughput,
            of each runner for soak.
        at_most_s: time after which the run ends in any case, where ``images`` is None.
        tolerance: largest relative half-width of the 95 % interval of each median.
        block: images of a turn.
    """

    name: str
    title: str
    warmup: int | None = None
    images: int | None = None
    seconds: float = 10.0
    at_most_s: float = 300.0
    tolerance: float = 0.02
    block: int = 5

    #: Whether runners take turns; otherwise the last three mean nothing.
    in_turns: ClassVar[bool] = True
    #: Options of elir-bench that have a meaning here, beside those of every protocol.
    accepts: ClassVar[tuple[str, ...]] = ("images", "warmup", "seconds", "at_most", "tolerance")
    #: Whether only bundles take part, without first starts in processes of their own.
    bundles_alone: ClassVar[bool] = False
    #: Whether bundles restore a photograph, instead of random images of the model's size.
    on_photograph: ClassVar[bool] = False

    def check(self, bundles: Sequence[Bundle]) -> None:
        """Raise :class:`UsageError` if the bundles cannot be measured together."""
        first = bundles[0]
        for other in bundles[1:]:
            if first.manifest.input_size != other.manifest.input_size:
                sizes = ["{1}x{0}".format(*each.manifest.input_size) for each in (first, other)]
                raise UsageError(
                    f"bundles are measured with the same images, but {first.path} takes "
                    f"{sizes[0]} pixels and {other.path} {sizes[1]}"
                )

    def check_rivals(self, bundles: Sequence[Bundle], names: Sequence[str]) -> None:
        """Raise :class:`UsageError` if the paper's rivals cannot be measured beside the bundles."""
        if not self.in_turns or self.bundles_alone:
            able = [p.name for p in PROTOCOLS.values() if p.in_turns and not p.bundles_alone]
            raise UsageError(
                f"--peers {','.join(names)} cannot be used with --protocol {self.name}, only with "
                f"{', '.join(able)}"
            )
        for bundle in bundles:
            check_rivals(bundle, names)

    def reference(self, bundles: Sequence[Bundle]) -> Bundle:
        """The bundle that the report describes, and whose model peers run."""
        return bundles[0]

    def prepare(self, run: Run, progress: ProgressCallback) -> None:
        """Do what must be done before the machine is watched."""

    def measure(self, run: Run, watch: Watch, progress: ProgressCallback) -> None:
        """Fill this protocol's part of ``run.results``; after an interruption, with what there is.

        Raises:
            UnavailableError: nothing could be measured.
        """
        # The yardstick shows the processor's speed; a GPU would wait for it and cool down.
        timed = any(runner.on_cpu for runner in run.results.runners)
        run.results.measurement = Measurement(
            run.results.runners,
            self,
            run.image_shape,
            seed=run.options.seed,
            yardstick=Yardstick() if timed else None,
            joules=watch.meter.read if watch.meter is not None else None,
            between=watch.look,
            photograph=large_photograph() if self.on_photograph else None,
        )
        run.results.measurement.run(progress)

    def suffixes(self, bundles: Sequence[Bundle]) -> list[str]:
        """Ends of the runners' labels, which tell several bundles apart."""
        if len(bundles) == 1:
            return [""]
        names = [bundle.path.name for bundle in bundles]
        if len(set(names)) < len(names):
            names = [os.path.normpath(bundle.path) for bundle in bundles]
        return [f", {name}" for name in names]


@dataclass(frozen=True)
class ThroughputProtocol(BenchProtocol):
    """Many images at the same time."""

    name: str = "throughput"
    title: str = "many images: concurrent callers, streams, batches, and image files"
    warmup: int | None = 1
    seconds: float = 5.0
    in_turns: ClassVar[bool] = False
    accepts: ClassVar[tuple[str, ...]] = ("seconds", "callers", "batch")

    def measure(self, run: Run, watch: Watch, progress: ProgressCallback) -> None:
        throughput = Throughput(
            run.image_shape,
            run.options.threads,
            seconds=self.seconds,
            callers=run.options.callers,
            batches=run.options.batches,
            seed=run.options.seed,
            between=watch.look,
        )
        try:
            throughput.run(run.results.runners, progress)
        finally:
            run.results.loads = list(throughput.loads.values())
            reasons = throughput.failures.items()
            run.results.unavailable += [Unavailable(*pair) for pair in reasons]
        run.require(run.results.loads)


@dataclass(frozen=True)
class Stages(BenchProtocol):
    """The stages of a split bundle, timed in the run that is timed as a whole."""

    name: str = "stages"
    title: str = "like latency, with encoder, estimator, flow and decoder also timed alone"
    bundles_alone: ClassVar[bool] = True

    def check(self, bundles: Sequence[Bundle]) -> None:
        super().check(bundles)
        for bundle in bundles:
            if tuple(stage.name for stage in bundle.stages) != SPLIT_STAGES:
                raise UsageError(
                    f"{bundle.path} is one graph, and --protocol stages needs a split bundle: "
                    "export the checkpoint with elir-export --stages split"
                )

    def prepare(self, run: Run, progress: ProgressCallback) -> None:
        """Leave out runners whose backend runs all stages in one call."""
        results, reason = run.results, "its stages cannot be timed one by one"
        left_out = [runner for runner in results.runners if not runner.stage_names]
        results.unavailable += [Unavailable(runner.label, reason) for runner in left_out]
        results.runners = [runner for runner in results.runners if runner.stage_names]
        run.require(results.runners)


@dataclass(frozen=True)
class Steps(BenchProtocol):
    """Bundles of one checkpoint that differ in the number of Euler steps M."""

    name: str = "steps"
    title: str = "like latency, for bundles of different M (Euler steps): speed and quality"
    bundles_alone: ClassVar[bool] = True

    def check(self, bundles: Sequence[Bundle]) -> None:
        super().check(bundles)
        if len(bundles) < 2:
            raise UsageError(
                "--protocol steps compares bundles of different M: export one for each with "
                "elir-export --steps M, and name them all"
            )
        first, seen = bundles[0], dict[int, Bundle]()
        for bundle in bundles:
            steps = bundle.manifest.model.steps
            if steps in seen:
                raise UsageError(
                    f"--protocol steps compares bundles of different M, but {seen[steps].path} and "
                    f"{bundle.path} both have M = {steps}"
                )
            seen[steps] = bundle
            if _all_but_steps(bundle) != _all_but_steps(first):
                raise UsageError(
                    f"--protocol steps compares bundles that differ in M alone, but {first.path} "
                    f"and {bundle.path} also differ in task, checkpoint, image size, sigma_s or "
                    "noise seed"
                )

    def reference(self, bundles: Sequence[Bundle]) -> Bundle:
        """That of the task's own M, if it is among them."""
        task = TASKS.get(bundles[0].manifest.model.task)
        default = task.steps if task is not None else None
        return next((b for b in bundles if b.manifest.model.steps == default), bundles[0])

    def prepare(self, run: Run, progress: ProgressCallback) -> None:
        """Compare with the truth, and with the reference; the timing is that of all runners."""
        for number, runner in enumerate(run.results.runners):
            progress("restoring the references", number, len(run.results.runners))
            assert isinstance(runner, BundleRunner)
            run.results.steps.append(
                EulerRow(
                    label=runner.label,
                    steps=runner.bundle.manifest.model.steps,
                    to_truth=compare_with_truth(run.bundle, runner.run_pixels),
                    to_full=compare_with_references(run.bundle, runner.run_pixels),
                )
            )

    def suffixes(self, bundles: Sequence[Bundle]) -> list[str]:
        return [f", M = {bundle.manifest.model.steps}" for bundle in bundles]


@dataclass(frozen=True)
class SoakProtocol(BenchProtocol):
    """Each runner under long load."""

    name: str = "soak"
    title: str = "each runner under long load: whether it slows down or its memory grows"
    warmup: int | None = 0
    seconds: float = 600.0
    in_turns: ClassVar[bool] = False
    accepts: ClassVar[tuple[str, ...]] = ("seconds",)

    def measure(self, run: Run, watch: Watch, progress: ProgressCallback) -> None:
        start = time.monotonic()

        def look() -> tuple[float | None, float | None]:
            watch.look(time.monotonic() - start)
            return watch.heat()

        for runner in run.results.runners:
            soak = Soak(
                *(runner, run.image_shape, self.seconds),
                rss=rss_bytes,
                heat=look,
                seed=run.options.seed,
            )
            run.results.soaks.append(soak)
            try:
                soak.run(progress)
            except ElirError as error:
                run.results.unavailable.append(Unavailable(runner.label, str(error)))
        run.require([window for soak in run.results.soaks for window in soak.windows])


@dataclass(frozen=True)
class PhotoProtocol(BenchProtocol):
    """The whole way of a photograph."""

    name: str = "photo"
    title: str = "12 megapixels with one face: found, aligned, restored and put back, each timed"
    bundles_alone: ClassVar[bool] = True
    on_photograph: ClassVar[bool] = True

    def check(self, bundles: Sequence[Bundle]) -> None:
        super().check(bundles)
        for bundle in bundles:
            detector_of(bundle)


#: All protocols by name.
PROTOCOLS: dict[str, BenchProtocol] = {
    protocol.name: protocol
    for protocol in (
        BenchProtocol(
            "paper",
            "the paper's protocol: batch 1, random images, 10 to warm up, mean of 200",
            warmup=10,
            images=200,
        ),
        BenchProtocol(
            "latency",
            "one image at a time, until every median is known to 2 % and 10 s have passed",
        ),
        ThroughputProtocol(),
        Stages(),
        Steps(),
        SoakProtocol(),
        PhotoProtocol(),
    )
}


def _all_but_steps(bundle: Bundle) -> tuple[Any, ...]:
    info = bundle.manifest
    return info.model.task, info.source, info.input_size, info.model.sigma_s, info.noise.seed
