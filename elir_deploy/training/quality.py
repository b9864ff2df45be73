"""The report of an evaluation: JSON values, and tables rendered from them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from elir_deploy import __version__
from elir_deploy.pixels import finite_or_none
from elir_deploy.text import aligned, in_markdown, pipes
from elir_deploy.training.evaluation import Evaluation, Row
from elir_deploy.training.metrics import METRICS, MetricSet
from elir_deploy.training.paper import paper_row
from elir_deploy.training.subjects import Subject

__all__ = ["SCHEMA_VERSION", "build_report", "curve_metric", "markdown", "text", "to_json"]

SCHEMA_VERSION = 1
#: The second metric of a curve beside PSNR: the first of these that was measured.
_PERCEPTUAL = ("fid", "niqe", "musiq", "clipqa", "blur")
#: Number of images below which FID depends mostly on their number.
_ENOUGH_FOR_FID = 2000
_PAPER_NOTE = (
    "the paper used pyiqa, whose SSIM is computed on luma (here: RGB), and does not name its LPIPS "
    "network"
)
_CURVE_TITLES = {"steps": "Over the steps M", "sigma_s": "Over the noise sigma_s"}


def build_report(
    subject: Subject,
    evaluation: Evaluation,
    metrics: MetricSet,
    *,
    images: str,
    degraded: str | None,
    seed: int,
    pictures: Sequence[str] = (),
) -> dict[str, Any]:
    """The report of an evaluation, as JSON values.

    Args:
        subject: the model.
        evaluation: result of :func:`elir_deploy.training.evaluation.evaluate`.
        metrics: the metrics.
        images: folder of the truths.
        degraded: folder of the degraded images; None: the truths were degraded by the task.
        seed: seed of the degradations.
        pictures: names of the picture files beside the report.
    """
    paper = paper_row(subject.task)
    curves = {
        name: {
            "rows": [evaluation.restored(variant).label for variant in variants],
            "metrics": ["psnr", curve_metric(evaluation)],
        }
        for name, variants in subject.plan.curves.items()
    }
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "elir-eval",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"elir-deploy": __version__},
        "model": subject.description,
        "data": {
            "images": images,
            "degraded": degraded,
            "degradation": None if degraded is not None else subject.task,
            "seed": None if degraded is not None else seed,
            "measured": len(evaluation.images),
            "skipped": [{"name": item.name, "reason": item.reason} for item in evaluation.skipped],
        },
        "metrics": {name: _metric(name, metrics) for name in metrics.names},
        "fid_reference": metrics.fid_reference,
        "main": evaluation.restored(subject.plan.main).label,
        "rows": [_row(row) for row in evaluation.rows],
        "paper": None
        if paper is None
        else {"dataset": paper.dataset, "source": paper.source, "means": dict(paper.values)},
        "curves": curves,
        "pictures": list(pictures),
        "images": [_image(evaluation, index) for index in range(len(evaluation.images))],
    }
    report["warnings"] = _warnings(report)
    return report


def _metric(name: str, metrics: MetricSet) -> dict[str, Any]:
    return {
        "title": METRICS[name].title,
        "lower_better": METRICS[name].lower_better,
        "what": METRICS[name].summary,
        "not_run": metrics.not_run.get(name),
    }


def _image(evaluation: Evaluation, index: int) -> dict[str, Any]:
    number, name = evaluation.images[index]
    values = {
        row.label: {metric: finite_or_none(scores[index]) for metric, scores in row.scores.items()}
        for row in evaluation.rows
    }
    return {"number": number, "name": name, "values": values}


def curve_metric(evaluation: Evaluation) -> str:
    """The perceptual metric of a distortion-perception curve."""
    measured = {*evaluation.rows[0].scores, *evaluation.rows[0].set_scores}
    return next(name for name in _PERCEPTUAL if name in measured)


def to_json(report: dict[str, Any]) -> str:
    """Strict JSON, with null for infinities and NaNs."""
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


def _row(row: Row) -> dict[str, Any]:
    means = {}
    for name in METRICS:
        mean = row.mean(name)
        if mean is not None:
            means[name] = {
                "mean": finite_or_none(mean.value),
                "infinite": mean.value == math.inf,
                "standard_error": finite_or_none(mean.standard_error),
                "count": mean.count,
            }
    return {
        "label": row.label,
        "steps": row.variant.steps if row.variant else None,
        "sigma_s": row.variant.sigma_s if row.variant else None,
        "means": means,
    }


def _warnings(report: dict[str, Any]) -> list[str]:
    warnings = []
    if report["model"]["random_weights"]:
        warnings.append("the weights are random: the results do not measure quality")
    measured, skipped = report["data"]["measured"], report["data"]["skipped"]
    if skipped:
        warnings.append(f"{len(skipped)} of {measured + len(skipped)} images skipped")
    if report["fid_reference"] is not None and measured < _ENOUGH_FOR_FID:
        warnings.append(
            f"FID of {measured} images is biased upwards: compare it at equal numbers of images"
        )
    return warnings


# Tables ---------------------------------------------------------------------------------------


def text(report: dict[str, Any]) -> str:
    """The report as plain text."""
    heading, details = _heading(report)
    parts = [heading, *details, "", aligned(*_main_table(report)), ""]
    for name in report["curves"]:
        parts += [_CURVE_TITLES[name], aligned(*_curve_table(report, name)), ""]
    return "\n".join([*parts, *_remarks(report)]).replace("±", "+-")


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown; names from files and manifests are escaped."""
    heading, details = _heading(report)
    parts = [f"# {in_markdown(heading)}", "", *(f"- {in_markdown(line)}" for line in details), ""]
    parts += [pipes(*_main_table(report)), ""]
    for name in report["curves"]:
        parts += [f"{_CURVE_TITLES[name]}:", "", pipes(*_curve_table(report, name)), ""]
    parts += [f"- {in_markdown(line)}" for line in _remarks(report)]
    skipped = report["data"]["skipped"]
    if skipped:
        parts += ["", "Skipped:", "", *(f"- {in_markdown(item['reason'])}" for item in skipped)]
    if report["pictures"]:
        parts += ["", *(f"![{name}]({name})" for name in report["pictures"])]
    return "\n".join(parts) + "\n"


