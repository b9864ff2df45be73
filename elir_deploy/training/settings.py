"""Hyper-parameters of training: the paper's Table 6, by task."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from elir_deploy.errors import UsageError
from elir_deploy.tasks import task_named

__all__ = ["AutoencoderSettings", "ObjectiveSettings", "RunSettings", "settings_for"]


def _check_at_least(name: str, value: int, least: int) -> None:
    if type(value) is not int or value < least:
        raise UsageError(f"{name} is {value!r}, expected an integer of at least {least}")


def _check_within(
    name: str, value: float, low: float, high: float, *, open_ends: bool = False
) -> None:
    inside = low < value < high if open_ends else low <= value <= high
    if not inside or value == float("inf"):
        raise UsageError(f"{name} is {value!r}, expected a number between {low:g} and {high:g}")


@dataclass(frozen=True)
class ObjectiveSettings:
    """Parameters of Equations 3 to 5, and the paper's ablations of them.

    Attributes:
        segments: K, equal parts of [0, 1] in which the flow is trained to be straight.
        delta_t: distance in time of the two points whose predictions are compared.
        alpha: weight of the velocity term in Equation 3.
        beta: weight of the pixel loss in Equation 4.
        sigma_min: share of z_0 left at t = 1.
        sigma_s: standard deviation of the noise added to the coarse latent to get z_0.
        consistency: train consistency flow matching; otherwise plain flow matching (Table 5).
        train_encoder: fine-tune the encoder for the task; otherwise keep it frozen (Table 8).
        relative: compare losses of images by their ratio: the estimator loss is the mean logarithm
            of 1 + e / sigma_s^2, where e is an image's squared error, and the flow's losses of an
            image are divided by e + sigma_s^2. Otherwise images with strong degradations, whose e
            is many times as large, would decide everything.
    """

    segments: int = 3
    delta_t: float = 0.05
    alpha: float = 0.001
    beta: float = 0.001
    sigma_min: float = 1e-5
    sigma_s: float = 0.1
    consistency: bool = True
    train_encoder: bool = True
    relative: bool = False

    def __post_init__(self) -> None:
        _check_at_least("segments", self.segments, 1)
        _check_within("delta_t", self.delta_t, 0, 1, open_ends=True)
        _check_within("alpha", self.alpha, 0, float("inf"))
        _check_within("beta", self.beta, 0, 1)
        _check_within("sigma_min", self.sigma_min, 0, 1)
        _check_within("sigma_s", self.sigma_s, 0, float("inf"))
        if self.relative and not self.sigma_s:
            raise UsageError("sigma_s is 0, expected more: relative losses are divided by it")


@dataclass(frozen=True)
class AutoencoderSettings:
    """Hyper-parameters for training an autoencoder.

    Attributes:
        linear_iterations: updates of the linear autoencoder it starts from.
        iterations: updates of the autoencoder itself.
        batch_size: crops per update, over all devices.
        crop_size: side of the crops in pixels.
        linear_learning_rate: Muon's rate for the linear autoencoder.
        learning_rate: Muon's rate for the weights of the convolutions.
        bias_learning_rate: AdamW's rate for the biases.
        ema_decay: decay of the average of the weights; short, as the learning rates fall to 0.
    """

    linear_iterations: int = 1000
    iterations: int = 3000
    batch_size: int = 8
    crop_size: int = 128
    linear_learning_rate: float = 0.015
    learning_rate: float = 0.002
    bias_learning_rate: float = 0.001
    ema_decay: float = 0.99

    def __post_init__(self) -> None:
        for name in ("linear_iterations", "iterations", "batch_size"):
            _check_at_least(name, getattr(self, name), 1)
        if self.crop_size < 8 or self.crop_size % 8:
            raise UsageError(f"crop_size is {self.crop_size}, expected a multiple of 8")
        for name in ("learning_rate", "linear_learning_rate", "bias_learning_rate"):
            _check_within(name, getattr(self, name), 0, 1, open_ends=True)
        _check_within("ema_decay", self.ema_decay, 0, 1)

    def with_learning_rate(self, rate: float) -> AutoencoderSettings:
        """A copy with another ``learning_rate``; the other two rates change by the same factor."""
        factor = rate / self.learning_rate
        return replace(
            self,
            linear_learning_rate=self.linear_learning_rate * factor,
            learning_rate=rate,
            bias_learning_rate=self.bias_learning_rate * factor,
        )


@dataclass(frozen=True)
class RunSettings:
    """Hyper-parameters of a training run.

    Attributes:
        objective: parameters of the loss.
        epochs: passes over the images, unless ``iterations`` is set.
        iterations: updates; None: as many as ``epochs`` take; 0: only the flow's are done.
        batch_size: images per update, over all devices.
        crop_size: side in pixels of the images of these updates, at most the model's; None: the
            model's. Encoder and estimator have no normalization, so that smaller crops, more of
            them, train them as well where the vector field has a phase of its own.
        learning_rate: AdamW's; its betas are 0.9 and 0.999, beside Muon 0.9 and 0.99, its eps 1e-8.
        muon_ratio: Muon's rate over ``learning_rate``: it trains the convolutions where the vector
            field has a phase of its own; 0: AdamW trains them, too.
        schedule: the learning rate stays ``constant``, or falls along half a ``cosine`` to 0.
        warmup: updates over which the learning rate rises from 0.
        weight_decay: AdamW's where it trains alone; beside Muon there is none.
        ema_decay: decay of the moving average of the weights, which is the result.
        flow_iterations: updates of the vector field alone, on latents computed once by the trained
            encoder and coarse estimator, which are then trained without it; 0: all are trained
            together, as in the paper. The field's gradients reach no other part (Section 4.2), and
            without the autoencoder an update is cheap, so that a short training can afford many
            more of them.
        flow_batch_size: latents per update of the flow, over all devices.
        flow_latents: number of latents, each from another crop.
        seed: seed of all random numbers.
    """

    objective: ObjectiveSettings = ObjectiveSettings()
    epochs: int = 250
    iterations: int | None = None
    batch_size: int = 128
    crop_size: int | None = None
    learning_rate: float = 2e-4
    muon_ratio: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    weight_decay: float = 0.02
    ema_decay: float = 0.999
    flow_iterations: int = 0
    flow_batch_size: int = 8
    flow_latents: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        _check_at_least("flow_iterations", self.flow_iterations, 0)
        for name in ("epochs", "batch_size", "flow_batch_size", "flow_latents"):
            _check_at_least(name, getattr(self, name), 1)
        if self.iterations is not None:
            _check_at_least("iterations", self.iterations, 0)
        _check_at_least("warmup", self.warmup, 0)
        _check_at_least("seed", self.seed, 0)
        _check_within("learning_rate", self.learning_rate, 0, 1, open_ends=True)
        _check_within("muon_ratio", self.muon_ratio, 0, float("inf"))
        _check_within("weight_decay", self.weight_decay, 0, float("inf"))
        _check_within("ema_decay", self.ema_decay, 0, 1)
        if self.schedule not in ("constant", "cosine"):
            raise UsageError(f"schedule is {self.schedule!r}, expected constant or cosine")

    def updates(self, images: int) -> int:
        """Updates of the restoration phase on a folder of ``images`` photographs."""
        if self.iterations is not None:
            return self.iterations
        return max(1, math.ceil(self.epochs * images / self.batch_size))


#: Table 6; the defaults of :class:`RunSettings` are those of the face restoration tasks.
_RUNS = {
    "bfr": RunSettings(epochs=400, batch_size=64, learning_rate=1e-4),
    "sr": RunSettings(),
    "denoise": RunSettings(),
    "inpaint": RunSettings(),
    "bsr": RunSettings(ObjectiveSettings(delta_t=0.2), epochs=50),
    # Not from the paper: two hours on a CPU instead of days on four GPUs.
    "tiny": RunSettings(
        ObjectiveSettings(beta=0.0, relative=True, consistency=False),
        iterations=10_000,
        batch_size=8,
        crop_size=128,
        learning_rate=1e-3,
        muon_ratio=5.0,
        schedule="cosine",
        warmup=200,
        flow_iterations=4500,
        flow_latents=3000,
    ),
}


def settings_for(task_name: str) -> RunSettings:
    """The paper's settings for a task (Table 6), with the task's K and sigma_s.

    Raises:
        UsageError: no task has that name.
    """
    task = task_named(task_name)
    run = _RUNS[task.name]
    return replace(run, objective=replace(run.objective, segments=task.steps, sigma_s=task.sigma_s))
