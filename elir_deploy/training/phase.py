"""One phase of a training run, such as the autoencoder's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from elir_deploy.model import Elir
from elir_deploy.training.data import LatentSamples, TrainingSamples

__all__ = ["Phase", "Schedule"]


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a phase, as a factor on each optimizer's base rate.

    Attributes:
        updates: number of updates in the phase.
        warmup: updates over which the factor rises from 0 to 1.
        shape: after the warm-up: ``constant``, or ``cosine`` down to 0.
    """

    updates: int
    warmup: int = 0
    shape: str = "constant"

    def factor(self, update: int) -> float:
        """The factor of update number ``update``, from 0."""
        rise = min(1.0, (update + 1) / self.warmup) if self.warmup else 1.0
        if self.shape == "constant":
            return rise
        return rise * 0.5 * (1 + math.cos(math.pi * update / self.updates))


@dataclass
class Phase:
    """One phase of a training run.

    Attributes:
        name: shown to the user and stored in the state.
        objective: module that maps a batch's tensors, by name, to a dict of losses with ``loss``.
        averaged: the module inside ``objective`` whose moving average is the result.
        optimizers: of the trainable parameters, with their base learning rates.
        samples: source of the batches.
        batch_size: samples per update, over all processes.
        schedule: learning rate and number of updates.
        ema_decay: decay of the moving average.
        rate_option: the command-line option, with its value, that sets the learning rate.
        surrounding: the model that ``averaged`` belongs to, where it is a vector field alone;
            previews need it.
        trains_flow: whether the vector field is trained; its previews are left out otherwise.
        learning_rates: base rates of all parameter groups, before the schedule's factor.
    """

    name: str
    objective: nn.Module
    averaged: nn.Module
    optimizers: list[torch.optim.Optimizer]
    samples: TrainingSamples | LatentSamples
    batch_size: int
    schedule: Schedule
    ema_decay: float
    rate_option: str
    surrounding: Elir | None = None
    trains_flow: bool = True
    learning_rates: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.learning_rates = self.current_rates()

    @property
    def file_stem(self) -> str:
        """The name as it appears in names of files."""
        return self.name.replace(" ", "-")

    def current_rates(self) -> tuple[float, ...]:
        """The rates of all parameter groups in the current update."""
        return tuple(
            float(group["lr"]) for optimizer in self.optimizers for group in optimizer.param_groups
        )

    def set_rates(self, update: int) -> None:
        """Set the optimizers' learning rates for update number ``update``, from 0."""
        factor = self.schedule.factor(update)
        groups = (group for optimizer in self.optimizers for group in optimizer.param_groups)
        for group, rate in zip(groups, self.learning_rates, strict=True):
            group["lr"] = rate * factor
