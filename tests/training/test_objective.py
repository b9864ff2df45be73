"""Each term compared with its equation, and the parts that its gradients reach."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from elir_deploy.model import Elir
from elir_deploy.tasks import Architecture
from elir_deploy.training.objective import LatentFlow, RestorationObjective, flow_point, segment_end
from elir_deploy.training.settings import ObjectiveSettings

ARCHITECTURE = Architecture(
    autoencoder_width=8,
    autoencoder_blocks=1,
    latent_channels=4,
    estimator_blocks=1,
    estimator_growth=4,
    vector_field_width=32,
    vector_field_multipliers=(1, 2),
    time_frequencies=8,
    time_width=16,
)
SETTINGS = ObjectiveSettings(
    segments=3, delta_t=0.2, alpha=0.3, beta=0.25, sigma_min=0.01, sigma_s=0.1
)
# t = 0.8 u is inside a segment; less than 0.2 before its end; in the last segment.
TIMES = (0.05, 0.35, 0.95)


def batch(size: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (len(TIMES), 3, size, size)
    return {
        "clean": torch.rand(shape, generator=generator, dtype=torch.float64),
        "degraded": torch.rand(shape, generator=generator, dtype=torch.float64),
        "time": torch.tensor(TIMES, dtype=torch.float64),
        "noise": torch.randn(
            (len(TIMES), 4, size // 8, size // 8), generator=generator, dtype=torch.float64
        ),
    }


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Elir:
    # The objective casts to float32; here everything stays float64.
    monkeypatch.setattr(Tensor, "float", lambda self: self)
    torch.manual_seed(0)
    return Elir(ARCHITECTURE, collapsible=True).double()


def mean_square(x: Tensor) -> Tensor:
    return (x**2).mean()


def transcribed(model: Elir, teacher: nn.Module, s: ObjectiveSettings) -> dict[str, Tensor]:
    """Equations 3 to 5 sample by sample, as in the paper."""
    data = batch()
    endpoint, velocity, pixel = [], [], []
    z1 = teacher(data["clean"])
    z = model.estimator(model.encoder(data["degraded"]))
    for n, u in enumerate(TIMES):
        t = u * (1 - s.delta_t)
        i = int(t * s.segments)
        end = (i + 1) / s.segments
        one, target = z1[n : n + 1], z[n : n + 1] + s.sigma_s * data["noise"][n : n + 1]

        def path(time: float, one: Tensor = one, zero: Tensor = target) -> Tensor:
            return time * one + (1 - (1 - s.sigma_min) * time) * zero

        def v(latent: Tensor, time: float) -> Tensor:
            return model.vector_field(latent, torch.tensor([time], dtype=torch.float64))

        def f(latent: Tensor, time: float, end: float = end) -> Tensor:
            return latent + (end - time) * v(latent, time)

        if t + s.delta_t < end:
            later = t + s.delta_t
            f_later, v_later = f(path(later), later), v(path(later), later)
        else:
            f_later, v_later = path(end), v(path(end), end)
        endpoint.append(mean_square(f(path(t), t) - f_later))
        velocity.append(mean_square(v(path(t), t) - v_later))
        last = f(path(t), t)
        last = last + (1 - end) * v(last, end)
        # In the last segment the pixel loss does not depend on the vector field.
        pixel.append(
            mean_square(data["clean"][n : n + 1] - model.decoder(last))
            if i + 1 < s.segments
            else torch.zeros(())
        )
    parts = {
        "estimator": mean_square(z - z1),
        "endpoint": torch.stack(endpoint).mean(),
        "velocity": torch.stack(velocity).mean(),
        "pixel": torch.stack(pixel).mean(),
    }
    parts["flow"] = parts["endpoint"] + s.alpha * parts["velocity"]
    parts["loss"] = parts["estimator"] + (1 - s.beta) * parts["flow"] + s.beta * parts["pixel"]
    return parts


def test_every_term_is_its_equation(model: Elir) -> None:
    objective = RestorationObjective(model, SETTINGS)
    with torch.no_grad():
        seen = objective(**batch())
        expected = transcribed(model, objective.teacher, SETTINGS)
    assert seen.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, rtol=1e-10, atol=1e-12)
        assert value > 0, name


def test_plain_flow_matching_is_its_equation(model: Elir) -> None:
    settings = replace(SETTINGS, consistency=False)
    objective = RestorationObjective(model, settings)
    data = batch()
    with torch.no_grad():
        seen = objective(**data)
        z1 = objective.teacher(data["clean"])
        z0 = model.estimator(model.encoder(data["degraded"])) + 0.1 * data["noise"]
        t = data["time"][:, None, None, None]
        z_t = t * z1 + (1 - 0.99 * t) * z0
        v = model.vector_field(z_t, data["time"])
        torch.testing.assert_close(seen["flow"], mean_square(v - (z1 - 0.99 * z0)))
        restored = model.decoder(z_t + (1 - t) * v)
        torch.testing.assert_close(seen["pixel"], mean_square(restored - data["clean"]))


def parts_with_gradients(model: Elir, loss: Tensor) -> set[str]:
    """Names of the parts of the model that get a gradient from a loss."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name.partition(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }


