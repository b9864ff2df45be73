from __future__ import annotations

from pathlib import Path

import pytest

from elir_deploy.batch.queue import JobQueue
from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.jobs import Job


def jobs(count: int) -> list[Job]:
    return [Job(Path(f"{number}.png"), Path(f"out/{number}.png")) for number in range(count)]


@pytest.mark.parametrize(("count", "workers", "size"), [(1000, 2, 16), (12, 2, 1), (40, 2, 5)])
def test_chunks_hold_everything_in_order(count: int, workers: int, size: int) -> None:
    queue = JobQueue(jobs(count), workers)
    chunks = list(iter(queue.take, None))
    assert [job for chunk in chunks for job in chunk] == jobs(count)
    assert max(map(len, chunks)) == size


def test_what_a_dead_worker_left_runs_again_alone_and_first() -> None:
    queue = JobQueue(jobs(100), 1)
    chunk = queue.take() or []
    queue.succeeded()
    assert queue.died(chunk[10:], "killed") == []
    assert [queue.take() for _ in chunk[10:]] == [[job] for job in chunk[10:]]
    assert queue.take() == jobs(100)[16:32]


def test_an_image_that_kills_twice_is_given_up_and_the_others_are_not() -> None:
    queue = JobQueue(jobs(16), 1)
    chunk = queue.take() or []
    poison = chunk[3]
    while chunk is not None:
        lost = queue.died([poison], "killed") if poison in chunk else []
        if lost:
            assert lost == [poison]
            assert poison not in [job for chunk in iter(queue.take, None) for job in chunk]
            return
        chunk = queue.take()
    pytest.fail("the image was never tried again")


def test_workers_that_always_die_end_the_run() -> None:
    queue = JobQueue(jobs(1000), 1)
    for _ in range(20):
        queue.died(queue.take() or [], "no memory")
    chunk = queue.take() or []
    with pytest.raises(UnavailableError, match=r"21 workers died .* between them: no memory"):
        queue.died(chunk, "no memory")
