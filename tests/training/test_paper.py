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
