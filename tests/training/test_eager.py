from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from elir_deploy.degradations import degrade, enlarge  # noqa: E402
from elir_deploy.errors import UsageError  # noqa: E402
from elir_deploy.runtime.noise import NoiseField  # noqa: E402
from elir_deploy.static_graph import noise_values  # noqa: E402
from elir_deploy.tasks import TASKS  # noqa: E402
from elir_deploy.training.eager import CheckpointSubject, euler_path  # noqa: E402
from elir_deploy.training.subjects import Variant  # noqa: E402
from tests.training.small import SIZE, SMALL, photo  # noqa: E402

TRUTH = photo(0, SIZE, SIZE)
LOW = degrade("tiny", TRUTH, np.random.default_rng(0))


def noise(sigma_s: float):
    return noise_values(NoiseField(0, sigma_s), (1, 4, SIZE // 8, SIZE // 8))


def algorithm_1(model, steps: int, sigma_s: float) -> np.ndarray:
    """(S, S, 3) float on the 8-bit scale, by the model's own forward."""
    x = torch.from_numpy(LOW).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        return model(x, steps, noise(sigma_s))[0].permute(1, 2, 0).numpy() * 255


def test_the_path_ends_at_the_models_result(checkpoint) -> None:
    model = checkpoint.model
    x = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        path = list(euler_path(model, model.estimator(model.encoder(x)), 4, noise(0.3)))
        assert len(path) == 5
        expected = model(x, 4, noise(0.3))
        assert torch.equal(model.decoder(path[-1]).clamp(0, 1), expected)


def test_every_variant_equals_the_models_result(checkpoint) -> None:
    subject = CheckpointSubject(checkpoint, steps=[1, 5], sigmas=[0.0, 0.4])
    restored = subject.restore(LOW)
    assert len(subject.plan.variants) == len(restored.pictures) == 5
    for variant, picture in zip(subject.plan.variants, restored.pictures, strict=True):
        expected = algorithm_1(checkpoint.model, variant.steps, variant.sigma_s)
        assert np.abs(picture - expected).max() < 0.52
    different = {picture.tobytes() for picture in restored.pictures}
    assert len(different) == 5
    np.testing.assert_array_equal(restored.input, LOW)


def test_the_coarse_estimate(checkpoint) -> None:
    model = checkpoint.model
    x = torch.from_numpy(LOW).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        coarse = model.decoder(model.estimator(model.encoder(x))).clamp(0, 1)
    result = CheckpointSubject(checkpoint).restore(LOW).coarse
    assert np.abs(result - coarse[0].permute(1, 2, 0).numpy() * 255).max() < 0.52


def test_the_checkpoint_is_not_modified(checkpoint) -> None:
    before = copy.deepcopy(checkpoint.model.state_dict())
    CheckpointSubject(checkpoint).restore(LOW)
    assert checkpoint.model.collapsible
    after = checkpoint.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_enlarged_task(checkpoint) -> None:
    task = replace(checkpoint.task, name="sr", upscale=8, upscale_kernel="nearest")
    low = degrade("sr", TRUTH, np.random.default_rng(0))
    restored = CheckpointSubject(replace(checkpoint, task=task)).restore(low)
    np.testing.assert_array_equal(restored.input, enlarge("sr", low))


def test_the_trace_leads_to_the_restored_image(checkpoint) -> None:
    encoder = copy.deepcopy(checkpoint.model.encoder)
    encoder.layers[0].bias.add_(0.1)
    subject = CheckpointSubject(checkpoint, steps=[4], clean_encoder=encoder)
    trace = subject.trace("a.png", LOW, TRUTH)
    restored = subject.restore(LOW)
    side = SIZE // 8
    assert trace.latents.shape == (5, 4, side, side)
    np.testing.assert_array_equal(trace.pictures[-1], restored.pictures[0])
    np.testing.assert_array_equal(trace.coarse, restored.coarse)
    x = torch.from_numpy(TRUTH).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        encoded = encoder(x)[0].numpy()
    np.testing.assert_allclose(trace.truth_latent, encoded, atol=1e-5)
    # The model's fine-tuned encoder does not replace it.
    assert CheckpointSubject(checkpoint).trace("a.png", LOW, TRUTH).truth_latent is None


def test_unsupported_numbers(checkpoint) -> None:
    for arguments, message in (
        ({"image_size": SIZE + 8}, "image size is 72, .* a multiple of 32"),
        ({"steps": [101]}, "steps is 101"),
        ({"sigmas": [float("nan")]}, "sigma_s is nan"),
    ):
        with pytest.raises(UsageError, match=message):
            CheckpointSubject(checkpoint, **arguments)


def test_a_flow_over_pixels(checkpoint) -> None:
    """Table 5: no autoencoder, so the latent is the image."""
    from elir_deploy.model import Elir

    arch = replace(SMALL, autoencoder_width=0, latent_channels=3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Elir(arch).eval().requires_grad_(False)
    subject = CheckpointSubject(replace(checkpoint, model=model), steps=[2], sigmas=[0.0])
    x = torch.from_numpy(LOW).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = model(x, 2)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(subject.restore(LOW).pictures[0] - expected).max() < 0.52
    assert subject.trace("a.png", LOW, TRUTH).latents.shape == (3, 3, SIZE, SIZE)
    with pytest.raises(UsageError, match="image size is 66, expected a multiple of 4"):
        CheckpointSubject(replace(checkpoint, model=model), image_size=66)


def test_description(checkpoint) -> None:
    subject = CheckpointSubject(checkpoint, image_size=96)
    assert subject.plan.main == Variant(TASKS["tiny"].steps, 0.1)
    assert (subject.side, subject.description["image_size"]) == (96, 96)
    assert subject.description["source"] == "small.safetensors"
