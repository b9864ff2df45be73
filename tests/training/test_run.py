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
from PIL import Image

from elir_deploy.checkpoints import load_autoencoder, load_checkpoint, save_checkpoint
from elir_deploy.errors import OutputError, QualityError, UsageError
from elir_deploy.runtime.folders import Unread
from elir_deploy.tasks import TASKS
from elir_deploy.training import run as training
from elir_deploy.training.options import RunOptions
from elir_deploy.training.run import draw_samples, train
from elir_deploy.training.settings import AutoencoderSettings, settings_for
from elir_deploy.training.stage import Schedule
from tests.training.small import SMALL, photo, save

SIZE = 64
AUTOENCODER = AutoencoderSettings(linear_iterations=3, iterations=3, batch_size=2, crop_size=32)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(4):
        save(tmp_path / "photos" / f"{number}.png", photo(number, 70, 80))
    return tmp_path / "photos"


def options(photos: Path, output: Path, **changes: Any) -> RunOptions:
    settings = replace(
        settings_for("tiny"), iterations=4, batch_size=2, warmup=1, flow_iterations=0
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
    said: list[str] = []
    told: list[str] = []
    result = train(chosen, lambda what, done, total: said.append(what), told.append)
    return result, said, told


def test_a_run_leaves_checkpoints_a_log_and_pictures(photos: Path, tmp_path: Path) -> None:
    (photos / "x.heic").write_bytes(b"\0")
    result, said, told = run(options(photos, tmp_path / "run"))
    assert told == [f"not read: {Unread({'.heic': (1, photos / 'x.heic')})}"]
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
    # The decoder is the autoencoder's still, the encoder is not.
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
    assert any("preview" in line for line in said)


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
    real = training.run_stage

    def run_stage(*arguments: Any, **named: Any) -> Any:
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return real(*arguments, **named)

    monkeypatch.setattr(training, "run_stage", run_stage)
    run(options(photos, tmp_path / "run"))
    assert seen
    assert set(seen) == {(False, False)}


def test_the_same_command_goes_on_after_each_stage(photos: Path, tmp_path: Path) -> None:
    whole, _, _ = run(options(photos, tmp_path / "whole"))

    class KilledError(Exception):
        pass

    chosen = options(photos, tmp_path / "killed", save_seconds=0.0)
    for stage, update in (
        ("linear autoencoder", 2),
        ("autoencoder", 2),
        ("restoration", 1),
        ("restoration", 3),
    ):

        def kill(
            what: str, done: int, total: int, stage: str = stage, update: int = update
        ) -> None:
            if what.startswith(f"{stage}: ") and done == update:
                raise KilledError

        with pytest.raises(KilledError):
            train(chosen, kill, lambda line: None)
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


def test_a_vector_field_trained_on_alone(photos: Path, tmp_path: Path) -> None:
    """Nothing else changes, and a run stopped in the middle of it ends as one that was not."""
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
    assert (tmp_path / "flow" / "samples" / "flow-000004.png").exists()

    class KilledError(Exception):
        pass

    def kill(what: str, done: int, total: int) -> None:
        if what.startswith("flow: ") and done == 2:
            raise KilledError

    again = replace(chosen, output=tmp_path / "again", save_seconds=0.0)
    with pytest.raises(KilledError):
        train(again, kill, lambda line: None)
    resumed, _, _ = run(again)
    assert resumed.checkpoint.read_bytes() == result.checkpoint.read_bytes()


def test_a_folder_with_another_run_is_refused(photos: Path, tmp_path: Path) -> None:
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


class KilledError(Exception):
    pass


def killed_at(chosen: RunOptions, stage: str, update: int) -> None:
    """Run until a stage says that it has done an update, before the state of that is saved."""

    def kill(what: str, done: int, total: int) -> None:
        if what.startswith(f"{stage}: ") and done == update:
            raise KilledError

    with pytest.raises(KilledError):
        train(replace(chosen, save_seconds=0.0), kill, lambda line: None)


def with_rate(chosen: RunOptions, rate: float, **changes: Any) -> RunOptions:
    settings = replace(chosen.settings, learning_rate=rate, **changes)
    return replace(chosen, settings=settings)


def logged_rates(folder: Path, stage: str) -> list[float]:
    with (folder / f"log-{stage}.csv").open() as file:
        return [float(row["learning rate"]) for row in csv.DictReader(file)]


def test_a_run_that_diverged_goes_on_with_a_lower_rate(photos: Path, tmp_path: Path) -> None:
    chosen = options(photos, tmp_path / "run", preview_every=0, save_seconds=1e9)
    wild = with_rate(chosen, 0.9, iterations=60, schedule="constant", warmup=50)
    killed_at(wild, "restoration", 2)
    state = tmp_path / "run" / "state-restoration.pt"
    good = state.read_bytes()
    with pytest.raises(QualityError) as caught:
        run(wild)
    assert f"{state}, of update 1, is intact" in str(caught.value)
    assert "--learning-rate 0.9" in str(caught.value)
    assert state.read_bytes() == good
    tame = with_rate(wild, 1e-6)
    result, _, told = run(tame)
    assert told == ["restoration: learning rate 1e-06 after update 1, 0.9 until then"]
    assert result.learning_rates["restoration"] == [(0, 0.9), (1, 1e-6)]
    rates = [0.9 / 50, *(1e-6 * min(update / 50, 1) for update in range(2, 61))]
    assert logged_rates(tmp_path / "run", "restoration") == pytest.approx(rates)
    load_checkpoint(result.checkpoint)  # which refuses what is not finite
    # Nothing but a rate, and no higher one.
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


def test_each_stage_goes_on_with_a_lower_rate(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    chosen = with_flow(options(photos, folder, preview_every=0))
    killed_at(chosen, "linear autoencoder", 2)
    lower = replace(chosen, autoencoder_settings=AUTOENCODER.with_learning_rate(0.001))
    killed_at(lower, "autoencoder", 3)
    lowest = replace(chosen, autoencoder_settings=AUTOENCODER.with_learning_rate(0.0005))
    killed_at(lowest, "restoration", 3)
    lowest = with_rate(lowest, 1e-3)
    killed_at(lowest, "flow", 2)
    lowest = with_rate(lowest, 1e-4)
    result, _, told = run(lowest)
    assert told == ["flow: learning rate 0.0001 after update 1, 0.001 until then"]
    assert result.learning_rates == {
        "linear autoencoder": [(0, 0.015), (1, pytest.approx(0.003))],
        "autoencoder": [(0, 0.001), (2, 0.0005)],
        "restoration": [(0, 0.01), (2, 0.001)],
        "flow": [(0, 0.001), (1, 0.0001)],
    }
    factor = Schedule(3, warmup=3, shape="cosine").factor
    assert logged_rates(folder, "autoencoder") == pytest.approx(
        [0.001 * factor(0), 0.001 * factor(1), 0.0005 * factor(2)]
    )
    record = json.loads((folder / "run.json").read_text())
    # Muon's rate and AdamW's.
    assert record["learning_rates"]["linear autoencoder"][1] == {
        "from_update": 1,
        "rates": pytest.approx([0.003, 0.0002]),
    }


def test_a_rate_that_was_lost_with_its_updates_is_forgotten(photos: Path, tmp_path: Path) -> None:
    chosen = options(photos, tmp_path / "run", preview_every=0)
    killed_at(chosen, "restoration", 3)
    second = with_rate(chosen, 1e-4)
    # Nothing is saved before it ends again.
    with pytest.raises(KilledError):
        train(replace(second, save_seconds=1e9), dying, lambda line: None)
    result, _, _ = run(with_rate(chosen, 1e-5))
    assert result.learning_rates["restoration"] == [(0, 0.001), (2, 1e-5)]


def dying(what: str, done: int, total: int) -> None:
    if what.startswith("restoration: "):
        raise KilledError


def test_fine_tuning_starts_from_the_checkpoint(photos: Path, tmp_path: Path) -> None:
    first, _, _ = run(options(photos, tmp_path / "first"))
    settings = replace(
        settings_for("tiny"), iterations=1, batch_size=2, learning_rate=1e-9, flow_iterations=0
    )
    chosen = options(
        photos,
        tmp_path / "second",
        settings=settings,
        autoencoder=tmp_path / "first" / "autoencoder.safetensors",
        start_from=str(first.checkpoint),
    )
    second, _, _ = run(chosen)
    image = torch.rand(1, 3, SIZE, SIZE)
    wanted = load_checkpoint(first.checkpoint).model(image, 3)
    torch.testing.assert_close(
        load_checkpoint(second.checkpoint).model(image, 3), wanted, rtol=0, atol=1e-4
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
    # Nothing says that this was asked for, so that the right files can be given next.
    assert not (tmp_path / "second").exists()


def test_ablations_are_no_fine_tuning(photos: Path, tmp_path: Path) -> None:
    task = replace(TASKS["tiny"], architecture=replace(SMALL, estimator_blocks=0), image_size=SIZE)
    with pytest.raises(UsageError, match="leave out --no-estimator"):
        run(options(photos, tmp_path / "run", task=task, start_from="tiny"))


@pytest.mark.parametrize(
    "change",
    [{"estimator_blocks": 0}, {"autoencoder_width": 0, "latent_channels": 3}],
    ids=["no estimator", "pixel space"],
)
def test_ablations_end_in_checkpoints_that_can_be_read(
    photos: Path, tmp_path: Path, change: dict[str, int]
) -> None:
    architecture = replace(SMALL, **change)  # type: ignore[arg-type]
    task = replace(TASKS["tiny"], architecture=architecture, image_size=32)
    result, _, _ = run(options(photos, tmp_path / "run", task=task))
    for path in (result.checkpoint, result.expanded_checkpoint):
        assert load_checkpoint(path).model.arch == architecture


def test_validation_photographs_are_the_users(photos: Path, tmp_path: Path) -> None:
    save(tmp_path / "own" / "one.png", photo(9, 80, 70))
    run(options(photos, tmp_path / "run", validation=tmp_path / "own"))
    with Image.open(tmp_path / "run" / "samples" / "restoration-000004.png") as sheet:
        assert sheet.size == (4 * SIZE, SIZE)  # input, coarse, restored, truth; one photograph


def test_the_record_says_what_was_asked(photos: Path, tmp_path: Path) -> None:
    run(options(photos, tmp_path / "run"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["objective"]["segments"] == 3
    assert record["images"] == 4
    assert str(tmp_path) not in json.dumps(record)


def test_a_picture_of_samples(photos: Path, tmp_path: Path) -> None:
    draw_samples(options(photos, tmp_path / "run"), tmp_path / "samples.png", count=3)
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.size == (3 * SIZE, 2 * SIZE)
        pixels = np.asarray(picture).astype(float)
    # Noise of standard deviation 89.6, less what clipping takes away.
    assert 50 < (pixels[SIZE:] - pixels[:SIZE]).std() < 90
    assert not (tmp_path / "run").exists()
    for name, reason in (
        ("s.tif", "ends in '.tif'"),
        ("s.webp", "16383"),
        ("no/s.png", "no folder"),
    ):
        with pytest.raises(OutputError, match=reason):
            draw_samples(options(tmp_path / "none", tmp_path / "run"), tmp_path / name, count=300)
