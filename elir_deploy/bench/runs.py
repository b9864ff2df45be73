"""One run of the benchmark: bundles opened, runners measured by a protocol, and closed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from elir_deploy.bench import peers
from elir_deploy.bench.cold import start_cold
from elir_deploy.bench.device import CpuMeter, describe_device
from elir_deploy.bench.protocols import BenchProtocol
from elir_deploy.bench.report import Picture, Results
from elir_deploy.bench.report_types import Conditions
from elir_deploy.bench.runners import (
    BackendPrecision,
    BundleRunner,
    PhotoRunner,
    Runner,
    Unavailable,
    open_restorers,
)
from elir_deploy.bench.watch import Watch
from elir_deploy.bench.yardstick import describe
from elir_deploy.errors import ElirError, UnavailableError, UsageError
from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.manifest import RUN_PRECISIONS, file_precision
from elir_deploy.tasks import TASKS

if TYPE_CHECKING:
    from elir_deploy.checkpoints import Checkpoint

__all__ = ["BenchOptions", "Run", "open_bundles"]

_REFERENCE = "float32 PyTorch (reference)"


@dataclass(frozen=True)
class BenchOptions:
    """Options of a run.

    Attributes:
        backends: names; None: all that the bundle has files for and ``auto`` may choose.
        peers: names; those that are not installed are listed as not measured.
        rivals: options of the paper's rivals; see :func:`elir_deploy.bench.peers.open_rivals`.
        precisions: None: all that bundle and backend have.
        device: number of the GPU, or name of a device of OpenVINO, for runners of bundles.
        cold: also start every runner of a bundle in a new process.
        runners: of bundles, in place of ``backends`` and ``precisions``.
        callers, batches: of the throughput protocol; no batches: the largest that the bundle has.
        pictures: reference images that every runner of a bundle restores for the report.
    """

    protocol: BenchProtocol
    backends: Sequence[str] | None = None
    peers: Sequence[str] = (peers.TORCH,)
    rivals: Sequence[str] = ()
    precisions: Sequence[str] | None = None
    runners: Sequence[BackendPrecision] | None = None
    device: int | str = 0
    threads: int | None = None
    seed: int = 0
    cold: bool = True
    callers: tuple[int, ...] = (1, 2)
    batches: tuple[int, ...] = ()
    pictures: int = 0

    @property
    def selections(self) -> list[tuple[Sequence[str] | None, Sequence[str] | None]]:
        """Backends, with the precisions of all of them."""
        if self.runners is None:
            return [(self.backends, self.precisions)]
        return [([runner.backend], [runner.precision]) for runner in self.runners]


def open_bundles(names: Sequence[str], options: BenchOptions) -> list[Bundle]:
    """Open bundles by folder, or ``tiny``, and check that the protocol can measure them.

    Raises:
        UsageError: one is a checkpoint, lacks a precision or takes smaller batches, or does not
            suit the protocol.
        BundleError: one is damaged, incomplete, or of a newer version.
    """
    bundles = []
    for name in dict.fromkeys(names):
        if name != "tiny" and not Path(name).is_dir():
            released = name in [spec.released_name for spec in TASKS.values()]
            if Path(name).suffix or released or name == "random":
                checkpoint, folder = name, "DIR"
            else:
                checkpoint, folder = "CHECKPOINT", name
            raise UsageError(
                f"{name} is not the folder of a bundle; export a checkpoint first: elir-export "
                f"{checkpoint} -o {folder}{' --task TASK' if name == 'random' else ''}, then "
                f"elir-bench {folder}"
            )
        bundles.append(Bundle.open(name))
    for bundle in bundles:
        available = bundle.manifest.precisions
        for precision in options.precisions or ():
            if file_precision(precision) not in available:
                choices = [p for p in RUN_PRECISIONS if file_precision(p) in available]
                raise UsageError(
                    f"{bundle.path} has no {file_precision(precision)} files: "
                    f"choose from {', '.join(choices)}"
                )
        largest = bundle.manifest.shapes[0].batch
        batch = max(options.batches, default=1)
        if batch > largest:
            raise UsageError(
                f"--batch {batch} is more than {bundle.path} takes, which is {largest}: export it "
                f"with elir-export --batch {batch}"
            )
    options.protocol.check(bundles)
    if options.rivals:
        options.protocol.check_rivals(bundles, options.rivals)
    return bundles


@dataclass
class Run:
    """One run.

    Attributes:
        checkpoint: from which the reference bundle was made, for peers; None: unknown.
        bundle: the one that the report describes, and whose model peers run.
        results: filled as the run proceeds; after an interruption, with what was finished.
        conditions: of the measurement, once it ended.
    """

    bundles: Sequence[Bundle]
    options: BenchOptions
    checkpoint: Checkpoint | None = None
    bundle: Bundle = field(init=False)
    results: Results = field(init=False)
    conditions: Conditions | None = None

    def __post_init__(self) -> None:
        self.bundle = self.options.protocol.reference(self.bundles)
        self.results = Results(self.options.protocol, [])

    @property
    def begun(self) -> bool:
        """Whether there is anything to keep."""
        results, measurement = self.results, self.results.measurement
        series = measurement.samples.values() if measurement else ()
        windows = any(soak.windows for soak in results.soaks)
        return bool(results.loads) or windows or any(samples.image_ns for samples in series)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of the images that every runner restores."""
        return (*self.bundle.manifest.input_size, 3)

    def measure_to_report(
        self, progress: ProgressCallback, notify: Callable[[str], None]
    ) -> BaseException | None:
        """As :meth:`measure`, but return what ended it early where there is something to report."""
        stopped: BaseException | None = None
        try:
            self.measure(progress, notify)
        except (KeyboardInterrupt, SystemExit, ElirError) as error:
            stopped = error
        if self.conditions is None or (stopped is not None and not self.begun):
            assert stopped is not None
            raise stopped
        return stopped

    def measure(
        self, progress: ProgressCallback, notify: Callable[[str], None] = lambda line: None
    ) -> None:
        """Open the runners, compare their pictures, and follow the protocol.

        ``notify`` is called with a line on what runs each runner of a bundle.

        Raises:
            UnavailableError: nothing can be measured here.
            KeyboardInterrupt: interrupted; :attr:`results` holds what was finished.
        """
        options, results = self.options, self.results
        with ExitStack() as stack:
            runners = self._open(progress)
            for runner in runners:
                stack.callback(runner.close)
                if isinstance(runner, BundleRunner):
                    notify(runner.description)
            results.runners = self._compare(runners, progress)
            options.protocol.prepare(self, progress)
            if options.cold and not options.protocol.bundles_alone:
                self._start_cold(progress)
            watch = stack.enter_context(Watch())
            device, meter, start = describe_device(), CpuMeter(), time.monotonic()
            try:
                options.protocol.measure(self, watch, progress)
                results.complete = True
            finally:
                elsewhere = meter.cores_elsewhere(time.monotonic() - start)
                watch.finish()
                measurement = results.measurement
                self.conditions = Conditions(
                    seed=options.seed,
                    threads=options.threads,
                    device=device,
                    cores_busy_elsewhere=elsewhere,
                    sensors=watch.sensors,
                    throttling=tuple(watch.throttling),
                    unreadable=watch.before.unreadable,
                    yardstick=describe() if measurement and measurement.yardstick else None,
                    energy=watch.energy,
                )

    def require(self, items: Sequence[object]) -> None:
        """Raise :class:`UnavailableError` with every reason if there are no ``items``."""
        if not items:
            reasons = "; ".join(f"{item.label}: {item.reason}" for item in self.results.unavailable)
            raise UnavailableError(f"nothing can be measured here: {reasons}")

    def _open(self, progress: ProgressCallback) -> list[Runner]:
        """Peers first, where they take part: the others are compared with the first."""
        progress("loading", 0, 0)
        options, unavailable = self.options, self.results.unavailable
        runners, missing = self._open_peers(progress)
        unavailable += missing
        suffixes = options.protocol.suffixes(self.bundles)
        for bundle, suffix in zip(self.bundles, suffixes, strict=True):
            for backends, precisions in options.selections:
                opened, missing = open_restorers(
                    *(bundle, backends, precisions),
                    threads=options.threads,
                    device=options.device,
                    suffix=suffix,
                    runner=PhotoRunner if options.protocol.on_photograph else BundleRunner,
                )
                runners += opened
                unavailable += [item for item in missing if item not in unavailable]
        self.require(runners)
        return runners

    def _open_peers(self, progress: ProgressCallback) -> tuple[list[Runner], list[Unavailable]]:
        options = self.options
        if not options.protocol.bundles_alone:
            device = peers.torch_device(options.rivals)
            runners, missing = peers.open_peers(
                *(options.peers, self.bundle, self.checkpoint, options.threads, progress),
                device=device,
            )
            eager = next((runner for runner in runners if runner.backend == peers.TORCH), None)
            rivals, self.results.rivals = peers.open_rivals(
                *(options.rivals, self.bundle, options.threads, device, eager, progress)
            )
            return runners + rivals, missing
        # PyTorch takes part by default, so it is listed only where it was named.
        named = options.backends is not None or tuple(options.peers) != (peers.TORCH,)
        reason = f"peers do not take part in --protocol {options.protocol.name}"
        return [], [Unavailable(name, reason) for name in options.peers if named]

    def _compare(self, runners: list[Runner], progress: ProgressCallback) -> list[Runner]:
        """Note every runner's agreement with the references; leave out those that fail."""
        for number, runner in enumerate(runners):
            progress("comparing with PyTorch's results", number, len(runners))
            bundle = runner.bundle if isinstance(runner, BundleRunner) else self.bundle
            try:
                self.results.fidelities[runner.label] = runner.fidelity(bundle)
            except UnavailableError as error:
                self.results.unavailable.append(Unavailable(runner.label, str(error)))
        running = [runner for runner in runners if runner.label in self.results.fidelities]
        self.require(running)
        self._take_pictures(running)
        return running

    def _take_pictures(self, runners: Sequence[Runner]) -> None:
        """Restore the first reference images for the report; none with random weights."""
        if self.bundle.manifest.source.random:
            return
        restorers = [runner for runner in runners if isinstance(runner, BundleRunner)]
        for name, low, full in self.bundle.reference_images():
            if len(self.results.pictures) == self.options.pictures:
                return
            after = {runner.label: runner.run_pixels(low) for runner in restorers}
            self.results.pictures.append(Picture(name, low, {**after, _REFERENCE: full}))

    def _start_cold(self, progress: ProgressCallback) -> None:
        restorers = [r for r in self.results.runners if isinstance(r, BundleRunner)]
        for number, runner in enumerate(restorers):
            progress("starting each in a new process", number, len(restorers))
            try:
                self.results.colds[runner.label] = start_cold(
                    *(runner.bundle.path, runner.backend, runner.precision),
                    threads=self.options.threads,
                    device=runner.device,
                )
            except UnavailableError as error:
                self.results.unavailable.append(
                    Unavailable(f"{runner.label}, first start", str(error))
                )
