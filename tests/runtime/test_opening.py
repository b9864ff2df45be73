"""What is tried before a backend is taken, and what becomes of one that fails."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import BundleError, UnavailableError
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime import Restorer, backends
from elir_deploy.runtime.backends import Backend, Session
from elir_deploy.runtime.bundle import Bundle
from tests.bundles import make_bundle, read_manifest, verification, write_manifest
from tests.sessions import ArraySession

Run = Callable[[], None]


class Copying(ArraySession):
    """Gives what it is given, once ``before`` lets it, and notes in ``closed`` when it closes."""

    def __init__(self, bundle: Bundle, before: Run, closed: list[str]) -> None:
        super().__init__(bundle)
        self.before = before
        self.closed = closed

    def run(self) -> None:
        self.before()
        np.copyto(self.output, self.input)

    def close(self) -> None:
        self.closed.append("closed")


class Blackening(Copying):
    def run(self) -> None:
        self.output[...] = 0


class Unopened(Copying):
    def __init__(self, *_: object) -> None:
        raise ValueError("bad provider option")


class Stub(Backend):
    """A backend that is in no table; each of its precisions runs or fails as told."""

    kind = "onnx"

    def __init__(self, name: str, **runs: Run | type[Copying]) -> None:
        self.name = name
        self.runs = runs
        self.precisions = tuple(runs)
        self.sessions: list[weakref.ref[Copying]] = []
        self.closed: list[str] = []

    def available(self) -> str | None:
        return None

    def open(self, bundle: Bundle, precision: str, **_: object) -> Session:
        run = self.runs[precision]
        kind, before = (run, good) if isinstance(run, type) else (Copying, run)
        session = kind(bundle, before, self.closed)
        self.sessions.append(weakref.ref(session))
        return session

    def open_several(self, bundle: Bundle, precision: str, **_: object) -> tuple[Session, ...]:
        return tuple(self.open(bundle, precision) for _ in range(3))


def good() -> None:
    pass


def failing(kind: type[BaseException], *arguments: str) -> Run:
    def run() -> None:
        raise kind(*arguments)

    return run


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def call(*stubs: Stub) -> None:
        monkeypatch.setattr(backends, "BACKENDS", {stub.name: stub for stub in stubs})

    return call


@pytest.fixture(autouse=True)
def told() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


FAILURES = [
    (failing(UnavailableError, "no cuDNN"), "no cuDNN"),
    (failing(MemoryError), "out of memory"),
    (failing(RuntimeError, "CUDA error 2:\n out of memory"), "RuntimeError: CUDA error 2: out of"),
    (failing(BundleError, "this release cannot read it"), "this release cannot read it"),
    (Blackening, "wrong on this machine: "),
]


@pytest.mark.parametrize("mode", ["latency", "throughput"])
@pytest.mark.parametrize(("run", "reason"), FAILURES)
def test_auto_goes_on_after_a_first_run_that_fails(
    bundle: Path, register, told, run: Run, reason: str, mode: str
) -> None:
    """In float32, too, which is not less likely to lack cuDNN or memory."""
    first, second = Stub("first", fp32=run), Stub("second", fp32=good)
    register(first, second)
    with Restorer(bundle, mode=mode) as restore:  # type: ignore[arg-type]
        assert (restore.backend, restore.precision) == ("second", "fp32")
        assert len(first.closed) == len(first.sessions) == restore.concurrency
        assert not second.closed
    (warning,) = told
    assert str(warning.message).startswith(f"first in fp32: {reason}")
    assert str(warning.message).endswith("; using second in fp32")
    assert warning.filename == __file__


def test_what_works_is_tried_once_and_taken_without_a_word(bundle: Path, register, told) -> None:
    runs: list[int] = []
    first = Stub("first", fp32=lambda: runs.append(1))
    register(first, Stub("second", fp32=good))
    with Restorer(bundle) as restore:
        assert restore.backend == "first"
        assert (len(runs), told) == (1, [])


def test_one_warning_for_all_that_failed(bundle: Path, register, told) -> None:
    gone = failing(UnavailableError, "the device is gone")
    register(
        Stub("first", fp32=gone, bf16=gone),
        Stub("second", fp32=failing(MemoryError)),
        Stub("third", fp32=good),
    )
    manifest = read_manifest(bundle)
    manifest["verification"]["bf16"] = manifest["verification"]["fp32"]
    write_manifest(bundle, manifest)
    Restorer(bundle).close()
    assert [str(w.message) for w in told] == [
        "first in fp32, first in bf16: the device is gone; second in fp32: out of memory; "
        "using third in fp32"
    ]


def test_what_fails_to_open_with_an_error_of_its_library(bundle: Path, register, told) -> None:
    register(Stub("first", fp32=Unopened), Stub("second", fp32=good))
    Restorer(bundle).close()
    assert "first in fp32: ValueError: bad provider option; " in str(told[0].message)


@pytest.mark.parametrize("mode", ["latency", "throughput"])
@pytest.mark.parametrize("before", [good, failing(MemoryError)])
def test_ctrl_c_closes_what_was_opened(bundle: Path, register, before: Run, mode: str) -> None:
    interrupted = Stub("second", fp32=failing(KeyboardInterrupt))
    others = [] if before is good else [Stub("first", fp32=before)]
    register(*others, interrupted, Stub("third", fp32=good))
    with pytest.raises(KeyboardInterrupt):
        Restorer(bundle, mode=mode)  # type: ignore[arg-type]
    for stub in (*others, interrupted):
        assert len(stub.closed) == len(stub.sessions) == (3 if mode == "throughput" else 1)


def test_a_warning_that_is_an_error_closes_what_was_opened(ruined: Path, register) -> None:
    for second, arguments in (
        (Stub("second", fp32=good), {}),
        (Stub("second", int8=Blackening), {"backend": "second", "precision": "int8"}),
    ):
        register(Stub("first", fp32=failing(MemoryError)), second)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning):
                Restorer(ruined, **arguments)
        assert len(second.closed) == 1


class OffByOne(Copying):
    """55 dB from the expected picture: every fifth value is off by one."""

    def run(self) -> None:
        super().run()
        values = self.output.reshape(-1)[::5]
        values += np.where(values < 255, np.uint8(1), np.uint8(255)).astype(np.uint8)


def test_enough_where_verification_was_identical(tmp_path: Path, register, told) -> None:
    """A precision verified with infinite dB may differ by rounding on another machine."""
    path = make_bundle(tmp_path / "b")
    manifest = read_manifest(path)
    manifest["verification"]["fp32"] = verification(None)
    write_manifest(path, manifest)
    register(Stub("first", fp32=OffByOne), Stub("second", fp32=good))
    with Restorer(path) as restore:
        assert (restore.backend, told) == ("first", [])
        (_, image, expected), *_ = restore.bundle.reference_images()
        assert 54.5 < psnr_db(restore(image), expected) < 55.5


@pytest.fixture
def ruined(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "ruined", precisions=("fp32", "int8"))


def test_the_next_one_gets_the_memory_of_the_one_that_failed(bundle: Path, register) -> None:
    """Not even the traceback of its error may keep it."""
    first = Stub("first", fp32=failing(RuntimeError, "out of memory"))

    class Second(Stub):
        def open(self, *args: Any, **kwargs: Any) -> Session:
            gc.collect()
            (session,) = first.sessions
            assert session() is None
            return super().open(*args, **kwargs)

    register(first, Second("second", fp32=good))
    with Restorer(bundle) as restore:
        assert restore.backend == "second"


def test_every_reason_is_told_where_nothing_works(bundle: Path, register) -> None:
    stubs = [Stub(f"number{n}", fp32=run) for n, (run, _) in enumerate(FAILURES)]
    register(*stubs)
    with pytest.raises(UnavailableError, match="no backend on this machine can run") as caught:
        Restorer(bundle)
    for stub, (_, reason) in zip(stubs, FAILURES, strict=True):
        assert f"{stub.name} in fp32: {reason}" in str(caught.value)
        assert len(stub.closed) == 1


def test_a_bundle_that_nothing_can_read_is_a_bundle_error(bundle: Path, register) -> None:
    damaged = failing(BundleError, "fused.fp32.onnx is damaged")
    register(Stub("first", fp32=damaged), Stub("second", fp32=damaged))
    with pytest.raises(BundleError, match=r"^first in fp32, second in fp32: fused\.fp32\.onnx is"):
        Restorer(bundle)


@pytest.mark.parametrize(("run", "reason"), FAILURES[:-1])
def test_what_was_named_fails_with_its_own_error(
    ruined: Path, register, told, run: Run, reason: str
) -> None:
    first = Stub("first", int8=run)
    register(first, Stub("second", int8=good))
    with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever it raises
        Restorer(ruined, "first", precision="int8")
    assert isinstance(caught.value, (MemoryError, RuntimeError, BundleError, UnavailableError))
    assert "no backend on this machine can run" not in str(caught.value)
    assert (len(first.closed), told) == (1, [])


def test_a_named_backend_goes_on_to_its_next_precision(ruined: Path, register, told) -> None:
    first = Stub("first", int8=failing(MemoryError), fp32=good)
    register(first, Stub("second", fp32=good))
    with Restorer(ruined, "first") as restore:
        assert (restore.backend, restore.precision) == ("first", "fp32")
    assert str(told[0].message) == "first in int8: out of memory; using first in fp32"


def test_a_named_precision_goes_on_to_the_next_backend(ruined: Path, register, told) -> None:
    register(Stub("first", int8=Blackening), Stub("second", int8=good, fp32=good))
    with Restorer(ruined, precision="int8") as restore:
        assert (restore.backend, restore.precision) == ("second", "int8")
    assert str(told[0].message).startswith("first in int8: wrong on this machine: ")


def test_a_bundle_without_references_is_tried_all_the_same(tmp_path: Path, register, told) -> None:
    path = make_bundle(tmp_path / "b", references=False)
    register(Stub("first", fp32=failing(MemoryError)), Stub("second", fp32=Blackening))
    with Restorer(path) as restore:
        assert restore.backend == "second", "nothing to compare with"


def test_a_line_says_what_runs(bundle: Path) -> None:
    with Restorer(bundle, "onnxruntime", threads=1) as restore:
        assert str(restore) == "tiny: onnxruntime, fp32, 1 thread"
    with Restorer(bundle, "onnxruntime") as restore:
        assert str(restore) == "tiny: onnxruntime, fp32"
    pytest.importorskip("openvino")
    with Restorer(bundle, "openvino", precision="fp32", threads=1) as restore:
        assert str(restore) == "tiny: openvino, fp32, 1 thread"
    with Restorer(bundle, "openvino", precision="fp32") as restore:
        assert restore.threads is not None
        assert restore.threads >= 1
