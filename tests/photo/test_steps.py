"""Timing the steps of a photograph."""

from __future__ import annotations

import itertools

from elir_deploy.photo.steps import PHOTO_STEPS, StepTimes


def test_times_add_up_by_step() -> None:
    clock = itertools.count(0, 10)
    times = StepTimes(lambda: next(clock))
    for step in ("detect", "run", "run"):
        with times(step):
            pass
    assert times.ns == {"detect": 10, "align": 0, "run": 20, "paste": 0}
    assert tuple(times.ns) == PHOTO_STEPS
    times.reset()
    assert not any(times.ns.values())
