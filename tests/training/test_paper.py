from __future__ import annotations

from elir_deploy.tasks import TASKS
from elir_deploy.training.metrics import METRICS
from elir_deploy.training.paper import PAPER_ROWS, paper_row


def test_every_released_task_has_a_row_and_no_other() -> None:
    assert set(PAPER_ROWS) == {name for name, task in TASKS.items() if task.released_name}
    assert paper_row("tiny") is None


def test_faces_are_measured_on_faces() -> None:
    for name, row in PAPER_ROWS.items():
        assert row.task == name
        assert set(row.values) <= set(METRICS)
        faces = TASKS[name].faces
        assert ("ids" in row.values) == faces
        assert row.dataset == ("CelebA-Test" if faces else "ImageNet-Validation")


def test_the_values_lie_where_such_values_lie() -> None:
    ranges = {
        "psnr": (22, 28),
        "ssim": (0.6, 0.8),
        "lpips": (0.2, 0.4),
        "ids": (30, 60),
        "fid": (35, 50),
        "niqe": (4, 6),
        "musiq": (60, 75),
        "clipqa": (0.5, 0.7),
    }
    for row in PAPER_ROWS.values():
        for metric, value in row.values.items():
            low, high = ranges[metric]
            assert low < value < high, (row.task, metric)
