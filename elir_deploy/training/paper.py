"""The paper's results, for comparison in tables of quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PAPER_ROWS", "PaperRow", "paper_row"]


@dataclass(frozen=True)
class PaperRow:
    """The paper's results of ELIR for one task.

    Attributes:
        task: a key of :data:`elir_deploy.tasks.TASKS`.
        dataset: name of the test images.
        source: the tables of the paper.
        values: means, by the names in :data:`elir_deploy.training.metrics.METRICS`.
    """

    task: str
    dataset: str
    source: str
    values: Mapping[str, float]


_CELEBA = "CelebA-Test"
_ROWS = (
    PaperRow(
        "bfr",
        _CELEBA,
        "Table 1(a)",
        {
            "psnr": 25.85,
            "ssim": 0.7009,
            "lpips": 0.3748,
            "ids": 34.38,
            "fid": 41.96,
            "niqe": 4.33,
            "musiq": 70.52,  # Table 7 has 70.61 for the same model
        },
    ),
    PaperRow(
        "sr",
        _CELEBA,
        "Tables 2 and 7",
        {
            "psnr": 24.08,
            "ssim": 0.6631,
            "lpips": 0.3252,
            "ids": 51.42,
            "fid": 44.61,
            "niqe": 5.07,
            "musiq": 63.25,
        },
    ),
    PaperRow(
        "denoise",
        _CELEBA,
        "Tables 2 and 8",
        {
            "psnr": 27.21,
            "ssim": 0.7748,
            "lpips": 0.2541,
            "ids": 36.05,
            "fid": 40.26,
            "niqe": 5.00,
            "musiq": 65.88,
        },
    ),
    PaperRow(
        "inpaint",
        _CELEBA,
        "Tables 2 and 8",
        {
            "psnr": 25.55,
            "ssim": 0.7330,
            "lpips": 0.2786,
            "ids": 40.69,
            "fid": 39.92,
            "niqe": 4.87,
            "musiq": 65.05,
        },
    ),
    PaperRow(
        "bsr",
        "ImageNet-Validation",
        "Table 1(b)",
        {"psnr": 22.81, "ssim": 0.6335, "lpips": 0.3743, "niqe": 5.27, "clipqa": 0.6041},
    ),
)

#: By task; ``tiny`` is not in the paper.
PAPER_ROWS: dict[str, PaperRow] = {row.task: row for row in _ROWS}


def paper_row(task_name: str) -> PaperRow | None:
    """The paper's results for a task; None if it has none."""
    return PAPER_ROWS.get(task_name)