def _heading(report: dict[str, Any]) -> tuple[str, list[str]]:
    model, data = report["model"], report["data"]
    side = model["image_size"]
    heading = (
        f"{model['task']}, {side}x{side}, M = {model['steps']}, sigma_s = {model['sigma_s']:g}, "
        f"{model['parameters'] / 1e6:.1f} M parameters, from {model['source']}"
    )
    source = (
        f"degraded by the task (seed {data['seed']})"
        if data["degraded"] is None
        else f"degraded images from {data['degraded']}"
    )
    return heading, [
        f"{model['kind']} on {model['backend']}, {model['precision']}",
        f"{data['measured']} images of {data['images']}, {source}",
    ]


def _columns(report: dict[str, Any]) -> list[str]:
    """The metrics that were measured or are in the paper's row."""
    paper = report["paper"]["means"] if report["paper"] else {}
    return [
        name
        for name, metric in report["metrics"].items()
        if metric["not_run"] is None or name in paper
    ]


def _main_table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    columns = _columns(report)
    header = ["mean ± standard error", *(report["metrics"][name]["title"] for name in columns)]
    in_curves = {label for curve in report["curves"].values() for label in curve["rows"]}
    rows = [
        [row["label"], *(_cell(row["means"].get(name), name) for name in columns)]
        for row in report["rows"]
        if row["label"] == report["main"] or row["label"] not in in_curves
    ]
    if report["paper"]:
        paper = report["paper"]
        label = f"paper: {paper['dataset']}, not your images"
        rows.append([label, *(_number(paper["means"].get(name), name) for name in columns)])
    return header, rows


def _curve_table(report: dict[str, Any], curve: str) -> tuple[list[str], list[list[str]]]:
    columns = [name for name in _columns(report) if report["metrics"][name]["not_run"] is None]
    labels = report["curves"][curve]["rows"]
    by_label = {row["label"]: row for row in report["rows"]}
    title = "M" if curve == "steps" else "sigma_s"
    header = [title, *(report["metrics"][name]["title"] for name in columns)]
    rows = [
        [
            f"{by_label[label][curve]:g}",
            *(_cell(by_label[label]["means"].get(name), name) for name in columns),
        ]
        for label in labels
    ]
    return header, rows


def _cell(mean: dict[str, Any] | None, metric: str) -> str:
    if mean is None:
        return "not run"
    if mean["infinite"]:
        return "some identical" if metric == "psnr" else "infinite"
    error = mean["standard_error"]
    number = _number(mean["mean"], metric)
    return number if error is None else f"{number} ± {_number(error, metric)}"


def _number(value: float | None, metric: str) -> str:
    return "-" if value is None else f"{value:.{METRICS[metric].digits}f}"


def _remarks(report: dict[str, Any]) -> list[str]:
    columns = _columns(report)
    lower = [
        METRICS[name].title.split()[0]
        for name in columns
        if report["metrics"][name]["lower_better"]
    ]
    lines = [f"lower is better: {', '.join(lower)}; for the others higher is better"]
    lines.append(f"blur: {METRICS['blur'].summary}")
    if report["paper"]:
        lines.append(f"paper: {report['paper']['source']}; {_PAPER_NOTE}")
    if report["fid_reference"]:
        lines.append(f"FID is against {report['fid_reference']}")
    for name, metric in report["metrics"].items():
        if metric["not_run"] is not None:
            lines.append(f"not run: {_short(name)}: {metric['not_run']}")
    return [*lines, *(f"warning: {line}" for line in report["warnings"])]


def _short(metric: str) -> str:
    """The title without the unit."""
    return METRICS[metric].title.partition(" ")[0]
