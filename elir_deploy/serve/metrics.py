"""What ``/metrics`` shows, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from elir_deploy.serve.dispatcher import Timing

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCHES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The metrics of a service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "elir_stage_seconds",
            "Seconds that images spent in each stage",
            ["model", "stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "elir_batch_size",
            "Images in each run of the model",
            ["model"],
            buckets=_BATCHES,
            registry=self._registry,
        )
        self._requests = Counter(
            "elir_requests",
            "Requests by path and status",
            ["path", "status"],
            registry=self._registry,
        )
        self._waiting = Gauge(
            "elir_queue_length",
            "Images that wait for the model",
            ["model"],
            registry=self._registry,
        )

    @contextmanager
    def stage(self, model: str, stage: str) -> Iterator[None]:
        """Time a stage: ``decode`` or ``encode``."""
        started = perf_counter()
        try:
            yield
        finally:
            self._seconds.labels(model, stage).observe(perf_counter() - started)

    def of_runs(self, model: str) -> Callable[[Timing], None]:
        """What a dispatcher calls after each run."""

        def observe(timing: Timing) -> None:
            self._batches.labels(model).observe(timing.images)
            for seconds in timing.waited:
                self._seconds.labels(model, "wait").observe(seconds)
                self._seconds.labels(model, "restore").observe(timing.seconds)

        return observe

    def request(self, path: str, status: int) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()

    def watch(self, model: str, waiting: Callable[[], float]) -> None:
        """Read the length of a queue whenever metrics are asked for."""
        self._waiting.labels(model).set_function(waiting)

    def text(self) -> bytes:
        """All of them, in Prometheus' format."""
        return generate_latest(self._registry)
