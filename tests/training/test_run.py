from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image

from elir_deploy.checkpoints import load_autoencoder, load_checkpoint, save_checkpoint
from elir_deploy.errors import OutputError, QualityError, UsageError
from elir_deploy.progress import no_progress
from elir_deploy.runtime.folders import Unread
from elir_deploy.tasks import TASKS
from elir_deploy.training import run as training
from elir_deploy.training.options import RunOptions
from elir_deploy.training.phase import Phase, Schedule
from elir_deploy.training.preview import draw_samples
from elir_deploy.training.run import train
from elir_deploy.training.settings import AutoencoderSettings, RunSettings
from elir_deploy.training.trainer import Report, run_phase
from tests.training.small import SMALL, photo, save

SIZE = 64
AUTOENCODER = AutoencoderSettings(linear_iterations=3, iterations=3, batch_size=2, crop_size=32)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(4):
        save(tmp_path / "photos" / f"{number}.png", photo(number, 70, 80))
    return tmp_path / "photos"


def options(photos: Path, output: Path, **changes: Any) -> RunOptions:
    settings = RunSettings(
        iterations=4, batch_size=2, learning_rate=1e-3, schedule="cosine", warmup=1
    )
    values: dict[str, Any] = {
        "images": photos,
        "output": output,
        "task": replace(TASKS["tiny"], architecture=SMALL, image_size=SIZE),
        "settings": settings,
        "autoencoder_settings": AUTOENCODER,
        "accelerator": "cpu",
        "workers": 0,
        "report_every": 1,
        "preview_every": 2,
    }
    return RunOptions(**(values | changes))


def run(chosen: RunOptions) -> tuple[Any, list[str], list[str]]:
    progress: list[str] = []
    messages: list[str] = []
    result = train(chosen, lambda what, done, total: progress.append(what), messages.append)
    return result, progress, messages


