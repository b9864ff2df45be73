"""The log of events: counts while several threads write."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from elir_deploy.runtime.events import EventLog
from elir_deploy.runtime.jobs import plan_jobs
from elir_deploy.runtime.results import Result


class SlowCounter(Counter[str]):
    """Lets other threads run between reading and writing a count."""

    def __getitem__(self, key: str) -> int:
        value = super().__getitem__(key)
        time.sleep(0.01)
        return value


def test_no_event_is_lost_from_the_summary(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    plan = plan_jobs([tmp_path / "a.png"], tmp_path / "out")
    with EventLog(str(tmp_path / "log"), plan) as log:
        log._counts = SlowCounter()
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(log.result, [Result(plan.jobs[0])] * 8))
    *images, summary = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert (len(images), summary["restored"]) == (8, 8)
