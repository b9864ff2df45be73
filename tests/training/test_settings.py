from __future__ import annotations

import pytest

from elir_deploy.errors import UsageError
from elir_deploy.tasks import TASKS
from elir_deploy.training.settings import (
    AutoencoderSettings,
    ObjectiveSettings,
    RunSettings,
    settings_for,
)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_settings(task: str) -> None:
    objective = settings_for(task).objective
    assert (objective.segments, objective.sigma_s) == (TASKS[task].steps, TASKS[task].sigma_s)


@pytest.mark.parametrize(
    ("task", "segments", "delta_t", "epochs", "batch_size", "learning_rate", "sigma_s"),
    [
        ("bfr", 5, 0.05, 400, 64, 1e-4, 0.1),
        ("sr", 3, 0.05, 250, 128, 2e-4, 0.1),
        ("denoise", 3, 0.05, 250, 128, 2e-4, 0.025),
        ("inpaint", 3, 0.05, 250, 128, 2e-4, 0.1),
        ("bsr", 3, 0.2, 50, 128, 2e-4, 0.04),
    ],
)
def test_table_6(
    task: str,
    segments: int,
    delta_t: float,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    sigma_s: float,
) -> None:
    run = settings_for(task)
    objective = run.objective
    assert (objective.segments, objective.delta_t, objective.sigma_s) == (
        segments,
        delta_t,
        sigma_s,
    )
    assert (objective.alpha, objective.beta, objective.sigma_min) == (0.001, 0.001, 1e-5)
    assert (run.epochs, run.batch_size, run.learning_rate) == (epochs, batch_size, learning_rate)
    assert (run.weight_decay, run.ema_decay, run.iterations) == (0.02, 0.999, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("segments", 0),
        ("delta_t", 0.0),
        ("delta_t", 1.0),
        ("alpha", -1.0),
        ("beta", 1.5),
        ("sigma_s", float("nan")),
        ("sigma_s", float("inf")),
    ],
)
def test_invalid_objectives(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name} is"):
        ObjectiveSettings(**{name: value})  # type: ignore[arg-type]


def test_relative_losses_need_noise() -> None:
    with pytest.raises(UsageError, match="sigma_s is 0, expected more"):
        ObjectiveSettings(relative=True, sigma_s=0.0)


def test_crops_fit_the_latent() -> None:
    with pytest.raises(UsageError, match="crop_size is 100, expected a multiple of 8"):
        AutoencoderSettings(crop_size=100)


def test_epochs_to_updates() -> None:
    assert RunSettings(epochs=2, batch_size=4).updates(10) == 5
    assert RunSettings(epochs=1, batch_size=4).updates(3) == 1
    assert RunSettings(iterations=0).updates(10) == 0


def test_the_rates_of_an_autoencoder_change_together() -> None:
    changed = AutoencoderSettings().with_learning_rate(0.0004)
    assert changed.learning_rate == 0.0004
    assert changed.linear_learning_rate == pytest.approx(0.003)
    assert changed.bias_learning_rate == pytest.approx(0.0002)
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match=r"^learning_rate is"):
            changed.with_learning_rate(rate)
