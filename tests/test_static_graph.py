"""Every rewrite against the untouched model, in float64 where only the algebra is on trial."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elir_deploy.errors import UsageError
from elir_deploy.model import Elir, collapse_convolutions
from elir_deploy.model.convolution import CollapsibleConv2d, compose_with_pointwise
from elir_deploy.scopes import in_scope
from elir_deploy.static_graph import (
    FixedNoise,
    Rewrites,
    build_static_graph,
    fixed_noise,
)
from elir_deploy.tasks import Architecture

SMALL = Architecture(
    autoencoder_width=8,
    autoencoder_blocks=1,
    estimator_blocks=1,
    estimator_growth=8,
    vector_field_width=32,
    time_frequencies=8,
    time_width=16,
)
SIZE = 64
STEPS = 3
#: float64 rounding after some hundred layers, far below any algebraic mistake.
EXACT = 1e-10


def seeded_model(arch: Architecture = SMALL, *, collapsible: bool = False) -> Elir:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Elir(arch, collapsible).double().eval()
        # The default initialisation gives nearly black images, where clipping hides errors.
        last = model.decoder.layers[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.normal_(last.weight, std=0.5)
        nn.init.constant_(last.bias, 0.5)
    return model


def seeded_noise(dtype: torch.dtype = torch.float64) -> FixedNoise:
    noise = fixed_noise(0, 0.1, (1, 16, SIZE // 8, SIZE // 8))
    return replace(noise, values=noise.values.to(dtype))


def seeded_image() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(1, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("collapsible", [False, True], ids=["collapsed", "over-parametrised"])
@pytest.mark.parametrize(
    "rewrites",
    [
        Rewrites.none(),
        replace(Rewrites.none(), collapse=True),
        replace(Rewrites.none(), collapse=True, fold_time=True),
        replace(Rewrites.none(), collapse=True, merge_projection=True),
        replace(Rewrites.none(), fold_scalars=True),
        Rewrites(),
    ],
    ids=lambda r: "+".join(name for name, applied in vars(r).items() if applied) or "none",
)
@torch.inference_mode()
def test_every_rewrite_computes_the_same_function(rewrites: Rewrites, collapsible: bool) -> None:
    model = seeded_model(collapsible=collapsible)
    image, noise = seeded_image(), seeded_noise()
    static = build_static_graph(
        model, image_size=SIZE, steps=STEPS, noise=noise, io="float32", rewrites=rewrites
    )
    expected = model(image, STEPS, noise.values)
    assert 0.1 < expected.std() < 0.5
    assert (static(image) - expected).abs().max() < EXACT


@torch.inference_mode()
def test_all_rewrites_together_in_float32() -> None:
    model = seeded_model(collapsible=True).float()
    image, noise = seeded_image().float(), seeded_noise(torch.float32)
    static = build_static_graph(model, image_size=SIZE, steps=STEPS, noise=noise, io="float32")
    assert (static(image) - model(image, STEPS, noise.values)).abs().max() < 1e-5


def test_the_model_is_left_as_it_was() -> None:
    model = seeded_model(collapsible=True)
    before = copy.deepcopy(model.state_dict())
    build_static_graph(model, image_size=SIZE, steps=STEPS, noise=seeded_noise())
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


@torch.inference_mode()
def test_collapse_is_exact_at_the_borders_and_with_biases() -> None:
    torch.manual_seed(0)
    conv = CollapsibleConv2d(5, 7).double()
    collapsed = conv.collapse()
    x = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    assert collapsed.kernel_size == (3, 3)
    assert (collapsed(x) - conv(x)).abs().max() < EXACT


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True), (False, False)])
@torch.inference_mode()
def test_composition_with_any_biases(biases: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=biases[0]).double()
    second = nn.Conv2d(8, 4, 1, bias=biases[1]).double()
    x = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    assert (compose_with_pointwise(first, second)(x) - second(first(x))).abs().max() < EXACT


def test_collapse_leaves_no_over_parametrised_layer() -> None:
    model = Elir(SMALL, collapsible=True)
    assert model.collapsible
    collapse_convolutions(model)
    assert not model.collapsible
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in Elir(SMALL).state_dict().items()
    }


class TestFixedNoise:
    def test_the_stream_is_the_promised_one(self) -> None:
        # The first draws of NumPy's legacy generator for seed 0, known since NumPy 1.0.
        noise = fixed_noise(0, 1.0, (1, 1, 1, 3)).values.flatten().tolist()
        assert noise == pytest.approx([1.764052346, 0.400157208, 0.978737984], abs=1e-7)

    def test_standard_deviation_and_hash(self) -> None:
        first = fixed_noise(3, 0.25, (1, 16, 32, 32))
        assert first.values.dtype == torch.float32
        assert float(first.values.std()) == pytest.approx(0.25, rel=0.02)
        assert fixed_noise(3, 0.25, (1, 16, 32, 32)).sha256 == first.sha256
        assert fixed_noise(4, 0.25, (1, 16, 32, 32)).sha256 != first.sha256

    @pytest.mark.parametrize(("seed", "sigma"), [(-1, 0.1), (2**32, 0.1), (0, -1.0), (0, np.nan)])
    def test_bad_values_are_refused(self, seed: int, sigma: float) -> None:
        with pytest.raises(UsageError, match="expected"):
            fixed_noise(seed, sigma, (1, 1, 1, 1))


@pytest.mark.parametrize("rewrites", [Rewrites(), Rewrites.none()], ids=["all", "none"])
@pytest.mark.parametrize("collapsible", [False, True])
def test_the_outline_has_every_convolution_once(rewrites: Rewrites, collapsible: bool) -> None:
    model = seeded_model(collapsible=collapsible)
    static = build_static_graph(model, image_size=SIZE, steps=STEPS, noise=None, rewrites=rewrites)
    outline = static.outline
    scopes = {scope for stage in static.stages.values() for scope, _ in stage.named_modules()}
    for published in (outline.blocks, outline.rgb_ends):
        assert published
        assert scopes.issuperset(published)
    weights = [
        name
        for stage in static.stages.values()
        for name, weight in stage.named_parameters()
        if weight.dim() == 4
    ]
    ends = [name for name in weights if outline.block_of(name) is None]
    assert ends == ["encoder.layers.0.weight", "decoder.layers.12.weight"]
    for name in set(weights) - set(ends):
        assert len([part for part in outline.blocks if in_scope(name, part)]) == 1


@torch.inference_mode()
def test_no_noise_is_no_addition() -> None:
    model = seeded_model()
    image = seeded_image()
    silent = fixed_noise(0, 0.0, (1, 16, SIZE // 8, SIZE // 8))
    static = build_static_graph(model, image_size=SIZE, steps=1, noise=silent, io="float32")
    assert not list(static.stages["flow"].buffers())
    assert (static(image) - model(image, 1)).abs().max() < EXACT


@torch.inference_mode()
def test_bytes_in_and_out_round_half_to_even() -> None:
    model = seeded_model().float()
    noise = seeded_noise(torch.float32)
    pixels = torch.randint(0, 256, (1, SIZE, SIZE, 3), dtype=torch.uint8)
    static = build_static_graph(model, image_size=SIZE, steps=1, noise=noise)
    restored = static(pixels)
    expected = model(pixels.permute(0, 3, 1, 2) / 255, 1, noise.values)
    assert restored.dtype == torch.uint8
    assert restored.shape == pixels.shape
    difference = restored.int() - (expected * 255).round().permute(0, 2, 3, 1).int()
    # float32 rounding can move a value across a half, never further.
    assert difference.abs().max() <= 1
    assert (difference != 0).float().mean() < 1e-3


@pytest.mark.parametrize("size", [0, 16, 33, 100])
def test_image_sizes_the_network_cannot_take(size: int) -> None:
    with pytest.raises(UsageError, match="multiple of 32"):
        build_static_graph(seeded_model(), image_size=size, steps=1, noise=None)


def test_no_steps_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        build_static_graph(seeded_model(), image_size=64, steps=0, noise=None)
