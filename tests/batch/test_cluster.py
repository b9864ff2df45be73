"""Workers on a real Ray, which the tests start."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
from PIL import Image

from elir_deploy.batch import cluster
from elir_deploy.batch.places import remove_leftovers
from elir_deploy.batch.worker import WorkerOptions
from elir_deploy.cli import batch as command
from elir_deploy.errors import UnavailableError
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.files import restore_files
from elir_deploy.runtime.jobs import Job, plan_jobs
from elir_deploy.runtime.results import Result
from tests.batch.poison import MortalWorker
from tests.bundles import make_bundle
from tests.command import run_here

# Ray is imported by what is tested: its address is decided then.
if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)


def album(folder: Path, count: int) -> Path:
    """Pictures of several sizes, in folders."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number % 3}" / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        side = 20 + number % 40
        Image.fromarray(generator.integers(0, 256, (side, 32, 3), np.uint8)).save(path)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def restored_here(bundle: Path, source: Path, folder: Path) -> dict[str, bytes]:
    with Restorer(bundle, "onnxruntime", precision="fp32") as restorer:
        restore_files(restorer, plan_jobs([source], folder, recursive=True).jobs)
    return contents(folder)


def listening() -> set[str]:
    """Addresses on which this process and its children accept connections."""
    here = psutil.Process()
    return {
        connection.laddr.ip
        for process in [here, *here.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_two_workers_one_of_which_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "Worker", MortalWorker)
    bundle = make_bundle(tmp_path / "bundle", gain=0.5, stride=8)
    source = album(tmp_path / "in", 9)
    expected = restored_here(bundle, source, tmp_path / "here")
    for name, content in (("poison.png", (source / "0/0000.png").read_bytes()), ("bad.jpg", b"?")):
        (source / name).write_bytes(content)
    addresses: set[str] = set()
    original = cluster.Cluster.restore

    def restore(self: cluster.Cluster, *arguments: object) -> None:
        addresses.update(listening())
        original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cluster.Cluster, "restore", restore)
    options = ("--bundle", bundle, "--backend", "onnxruntime", "--workers", 2, "--recursive")
    events = tmp_path / "events.jsonl"
    done = run_here(command.main, source, tmp_path / "out", *options, "--events", events)
    assert done.returncode == 2, done.stderr
    assert contents(tmp_path / "out") == expected
    assert "2 workers of tiny: onnxruntime, fp32, 1 thread" in done.stderr
    assert "poison.png: left out, its worker died twice: its process ended" in done.stderr
    assert re.search(r"^restoring 11/11, \S+ pictures/s$", done.stderr, re.MULTILINE)
    assert done.stdout.startswith("9 restored, 2 failed")
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert Counter(line.get("status") for line in lines[:-1]) == {"restored": 9, "failed": 2}
    assert addresses
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    import ray

    assert not ray.is_initialized()


def killed_in_the_middle(folder: Path, results: int) -> Callable[[], int | None]:
    """Kills a worker once ``folder`` has so many results; the function returns its number."""
    victim: list[int] = []

    def kill() -> None:
        while len(list(folder.rglob("*.png"))) < results:
            time.sleep(0.01)
        for process in psutil.Process().children(recursive=True):
            if "Worker.restore" in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
                victim.append(process.pid)
                return

    thread = threading.Thread(target=kill)
    thread.start()

    def wait() -> int | None:
        thread.join()
        return victim[0] if victim else None

    return wait


@pytest.mark.slow
def test_kill_minus_9_loses_nothing(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", gain=0.5, stride=8)
    source = album(tmp_path / "in", 500)
    expected = restored_here(bundle, source, tmp_path / "here")
    wait = killed_in_the_middle(tmp_path / "out", 100)
    options = ("--bundle", bundle, "--backend", "onnxruntime", "--workers", 2, "--recursive")
    done = run_here(command.main, source, tmp_path / "out", *options)
    assert wait() is not None
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("500 restored")
    assert contents(tmp_path / "out") == expected


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_workers(tmp_path: Path, number: int, code: int) -> None:
    bundle = make_bundle(tmp_path / "bundle", gain=0.5, stride=8)
    source = album(tmp_path / "in", 500)
    command = [
        *(sys.executable, "-m", "elir_deploy.cli.batch", str(source), str(tmp_path / "out")),
        *("--bundle", str(bundle), "--recursive", "--existing", "skip"),
    ]
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:  # names of sockets are short
        environment = os.environ | {"TMPDIR": temporary}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        while len(list((tmp_path / "out").rglob("*.png"))) < 20:
            time.sleep(0.01)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert list(Path(temporary).glob("[!.]*")) == []  # .ses is an empty file of a library
    assert process.returncode == code, errors
    assert "left: --existing skip restores the rest" in errors
    assert psutil.wait_procs(workers, timeout=20)[1] == []
    for path in (tmp_path / "out").rglob("*.png"):
        Image.open(path).load()


@pytest.mark.slow
def test_urls_and_a_cluster_that_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "bundle", gain=0.5, stride=8)
    source = album(tmp_path / "in", 20)
    expected = restored_here(bundle, source, tmp_path / "here")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    context = ray.init(address="local", include_dashboard=False, log_to_driver=False)
    address = context.address_info["gcs_address"]
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "elir_deploy.cli.batch"),
                *(source.as_uri(), (tmp_path / "out").as_uri()),
                *("--bundle", str(bundle), "--backend", "onnxruntime", "--recursive"),
                *("--ray", address),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        ray.shutdown()
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == expected


