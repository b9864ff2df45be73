"""``elir-train`` from its arguments to its exit code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from elir_deploy.checkpoints import load_checkpoint, save_checkpoint
from elir_deploy.cli import train
from elir_deploy.training import trainer
from elir_deploy.training.state import save_state
from tests.command import run_here
from tests.training.small import photo, save

COMMAND = [sys.executable, "-m", "elir_deploy.cli.train"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        save(folder / f"{number}.png", photo(number, 70, 80))
    return folder


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = load_checkpoint("random", "tiny")
    path = tmp_path_factory.mktemp("weights") / "autoencoder.safetensors"
    save_checkpoint(path, checkpoint.model, checkpoint.task)
    return path


def arguments(photos: Path, autoencoder: Path, output: Path, *more: str) -> list[str]:
    return [
        *(str(photos), "--task", "tiny", "-o", str(output), "--autoencoder", str(autoencoder)),
        *("--image-size", "64", "--batch", "2", "--iterations", "6", "--device", "cpu"),
        *("--precision", "fp32", "--preview-every", "0", "--workers", "1"),
        *("--flow-iterations", "0", *more),
    ]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_here(train.main, *arguments)


def run_alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a new process, as a user does."""
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=environment(), timeout=300
    )


@pytest.fixture(scope="module")
def finished(photos: Path, autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    output = tmp_path_factory.mktemp("whole") / "run"
    ended = run_alone(*arguments(photos, autoencoder, output))
    assert ended.returncode == 0, ended.stderr
    assert "trained on 4 images, 6 updates" in ended.stdout
    assert str(output / "tiny.safetensors") in ended.stdout
    assert "restoration: loss" in ended.stderr
    return output


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGKILL, -9),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        (signal.SIGTERM, 143),
    ],
)
def test_a_run_stopped_in_the_middle_ends_bit_for_bit_as_one_that_was_not(
    photos: Path, autoencoder: Path, finished: Path, tmp_path: Path, number: int, code: int
) -> None:
    chosen = arguments(photos, autoencoder, tmp_path / "run", "--save-every", "0")
    process = subprocess.Popen([*COMMAND, *chosen], env=environment(), stderr=subprocess.DEVNULL)
    state = tmp_path / "run" / "state-restoration.pt"
    wait_for(state, process)
    process.send_signal(number)
    assert process.wait(60) == code
    assert torch.load(state, weights_only=True)["updates_done"] < 6
    assert not (tmp_path / "run" / "tiny.safetensors").exists()
    ended = run(*chosen)
    assert ended.returncode == 0, ended.stderr
    for name in ("tiny.safetensors", "tiny.over-parametrised.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_two_processes_are_one_with_twice_the_batch(
    photos: Path, autoencoder: Path, finished: Path, tmp_path: Path
) -> None:
    two = ("--devices", "2", "--preview-every", "3")  # the first draws, the other must not wait
    ended = run_alone(*arguments(photos, autoencoder, tmp_path / "run", *two))
    assert ended.returncode == 0, ended.stderr
    drawn = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert drawn == ["restoration-000003.png", "restoration-000006.png"]
    alone = load_checkpoint(finished / "tiny.safetensors").model.state_dict()
    start = load_checkpoint(autoencoder).model.state_dict()
    together = load_checkpoint(tmp_path / "run" / "tiny.safetensors").model.state_dict()
    # Not each number: AdamW divides gradients by their size, and rounding decides those near 0.
    names = [name for name in alone if name.startswith("encoder.")]
    apart = sum(float((together[name] - alone[name]).square().sum()) for name in names)
    moved = sum(float((alone[name] - start[name]).square().sum()) for name in names)
    assert apart < 0.01**2 * moved


