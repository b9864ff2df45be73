"""Evaluating a model on a folder of images, one image at a time."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from elir_deploy.errors import ImageError, UnavailableError
from elir_deploy.paired_images import Sample, Skipped
from elir_deploy.progress import ProgressCallback, WarningCallback, no_progress
from elir_deploy.runtime.images import write_image
from elir_deploy.training.metrics import Mean, Metric, MetricSet
from elir_deploy.training.subjects import Pixels, Subject, Trace, Variant

__all__ = ["Evaluation", "Row", "Shown", "Tracer", "evaluate"]

INPUT = "input"
COARSE = "coarse estimate"
RESTORED = "restored"


@dataclass
class Row:
    """The metrics of one kind of image.

    Attributes:
        label: ``input``, ``coarse estimate``, or ``restored`` with the variant where there are
            several.
        variant: variant of the model, for restored images.
        scores: for each metric, the values of the images in order.
        set_scores: for each metric of whole sets, its value.
    """

    label: str
    variant: Variant | None = None
    scores: dict[str, list[float]] = field(default_factory=dict)
    set_scores: dict[str, float] = field(default_factory=dict)

    def mean(self, metric: str) -> Mean | None:
        """Mean over the images; None where the metric was not measured."""
        if metric in self.set_scores:
            return Mean(self.set_scores[metric], None, 1)
        return Mean.of(self.scores[metric]) if metric in self.scores else None


@dataclass(frozen=True)
class Shown:
    """The pictures of one image in the contact sheet."""

    name: str
    input: Pixels
    coarse: Pixels | None
    restored: Pixels
    truth: Pixels


@dataclass
class Evaluation:
    """The result of an evaluation.

    Attributes:
        rows: the input, the coarse estimate where there is one, then a row for each variant.
        images: number in the folder and name of each measured image.
        skipped: files that were not measured.
        shown: pictures of the first images.
        traces: paths of the first images through the flow.
    """

    rows: list[Row]
    images: list[tuple[int, str]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)

    def restored(self, variant: Variant) -> Row:
        """The row of a variant."""
        return next(row for row in self.rows if row.variant == variant)


class Tracer(Protocol):
    """Traces an image: :meth:`elir_deploy.training.eager.CheckpointSubject.trace`."""

    def __call__(self, name: str, low: Pixels, truth: Pixels) -> Trace: ...


def evaluate(
    subject: Subject,
    samples: Iterable[Sample | Skipped],
    metrics: MetricSet,
    *,
    total: int,
    show: int = 0,
    tracer: Tracer | None = None,
    traces: int = 0,
    on_progress: ProgressCallback = no_progress,
    on_input_warning: WarningCallback | None = None,
) -> Evaluation:
    """Restore and measure every sample.

    Only one image is in memory at a time, besides those in ``shown``. Metrics of whole sets read
    files, which are in a temporary folder until the end.

    Args:
        subject: the model.
        samples: the images.
        metrics: the metrics; those that fail move to ``metrics.not_run``.
        total: number of samples.
        show: number of images in the contact sheet.
        tracer: traces an image through the flow.
        traces: number of images to trace.
        on_progress: called with the current task, the amount done and the total.
        on_input_warning: called with a message for each image that is skipped or suspicious.

    Raises:
        ImageError: no sample could be measured.
        UnavailableError: a required metric failed.
    """
    warn = on_input_warning or (lambda message: None)
    evaluation = Evaluation(_rows(subject))
    with _folder_for_sets(metrics) as folder:
        for done, item in enumerate(samples):
            on_progress("measuring", done, total)
            if isinstance(item, Skipped):
                evaluation.skipped.append(item)
                warn(item.reason)
                continue
            if item.warning is not None:
                warn(item.warning)
            number = len(evaluation.images)
            shown = _measure_image(evaluation, subject, metrics, item, folder)
            if number < show:
                evaluation.shown.append(shown)
            if tracer is not None and number < traces:
                evaluation.traces.append(tracer(item.name, item.low, item.truth))
        on_progress("measuring", total, total)
        if not evaluation.images:
            raise ImageError(_nothing_measured_message(evaluation.skipped))
        if folder is not None:
            _measure_sets(evaluation, metrics, folder, on_progress)
    _remove_failed(evaluation.rows, metrics)
    return evaluation


def _rows(subject: Subject) -> list[Row]:
    variants = subject.plan.variants
    several = len(variants) > 1
    rows = [Row(INPUT), Row(COARSE)] if subject.has_coarse else [Row(INPUT)]
    return rows + [Row(f"{RESTORED}, {v}" if several else RESTORED, v) for v in variants]


def _measure_image(
    evaluation: Evaluation,
    subject: Subject,
    metrics: MetricSet,
    sample: Sample,
    folder: Path | None,
) -> Shown:
    restored = subject.restore(sample.low)
    coarse = [] if restored.coarse is None else [restored.coarse]
    pictures = [restored.input, *coarse, *restored.pictures]
    for row, picture in zip(evaluation.rows, pictures, strict=True):
        _measure(row, metrics, picture, sample.truth)
    if folder is not None:
        _write_files(folder, len(evaluation.images), pictures, sample.truth)
    evaluation.images.append((sample.number, sample.name))
    return Shown(sample.name, restored.input, restored.coarse, restored.pictures[0], sample.truth)


def _measure(row: Row, metrics: MetricSet, picture: Pixels, truth: Pixels) -> None:
    for metric in list(metrics.working):
        if metric.info.compares_sets:
            continue
        with metrics.drop_on_failure(metric):
            value = metric.of_image(picture, truth)
            row.scores.setdefault(metric.info.name, []).append(value)


def _remove_failed(rows: list[Row], metrics: MetricSet) -> None:
    """Remove the values of metrics that failed: they cover only some of the images."""
    for row in rows:
        for name in metrics.not_run:
            row.scores.pop(name, None)
            row.set_scores.pop(name, None)


def _nothing_measured_message(skipped: list[Skipped]) -> str:
    if not skipped:
        return "no image could be measured"
    return f"none of {len(skipped)} images could be measured; the first: {skipped[0].reason}"


# Metrics of whole sets ------------------------------------------------------------------------

_TRUTHS = "truths"


@contextlib.contextmanager
def _folder_for_sets(metrics: MetricSet) -> Iterator[Path | None]:
    """A temporary folder for images, if a metric reads files."""
    if not any(metric.info.compares_sets for metric in metrics.working):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="elir-eval-") as folder:
        yield Path(folder)


def _write_files(folder: Path, number: int, pictures: list[Pixels], truth: Pixels) -> None:
    by_name = {_TRUTHS: truth} | {str(row): picture for row, picture in enumerate(pictures)}
    for name, picture in by_name.items():
        subfolder = folder / name
        subfolder.mkdir(exist_ok=True)
        write_image(subfolder / f"{number:08}.png", picture)


def _measure_sets(
    evaluation: Evaluation,
    metrics: MetricSet,
    folder: Path,
    on_progress: ProgressCallback,
) -> None:
    def values(metric: Metric) -> Iterator[float]:
        if len(evaluation.images) < 2:
            raise UnavailableError(f"{metric.info.title} needs at least two images")
        for number in range(len(evaluation.rows)):
            on_progress(f"measuring {metric.info.title}", number, len(evaluation.rows))
            yield metric.of_folders(folder / str(number), folder / _TRUTHS)

    for metric in [metric for metric in metrics.working if metric.info.compares_sets]:
        with metrics.drop_on_failure(metric):
            for row, value in zip(evaluation.rows, values(metric), strict=True):
                row.set_scores[metric.info.name] = value