@pytest.mark.slow
def test_a_lost_machine_loses_nothing(tmp_path: Path) -> None:
    """The worker that is left goes on, though there is no room for a new one."""
    from ray.cluster_utils import Cluster as Machines

    bundle = make_bundle(tmp_path / "bundle", gain=0.5, stride=8)
    source = album(tmp_path / "in", 60)
    expected = restored_here(bundle, source, tmp_path / "here")
    plan = plan_jobs([source], tmp_path / "out", recursive=True)
    running = {"backend": "onnxruntime", "precision": "fp32"}
    options = WorkerOptions(str(bundle), options=running, folder=str(tmp_path))
    machines = Machines(initialize_head=True, head_node_args={"num_cpus": 1})
    results: list[Result] = []
    try:
        lost = machines.add_node(num_cpus=1)
        machines.wait_for_nodes()

        def note(result: Result) -> None:
            results.append(result)
            if len(results) == 10:
                machines.remove_node(lost, allow_graceful=False)

        started = time.monotonic()
        with cluster.open_cluster(options, machines.address, None) as workers:
            assert len(workers.workers) == 2
            workers.restore(plan.jobs, note)
        assert time.monotonic() - started < cluster._START_S
    finally:
        machines.shutdown()
    remove_leftovers(plan.jobs)
    assert [result.failure for result in results] == [None] * 60
    assert contents(tmp_path / "out") == expected


def test_what_does_not_start_says_why(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    options = WorkerOptions("tiny")
    with (
        pytest.raises(
            UnavailableError, match=r"no Ray cluster at 127\.0\.0\.1:\d+: Connection refused"
        ),
        cluster.open_cluster(options, f"127.0.0.1:{port}", None),
    ):
        pass


class _Ray:
    """Workers take some looks to open their bundle; the first may die with its first job."""

    class exceptions:  # noqa: N801  # as Ray has it
        class RayActorError(Exception):
            pass

        RayTaskError = OutOfMemoryError = ZeroDivisionError

    def __init__(self, looks: int, mortal: bool = False) -> None:
        self.looks, self.left, self.mortal = looks, looks, mortal
        self.kill = Mock()

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **share: float) -> Callable[[object], Any]:
        return lambda worker: Mock(remote=lambda options: self.started())

    def started(self) -> Any:
        worker = Mock()
        worker.name.remote = object
        worker.restore.remote = lambda chunk: (Result(job) for job in chunk)
        if self.mortal:
            self.mortal = False
            worker.restore.remote = lambda chunk: self.dead()
        return worker

    def dead(self) -> Iterator[Result]:
        raise self.exceptions.RayActorError
        yield

    def wait(self, names: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        streams = [name for name in names if isinstance(name, Iterator)]
        if not streams and self.left:
            self.left -= 1
            return [], names
        self.left = self.looks
        first = (streams or names)[0]
        return [first], [name for name in names if name is not first]

    def get(self, what: Any) -> Any:
        return what


@pytest.mark.parametrize(("silence_s", "times"), [(0.0, 1), (1000.0, 0)])
def test_what_is_waited_for_is_told_once(
    monkeypatch: pytest.MonkeyPatch, silence_s: float, times: int
) -> None:
    monkeypatch.setattr(cluster, "_SILENCE_S", silence_s)
    told: list[str] = []
    ray = _Ray(3, mortal=True)
    workers = cluster._start(ray, WorkerOptions("tiny"), 1, told.append)
    assert len(told) == times
    assert all(text.startswith("waiting for 1 of 1 workers on 2 cores and 0 G") for text in told)
    told.clear()
    results: list[Result] = []
    workers.restore([Job(Path("a.png"), Path("b.png"))], results.append)
    assert [result.failure for result in results] == [None]
    assert len(told) == times
    assert all(text.startswith("waiting for a worker in place of") for text in told)


def test_workers_that_do_not_become_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_START_S", -1.0)
    with pytest.raises(UnavailableError, match="2 of 2 workers were not ready"):
        cluster._start(_Ray(3), WorkerOptions("tiny"), 2, lambda text: None)
