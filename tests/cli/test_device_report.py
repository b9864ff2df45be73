"""``elir-bench --device-report`` on this CPU and on a stand-in GPU with faults: always a report."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from elir_deploy.bench import runs
from elir_deploy.bench.device_report import DeviceFile, read_device_report, without_file_name
from elir_deploy.bench.protocols import PROTOCOLS
from elir_deploy.bench.report_types import Report
from elir_deploy.cli import bench, compare, device_report, device_step, inspect
from elir_deploy.errors import DiskFullError, UnavailableError, UsageError
from elir_deploy.runtime import openvino_library
from tests.bench.reports import report_values
from tests.bundles import make_bundle, read_manifest, write_manifest
from tests.cli import device_stand_in
from tests.command import run_here
from tests.runtime import stand_in_cuda
from tests.runtime.engines import put_engine

PLANS = [replace(PROTOCOLS["paper"], warmup=1, images=4)]
OPTIONS: dict[str, Any] = {"threads": 1, "seed": 0, "device": 0}
STEPS = [
    "machine",
    "build tensorrt fp32",
    "build tensorrt fp16",
    "check tensorrt fp32",
    "check tensorrt fp16",
    "measure paper",
]
#: Steps that fail, by the backend that is tried.
FAULTS = {
    "tensorrt": ("machine", "build tensorrt fp16", "check tensorrt fp16", "measure paper"),
    "tensorrt-rtx": ("check tensorrt-rtx fp16",),
    "onnxruntime": ("check onnxruntime fp16",),
    "openvino": ("check openvino fp16",),
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", precisions=("fp32", "fp16"))


def statuses(file: DeviceFile) -> dict[str, str]:
    return {step.name: step.status for step in file.report.steps}


class Here:
    """Takes the steps in this process, on the stand-ins; ``fault`` as of their module."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.fault = ""
        #: The library for engines that is installed.
        self.kind = "tensorrt"
        #: The number of the driver's call that fails in the last check, and its name.
        self.fail_at: int | None = None
        self.failed: str | None = None
        self._patch = patch
        patch.setattr(device_report, "_run", self._run)
        patch.setattr(runs, "start_cold", self._start_cold)

    def _start_cold(self, *arguments: Any, **options: Any) -> Any:
        raise UnavailableError("the process would not have the stand-ins")

    def _run(self, options: dict[str, Any], show: Any, stop: Any) -> Any:
        outcome = device_report._Outcome(log=b"printed\n")

        def send(message: tuple[str, Any]) -> None:
            if message[0] != "progress":
                setattr(outcome, *message)

        with self._patch.context() as patch:
            gpu = device_stand_in.install(options.get("bundle"), patch, self.kind)
            name = device_stand_in.name_of(options)
            gpu.fail_at = self.fail_at if name == "check tensorrt fp16" else None
            device_stand_in.faulty(self.fault, options["step"], name, patch)
            device_step.take_here(send, options)
        self.failed = gpu.failed or self.failed
        return outcome


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Here:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Here(monkeypatch)


def report(bundle: Path, out: Path, backends: list[str] | None = None) -> DeviceFile:
    device_report.report_device([str(bundle)], out, PLANS, backends or ["tensorrt"], None, OPTIONS)
    return read_device_report(out)


def test_engines_are_built_checked_and_measured(bundle: Path, here: Here, tmp_path: Path) -> None:
    before = sorted(path.name for path in bundle.rglob("*"))
    file = report(bundle, tmp_path / "out.zip")
    assert statuses(file) == dict.fromkeys(STEPS, "done")
    assert file.report.complete
    assert [row.label for row in file.report.checks] == ["tensorrt fp32", "tensorrt fp16"]
    assert all(row.fidelity and row.fidelity.identical for row in file.report.checks)
    (engine,) = file.report.checks[1].artifacts
    assert engine.file == "fused.fp16.sm86.trt.engine"
    assert len(file.measurements["paper.json"].runners) == 2
    assert sorted(path.name for path in bundle.rglob("*")) == before, "the bundle stays as it is"
    assert not list(tmp_path.glob(".elir-*"))


