from __future__ import annotations

import pytest
import torch

from elir_deploy.model import Elir, collapse_convolutions, count_parameters
from elir_deploy.tasks import TASKS
from tests.official import SMALL


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("bfr", 37_518_771),
        ("sr", 26_893_747),
        ("denoise", 26_893_747),
        ("inpaint", 26_893_747),
        ("bsr", 19_083_923),
    ],
)
def test_parameter_counts(task: str, expected: int) -> None:
    with torch.device("meta"):
        model = Elir(TASKS[task].architecture)
    assert count_parameters(model) == expected


@pytest.fixture
def model() -> Elir:
    torch.manual_seed(0)
    return Elir(SMALL, collapsible=True).requires_grad_(False).eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def test_algorithm(model: Elir, image: torch.Tensor) -> None:
    """Algorithm 1: coarse latent, noise, Euler steps from t = 0, decoder."""
    noise = 0.1 * torch.randn(2, 4, 8, 12)
    z = model.estimator(model.encoder(image)) + noise
    for t in (0.0, 0.25, 0.5, 0.75):
        z = z + 0.25 * model.vector_field(z, torch.full((2,), t))
    expected = model.decoder(z).clamp(0, 1)
    torch.testing.assert_close(model(image, 4, noise), expected, rtol=0, atol=1e-6)


def test_images_of_a_batch_are_independent(model: Elir, image: torch.Tensor) -> None:
    both = model(image, 2)
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], model(image[i : i + 1], 2), rtol=0, atol=1e-5)


def test_result_is_clipped(model: Elir, image: torch.Tensor) -> None:
    model.decoder.layers[-1].bias.copy_(torch.tensor([-5.0, 0.5, 5.0]))
    restored = model(image, 1)
    assert restored.shape == image.shape
    assert (restored[:, 0] == 0).all()
    assert (restored[:, 2] == 1).all()


def test_image_multiple(model: Elir) -> None:
    side = SMALL.image_multiple
    assert side == 32
    assert model(torch.rand(1, 3, side, 2 * side), 1).shape == (1, 3, side, 2 * side)
    with pytest.raises(RuntimeError):
        model(torch.rand(1, 3, side + 8, side), 1)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["double", "float"]
)
def test_collapsing_is_exact(
    model: Elir, image: torch.Tensor, dtype: torch.dtype, bound: float
) -> None:
    model.to(dtype)
    image = image.to(dtype)
    before = model(image, 3)
    latent = model.estimator(model.encoder(image))
    assert model.collapsible
    collapse_convolutions(model)
    assert not model.collapsible
    torch.testing.assert_close(
        model.estimator(model.encoder(image)), latent, rtol=0, atol=bound, check_stride=False
    )
    torch.testing.assert_close(model(image, 3), before, rtol=0, atol=bound)


def test_a_collapsed_model_has_the_collapsed_tensors(model: Elir) -> None:
    collapse_convolutions(model)
    expected = {name: tensor.shape for name, tensor in Elir(SMALL).state_dict().items()}
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == expected
