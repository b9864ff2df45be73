"""Measuring a model on a folder of images: one pass, one image at a time."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from elir_deploy.errors import ImageError, UnavailableError
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.images import write_image
from elir_deploy.samples import Sample, Skipped
from elir_deploy.training.metrics import Mean, Metric, MetricSet
from elir_deploy.training.subjects import Pixels, Restored, Subject, Trace, Variant

__all__ = ["Evaluation", "Row", "Shown", "Tracer", "evaluate"]

INPUT = "input"
COARSE = "coarse estimate"
RESTORED = "restored"


@dataclass
class Row:
    """One kind of picture and its values.

    Attributes:
        label: ``input``, ``coarse estimate``, or ``restored`` with the variant where there are
            several.
        variant: of a restored picture.
        scores: metric to the values of the images in order.
        of_sets: metric of whole sets to its value.
    """

    label: str
    variant: Variant | None = None
    scores: dict[str, list[float]] = field(default_factory=dict)
    of_sets: dict[str, float] = field(default_factory=dict)

    def mean(self, metric: str) -> Mean | None:
        """Over the images; None where the metric was not measured."""
        if metric in self.of_sets:
            return Mean(self.of_sets[metric], None, 1)
        return Mean.of(self.scores[metric]) if metric in self.scores else None


@dataclass(frozen=True)
class Shown:
    """The pictures of one image that are kept to be shown."""

    name: str
    input: Pixels
    coarse: Pixels | None
    restored: Pixels
    truth: Pixels


@dataclass
class Evaluation:
    """What was measured.

    Attributes:
        rows: the input, the coarse estimate where there is one, then a row for each variant.
        images: number in the folder and name of each image that was measured.
        skipped: files that were left out.
        shown: the first images.
        traces: the first images' ways through the flow.
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
    """What gives traces: :meth:`elir_deploy.training.eager.CheckpointSubject.trace`."""

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
    on_input_warning: Callable[[str], None] | None = None,
) -> Evaluation:
    """Restore and measure every sample.

    One image is held at a time, beside those that are shown. Metrics of whole sets need files:
    those lie in a temporary folder until the end.

    Args:
        subject: the model.
        samples: what it is measured on.
        metrics: what is measured; those that turn out not to work move to ``metrics.not_run``.
        total: how many samples there are.
        show: how many of the first images to keep.
        tracer: gives an image's way through the flow.
        traces: of how many of the first images.
        on_progress: called with what is being done, how much of it is done, and of how much.
        on_input_warning: called with what is wrong with an image that is left out, or doubtful.

    Raises:
        ImageError: not one sample could be measured.
        UnavailableError: a metric that was asked for does not work.
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
            if item.doubt is not None:
                warn(item.doubt)
            restored = subject.restore(item.low)
            number = len(evaluation.images)
            pictures = _in_rows_order(restored)
            for row, picture in zip(evaluation.rows, pictures, strict=True):
                _measure(row, metrics, picture, item.truth)
            if folder is not None:
                _keep_files(folder, number, pictures, item.truth)
            evaluation.images.append((item.number, item.name))
            if number < show:
                evaluation.shown.append(
                    Shown(
                        item.name,
                        restored.input,
                        restored.coarse,
                        restored.pictures[0],
                        item.truth,
                    )
                )
            if tracer is not None and number < traces:
                evaluation.traces.append(tracer(item.name, item.low, item.truth))
        on_progress("measuring", total, total)
        if not evaluation.images:
            raise ImageError(_nothing_measured(evaluation.skipped))
        if folder is not None:
            _measure_sets(evaluation, metrics, folder, on_progress)
    _forget_dropped(evaluation.rows, metrics)
    return evaluation


def _rows(subject: Subject) -> list[Row]:
    variants = subject.plan.variants
    several = len(variants) > 1
    rows = [Row(INPUT), Row(COARSE)] if subject.has_coarse else [Row(INPUT)]
    return rows + [Row(f"{RESTORED}, {v}" if several else RESTORED, v) for v in variants]


def _in_rows_order(restored: Restored) -> list[Pixels]:
    coarse = [] if restored.coarse is None else [restored.coarse]
    return [restored.input, *coarse, *restored.pictures]


def _measure(row: Row, metrics: MetricSet, picture: Pixels, truth: Pixels) -> None:
    for metric in list(metrics.working):
        if metric.info.of_sets:
            continue
        with metrics.dropping(metric):
            value = metric.of_image(picture, truth)
            row.scores.setdefault(metric.info.name, []).append(value)


def _forget_dropped(rows: list[Row], metrics: MetricSet) -> None:
    """A metric that failed on one image has values of some images only: none are given."""
    for row in rows:
        for name in metrics.not_run:
            row.scores.pop(name, None)
            row.of_sets.pop(name, None)


def _nothing_measured(skipped: list[Skipped]) -> str:
    if not skipped:
        return "no image could be measured"
    return f"not one of {len(skipped)} images could be measured; the first: {skipped[0].reason}"


# Metrics of whole sets ------------------------------------------------------------------------

_TRUTHS = "truths"


@contextlib.contextmanager
def _folder_for_sets(metrics: MetricSet) -> Iterator[Path | None]:
    """A folder for files while the block runs, where a metric needs them."""
    if not any(metric.info.of_sets for metric in metrics.working):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="elir-eval-") as folder:
        yield Path(folder)


def _keep_files(folder: Path, number: int, pictures: list[Pixels], truth: Pixels) -> None:
    named = {_TRUTHS: truth} | {str(row): picture for row, picture in enumerate(pictures)}
    for name, picture in named.items():
        place = folder / name
        place.mkdir(exist_ok=True)
        write_image(place / f"{number:08}.png", picture)


def _measure_sets(
    evaluation: Evaluation,
    metrics: MetricSet,
    folder: Path,
    say: ProgressCallback,
) -> None:
    def values(metric: Metric) -> Iterator[float]:
        if len(evaluation.images) < 2:
            raise UnavailableError(f"{metric.info.title} needs at least two images")
        for number in range(len(evaluation.rows)):
            say(f"measuring {metric.info.title}", number, len(evaluation.rows))
            yield metric.of_folders(folder / str(number), folder / _TRUTHS)

    for metric in [metric for metric in metrics.working if metric.info.of_sets]:
        with metrics.dropping(metric):
            for row, value in zip(evaluation.rows, values(metric), strict=True):
                row.of_sets[metric.info.name] = value
