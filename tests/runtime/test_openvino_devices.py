"""OpenVINO's devices beside the processor: their names, what they run in, and what goes wrong.

Devices stand in for Intel's. One is OpenVINO's own plugin for processors under another name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elir_deploy.bench.cold import start_cold
from elir_deploy.bench.runners import BundleRunner, open_restorers
from elir_deploy.cli import bench as bench_command
from elir_deploy.cli import inspect as inspect_command
from elir_deploy.cli import restore as restore_command
from elir_deploy.errors import UnavailableError, UsageError
from elir_deploy.photo import PhotoRestorer
from elir_deploy.runtime import Restorer, openvino_library
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.openvino_devices import OpenVinoDevice
from tests.bundles import make_bundle
from tests.command import run_here
from tests.photo.pictures import face_bundle

pytest.importorskip("openvino")

from tests.stand_in_openvino import CoreElsewhere, core_with_a_spare

PRECISIONS = ("fp32", "fp16", "int8", "w8")
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return make_bundle(tmp_path / "b", precisions=PRECISIONS)


@pytest.fixture
def spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_library, "_cores", [core_with_a_spare()])


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> CoreElsewhere:
    core = CoreElsewhere(openvino_library.shared_core())
    monkeypatch.setattr(openvino_library, "_cores", [core])
    return core


# Names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "there"),
    [
        *(("GPU", True), ("GPU.0", True), ("GPU.1", True), ("NPU", True), ("NPU.0", True)),
        *(("GPU.2", False), ("NPU.1", False), ("AUTO", False), ("CPU.1", False), ("", False)),
    ],
)
def test_names(elsewhere: CoreElsewhere, device: str, there: bool) -> None:
    assert (OpenVinoDevice(device).missing() is None) == there


def test_a_device_that_is_not_there_is_refused_in_words(bundle: Path) -> None:
    message = (
        "openvino cannot be used: openvino finds no device GPU.7, only CPU: choose one of those, "
        "or install Intel's driver for the device"
    )
    for backend in ("auto", "openvino"):
        with pytest.raises(UnavailableError, match=f"^{re.escape(message)}$"):
            Restorer(bundle, backend, device="gpu.7")


def test_other_backends_have_numbers(bundle: Path) -> None:
    for backend in ("onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"):
        with pytest.raises(UsageError, match=f"^{backend} has no device 'GPU': its GPUs have num"):
            Restorer(bundle, backend, device="GPU")


# What runs --------------------------------------------------------------------------------------


def test_a_device_restores_as_the_processor_does(bundle: Path, spare: None, tmp_path: Path) -> None:
    with Restorer(bundle, device="sparecpu", precision="fp32", threads=1) as restore:
        assert str(restore) == "tiny: openvino on SPARECPU, fp32"
        assert restore.device == "SPARECPU"
        assert restore.threads is None
        restored = restore(IMAGE)
        # Nobody has tried whether a driver's update is noticed.
        assert not list((tmp_path / "cache").rglob("*.blob"))
    with Restorer(bundle, "openvino", precision="fp32", threads=1) as restore:
        np.testing.assert_array_equal(restored, restore(IMAGE))
    with Restorer(bundle, device="SPARECPU", precision="fp32", mode="throughput") as restore:
        np.testing.assert_array_equal(restored, next(iter(restore.map([IMAGE]))))


@pytest.mark.parametrize(
    ("device", "precision", "float_type"),
    [
        *(("GPU", "fp32", "f32"), ("GPU", "fp16", "f16"), ("GPU.1", "int8", "f16")),
        *(("GPU", "w8", "f16"), ("NPU", "fp16", "f16"), ("NPU", "int8", "f16")),
        ("NPU", "w8", "f16"),
    ],
)
def test_what_a_device_is_told(
    bundle: Path, elsewhere: CoreElsewhere, device: str, precision: str, float_type: str
) -> None:
    with Restorer(bundle, device=device, precision=precision, threads=3) as restore:
        assert restore(IMAGE).shape == IMAGE.shape
        assert restore.session.arithmetic() is None  # which this one does not tell
    told = {"INFERENCE_PRECISION_HINT": float_type, "PERFORMANCE_HINT": "LATENCY"}
    assert elsewhere.compiled == [(device, told)]


def test_precisions_that_a_device_does_not_have(bundle: Path, elsewhere: CoreElsewhere) -> None:
    message = (
        "openvino cannot run in fp32: NPU has no FP32, only FP16, INT8: choose another precision"
    )
    with pytest.raises(UnavailableError, match=f"^{message}$"):
        Restorer(bundle, device="NPU", precision="fp32")
    with pytest.raises(UnavailableError, match="GPU has no BF16, only FP32, FP16, INT8"):
        Restorer(bundle, device="GPU", precision="bf16")


def test_the_first_precision_that_the_device_restores_rightly_runs(
    bundle: Path, elsewhere: CoreElsewhere
) -> None:
    with Restorer(bundle, device="GPU") as restore:
        assert restore.precision == "int8"
    elsewhere.wrong = {"f16"}
    with (
        pytest.warns(RuntimeWarning, match="int8.*fp16: wrong on this machine.*using openvino in"),
        Restorer(bundle, device="GPU") as restore,
    ):
        assert restore.precision == "fp32"
    with pytest.raises(UnavailableError, match="wrong on this machine"):
        Restorer(bundle, device="NPU")
    with (
        pytest.warns(RuntimeWarning, match="openvino in fp16 is wrong on this machine"),
        Restorer(bundle, device="GPU", precision="fp16"),
    ):
        pass


def test_faces_are_found_on_the_processor(tmp_path: Path, elsewhere: CoreElsewhere) -> None:
    with PhotoRestorer(face_bundle(tmp_path / "f"), device="GPU.1", precision="fp32") as restore:
        assert restore.detector_backend == "openvino"
    assert [device for device, _ in elsewhere.compiled] == ["GPU.1", "CPU"]


# Commands ---------------------------------------------------------------------------------------


def test_elir_restore(bundle: Path, tmp_path: Path, elsewhere: CoreElsewhere) -> None:
    from elir_deploy.runtime import write_image

    write_image(tmp_path / "in.png", IMAGE)

    def run(*arguments: object) -> Any:
        output = ("-o", tmp_path / "out")
        return run_here(restore_command.main, bundle, tmp_path / "in.png", *output, *arguments)

    done = run("--device", "GPU.1", "--precision", "fp16")
    assert done.returncode == 0, done.stderr
    assert "tiny: openvino on GPU.1, fp16" in done.stderr
    again = ("--existing", "overwrite")
    for device, code, words in (
        ("GPU.2", 4, "openvino finds no device GPU.2, only CPU, GPU.0, GPU.1, NPU"),
        ("-1", 2, "--device -1: expected the number of a GPU, from 0 on, or the name"),
        ("1", 0, "--device 1 has no effect"),
    ):
        done = run(f"--device={device}", "--backend", "openvino", *again)
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr


def test_elir_bench(bundle: Path, elsewhere: CoreElsewhere) -> None:
    # The first start is a process with the real library.
    arguments = ("--device", "GPU.1", "--backend", "openvino", "--images", 4, "--warmup", 1)
    done = run_here(bench_command.main, bundle, *arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    measured = [line.split("  ")[0] for line in lines if line.startswith("openvino ")]
    assert set(measured) == {f"openvino {p} on GPU.1" for p in PRECISIONS}
    assert "not measured: openvino fp32 on GPU.1, first start: a new process ended with" in (
        done.stdout
    )
    missing = run_here(bench_command.main, bundle, *arguments, "--device", "NPU.3")
    assert missing.returncode == 4
    assert "openvino on NPU.3: openvino finds no device NPU.3" in missing.stderr


def test_runners_of_a_device(bundle: Path, spare: None) -> None:
    [runner], missing = open_restorers(
        Bundle.open(bundle), None, ["fp32"], threads=1, device="SPARECPU"
    )
    assert not missing
    assert isinstance(runner, BundleRunner)
    assert runner.label == "openvino fp32 on SPARECPU"
    assert " on " not in runner.version
    assert not runner.on_cpu  # so that no yardstick of the processor is put beside it
    runner.close()
    with pytest.raises(UnavailableError, match="openvino finds no device SPARECPU, only CPU"):
        start_cold(bundle, "openvino", "fp32", threads=1, device="SPARECPU")  # a process of its own


def test_elir_inspect_lists_every_device(bundle: Path, elsewhere: CoreElsewhere) -> None:
    done = run_here(inspect_command.main, bundle)
    rows = [re.split(r"\s{2,}", line) for line in done.stdout.splitlines()]
    rows = [row for row in rows if row[0].startswith("openvino on")]
    assert [row[0] for row in rows] == [f"openvino on {n}" for n in ("GPU.0", "GPU.1", "NPU")]
    assert rows[0][1] == "yes: int8 (default), fp16, fp32, w8"
    assert rows[2][1:] == [
        "yes: int8 (default), fp16, w8",
        "not bf16: NPU has no BF16, only FP16, INT8: choose another precision; not fp32: NPU has "
        "no FP32, only FP16, INT8: choose another precision",
    ]


def test_a_library_that_does_not_start_has_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no plugins.xml")

    assert BACKENDS["openvino"].other_devices() == ()  # this machine's processor is its own
    monkeypatch.setattr(openvino_library, "_cores", [])
    monkeypatch.setattr("openvino.Core", broken)
    assert BACKENDS["openvino"].other_devices() == ()