def test_a_run_writes_checkpoints_a_log_and_pictures(photos: Path, tmp_path: Path) -> None:
    (photos / "x.psd").write_bytes(b"\0")
    result, progress, messages = run(options(photos, tmp_path / "run"))
    assert messages == [f"not read: {Unread({'.psd': (1, photos / 'x.psd')})}"]
    assert result.images == 4
    collapsed = load_checkpoint(result.checkpoint)
    expanded = load_checkpoint(result.expanded_checkpoint)
    assert (collapsed.task.name, collapsed.task.image_size) == ("tiny", SIZE)
    assert not collapsed.random
    assert not collapsed.model.collapsible
    assert expanded.model.collapsible
    image = torch.rand(1, 3, SIZE, SIZE)
    torch.testing.assert_close(
        collapsed.model(image, 3), expanded.model(image, 3), rtol=0, atol=1e-5
    )
    # The decoder is unchanged, the encoder is not.
    encoder, decoder = load_autoencoder(tmp_path / "run" / "autoencoder.safetensors")
    for name, tensor in decoder.state_dict().items():
        assert torch.equal(collapsed.model.decoder.state_dict()[name], tensor)
    assert not torch.equal(
        collapsed.model.encoder.state_dict()["layers.0.weight"],
        encoder.state_dict()["layers.0.weight"],
    )
    with (tmp_path / "run" / "log-restoration.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["update"]) for row in rows] == [1, 2, 3, 4]
    assert {"loss", "estimator", "flow", "pixel", "learning rate"} <= rows[0].keys()
    names = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert "restoration-000004.png" in names
    assert "autoencoder-000003.png" in names
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert any("preview" in line for line in progress)


@pytest.fixture
def tf32_allowed() -> Iterator[None]:
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = True
    yield
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.mark.usefixtures("tf32_allowed")
def test_float32_is_not_computed_in_tf32(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    real = training.run_phase

    def run_phase(*arguments: Any, **named: Any) -> Any:
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return real(*arguments, **named)

    monkeypatch.setattr(training, "run_phase", run_phase)
    run(options(photos, tmp_path / "run"))
    assert seen
    assert set(seen) == {(False, False)}


class KilledError(Exception):
    pass


def kill_at(chosen: RunOptions, phase: str, update: int = 0, save_seconds: float = 0.0) -> None:
    """Run until a phase reports an update (0: any), before the state of that update is saved."""

    def kill(report: Report) -> None:
        if report.phase == phase and update in (0, report.update):
            raise KilledError

    with pytest.raises(KilledError):
        train(
            replace(chosen, save_seconds=save_seconds),
            no_progress,
            lambda line: None,
            kill,
        )


def test_optimizers_are_on_the_device_that_trains(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Muon's matrices are views of the weights, which moving the weights would not move."""
    monkeypatch.setattr(Fabric, "device", torch.device("meta"))
    phases: list[Phase] = []

    def run_phase(fabric: Any, phase: Phase, *arguments: Any, **named: Any) -> Any:
        phases.append(phase)
        raise KilledError

    monkeypatch.setattr(training, "run_phase", run_phase)
    with pytest.raises(KilledError):
        run(options(photos, tmp_path / "run"))
    muon, adamw = phases[0].optimizers
    for optimizer in (muon, adamw):
        for tensor in optimizer.param_groups[0]["params"]:
            assert tensor.device == torch.device("meta")


def test_a_run_killed_in_each_phase_resumes_bit_for_bit(photos: Path, tmp_path: Path) -> None:
    whole, _, _ = run(options(photos, tmp_path / "whole"))

    chosen = options(photos, tmp_path / "killed")
    kill_at(chosen, "linear autoencoder", 2)
    kill_at(chosen, "autoencoder", 2)
    kill_at(chosen, "restoration", 1)
    kill_at(chosen, "restoration", 3)
    resumed, _, _ = run(chosen)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert resumed.expanded_checkpoint.read_bytes() == whole.expanded_checkpoint.read_bytes()
    logs = [
        [row["update"] for row in csv.DictReader((folder / "log-restoration.csv").open())]
        for folder in (tmp_path / "whole", tmp_path / "killed")
    ]
    assert logs[0] == logs[1]


def with_flow(chosen: RunOptions) -> RunOptions:
    settings = replace(
        chosen.settings, flow_iterations=4, flow_batch_size=2, flow_latents=5, learning_rate=1e-2
    )
    return replace(chosen, settings=settings)


def test_the_flow_phase_trains_only_the_vector_field(photos: Path, tmp_path: Path) -> None:
    """The restoration phase then leaves it alone. And it resumes bit for bit."""
    chosen = with_flow(options(photos, tmp_path / "flow"))
    result, _, _ = run(chosen)
    model = load_checkpoint(result.checkpoint).model.state_dict()
    before = replace(chosen, output=tmp_path / "plain")
    before = replace(before, settings=replace(before.settings, flow_iterations=0))
    plain = load_checkpoint(run(before)[0].checkpoint).model.state_dict()
    changed = {
        name.partition(".")[0] for name in model if not torch.equal(model[name], plain[name])
    }
    assert changed == {"vector_field"}
    # A field that is not trained yet is not previewed: input, coarse estimate and truth.
    samples = tmp_path / "flow" / "samples"
    for name, columns in (("restoration", 3), ("flow", 4)):
        with Image.open(samples / f"{name}-000004.png") as sheet:
            assert sheet.width == columns * SIZE
    header = (tmp_path / "flow" / "log-restoration.csv").read_text().splitlines()[0]
    assert header == "update,loss,estimator,learning rate,images a second"

    again = replace(chosen, output=tmp_path / "again")
    kill_at(again, "flow", 2)
    resumed, _, _ = run(again)
    assert resumed.checkpoint.read_bytes() == result.checkpoint.read_bytes()


def test_crops_of_the_restoration_phase_may_be_smaller(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = with_flow(options(photos, tmp_path / "run"))
    small = replace(chosen, settings=replace(chosen.settings, crop_size=32))
    sides: dict[str, int] = {}

    def note(fabric: Any, phase: Phase, *others: Any, **named: Any) -> Any:
        samples: Any = phase.samples
        sides[phase.name] = samples[0]["clean"].shape[-1]
        return run_phase(fabric, phase, *others, **named)

    monkeypatch.setattr(training, "run_phase", note)
    run(small)
    assert sides["restoration"] == 32
    assert sides["flow"] == SIZE // 8, "latents of images of the model's size"
    large = replace(chosen, settings=replace(chosen.settings, crop_size=2 * SIZE))
    assert large.restoration_size == SIZE
    odd = replace(chosen, settings=replace(chosen.settings, crop_size=40))
    with pytest.raises(UsageError, match="image size is 40, expected a multiple of"):
        odd.check()


def test_muon_may_train_where_the_field_has_a_phase_of_its_own(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoder, estimator and field; it resumes bit for bit."""
    chosen = with_flow(options(photos, tmp_path / "run"))
    with_muon = replace(chosen, settings=replace(chosen.settings, muon_ratio=5.0))
    rates: dict[str, dict[str, float]] = {}

    def note(fabric: Any, phase: Phase, *others: Any, **named: Any) -> Any:
        names = [type(optimizer).__name__ for optimizer in phase.optimizers]
        rates[phase.name] = dict(zip(names, phase.learning_rates, strict=True))
        return run_phase(fabric, phase, *others, **named)

    monkeypatch.setattr(training, "run_phase", note)
    result, _, _ = run(with_muon)
    assert rates["restoration"] == rates["flow"] == {"ConvolutionMuon": 0.05, "AdamW": 0.01}
    plain, _, _ = run(replace(chosen, output=tmp_path / "plain"))
    ours, other = (load_checkpoint(r.checkpoint).model.state_dict() for r in (result, plain))
    changed = {name.partition(".")[0] for name in ours if not torch.equal(ours[name], other[name])}
    assert changed == {"encoder", "estimator", "vector_field"}

    again = replace(with_muon, output=tmp_path / "again")
    kill_at(again, "restoration", 3)
    kill_at(again, "flow", 2)
    assert run(again)[0].checkpoint.read_bytes() == result.checkpoint.read_bytes()


def test_a_folder_of_another_run_is_refused(photos: Path, tmp_path: Path) -> None:
    chosen = options(photos, tmp_path / "run")
    run(chosen)
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.safetensors")}
    other = replace(chosen, settings=replace(chosen.settings, learning_rate=0.5))
    with pytest.raises(UsageError, match=r"settings\.learning_rate 0\.001, not 0\.5"):
        run(other)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        run(chosen)
    assert before == {path: path.read_bytes() for path in before}


def with_rate(chosen: RunOptions, rate: float, **changes: Any) -> RunOptions:
    settings = replace(chosen.settings, learning_rate=rate, **changes)
    return replace(chosen, settings=settings)


def logged_rates(folder: Path, stage: str) -> list[float]:
    with (folder / f"log-{stage}.csv").open() as file:
        return [float(row["learning rate"]) for row in csv.DictReader(file)]


def test_a_diverged_run_continues_with_a_lower_rate(photos: Path, tmp_path: Path) -> None:
    chosen = options(photos, tmp_path / "run", preview_every=0, save_seconds=1e9)
    wild = with_rate(chosen, 0.9, iterations=60, schedule="constant", warmup=50)
    kill_at(wild, "restoration", 2)
    state = tmp_path / "run" / "state-restoration.pt"
    before = state.read_bytes()
    with pytest.raises(QualityError) as caught:
        run(wild)
    assert f"{state} of update 1 is intact" in str(caught.value)
    assert "--learning-rate 0.9" in str(caught.value)
    assert state.read_bytes() == before
    tame = with_rate(wild, 1e-6)
    result, _, messages = run(tame)
    assert messages == ["restoration: learning rate 1e-06 after update 1, 0.9 until then"]
    assert result.learning_rates["restoration"] == [(0, 0.9), (1, 1e-6)]
    rates = [0.9 / 50, *(1e-6 * min(update / 50, 1) for update in range(2, 61))]
    assert logged_rates(tmp_path / "run", "restoration") == pytest.approx(rates)
    load_checkpoint(result.checkpoint)  # which refuses what is not finite
    # Only rates may change, and only downwards.
    for other in (
        wild,
        replace(tame, settings=replace(tame.settings, seed=1)),
        with_rate(tame, 1e-7, weight_decay=0.0),
        with_rate(tame, 1e-7, schedule="cosine"),
        with_rate(tame, 1e-7, warmup=51),
    ):
        with pytest.raises(UsageError, match="holds a run with settings"):
            run(other)
    assert run(tame)[0].learning_rates == result.learning_rates


def test_each_phase_continues_with_a_lower_rate(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    chosen = with_flow(options(photos, folder, preview_every=0))
    kill_at(chosen, "linear autoencoder", 2)
    lower = replace(chosen, autoencoder_settings=AUTOENCODER.with_learning_rate(0.0004))
    kill_at(lower, "autoencoder", 3)
    lowest = replace(chosen, autoencoder_settings=AUTOENCODER.with_learning_rate(0.0002))
    kill_at(lowest, "restoration", 3)
    lowest = with_rate(lowest, 1e-3)
    kill_at(lowest, "flow", 2)
    lowest = with_rate(lowest, 1e-4)
    result, _, messages = run(lowest)
    assert messages == ["flow: learning rate 0.0001 after update 1, 0.001 until then"]
    assert result.learning_rates == {
        "linear autoencoder": [(0, 0.015), (1, pytest.approx(0.003))],
        "autoencoder": [(0, 0.0004), (2, 0.0002)],
        "restoration": [(0, 0.01), (2, 0.001)],
        "flow": [(0, 0.001), (1, 0.0001)],
    }
    factor = Schedule(3, warmup=3, shape="cosine").factor
    assert logged_rates(folder, "autoencoder") == pytest.approx(
        [0.0004 * factor(0), 0.0004 * factor(1), 0.0002 * factor(2)]
    )
    record = json.loads((folder / "run.json").read_text())
    # Muon's rate and AdamW's.
    assert record["learning_rates"]["linear autoencoder"][1] == {
        "from_update": 1,
        "rates": pytest.approx([0.003, 0.0002]),
    }


def test_the_rate_of_lost_updates_is_forgotten(photos: Path, tmp_path: Path) -> None:
    chosen = options(photos, tmp_path / "run", preview_every=0)
    kill_at(chosen, "restoration", 3)
    second = with_rate(chosen, 1e-4)
    kill_at(second, "restoration", save_seconds=1e9)
    result, _, _ = run(with_rate(chosen, 1e-5))
    assert result.learning_rates["restoration"] == [(0, 0.001), (2, 1e-5)]


def test_fine_tuning_starts_from_the_checkpoint(photos: Path, tmp_path: Path) -> None:
    first, _, _ = run(options(photos, tmp_path / "first"))
    settings = RunSettings(iterations=1, batch_size=2, learning_rate=1e-9)
    chosen = options(
        photos,
        tmp_path / "second",
        settings=settings,
        autoencoder=tmp_path / "first" / "autoencoder.safetensors",
        start_from=str(first.checkpoint),
    )
    second, _, _ = run(chosen)
    image = torch.rand(1, 3, SIZE, SIZE)
    expected = load_checkpoint(first.checkpoint).model(image, 3)
    torch.testing.assert_close(
        load_checkpoint(second.checkpoint).model(image, 3), expected, rtol=0, atol=1e-4
    )


def test_fine_tuning_with_another_autoencoder_is_refused(photos: Path, tmp_path: Path) -> None:
    first, _, _ = run(options(photos, tmp_path / "first"))
    other = load_checkpoint("random", "tiny").model
    other_file = tmp_path / "other.safetensors"
    save_checkpoint(other_file, other, TASKS["tiny"])
    chosen = options(
        photos, tmp_path / "second", autoencoder=other_file, start_from=str(first.checkpoint)
    )
    with pytest.raises(UsageError, match="their decoders differ"):
        run(chosen)
    # Nothing was recorded, so that the right files can be given next.
    assert not (tmp_path / "second").exists()


def test_ablations_cannot_be_fine_tuned(photos: Path, tmp_path: Path) -> None:
    task = replace(TASKS["tiny"], architecture=replace(SMALL, estimator_blocks=0), image_size=SIZE)
    with pytest.raises(UsageError, match="leave out --no-estimator"):
        run(options(photos, tmp_path / "run", task=task, start_from="tiny"))


@pytest.mark.parametrize(
    "change",
    [{"estimator_blocks": 0}, {"autoencoder_width": 0, "latent_channels": 3}],
    ids=["no estimator", "pixel space"],
)
def test_checkpoints_of_ablations_can_be_loaded(
    photos: Path, tmp_path: Path, change: dict[str, int]
) -> None:
    architecture = replace(SMALL, **change)  # type: ignore[arg-type]
    task = replace(TASKS["tiny"], architecture=architecture, image_size=32)
    result, _, _ = run(options(photos, tmp_path / "run", task=task))
    for path in (result.checkpoint, result.expanded_checkpoint):
        assert load_checkpoint(path).model.arch == architecture


def test_validation_photographs_are_previewed(photos: Path, tmp_path: Path) -> None:
    save(tmp_path / "validation" / "one.png", photo(9, 80, 70))
    run(options(photos, tmp_path / "run", validation=tmp_path / "validation"))
    with Image.open(tmp_path / "run" / "samples" / "restoration-000004.png") as sheet:
        assert sheet.size == (4 * SIZE, SIZE)  # input, coarse, restored, truth; one photograph


def test_the_record_of_a_run(photos: Path, tmp_path: Path) -> None:
    run(options(photos, tmp_path / "run"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["objective"]["segments"] == 3
    assert record["images"] == 4
    assert str(tmp_path) not in json.dumps(record)


def test_drawing_samples(photos: Path, tmp_path: Path) -> None:
    task = replace(TASKS["denoise"], architecture=SMALL, image_size=SIZE)
    draw_samples(options(photos, tmp_path / "run", task=task), tmp_path / "samples.png", count=3)
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.size == (3 * SIZE, 2 * SIZE)
        pixels = np.asarray(picture).astype(float)
    # Noise of standard deviation 89.6, clipped.
    assert 50 < (pixels[SIZE:] - pixels[:SIZE]).std() < 90
    assert not (tmp_path / "run").exists()
    for name, reason in (
        ("s.bmp", "ends in '.bmp'"),
        ("s.webp", "16383"),
        ("no/s.png", "no such folder"),
    ):
        with pytest.raises(OutputError, match=reason):
            draw_samples(options(tmp_path / "none", tmp_path / "run"), tmp_path / name, count=300)
