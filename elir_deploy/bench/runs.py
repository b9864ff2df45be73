"""From a model and options to results: which runners take part, and what each protocol does."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from elir_deploy.bench import peers
from elir_deploy.bench.cold import start_cold
from elir_deploy.bench.device import CpuMeter, describe_device
from elir_deploy.bench.graph_variants import by_step
from elir_deploy.bench.protocols import BenchProtocol, Measurement
from elir_deploy.bench.report import Conditions, Picture, Results
from elir_deploy.bench.runners import (
    BundleRunner,
    Runner,
    Unavailable,
    open_restorers,
)
from elir_deploy.bench.sensors import Affinity, rss_bytes
from elir_deploy.bench.soak import Soak
from elir_deploy.bench.throughput import Throughput
from elir_deploy.bench.watch import Watch
from elir_deploy.bench.yardstick import Yardstick, describe
from elir_deploy.errors import (
    ElirError,
    MissingDependencyError,
    UnavailableError,
    UsageError,
)
from elir_deploy.pixels import finite_or_none, psnr_db
from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.backends import BACKENDS, backend_named
from elir_deploy.runtime.manifest import RUN_PRECISIONS, file_precision
from elir_deploy.runtime.photos import sample_photos

if TYPE_CHECKING:
    from elir_deploy.checkpoints import Checkpoint

__all__ = ["BenchOptions", "Run", "open_model", "with_numbers"]

_REFERENCE = "float32 PyTorch (reference)"


@dataclass(frozen=True)
class BenchOptions:
    """What a run is asked for.

    Attributes:
        protocol: to follow.
        backends: by name; None: what the bundle has for this machine.
        peers: by name; those that are missing are noted.
        precisions: None: all that bundle and backend have.
        threads: CPU threads of every runner.
        seed: of the images.
        cold: start every runner of the bundle in a process of its own, too.
        callers: of the throughput protocol.
        batches: of the throughput protocol.
        steps: numbers of Euler steps, of the steps protocol.
        pictures: reference images that every runner of the bundle restores for the report.
    """

    protocol: BenchProtocol
    backends: Sequence[str] | None = None
    peers: Sequence[str] = (peers.TORCH,)
    precisions: Sequence[str] | None = None
    threads: int | None = None
    seed: int = 0
    cold: bool = True
    callers: tuple[int, ...] = (1, 2)
    batches: tuple[int, ...] = (4,)
    steps: tuple[int, ...] = (1, 2, 3, 5)
    pictures: int = 0


def open_model(
    model: str,
    options: BenchOptions,
    stack: ExitStack,
    *,
    task: str | None = None,
    checkpoint: str | None = None,
    say: ProgressCallback,
) -> tuple[Bundle, Checkpoint | None]:
    """The bundle to measure, and the checkpoint it was made from if that is known.

    Args:
        model: a bundle's folder or ``tiny``, or a checkpoint, which is exported to a folder that
            lives as long as ``stack``.
        options: whose protocol may want the graph split, or a checkpoint to export again.
        stack: that temporary folders are entered in.
        task: of the checkpoint, where it does not tell.
        checkpoint: that the bundle was made from, by file or name.
        say: told what is being done.

    Raises:
        UsageError: the protocol needs something else, or the checkpoint is another one.
        ElirError: as of opening and exporting.
    """
    protocol = options.protocol.name
    # The packaged bundle is one graph of one M; the packaged checkpoint is not.
    packaged = model == "tiny" and protocol not in ("steps", "stages")
    if Path(model).is_dir() or packaged:
        bundle = Bundle.open(model)
        held = bundle.manifest.model.task
        if task not in (None, held):
            raise UsageError(f"{model} is for task {held}, not {task}: leave out --task")
        _check_precisions(bundle, options.precisions)
        found = None if checkpoint is None else peers.checkpoint_of(bundle, checkpoint, say)
        if protocol == "steps" and found is None:
            raise UsageError(
                f"{model} has M = {bundle.manifest.model.steps} in its graphs: give the checkpoint "
                "instead, or beside it with --checkpoint"
            )
        return bundle, found
    if checkpoint is not None:
        raise UsageError("--checkpoint goes with a bundle, and says what it was made from")
    try:
        loaded = peers.load(model, task, say)
    except MissingDependencyError as error:
        raise UnavailableError(
            f"{model} is no bundle's folder; taken as a checkpoint it needs {error.package}: "
            f"pip install 'elir-deploy[{error.extra}]'"
        ) from None
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="elir-bench-")))
    stages: Literal["fused", "split"] = "split" if protocol == "stages" else "fused"
    precisions = _step_precisions(options) if protocol == "steps" else options.precisions
    bundle = peers.export_to_bundle(loaded, folder / "bundle", precisions, say, stages=stages)
    return bundle, loaded


def _step_precisions(options: BenchOptions) -> Sequence[str]:
    """Every M is an export: of float32 alone, unless others are asked for."""
    return options.precisions or ["fp32"]


def _check_precisions(bundle: Bundle, precisions: Sequence[str] | None) -> None:
    held = bundle.manifest.precisions
    for precision in precisions or ():
        if file_precision(precision) not in held:
            choices = [p for p in RUN_PRECISIONS if file_precision(p) in held]
            raise UsageError(
                f"{bundle.path} holds no {file_precision(precision)} files: "
                f"choose from {', '.join(choices)}"
            )


@dataclass(frozen=True)
class _Variant:
    """A bundle to open runners of, the name that tells them apart, and which to open."""

    bundle: Bundle
    name: str
    backends: Sequence[str] | None
    precisions: Sequence[str] | None


@dataclass
class Run:
    """One run: runners opened, measured and closed.

    Attributes:
        bundle: that is measured.
        checkpoint: it was made from, where that is known.
        options: what is asked for.
        results: filled as it goes; after an interruption, with what was finished.
        conditions: what it was made under, once measuring began.
    """

    bundle: Bundle
    checkpoint: Checkpoint | None
    options: BenchOptions
    results: Results = field(init=False)
    conditions: Conditions | None = None

    def __post_init__(self) -> None:
        self.results = Results(self.options.protocol, [])

    @property
    def begun(self) -> bool:
        """Whether there is anything to keep."""
        found = self.results
        return bool(
            found.loads
            or any(soak.windows for soak in found.soaks)
            or (found.measurement is not None and found.measurement.begun)
        )

    def measure(
        self, say: ProgressCallback, tell: Callable[[str], None] = lambda line: None
    ) -> None:
        """Open the runners, compare their pictures, and follow the protocol.

        Args:
            say: told what is being done.
            tell: given a line on each runner of a bundle, with what runs it.

        Raises:
            UnavailableError: nothing can be measured here.
            KeyboardInterrupt: interrupted; :attr:`results` holds what was finished.
        """
        options, results = self.options, self.results
        with ExitStack() as stack:
            runners = self._open(stack, say)
            for runner in runners:
                stack.callback(runner.close)
                if isinstance(runner, BundleRunner):
                    tell(runner.running)
            results.runners = self._compared(runners, say)
            qualities = self._qualities(say) if options.protocol.name == "steps" else {}
            self._start_cold(say)
            watch = stack.enter_context(Watch())
            conditions = self.conditions = Conditions(
                seed=options.seed,
                threads=options.threads,
                device={**describe_device(), "affinity": Affinity.read().as_json()},
                unreadable=list(watch.before.unreadable),
                energy_missing=list(watch.missing_meters),
            )
            meter, began = CpuMeter(), time.monotonic()
            try:
                _PROTOCOLS[options.protocol.name](self, watch, say)
                results.complete = True
            finally:
                conditions.cores_elsewhere = meter.cores_elsewhere(time.monotonic() - began)
                watch.finish()
                conditions.sensors = watch.as_json()
                conditions.held_back = watch.throttling
                if watch.meter is not None:
                    conditions.energy_problems = list(watch.meter.problems())
                if options.protocol.name == "steps":
                    results.steps = self._step_rows(qualities)

    # Runners -------------------------------------------------------------------------------

    def _open(self, stack: ExitStack, say: ProgressCallback) -> list[Runner]:
        """Peers first, where they take part: the others are compared with the first."""
        say("loading", 0, 0)
        options, missing = self.options, self.results.unavailable
        opened, absent = self._open_peers(say)
        missing += absent
        if options.protocol.name == "stages":
            variants = self._cut(stack)
        elif options.protocol.name == "steps":
            variants = self._by_steps(stack, say)
        else:
            variants = [_Variant(self.bundle, "", options.backends, options.precisions)]
        for one in variants:
            found, absent = open_restorers(
                *(one.bundle, one.backends, one.precisions),
                threads=options.threads,
                variant=one.name,
            )
            opened += found
            missing += [item for item in absent if item not in missing]
        self._require(opened)
        return opened

    def _open_peers(self, say: ProgressCallback) -> tuple[list[Runner], list[Unavailable]]:
        options = self.options
        if options.protocol.name not in ("stages", "steps"):
            return peers.open_peers(
                options.peers, self.bundle, self.checkpoint, options.threads, say
            )
        # They are part of every run without a wish, so nobody misses them then.
        named = options.backends is not None or tuple(options.peers) != (peers.TORCH,)
        reason = f"it is measured as a whole, not with --protocol {options.protocol.name}"
        return [], [Unavailable(name, reason) for name in options.peers if named]

    def _cut(self, stack: ExitStack) -> list[_Variant]:
        """A bundle for each precision, whose flow is cut into its steps."""
        options = self.options
        names = options.backends
        chosen = list(BACKENDS.values()) if names is None else [backend_named(n) for n in names]
        variants: list[_Variant] = []
        for precision in options.precisions or RUN_PRECISIONS:
            holding = [b for b in chosen if precision in b.held_precisions(self.bundle)]
            if options.precisions is None and not holding:
                continue
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="elir-bench-")))
            try:
                cut = by_step(self.bundle, precision, folder)
            except UnavailableError as error:
                self.results.unavailable.append(Unavailable(precision, str(error)))
                continue
            backends = names
            if options.precisions is None:  # whoever does not have it was not asked for it
                own = [b for b in holding if precision in b.held_precisions(cut)]
                backends = [b.name for b in own if b.automatic or names is not None]
            variants.append(_Variant(cut, "", backends, [precision]))
        return variants

    def _by_steps(self, stack: ExitStack, say: ProgressCallback) -> list[_Variant]:
        """A bundle for each M, otherwise as the one that is given, which is its own M's."""
        assert self.checkpoint is not None
        variants: list[_Variant] = []
        precisions = _step_precisions(self.options)
        model = self.bundle.manifest.model
        for steps in self.options.steps:
            name = f", M = {steps}"
            if steps == model.steps:
                variants.append(_Variant(self.bundle, name, self.options.backends, precisions))
                continue
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="elir-bench-")))
            bundle = peers.export_to_bundle(
                self.checkpoint,
                folder / "bundle",
                precisions,
                say,
                steps=steps,
                image_size=self.bundle.manifest.image_size,
                sigma_s=model.sigma_s,
                seed=self.bundle.manifest.noise.seed,
            )
            variants.append(_Variant(bundle, name, self.options.backends, precisions))
        return variants

    def _compared(self, runners: list[Runner], say: ProgressCallback) -> list[Runner]:
        """Those that run at all, with their agreement with the references noted."""
        for done, runner in enumerate(runners):
            say("comparing with PyTorch's results", done, len(runners))
            held = runner.bundle if isinstance(runner, BundleRunner) else self.bundle
            against = held if held.manifest.references else self.bundle
            try:
                self.results.fidelities[runner.label] = runner.fidelity(against)
            except UnavailableError as error:
                self.results.unavailable.append(Unavailable(runner.label, str(error)))
        running = [c for c in runners if c.label in self.results.fidelities]
        self._require(running)
        self._take_pictures(running)
        return running

    def _take_pictures(self, runners: Sequence[Runner]) -> None:
        """What each runner makes of the first reference images; none of random weights."""
        if self.bundle.manifest.source.random:
            return
        own = [c for c in runners if isinstance(c, BundleRunner)]
        for name, low, full in self.bundle.reference_images():
            if len(self.results.pictures) == self.options.pictures:
                return
            after = {runner.label: runner.run_pixels(low) for runner in own}
            self.results.pictures.append(Picture(name, low, {**after, _REFERENCE: full}))

    def _require(self, found: Sequence[object]) -> None:
        if not found:
            reasons = "; ".join(f"{item.label}: {item.reason}" for item in self.results.unavailable)
            raise UnavailableError(f"nothing can be measured here: {reasons}")

    def _start_cold(self, say: ProgressCallback) -> None:
        if not self.options.cold or self.options.protocol.name in ("stages", "steps"):
            return
        own = [c for c in self.results.runners if isinstance(c, BundleRunner)]
        for done, runner in enumerate(own):
            say("starting each in a process of its own", done, len(own))
            try:
                self.results.colds[runner.label] = start_cold(
                    self.bundle.path,
                    runner.backend,
                    runner.precision,
                    threads=self.options.threads,
                    temporary=self.bundle.temporary,
                )
            except UnavailableError as error:
                self.results.unavailable.append(
                    Unavailable(f"{runner.label}, first start", str(error))
                )

    # Protocols --------------------------------------------------------------------------------

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        side = self.bundle.manifest.image_size // self.bundle.manifest.model.upscale
        return (side, side, 3)

    def _in_turns(self, watch: Watch, say: ProgressCallback) -> None:
        assert self.conditions is not None
        # It tells how fast the processor is; a GPU would wait for it and grow cold.
        timed = any(runner.on_cpu for runner in self.results.runners)
        self.conditions.yardstick = describe() if timed else None
        if watch.meter is not None:
            self.conditions.energy = watch.meter.source
            self.conditions.energy_scope = watch.meter.scope
        measurement = self.results.measurement = Measurement(
            self.results.runners,
            self.options.protocol,
            self._image_shape,
            seed=self.options.seed,
            yardstick=Yardstick() if timed else None,
            joules=watch.meter.read if watch.meter is not None else None,
            between=watch.look,
        )
        measurement.run(say)

    def _together(self, watch: Watch, say: ProgressCallback) -> None:
        throughput = Throughput(
            self.bundle,
            self.options.threads,
            seconds=self.options.protocol.seconds,
            callers=self.options.callers,
            batches=self.options.batches,
            seed=self.options.seed,
            between=watch.look,
        )
        try:
            throughput.run(self.results.runners, say)
        finally:
            self.results.loads = list(throughput.loads.values())
            self.results.unavailable += throughput.unavailable
        self._require(self.results.loads)

    def _for_long(self, watch: Watch, say: ProgressCallback) -> None:
        began = time.monotonic()

        def look() -> tuple[float | None, float | None]:
            watch.look(time.monotonic() - began)
            return watch.heat()

        for runner in self.results.runners:
            soak = Soak(
                runner,
                self._image_shape,
                self.options.protocol.seconds,
                rss=rss_bytes,
                heat=look,
                seed=self.options.seed,
            )
            self.results.soaks.append(soak)
            try:
                soak.run(say)
            except ElirError as error:
                self.results.unavailable.append(Unavailable(runner.label, str(error)))
        self._require([window for soak in self.results.soaks for window in soak.windows])

    def _qualities(self, say: ProgressCallback) -> dict[str, tuple[float | None, float | None]]:
        """By label: PSNR to the truth, and of the worst picture to the default M's.

        Random weights have none: their pictures mean nothing.
        """
        if self.bundle.manifest.source.random:
            return {}
        info = self.bundle.manifest
        truths = dict(sample_photos(info.image_size, faces=False))
        if info.model.faces:
            truths.update(sample_photos(info.image_size, faces=True))
        references = list(self.bundle.reference_images())
        found: dict[str, tuple[float | None, float | None]] = {}
        for number, runner in enumerate(self.results.runners):
            say("restoring the references", number, len(self.results.runners))
            if isinstance(runner, BundleRunner):
                made = [(name, runner.run_pixels(low), full) for name, low, full in references]
                truth = [psnr_db(image, truths[name]) for name, image, _ in made if name in truths]
                default = [psnr_db(image, full) for _, image, full in made]
                found[runner.label] = (
                    finite_or_none(float(np.mean(truth))) if truth else None,
                    finite_or_none(min(default)) if default else None,
                )
        return found

    def _step_rows(
        self, qualities: dict[str, tuple[float | None, float | None]]
    ) -> list[dict[str, Any]]:
        """Speed and quality of every M."""
        measurement = self.results.measurement
        if measurement is None:
            return []
        rows = []
        for runner in self.results.runners:
            series = measurement.samples.get(runner.label)
            if not isinstance(runner, BundleRunner):
                continue
            if series is None or not series.image_ns:
                continue
            mean = float(np.mean(series.image_ns)) / 1e9
            to_truth, to_default = qualities.get(runner.label, (None, None))
            rows.append(
                {
                    "steps": runner.bundle.manifest.model.steps,
                    "label": f"{runner.backend} {runner.precision}",
                    "fps": 1 / mean,
                    "mean_s": mean,
                    "psnr_db": to_truth,
                    "psnr_to_full_db": to_default,
                }
            )
        return rows


_PROTOCOLS: dict[str, Callable[[Run, Watch, ProgressCallback], None]] = {
    "paper": Run._in_turns,
    "latency": Run._in_turns,
    "stages": Run._in_turns,
    "steps": Run._in_turns,
    "throughput": Run._together,
    "soak": Run._for_long,
}


def with_numbers(protocol: BenchProtocol, **numbers: Any) -> BenchProtocol:
    """The protocol with those numbers that are not None in place of its own."""
    given = {name: value for name, value in numbers.items() if value is not None}
    return dataclasses.replace(protocol, **given)
