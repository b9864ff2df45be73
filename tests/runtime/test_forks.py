"""A child made by fork is told at once that it cannot use its parent's restorer."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import timeit
from pathlib import Path

import pytest

from elir_deploy.errors import UsageError
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.forks import Owner
from tests.bundles import make_bundle

BACKENDS = ("onnxruntime", "openvino")

#: ``child`` runs a function in a child and prints how it ends.
PROGRAM = """
import gc, multiprocessing, os, signal, sys, threading, time
import numpy as np
from elir_deploy.errors import UsageError
from elir_deploy.runtime import Restorer

bundle, backend = sys.argv[1:]
image = np.full((32, 32, 3), 100, np.uint8)
large = np.full((500, 500, 3), 100, np.uint8)

def child(work, end=os._exit):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            print(work())
            sys.stdout.flush()
        except UsageError as error:
            own = f"process {os.getppid()} and cannot be used in {os.getpid()}, which was forked"
            print("refused" if own in str(error) else error, flush=True)
        end(0)
    return os.waitpid(pid, 0)[1]

def opened(mode="latency"):
    return Restorer(bundle, backend, precision="fp32", mode=mode)

"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("fork") / "b")


def printed(bundle: Path, backend: str, code: str) -> list[str]:
    if backend == "openvino":
        pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(code), str(bundle), backend],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "elir_deploy" not in done.stderr, done.stderr  # OpenVINO's telemetry may complain
    return done.stdout.splitlines()


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_call_is_refused(bundle: Path, backend: str) -> None:
    code = """
        with opened() as restore:
            expected = restore(image)
            spec = restore.input_spec
            session = restore.session
            run, ((_, stage),) = session.run, session.stage_calls()
            for work in (
                lambda: restore(image),
                lambda: restore(large),
                lambda: next(restore.map([image])),
                lambda: restore.run(np.zeros(spec.shape, spec.dtype)),
                lambda: restore.run_pixels(image),
                lambda: restore.session,
                lambda: session.run(),
                run,
                stage,
                lambda: session.select(restore.bundle.manifest.shapes[0], 1),
            ):
                assert child(work) == 0
            assert (restore(image) == expected).all()
    """
    assert printed(bundle, backend, code) == ["refused"] * 10


@pytest.mark.parametrize("backend", BACKENDS)
def test_locks_that_the_parent_held(bundle: Path, backend: str) -> None:
    """Also where a thread of the parent has the only session, or the lock of all of them."""
    code = """
        restore = opened()
        held, go_on = threading.Event(), threading.Event()
        def on_tile(what, done, total):
            held.set()
            go_on.wait()
        def hold():
            with restore._pool._changed:
                held.set()
                go_on.wait()
        def close():
            restore.close()
            restore.close()
        def leave():
            with restore:
                pass
        for work in (lambda: restore(large, on_progress=on_tile), hold):
            held.clear(), go_on.clear()
            thread = threading.Thread(target=work)
            thread.start()
            held.wait()
            for work in (lambda: restore(image), lambda: next(restore.map([image])), close, leave):
                assert child(work) == 0
            go_on.set()
            thread.join()
    """
    assert printed(bundle, backend, code) == ["refused", "refused", "None", "None"] * 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_an_iteration_that_the_parent_began(bundle: Path, backend: str, mode: str) -> None:
    code = f"""
        restore = opened("{mode}")
        images = restore.map(image for _ in range(100))
        next(images)
        def drop():
            global images
            del images
            gc.collect()
        for work in (lambda: next(images), lambda: images.close(), drop):
            assert child(work) == 0
        assert len(list(images)) == 99
        unbegun = restore.map([image])
        assert child(lambda: next(unbegun)) == 0
    """
    assert printed(bundle, backend, code) == ["refused", "None", "None", "refused"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_fork_in_the_middle_of_an_image(bundle: Path, backend: str) -> None:
    code = """
        restore = opened()
        parent, children = os.getpid(), []
        def on_tile(what, done, total):
            if done == 1:
                children.append(os.fork())
                if children == [0]:
                    signal.alarm(20)
        try:
            restore(large, on_progress=on_tile)
        except UsageError as error:
            print("refused", flush=True)
        if os.getpid() != parent:
            os._exit(0)
        assert os.waitpid(children[0], 0)[1] == 0
    """
    assert printed(bundle, backend, code) == ["refused"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_child_may_forget_it(backend: str) -> None:
    """The library would wait for its threads, which only the parent has."""
    code = """
        restore = opened()
        def forget():
            global restore
            del restore
            gc.collect()
        assert child(forget) == 0
    """
    assert printed(Bundle.open("tiny").path, backend, code) == ["None"]


def test_a_child_of_openvino_ends() -> None:
    """onnxruntime's does not, even if nothing but onnxruntime was imported."""
    code = """
        restore = opened()
        images = restore.map(image for _ in range(100))
        next(images)
        assert child(lambda: None, end=sys.exit) == 0
        images.close()
        restore.close()
    """
    assert printed(Bundle.open("tiny").path, "openvino", code) == ["None"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_child_has_its_own(bundle: Path, backend: str) -> None:
    code = """
        with opened() as restore:
            expected = restore(large)
            def own():
                with opened() as another:
                    return (another(large) == expected).all()
            assert child(own) == 0
            process = multiprocessing.get_context("fork").Process(target=own)
            process.start()
            process.join(20)
            print(process.exitcode)
    """
    assert printed(bundle, backend, code) == ["True", "0"]


def test_the_message() -> None:
    owner = Owner("this Restorer")
    owner.check()
    assert owner.is_here()
    owner._process += 1
    assert not owner.is_here()
    with pytest.raises(UsageError) as raised:
        owner.check()
    assert str(raised.value) == (
        f"this Restorer belongs to process {os.getpid() + 1} and cannot be used in {os.getpid()}, "
        "which was forked from it: open it after the fork, or start processes by 'spawn'"
    )


def test_what_it_costs() -> None:
    """A microsecond; an image takes thousands."""
    owner = Owner("this Restorer")
    assert min(timeit.repeat(owner.check, number=10_000, repeat=5)) / 10_000 < 10e-6