@pytest.mark.parametrize("consistency", [True, False])
def test_where_gradients_flow(model: Elir, consistency: bool) -> None:
    objective = RestorationObjective(model, replace(SETTINGS, consistency=consistency))

    def losses() -> dict[str, Tensor]:
        return objective(**batch())

    assert parts_with_gradients(model, losses()["estimator"]) == {"encoder", "estimator"}
    assert parts_with_gradients(model, losses()["flow"]) == {"vector_field"}
    assert parts_with_gradients(model, losses()["pixel"]) == {"vector_field"}
    assert parts_with_gradients(model, losses()["loss"]) == {"encoder", "estimator", "vector_field"}
    assert all(p.grad is None for p in objective.teacher.parameters())


def test_the_later_point_gets_no_gradient(model: Elir) -> None:
    """The target of the flow's loss is constant."""
    settings = replace(SETTINGS, alpha=0.0, beta=0.0)
    objective = RestorationObjective(model, settings)
    data = batch()
    objective(**data)["loss"].backward()
    seen = {n: p.grad.clone() for n, p in model.vector_field.named_parameters()}

    t = data["time"] * (1 - settings.delta_t)
    end = segment_end(t, settings.segments)
    later = torch.minimum(t + settings.delta_t, end)
    with torch.no_grad():
        z1 = objective.teacher(data["clean"])
        z0 = model.estimator(model.encoder(data["degraded"])) + 0.1 * data["noise"]
        z_later = flow_point(z0, z1, later, settings.sigma_min)
        gap = (end - later)[:, None, None, None]
        fixed = z_later + gap * model.vector_field(z_later, later)
    model.zero_grad()
    z_t = flow_point(z0, z1, t, settings.sigma_min)
    f = z_t + (end - t)[:, None, None, None] * model.vector_field(z_t, t)
    mean_square(f - fixed).backward()
    for name, parameter in model.vector_field.named_parameters():
        torch.testing.assert_close(seen[name], parameter.grad, rtol=1e-8, atol=1e-12)


def test_the_pixel_loss_starts_from_a_point_held_fixed(model: Elir) -> None:
    """Its gradient is that of the vector field after the segment's end only."""
    objective = RestorationObjective(model, SETTINGS)
    data = {name: value[:1] for name, value in batch().items()}
    model.zero_grad()
    objective(**data)["pixel"].backward()
    seen = {n: p.grad.clone() for n, p in model.vector_field.named_parameters()}

    with torch.no_grad():
        z1 = objective.teacher(data["clean"])
        z0 = model.estimator(model.encoder(data["degraded"])) + 0.1 * data["noise"]
        t = data["time"] * 0.8
        end = segment_end(t, 3)
        z_t = flow_point(z0, z1, t, SETTINGS.sigma_min)
        start = z_t + (end - t)[:, None, None, None] * model.vector_field(z_t, t)
    model.zero_grad()
    latent = start + (1 - end)[:, None, None, None] * model.vector_field(start, end)
    mean_square(model.decoder(latent) - data["clean"]).backward()
    for name, parameter in model.vector_field.named_parameters():
        torch.testing.assert_close(seen[name], parameter.grad, rtol=1e-8, atol=1e-12)