def test_the_file_may_be_in_the_bundle(
    bundle: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    assert statuses(report(Path(), Path("out.zip"))) == dict.fromkeys(STEPS, "done")


def test_an_engine_that_fits_is_not_built_again(bundle: Path, here: Here, tmp_path: Path) -> None:
    present = put_engine(bundle, kind="tensorrt", precision="fp16")
    file = report(bundle, tmp_path / "out.zip")
    assert statuses(file) == dict.fromkeys(STEPS, "done")
    files = [row.artifacts[0].file for row in file.report.checks]
    assert files == ["fused.fp32.sm86.trt.engine", present]


@pytest.mark.parametrize(
    ("backend", "step"), [(backend, step) for backend, steps in FAULTS.items() for step in steps]
)
def test_a_fault_at_each_step(
    bundle: Path, here: Here, tmp_path: Path, backend: str, step: str
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    here.fault = f"raise {step}"
    if backend == "tensorrt-rtx":  # its engines are built ahead of time
        here.kind = backend
        for precision in ("fp32", "fp16"):
            put_engine(bundle, precision=precision)
    file = report(bundle, tmp_path / "out.zip", [backend])
    failed = {name for name, status in statuses(file).items() if status == "failed"}
    # A backend without an engine has nothing to check.
    assert failed == {step}
    assert file.report.complete
    (note,) = [each for each in file.report.steps if each.name == step]
    assert note.reason == "RuntimeError: the library failed in <home>/lib.so"
    assert note.traceback
    assert "in fail" in note.traceback
    kinds = step.split()
    precisions = {"openvino": ("fp32", "bf16", "fp16")}.get(backend, ("fp32", "fp16"))
    labels = [f"{backend} {precision}" for precision in precisions]
    left = [label for label in labels if kinds[0] == "measure" or not step.endswith(label)]
    assert [row.label for row in file.report.checks] == left
    if kinds[0] != "measure":
        assert [row.label for row in file.measurements["paper.json"].runners] == left


def test_an_engine_that_the_library_cannot_build(
    bundle: Path, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The traceback leads to the build, and the log has what the library said."""
    monkeypatch.setattr(stand_in_cuda, "engine_bytes", lambda *ends: None)
    file = report(bundle, tmp_path / "out.zip")
    assert statuses(file) == {STEPS[0]: "done", **dict.fromkeys((*STEPS[1:3], "check"), "failed")}
    step = file.report.steps[2]
    assert step.reason == "tensorrt 10.13.3.9 cannot build fused.fp16: no reason reported"
    assert "in build_engine" in str(step.traceback)


def test_a_machine_that_can_run_nothing(
    bundle: Path, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This does not look like success."""
    file = report(bundle, tmp_path / "out.zip", ["tensorrt-rtx"])
    assert statuses(file) == {"machine": "done", "check": "failed"}
    nothing = "nothing on this machine can run the bundle"
    assert str(file.report.steps[1].reason).startswith(f"{nothing}: tensorrt-rtx: tensorrt-rtx is ")
    printed = capsys.readouterr()
    assert f"check: {nothing}: tensorrt-rtx: " in printed.out
    assert f"1 of 2 steps failed; {nothing}; please" in printed.err


def test_a_device_of_openvino(
    bundle: Path, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That has a name: only OpenVINO is tried, and on it."""
    pytest.importorskip("openvino")
    from tests.stand_in_openvino import core_with_a_spare

    monkeypatch.setattr(openvino_library, "_cores", [core_with_a_spare()])
    out, options = tmp_path / "out.zip", {**OPTIONS, "device": "SPARECPU"}
    device_report.report_device([str(bundle)], out, PLANS, None, ["fp32"], options)
    file = read_device_report(out)
    steps = ("machine", "check openvino fp32", "measure paper")
    assert statuses(file) == dict.fromkeys(steps, "done")
    measured = (file.report.checks, file.measurements["paper.json"].runners)
    assert [[row.label for row in rows] for rows in measured] == [["openvino fp32 on SPARECPU"]] * 2


def test_faults_of_the_driver(bundle: Path, here: Here, tmp_path: Path) -> None:
    """At calls of the check of one engine: it fails, or the runtime does without the call."""
    failed = set()
    for here.fail_at in (0, 8, 13, 34):
        here.failed = None
        file = report(bundle, tmp_path / "out.zip")
        assert file.report.complete
        assert list(statuses(file)) == STEPS
        assert file.measurements
        struck = statuses(file)["check tensorrt fp16"] == "failed"
        failed |= {here.failed} if struck else set()
        assert struck == any(step.traceback for step in file.report.steps)
    assert len(failed) == 4, failed


def test_a_full_disk_has_no_copy_and_a_report(
    bundle: Path, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copy2", full)
    file = report(bundle, tmp_path / "out.zip", ["tensorrt", "onnxruntime"])
    assert statuses(file)["copy the bundle"] == "failed"
    assert "check onnxruntime fp32" in statuses(file)
    assert "No space left on device" in str(file.report.steps[1].reason)
    assert file.measurements


def test_a_disk_that_is_full_meanwhile(
    bundle: Path,
    here: Here,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written, real = [0], device_report.write_device_report

    def write(*arguments: Any) -> None:
        written[0] += 1
        if 1 < written[0] <= stays_full:
            raise DiskFullError("out.zip cannot be written: No space left on device")
        real(*arguments)

    monkeypatch.setattr(device_report, "write_device_report", write)
    stays_full = len(STEPS)
    file = report(bundle, tmp_path / "out.zip")
    assert written[0] == len(STEPS) + 1
    assert statuses(file) == dict.fromkeys(STEPS, "done")
    assert "warning: out.zip cannot be written" in capsys.readouterr().err
    stays_full, written[0] = 99, 0
    with pytest.raises(DiskFullError):
        report(bundle, tmp_path / "out.zip")
    assert "measure paper" in capsys.readouterr().out, "it is on the screen"
    assert statuses(read_device_report(tmp_path / "out.zip")) == {"machine": "running"}


def test_a_disk_that_is_full_from_the_start_is_told_at_once(
    bundle: Path, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise DiskFullError("full")

    monkeypatch.setattr(device_report, "write_device_report", full)
    monkeypatch.setattr(device_report, "_run", lambda *a: pytest.fail("measured"))
    with pytest.raises(DiskFullError):
        report(bundle, tmp_path / "out.zip")


def test_usage(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    with pytest.raises(UsageError, match="takes one bundle, not 2"):
        device_report.report_device([str(bundle), "tiny"], out, PLANS, None, None, OPTIONS)
    for extra in (
        ["--json", "x.json"],
        ["--peers", "all"],
        ["--backend", "torch"],
        ["--no-cold"],
    ):
        done = run_here(bench.main, bundle, "--device-report", out, *extra)
        assert done.returncode == 2
        assert "--device-report takes no peers" in done.stderr
    done = run_here(bench.main, bundle, "--device-report", out, "--device", "1")
    assert done.returncode == 2
    assert "measures the first GPU, not --device 1: set CUDA_VISIBLE_DEVICES=1" in done.stderr
    done = run_here(
        bench.main, bundle, "--device-report", out, "--device", "GPU", "--backend", "onnxruntime"
    )
    assert (done.returncode, out.exists()) == (2, False)
    assert "onnxruntime has no device 'GPU'" in done.stderr
    times = ("--seconds", "20", "--at-most", "5")
    done = run_here(bench.main, bundle, "--device-report", out, *times)
    assert (done.returncode, out.exists()) == (2, False)
    assert "--at-most 5 ends the run before --seconds 20" in done.stderr
    for name in ("-", "out"):
        done = run_here(bench.main, bundle, "--device-report", name)
        assert done.returncode == 2
        assert f"--device-report {name}: expected a name ending in .zip" in done.stderr
    done = run_here(bench.main, bundle, "--device-report", out, "--precision", "int8")
    assert (done.returncode, out.exists()) == (2, False)


# Processes ------------------------------------------------------------------------------------


def start(
    bundle: Path, out: Path, fault: str = "", *, inside: tuple[str, ...] = (), **environment: str
) -> subprocess.Popen[str]:
    """The command, whose steps are on the stand-ins if there is a ``fault``.

    ``inside`` is a command that runs it.
    """
    code = "from elir_deploy.cli import bench, device_report\n"
    if fault:
        code += "from tests.cli import device_stand_in\n"
        code += "device_report._STEP = device_stand_in.take_step\n"
    code += "if __name__ == '__main__': bench.main()\n"
    program = bundle.parent / "program.py"  # which the processes of steps read, too
    program.write_text(code)
    command = [*inside, sys.executable, str(program), str(bundle), "--device-report", str(out)]
    command += ["--images", "4", "--warmup", "1", "--seconds", "0.1", "--at-most", "1"]
    command += ["--threads", "1", "--precision", "fp16"]
    command += ["--backend", "tensorrt" if fault else "onnxruntime"]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path, "ELIR_TEST_FAULT": fault, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def test_nothing_personal_and_two_are_compared(tmp_path: Path) -> None:
    """On this CPU, with names that are no regular expressions, and a bundle inside a home."""
    home = tmp_path / "J\u00f6rg O'Neil (x) [a-z]+$"
    home.mkdir()
    bundle = make_bundle(home / "secret place" / "b", precisions=("fp16",))
    manifest = read_manifest(bundle)
    manifest["source"]["name"] = "secret-faces.pth"
    write_manifest(bundle, manifest)
    out = home / "out.zip"
    user = "j\u00f6rg.o+neil"
    process = start(bundle, out, HOME=str(home), USER=user, HOSTNAME="lab-7.acme.example")
    printed, told = process.communicate()
    assert process.returncode == 0, told
    assert f"{out}: 0 of" in told
    with zipfile.ZipFile(out) as archive:
        content = "".join(archive.read(name).decode() for name in archive.namelist())
    for text in (content, content.encode().decode("unicode_escape"), printed):
        for secret in ("neil", "secret", str(tmp_path), "acme", "lab-7", socket.gethostname()):
            assert not re.search(rf"\b{re.escape(secret)}\b", text, re.IGNORECASE), secret
    shown = run_here(inspect.main, out)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == printed
    assert "onnxruntime fp16" in shown.stdout
    values = json.loads(run_here(inspect.main, out, "--json").stdout)
    assert "from <checkpoint>" in shown.stdout
    assert values["report"]["checks"][0]["weights"] == "<checkpoint>"
    assert set(values["measurements"]) == {"latency.json", "paper.json"}
    compared = run_here(compare.main, out, out)
    assert compared.returncode == 0, compared.stderr
    assert "onnxruntime fp16" in compared.stdout


@pytest.mark.parametrize("name", ["elir_bfr.pth", "tiny.safetensors", "random"])
def test_names_of_public_checkpoints_stay(name: str) -> None:
    values = report_values()
    values["bundle"]["source"]["name"] = name
    given = msgspec.convert(values, Report)
    assert without_file_name(given) == given


def test_a_library_that_crashes_ends_its_step_alone(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    process = start(bundle, out, "abort build tensorrt fp16")
    _, told = process.communicate()
    assert process.returncode == 0, told
    file = read_device_report(out)
    failed = dict.fromkeys(("build tensorrt fp16", "check"), "failed")
    assert statuses(file) == {"machine": "done", **failed}
    assert file.report.complete
    (_, step, _) = file.report.steps
    assert step.reason == "its process ended with SIGABRT"
    assert step.log
    with zipfile.ZipFile(out) as archive:
        assert "Fatal Python error: Aborted" in archive.read(step.log).decode()


@pytest.fixture
def broken_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of that name for the processes of steps."""
    folder = tmp_path / "broken"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return folder / "tensorrt.py"


def test_a_library_that_crashes_on_import(
    bundle: Path, tmp_path: Path, broken_tensorrt: Path
) -> None:
    """The other backends are measured, and what is known of the machine is kept."""
    broken_tensorrt.write_text("import os\nos.abort()\n")
    out = tmp_path / "out.zip"
    process = start(bundle, out)
    _, told = process.communicate()
    assert process.returncode == 0, told
    file = read_device_report(out)
    others = ("check onnxruntime fp16", "measure latency", "measure paper")
    assert statuses(file) == {"machine": "failed", **dict.fromkeys(others, "done")}
    assert file.report.machine is not None
    assert file.report.machine.device.cpu.usable_cores > 0
    assert file.report.steps[0].reason == "its process ended with SIGABRT"


def test_a_library_that_does_not_load(bundle: Path, tmp_path: Path, broken_tensorrt: Path) -> None:
    """The log of the machine has the reason and the traceback of each."""
    broken_tensorrt.write_text("raise OSError('libnvinfer.so.10 is missing')\n")
    broken_tensorrt.with_name("openvino.py").write_text("raise ValueError('no plugins')\n")
    broken_tensorrt.with_name("onnxruntime.py").write_text("raise OSError('libort.so')\n")
    out = tmp_path / "out.zip"
    process = start(bundle, out)
    _, told = process.communicate()
    file = read_device_report(out)
    assert statuses(file)["machine"] == "done", told
    assert file.report.machine is not None
    assert "libnvinfer.so.10" in str(file.report.machine.backends["tensorrt"])
    assert file.report.machine.backends["openvino"] == "ValueError: no plugins"
    with zipfile.ZipFile(out) as archive:
        log = archive.read("logs/00.txt").decode()
    assert "tensorrt cannot be used: tensorrt cannot be loaded (libnvinfer.so.10" in log
    assert '/tensorrt.py", line 1, in <module>' in log
    assert '/onnxruntime.py", line 1, in <module>' in log
    assert '/openvino.py", line 1, in <module>' in log


@pytest.mark.parametrize("fault", ["hang", pytest.param("ignore", marks=pytest.mark.slow)])
def test_ctrl_c_leaves_what_was_done(bundle: Path, tmp_path: Path, fault: str) -> None:
    """A step that ignores it needs a second one."""
    out, name = tmp_path / "out.zip", "check tensorrt fp16"
    process = start(bundle, out, f"{fault} {name}")
    assert process.stderr is not None
    while not out.exists() or name not in statuses(read_device_report(out)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    if fault == "ignore":
        while "stopping; Ctrl-C again" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
    printed, told = process.communicate()
    assert process.returncode == 130, told
    file = read_device_report(out)
    assert statuses(file)["build tensorrt fp16"] == "done"
    assert statuses(file)[name] == {"hang": "interrupted", "ignore": "running"}[fault]
    assert not file.report.complete
    assert "did not come to its end" in printed
    assert "KeyboardInterrupt" not in printed
    assert not list(tmp_path.glob(".elir-*"))


@pytest.mark.slow
def test_a_machine_that_goes_down(bundle: Path, here: Here, tmp_path: Path) -> None:
    """The file says during which step, and the next run removes the copy with its engines."""
    out = tmp_path / "out.zip"
    process = start(bundle, out, "kill check tensorrt fp16")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert statuses(read_device_report(out))["check tensorrt fp16"] == "running"
    assert "did not come to its end" in run_here(inspect.main, out).stdout
    (left,) = tmp_path.glob(".elir-*.part")
    assert report(bundle, out, ["onnxruntime"]).report.complete
    assert not left.exists()


@pytest.mark.slow
def test_a_disk_that_is_really_full(bundle: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=12k none {small} || exit 77; "
    script = mount + f'"$@"; code=$?; cp {small}/* {tmp_path}; exit $code'
    process = start(bundle, small / "out.zip", inside=("unshare", "-rm", "sh", "-c", script, "sh"))
    printed, told = process.communicate()
    if process.returncode in (1, 77, 127):
        pytest.skip(f"this system does not let users mount: {told[-80:]}")
    assert process.returncode == 2, told
    assert "out.zip cannot be written: No space left on device" in told
    assert "measure paper" in printed, "it is on the screen"
    file = read_device_report(tmp_path / "out.zip")
    assert statuses(file)["machine"] == "done"
