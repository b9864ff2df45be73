"""Workers on Ray: one for each GPU or group of CPU cores, replaced when they die."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from typing import Any

from elir_deploy.batch.queue import JobQueue
from elir_deploy.batch.worker import Worker, WorkerOptions
from elir_deploy.errors import (
    DeviceLostError,
    MissingDependencyError,
    UnavailableError,
)
from elir_deploy.interrupts import raise_interruption
from elir_deploy.progress import WarningCallback, no_warning
from elir_deploy.runtime.jobs import Job
from elir_deploy.runtime.results import Result

__all__ = ["Cluster", "open_cluster"]

#: Seconds between looks at whether workers still live.
_PATIENCE_S = 1.0
#: Seconds for a worker to start.
_START_S = 600.0
#: Seconds of waiting for workers alone, after which that is told.
_SILENCE_S = 10.0
#: Seconds for a cluster to accept a connection.
_CONNECTION_S = 10.0


class _WorkerDiedError(Exception):
    pass


@dataclass
class _Running:
    worker: Any
    unfinished: list[Job]


@dataclass
class _Opening:
    worker: Any
    until: float


class _Wait:
    """A wait, during which nothing is restored; the user is told once that it is long."""

    def __init__(self, on_wait: WarningCallback) -> None:
        self._on_wait: WarningCallback | None = on_wait
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._since

    def tell(self, what: str) -> None:
        """Say what is waited for, if that takes long and was not said yet."""
        if self._on_wait is not None and self.seconds >= _SILENCE_S:
            self._on_wait(
                f"waiting for {what}, for up to {_START_S:.0f} s: opening the bundle takes long, "
                "or there is no room yet"
            )
            self._on_wait = None


@dataclass
class Cluster:
    """Connected workers.

    Attributes:
        ray: the module.
        start: starts another worker.
        workers: those that run.
        names: what runs in each.
        on_wait: called with what is waited for, where nothing else happens for long.
    """

    ray: Any
    start: Callable[[], Any]
    workers: list[Any]
    names: list[str] = field(default_factory=list)
    on_wait: WarningCallback = no_warning

    def restore(self, jobs: Sequence[Job], on_result: Callable[[Result], None]) -> None:
        """Restore ``jobs``, whose results are passed to ``on_result`` as they arrive.

        Jobs of workers that die run again. The others go on while a new worker opens its bundle,
        for which there may be no room after the loss of a machine.

        Raises:
            DiskFullError: no further image can be restored.
            UnavailableError: workers die again and again, or none is left.
        """
        queue = JobQueue(jobs, len(self.workers))
        running: dict[Any, _Running] = {}  # by the results to come
        opening: dict[Any, _Opening] = {}  # by the name to come
        idle = list(self.workers)
        wait = _Wait(self.on_wait)
        while True:
            while idle and (chunk := queue.take()):
                worker = idle.pop()
                running[worker.restore.remote(chunk)] = _Running(worker, chunk)
            if not running:
                if queue.is_empty:
                    return
                if not opening:
                    raise UnavailableError("no worker is left: start elir-batch again")
                wait.tell("a worker in place of those that died")
            else:
                wait = _Wait(self.on_wait)
            ready, _ = self.ray.wait([*running, *opening], timeout=_PATIENCE_S)
            for each in ready:
                if each in opening:
                    idle += self._opened(each, opening, queue)
                    continue
                try:
                    result = self._next(each, running[each].worker)
                except _WorkerDiedError as death:
                    for job in queue.died(running.pop(each).unfinished, str(death)):
                        on_result(Result(job, f"left out, its worker died twice: {death}"))
                    self._open(opening)
                    continue
                if result is None:
                    idle.append(running.pop(each).worker)
                else:
                    queue.succeeded()
                    running[each].unfinished.remove(result.job)
                    on_result(result)
            for name in [n for n, each in opening.items() if time.monotonic() > each.until]:
                self.ray.kill(opening.pop(name).worker)

    def _open(self, opening: dict[Any, _Opening]) -> None:
        worker = self.start()
        opening[worker.name.remote()] = _Opening(worker, time.monotonic() + _START_S)

    def _opened(self, name: Any, opening: dict[Any, _Opening], queue: JobQueue) -> list[Any]:
        """The worker that has opened its bundle; none: it died, and another one is started.

        Only then it gets images, so that none is blamed for a worker that cannot start.
        """
        worker = opening.pop(name).worker
        try:
            self.ray.get(name)
        except self.ray.exceptions.RayActorError as error:
            queue.died([], _cause(error))
            self._open(opening)
            return []
        return [worker]

    def _next(self, stream: Any, worker: Any) -> Result | None:
        """The next result of a worker; None: it has done its jobs.

        Raises:
            _WorkerDiedError: it died, or its device no longer responds.
        """
        exceptions = self.ray.exceptions
        try:
            result: Result = self.ray.get(next(stream))
        except StopIteration:
            return None
        except exceptions.RayTaskError as error:
            if not isinstance(error.cause, DeviceLostError):
                raise error.cause from None
            self.ray.kill(worker)
            raise _WorkerDiedError(str(error.cause)) from None
        except exceptions.OutOfMemoryError:
            raise _WorkerDiedError("it was ended for want of memory") from None
        except exceptions.RayActorError:
            self.ray.kill(worker)  # it may only be out of reach, and hold its GPU
            raise _WorkerDiedError("its process ended") from None
        return result


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@contextmanager
def open_cluster(
    options: WorkerOptions,
    address: str | None,
    workers: int | None,
    on_wait: WarningCallback = no_warning,
) -> Iterator[Cluster]:
    """Start Ray on this machine, or join it, and open the bundle in every worker.

    Ray that is started here listens on loopback alone, and ends with the block, as do its files. In
    the block, what is printed goes to standard error.

    Args:
        options: of the workers.
        address: of a cluster to join; None: start Ray here.
        workers: number of workers; None: one for each GPU, or for each group of ``threads`` cores
            where there are no GPUs.
        on_wait: as of :class:`Cluster`.

    Raises:
        MissingDependencyError: Ray is not installed.
        UnavailableError: the cluster cannot be reached, or has no room for a worker.
    """
    if address is None:
        # Read when Ray is imported: the node's address is then that of loopback.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise MissingDependencyError("ray", "ray", "run workers") from None
    if address is not None:
        _check_reachable(address)
    # Ray prints of workers that died, wherever its logs go.
    with redirect_stdout(sys.stderr), ExitStack() as stack:
        files: dict[str, Any] = {}
        if address is None:
            # Of Ray, which leaves them, and of workers that are killed.
            made = tempfile.TemporaryDirectory(prefix="elir-", ignore_cleanup_errors=True)
            files["_temp_dir"] = stack.enter_context(made)
            options = replace(options, copies=made.name)
        _connect(ray, address, files)
        try:
            if address is None:
                services: Any = ray.util
                _check_loopback(services.get_node_ip_address())
            yield _start(ray, options, workers, on_wait)
        except SystemExit:  # of SIGTERM, with a code of Ray's
            raise_interruption(signal.SIGTERM)
        finally:
            ray.shutdown()


def _connect(ray: Any, address: str | None, files: dict[str, Any]) -> None:
    with _our_signals():
        try:
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                **files,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            place = address or "on this machine"
            raise UnavailableError(f"Ray {place}: {_first_line(error)}") from None


@contextmanager
def _our_signals() -> Iterator[None]:
    """Keep what SIGTERM does, which Ray changes to an exit with another code."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _check_loopback(node: str) -> None:
    if not ipaddress.ip_address(node).is_loopback:
        raise UnavailableError(
            f"Ray listens on {node}, which other machines may reach, because this process imported "
            "it before: start elir-batch on its own, or pass the address of a cluster"
        )