def test_a_frozen_encoder_stays_as_it_is(model: Elir) -> None:
    objective = RestorationObjective(model, replace(SETTINGS, train_encoder=False))
    assert parts_with_gradients(model, objective(**batch())["loss"]) == {
        "estimator",
        "vector_field",
    }


def test_the_teacher_is_the_encoder_before_training(model: Elir) -> None:
    objective = RestorationObjective(model, SETTINGS)
    before = objective.teacher.layers[0].weight.clone()
    with torch.no_grad():
        model.encoder.layers[0].weight.add_(1)
    torch.testing.assert_close(objective.teacher.layers[0].weight, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "change",
    [
        {"estimator_blocks": 0},
        {"autoencoder_width": 0, "latent_channels": 3},
    ],
    ids=["no estimator", "pixel space"],
)
def test_ablations_train(change: dict[str, int]) -> None:
    torch.manual_seed(0)
    model = Elir(replace(ARCHITECTURE, **change), collapsible=True)
    objective = RestorationObjective(model, SETTINGS)
    data = {name: value.to(torch.float32) for name, value in batch(16).items()}
    if model.arch.autoencoder_width == 0:
        data["noise"] = torch.randn(3, 3, 16, 16)
        torch.testing.assert_close(model.encoder(data["clean"]), data["clean"], rtol=0, atol=0)
    losses = objective(**data)
    assert torch.isfinite(losses["loss"])
    parts = parts_with_gradients(model, losses["loss"])
    assert "vector_field" in parts
    assert ("estimator" in parts) == (model.arch.estimator_blocks > 0)
    if not model.arch.estimator_blocks:
        latent = torch.randn(1, 4, 2, 2)
        torch.testing.assert_close(model.estimator(latent), latent, rtol=0, atol=0)


def test_segments() -> None:
    t = torch.tensor([0.0, 0.3, 1 / 3, 0.5, 0.99], dtype=torch.float64)
    torch.testing.assert_close(
        segment_end(t, 3), torch.tensor([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1.0], dtype=torch.float64)
    )


def test_relative_losses_are_logarithms_of_errors(model: Elir) -> None:
    """Of three images alone: each in units of the estimator's error of it."""
    relative = replace(SETTINGS, relative=True)
    objective = RestorationObjective(model, relative)
    absolute = RestorationObjective(model, SETTINGS, objective.teacher)
    with torch.no_grad():
        seen = objective(**batch())
        expected = dict.fromkeys(("estimator", "endpoint", "velocity", "pixel"), 0.0)
        for n in range(len(TIMES)):
            one = absolute(**{name: tensor[n : n + 1] for name, tensor in batch().items()})
            scale = 1 / (one["estimator"] + 0.1**2)
            expected["estimator"] -= torch.log(scale * 0.1**2) / len(TIMES)
            for name in ("endpoint", "velocity", "pixel"):
                expected[name] += scale * one[name] / len(TIMES)
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, rtol=1e-10, atol=1e-12)


def test_weak_degradations_count_as_much_in_relative_losses(model: Elir) -> None:
    """The gradient of an image of a tenth of the deviation is ten times as large, so that a step
    changes its error by the same factor."""
    settings = replace(SETTINGS, relative=True, sigma_s=1e-3)
    objective = RestorationObjective(
        LatentFlow(model.vector_field), settings, nn.Identity(), flow=False
    )
    clean = torch.zeros(2, 4, 4, 4, dtype=torch.float64)
    coarse = clean + torch.tensor([1.0, 0.1], dtype=torch.float64)[:, None, None, None]
    coarse.requires_grad_(True)
    time, noise = torch.zeros(2), torch.zeros_like(clean)
    objective(clean, coarse, time, noise)["loss"].backward()
    assert coarse.grad is not None
    strong, weak = coarse.grad.flatten(1).norm(dim=1)
    assert float(weak / strong) == pytest.approx(10, rel=0.01)


def test_without_the_flow_only_encoder_and_estimator_are_trained(model: Elir) -> None:
    objective = RestorationObjective(model, SETTINGS, flow=False)
    losses = objective(**batch())
    assert losses.keys() == {"loss", "estimator"}
    assert parts_with_gradients(model, losses["loss"]) == {"encoder", "estimator"}
