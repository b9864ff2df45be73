"""What eager PyTorch launches, and the paper's figures."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from elir_deploy.cost.devices import DEVICES
from elir_deploy.cost.graphs import bundle_layers
from elir_deploy.cost.roofline import Layer, predict, totals
from elir_deploy.runtime import Bundle
from elir_deploy.tasks import TASKS, Architecture
from tests.cost.test_roofline import DEVICE, layer

torch = pytest.importorskip("torch")

from benchmarks.eager_kernels import eager_layers, eager_model_layers, fit_launch_seconds  # noqa: E402
from benchmarks.paper_speeds import (  # noqa: E402
    EAGER_LAUNCH_SECONDS,
    FITTED,
    PAPER_SPEEDS,
    PaperSpeed,
)


@pytest.fixture(scope="module")
def bfr() -> list[Layer]:
    task = TASKS["bfr"]
    return eager_model_layers(task.architecture, image_size=task.image_size, steps=task.steps)


def test_multiply_accumulates_of_bfr(bfr) -> None:
    gmacs = {part: own.macs / 1e9 for part, own in totals(bfr).items()}
    # Every weight of the estimator's 5.5 M meets each of the 64 x 64 latent pixels once.
    weights = 3 * 3 * 9 * (96 * (16 + 112 + 208 + 304) + 16 * 400)
    assert gmacs["estimator"] == pytest.approx(weights * 64 * 64 / 1e9, rel=1e-12)
    assert gmacs["encoder"] == pytest.approx(61.2, abs=0.05)
    assert gmacs["flow"] == pytest.approx(95.0, abs=0.1)
    assert gmacs["decoder"] == pytest.approx(70.7, abs=0.05)


def test_the_exported_graph_computes_what_pytorch_does_but_the_exact_rewrites() -> None:
    task = TASKS["tiny"]
    arch, steps = task.architecture, task.steps
    eager = totals(eager_model_layers(arch, image_size=task.image_size, steps=steps))
    exported = totals(bundle_layers(Bundle.open("tiny"), "fp32"))
    for part in ("encoder", "estimator", "decoder"):
        assert exported[part].macs == eager[part].macs
    width, latent = arch.vector_field_width, arch.latent_channels
    pixels = (task.image_size // 8) ** 2
    merged = 9 * width * width + width * latent - 9 * width * latent
    blocks = [32, 32, 64, 64, 128, 64, 64, 32, 32]  # the widths whose biases the time MLP makes
    time = arch.time_width * (arch.time_frequencies + arch.time_width + sum(blocks))
    assert eager["flow"].macs - exported["flow"].macs == steps * (merged * pixels + time)


def test_eager_pytorch_is_not_fused(bfr) -> None:
    kernels = [layer for layer in bfr if layer.part == "decoder"]
    assert [layer.operators for layer in kernels[:4]] == ["div", "tanh", "mul", "convolution"]
    bias = kernels[4]
    assert (bias.operators, bias.macs) == ("bias", 0)
    assert bias.bytes == 2 * 4 * 64 * 64 * 64 + 4 * 64
    norms = [layer.operators for layer in bfr if layer.part == "flow"]
    start = norms.index("moments")
    assert norms[start : start + 4] == ["moments", "factors", "native_group_norm", "silu"]


def test_a_call_that_is_not_known() -> None:
    class Numbers:
        shape = (2, 3)

        def element_size(self) -> int:
            return 4

    assert eager_layers("view", [Numbers()], [Numbers()], "flow") == []
    with pytest.raises(ValueError, match="erfinv"):
        eager_layers("erfinv", [Numbers()], [Numbers()], "flow")


# The paper -----------------------------------------------------------------------------------


#: How far each prediction is from the paper's figure, in per cent: the errors that
#: docs/results/cost-model.md states, with fitted launches.
ERRORS = {
    "BFR at 512x512, 37 M, K = 5": 6.2,
    "BSR, 18 M, K = 3": -5.6,
    "Pixel CFM, K = 3": -33.5,
    "Latent FM, 25 steps": -8.5,
    "face tasks, 27 M, K = 3": 0.0,
    "13 M, K = 3": -2.6,
    "19 M, K = 3": -1.6,
    "37 M, K = 3": 4.8,
    "27 M, K = 1": 7.2,
    "27 M, K = 5": 0.7,
}
CARD = DEVICES["rtx2080ti"]


@functools.cache
def traced(architecture: Architecture, image_size: int, steps: int) -> list[Layer]:
    return eager_model_layers(architecture, image_size=image_size, steps=steps)


def eager(speed: PaperSpeed) -> list[Layer]:
    """What PyTorch runs, traced for three Euler steps at most: all steps are alike."""
    network = speed.architecture, speed.image_size
    if speed.steps <= 3:
        return traced(*network, speed.steps)
    three = traced(*network, 3)
    end = max(index for index, layer in enumerate(three) if layer.part == "flow") + 1
    step = three[end - (len(three) - len(traced(*network, 2))) : end]
    return three[:end] + (speed.steps - 3) * step + three[end:]


def test_steps_are_alike(bfr) -> None:
    assert eager(PAPER_SPEEDS[0]) == bfr


@pytest.mark.parametrize("speed", PAPER_SPEEDS, ids=lambda speed: speed.title)
def test_one_number_is_fitted_and_the_others_are_tested(speed: PaperSpeed) -> None:
    told = predict(eager(speed), replace(CARD, launch_seconds=EAGER_LAUNCH_SECONDS))
    assert round(100 * (told.fps / speed.fps - 1), 1) == pytest.approx(ERRORS[speed.title])


def test_the_fitted_number() -> None:
    fitted = fit_launch_seconds(eager(FITTED), CARD, FITTED.seconds)
    assert fitted == pytest.approx(EAGER_LAUNCH_SECONDS, rel=1e-3)
    assert 5e-6 < fitted < 25e-6  # what is published of PyTorch's host time a call


def test_bfr_at_512_keeps_the_card_busy(bfr) -> None:
    """So the roofline alone, without any fitted number, is as near."""
    alone = predict(bfr, CARD)
    assert alone.fps == pytest.approx(19.51, rel=0.07)
    fitted = predict(bfr, replace(CARD, launch_seconds=EAGER_LAUNCH_SECONDS))
    assert alone.fps == pytest.approx(fitted.fps, rel=0.01)


def test_what_is_assumed_has_the_number_of_parameters_that_the_paper_states() -> None:
    from elir_deploy.model.elir import Elir, count_parameters

    sizes = [s for s in PAPER_SPEEDS if s.assumed and s.architecture.autoencoder_width]
    for speed in (FITTED, *sizes):
        with torch.device("meta"):
            millions = count_parameters(Elir(speed.architecture)) / 1e6
        stated = int(speed.title.split(" M,")[0].split()[-1])
        assert millions == pytest.approx(stated, abs=0.6), speed.title


def test_the_paper_has_ten_figures() -> None:
    assert {(speed.source, speed.fps) for speed in PAPER_SPEEDS} == {
        *(("1(a)", 19.51), ("1(b)", 52.20), ("5", 7.32), ("5", 11.20), ("5, 9, 10", 49.26)),
        *(("9", 50.55), ("9", 50.05), ("9", 42.94), ("10", 70.30), ("10", 36.35)),
    }
    assert len(ERRORS) == len(PAPER_SPEEDS) == 10
    assert sum(speed is FITTED for speed in PAPER_SPEEDS) == 1


def test_the_fitted_launch_time_gives_the_time_back() -> None:
    layers = [layer(read=1)] * 20
    for launch in (0.05, 0.3, 2.0):
        seconds = predict(layers, replace(DEVICE, launch_seconds=launch)).seconds
        fitted = fit_launch_seconds(layers, DEVICE, seconds)
        again = predict(layers, replace(DEVICE, launch_seconds=fitted)).seconds
        assert again == pytest.approx(seconds, rel=1e-9)
    with pytest.raises(ValueError, match="no launch time explains it"):
        fit_launch_seconds(layers, DEVICE, 1.9)