def _check_reachable(address: str) -> None:
    """Try a connection, for which Ray would wait for minutes."""
    host, colon, port = address.rpartition("/")[2].rpartition(":")
    if not (colon and port.isdecimal()):
        return  # such as auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECTION_S).close()
    except OSError as error:
        raise UnavailableError(f"no Ray cluster at {address}: {error.strerror or error}") from None


def _start(
    ray: Any, options: WorkerOptions, workers: int | None, on_wait: WarningCallback
) -> Cluster:
    resources = ray.cluster_resources()
    gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    threads = options.options.get("threads") or 1
    if not gpus:
        options = replace(options, options={**options.options, "threads": threads})
    count = workers or gpus or max(1, cores // threads)
    # More workers than there is room for share it; Ray takes whole numbers and parts of one.
    share = {"num_gpus": gpus / count} if gpus else {"num_cpus": min(threads, cores / count)}
    share = {kind: int(part) if part > 1 else part for kind, part in share.items()}
    actor = ray.remote(**share)(Worker)
    cluster = Cluster(ray, lambda: actor.remote(options), [], on_wait=on_wait)
    cluster.workers = [cluster.start() for _ in range(count)]
    try:
        names = waiting = [worker.name.remote() for worker in cluster.workers]
        wait = _Wait(on_wait)
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=_PATIENCE_S)
            ray.get(ready)  # raises what a worker died of
            if waiting and wait.seconds > _START_S:
                raise UnavailableError(
                    f"{len(waiting)} of {count} workers were not ready in {_START_S:.0f} s: "
                    "opening the bundle takes longer, or there is no room for them in a cluster "
                    f"of {cores} cores and {gpus} GPUs"
                )
            if waiting:
                wait.tell(f"{len(waiting)} of {count} workers on {cores} cores and {gpus} GPUs")
        cluster.names = ray.get(names)
    except ray.exceptions.RayActorError as error:
        raise UnavailableError(f"a worker does not start: {_cause(error)}") from None
    return cluster


def _cause(error: Exception) -> str:
    """The error of our own inside one of Ray's, as far as its text tells."""
    lines = [line for line in str(error).splitlines() if "elir_deploy.errors." in line]
    return (
        lines[-1].partition("elir_deploy.errors.")[2].partition(": ")[2]
        if lines
        else _first_line(error)
    )