def test_a_run_continues_with_a_lower_learning_rate(
    photos: Path, autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = arguments(photos, autoencoder, tmp_path / "run", "--save-every", "0")
    state = tmp_path / "run" / "state-restoration.pt"

    def save(path: Path, content: dict[str, object]) -> None:
        save_state(path, content)
        if content["updates_done"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "save_state", save)
        assert run(*chosen).returncode == 130
    before = torch.load(state, weights_only=True)["objective"]
    assert "learning_rate 0.001, not 0.01" in run(*chosen, "--learning-rate", "0.01").stderr
    ended = run(*chosen, "--learning-rate", "1e-7")
    assert ended.returncode == 0, ended.stderr
    assert "restoration: learning rate 1e-07 after update 2, 0.001 until then" in ended.stderr
    assert "restoration: 0.001 from update 0 on, 1e-07 from update 2 on" in ended.stdout
    after = torch.load(state, weights_only=True)["objective"]
    moved = max(float((after[name] - before[name]).abs().max()) for name in after)
    assert 0 < moved < 4 * 2 * 1e-7  # four updates; one of the old rate alone moves 1e-5 and more


def test_corrupt_and_empty_images_are_skipped(autoencoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for number in range(3):
        save(folder / f"{number}.png", photo(number, 70, 80))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:500])
    ended = run(*arguments(folder, autoencoder, tmp_path / "run"))
    assert ended.returncode == 0, ended.stderr
    assert "trained on 5 images, 2 of them unreadable" in ended.stdout
    assert len(re.findall(r"warning: .*(empty\.jpg|cut\.png) cannot be read", ended.stderr)) == 2


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command in this process; gives exit code and the error."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["elir-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            train.main()
        return ended.value.code, capsys.readouterr().err

    return call


def test_bad_usage(fails, photos: Path, autoencoder: Path, tmp_path: Path) -> None:
    chosen = ["--task", "tiny", "-o", tmp_path / "run"]
    assert fails(photos, "--task", "none", "-o", tmp_path)[0] == 2
    code, error = fails(tmp_path / "empty", *chosen)
    assert (code, "empty does not exist" in error) == (2, True)
    code, error = fails(photos, *chosen, "--from", autoencoder)
    assert (code, "--from needs --autoencoder" in error) == (2, True)
    code, error = fails(photos, *chosen, "--learning-rate", "0")
    assert (code, "learning_rate is 0" in error) == (2, True)
    code, error = fails(photos, *chosen, "--image-size", "100", "--autoencoder", autoencoder)
    assert (code, "image size is 100" in error) == (2, True)
    code, error = fails(photos, *chosen, "--alpha", "0.1")
    assert (code, "add --consistency" in error) == (2, True)
    code, error = fails(photos, *chosen, "--batch", "3", "--devices", "2")
    assert (code, "batch size is 3" in error) == (2, True)
    (tmp_path / "file").write_text("")
    code, error = fails(
        photos, "--task", "tiny", "-o", tmp_path / "file" / "run", "--autoencoder", autoencoder
    )
    assert (code, "cannot be written" in error) == (2, True)
    assert not (tmp_path / "run" / "state-restoration.pt").exists()


def test_without_fabric(fails, photos: Path, tmp_path: Path, monkeypatch) -> None:
    from elir_deploy.cli import imports

    original = imports.find_spec
    monkeypatch.setattr(
        imports, "find_spec", lambda name: None if name == "lightning_fabric" else original(name)
    )
    code, error = fails(photos, "--task", "tiny", "-o", tmp_path / "run")
    assert code == 4
    assert "pip install 'elir-deploy[train]'" in error


@pytest.mark.parametrize(("major", "expected"), [(7, "fp32"), (8, "bf16")])
def test_the_automatic_precision_is_one_the_gpu_computes_in(
    monkeypatch: pytest.MonkeyPatch, major: int, expected: str
) -> None:
    """Before compute capability 8.0, PyTorch emulates bfloat16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major)
    )
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert train._number_format(train.NumberFormat.auto, train.Device.auto) == expected


def test_help_teaches() -> None:
    shown = run("--help").stdout
    for word in ("--autoencoder", "--plain-flow", "Ctrl-C", "runs/tiny"):
        assert word in shown


def test_fine_tuning_the_packaged_model(photos: Path, tmp_path: Path) -> None:
    ended = run(
        *(str(photos), "--task", "tiny", "--from", "tiny", "-o", str(tmp_path / "run")),
        *("--image-size", "64", "--batch", "2", "--iterations", "1", "--flow-iterations", "0"),
        *("--device", "cpu", "--preview-every", "0", "--learning-rate", "1e-9"),
    )
    assert ended.returncode == 0, ended.stderr
    before = load_checkpoint("tiny").model
    after = load_checkpoint(tmp_path / "run" / "tiny.safetensors").model
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(after(image, 3), before(image, 3), rtol=0, atol=1e-3)
