"""Every number of a training run, as data: the paper's Table 6 by task."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from elir_deploy.errors import UsageError
from elir_deploy.tasks import task_named

__all__ = ["AutoencoderSettings", "ObjectiveSettings", "RunSettings", "settings_for"]


def _at_least(name: str, value: int, least: int) -> None:
    if type(value) is not int or value < least:
        raise UsageError(f"{name} is {value!r}, wanted a whole number of at least {least}")


def _within(name: str, value: float, low: float, high: float, *, open_ends: bool = False) -> None:
    inside = low < value < high if open_ends else low <= value <= high
    if not inside or value == float("inf"):
        raise UsageError(f"{name} is {value!r}, wanted a number between {low:g} and {high:g}")


@dataclass(frozen=True)
class ObjectiveSettings:
    """Equations 3 to 5 and what the paper's ablations change in them.

    Attributes:
        segments: K, equal parts of [0, 1] inside which the flow is to be straight.
        delta_t: distance in time of the two points whose predictions are compared.
        alpha: weight of the velocity term in Equation 3.
        beta: weight of the pixel loss in Equation 4.
        sigma_min: what is left of z_0 at t = 1.
        sigma_s: standard deviation of the noise that makes z_0 of the coarse latent.
        consistency: train consistency flow matching; otherwise plain flow matching (Table 5).
        train_encoder: fine-tune the encoder for the task; otherwise keep it frozen (Table 8).
    """

    segments: int = 3
    delta_t: float = 0.05
    alpha: float = 0.001
    beta: float = 0.001
    sigma_min: float = 1e-5
    sigma_s: float = 0.1
    consistency: bool = True
    train_encoder: bool = True

    def __post_init__(self) -> None:
        _at_least("segments", self.segments, 1)
        _within("delta_t", self.delta_t, 0, 1, open_ends=True)
        _within("alpha", self.alpha, 0, float("inf"))
        _within("beta", self.beta, 0, 1)
        _within("sigma_min", self.sigma_min, 0, 1)
        _within("sigma_s", self.sigma_s, 0, float("inf"))


@dataclass(frozen=True)
class AutoencoderSettings:
    """Training an autoencoder where there is none to start from.

    Attributes:
        linear_iterations: updates of the linear autoencoder it starts from.
        iterations: updates of the autoencoder itself.
        batch_size: crops an update, over all devices.
        crop_size: side of the crops in pixels.
        linear_learning_rate: of Muon for the linear autoencoder.
        learning_rate: of Muon for the convolutions' weights.
        bias_learning_rate: of AdamW for the biases.
        ema_decay: of the average of the weights that is kept; short, as the learning rates end
            at 0.
    """

    linear_iterations: int = 1000
    iterations: int = 3000
    batch_size: int = 8
    crop_size: int = 128
    linear_learning_rate: float = 0.015
    learning_rate: float = 0.005
    bias_learning_rate: float = 0.001
    ema_decay: float = 0.99

    def __post_init__(self) -> None:
        for name in ("linear_iterations", "iterations", "batch_size"):
            _at_least(name, getattr(self, name), 1)
        if self.crop_size < 8 or self.crop_size % 8:
            raise UsageError(f"crop_size is {self.crop_size}, wanted a multiple of 8")
        for name in ("learning_rate", "linear_learning_rate", "bias_learning_rate"):
            _within(name, getattr(self, name), 0, 1, open_ends=True)
        _within("ema_decay", self.ema_decay, 0, 1)

    def with_learning_rate(self, rate: float) -> AutoencoderSettings:
        """With another ``learning_rate``, and the two beside it changed by the same factor."""
        factor = rate / self.learning_rate
        return replace(
            self,
            linear_learning_rate=self.linear_learning_rate * factor,
            learning_rate=rate,
            bias_learning_rate=self.bias_learning_rate * factor,
        )


@dataclass(frozen=True)
class RunSettings:
    """A whole training run.

    Attributes:
        objective: the loss.
        epochs: passes over the images, unless ``iterations`` is set.
        iterations: updates; None: as many as ``epochs`` take; 0: only those of the flow.
        batch_size: images an update, over all devices.
        learning_rate: of AdamW; its betas are 0.9 and 0.999, its eps 1e-8.
        schedule: the learning rate stays ``constant``, or falls along half a ``cosine`` to 0.
        warmup: updates over which the learning rate rises from 0.
        weight_decay: of AdamW.
        ema_decay: of the exponential moving average of the weights, which is what is kept.
        flow_iterations: further updates of the vector field alone, on latents that the finished
            encoder and coarse estimator make once; 0: none, as in the paper. No gradient of the
            field reaches the other parts (Section 4.2), and beside an autoencoder's its own work
            is small, so that a short training affords many more of them.
        flow_batch_size: latents an update of those, over all devices.
        flow_latents: how many latents are made, of as many pieces of photographs.
        seed: of everything random.
    """

    objective: ObjectiveSettings = ObjectiveSettings()
    epochs: int = 250
    iterations: int | None = None
    batch_size: int = 128
    learning_rate: float = 2e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    weight_decay: float = 0.02
    ema_decay: float = 0.999
    flow_iterations: int = 0
    flow_batch_size: int = 8
    flow_latents: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least("flow_iterations", self.flow_iterations, 0)
        for name in ("epochs", "batch_size", "flow_batch_size", "flow_latents"):
            _at_least(name, getattr(self, name), 1)
        if self.iterations is not None:
            _at_least("iterations", self.iterations, 0)
        _at_least("warmup", self.warmup, 0)
        _at_least("seed", self.seed, 0)
        _within("learning_rate", self.learning_rate, 0, 1, open_ends=True)
        _within("weight_decay", self.weight_decay, 0, float("inf"))
        _within("ema_decay", self.ema_decay, 0, 1)
        if self.schedule not in ("constant", "cosine"):
            raise UsageError(f"schedule is {self.schedule!r}, wanted constant or cosine")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


#: Table 6 where it differs from the defaults, which are those of the face restoration tasks.
_RUNS = {
    "bfr": RunSettings(epochs=400, batch_size=64, learning_rate=1e-4),
    "sr": RunSettings(),
    "denoise": RunSettings(),
    "inpaint": RunSettings(),
    "bsr": RunSettings(ObjectiveSettings(delta_t=0.2), epochs=50),
    # Not of the paper: hours on a processor instead of days on four accelerators.
    "tiny": RunSettings(
        iterations=2600,
        batch_size=4,
        learning_rate=1e-3,
        schedule="cosine",
        warmup=100,
        flow_iterations=2000,
    ),
}


def settings_for(task_name: str) -> RunSettings:
    """The paper's settings for a task (Table 6; K and sigma_s as the task says).

    Raises:
        UsageError: there is no such task.
    """
    task = task_named(task_name)
    run = _RUNS[task.name]
    return replace(run, objective=replace(run.objective, segments=task.steps, sigma_s=task.sigma_s))
