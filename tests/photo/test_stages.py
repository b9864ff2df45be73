"""Timing the stages of a photograph."""

from __future__ import annotations

import itertools

from elir_deploy.photo.stages import STAGES, StageTimes


def test_times_add_up_by_stage() -> None:
    clock = itertools.count(0, 10)
    times = StageTimes(lambda: next(clock))
    for stage in ("detect", "run", "run"):
        with times(stage):
            pass
    assert times.ns == {"detect": 10, "align": 0, "run": 20, "paste": 0}
    assert tuple(times.ns) == STAGES
    times.reset()
    assert not any(times.ns.values())
