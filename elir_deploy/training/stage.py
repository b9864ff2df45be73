"""What one stage of a training is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from elir_deploy.training.data import LatentSamples, TrainingSamples

__all__ = ["Schedule", "Stage"]


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a stage, as a factor on each optimizer's own.

    Attributes:
        updates: of the whole stage.
        warmup: updates over which the factor rises from 0 to 1.
        shape: what follows: ``constant``, or ``cosine`` down to 0.
    """

    updates: int
    warmup: int = 0
    shape: str = "constant"

    def factor(self, update: int) -> float:
        """For update number ``update``, from 0."""
        rise = min(1.0, (update + 1) / self.warmup) if self.warmup else 1.0
        if self.shape == "constant":
            return rise
        return rise * 0.5 * (1 + math.cos(math.pi * update / self.updates))


@dataclass
class Stage:
    """One thing to train.

    Attributes:
        name: what people and the state file call it.
        objective: module from a batch's tensors, by name, to a dict of losses with ``loss``.
        kept: the module inside ``objective`` whose average is the result.
        optimizers: of the trainable parameters, with the learning rates to train with; a state
            brings none.
        samples: where batches come from.
        batch_size: samples an update, over all processes.
        schedule: learning rate and number of updates.
        ema_decay: of the average of the weights.
        rate_setting: what the user gave or could have given to have this learning rate.
        learning_rates: of the groups of all optimizers, before the schedule's factor.
    """

    name: str
    objective: nn.Module
    kept: nn.Module
    optimizers: list[torch.optim.Optimizer]
    samples: TrainingSamples | LatentSamples
    batch_size: int
    schedule: Schedule
    ema_decay: float
    rate_setting: str
    learning_rates: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.learning_rates = self.current_rates()

    def current_rates(self) -> tuple[float, ...]:
        """Of the update that was set last."""
        return tuple(
            float(group["lr"]) for optimizer in self.optimizers for group in optimizer.param_groups
        )

    def set_rates(self, update: int) -> None:
        """Give the optimizers their learning rates for update number ``update``, from 0."""
        factor = self.schedule.factor(update)
        groups = (group for optimizer in self.optimizers for group in optimizer.param_groups)
        for group, rate in zip(groups, self.learning_rates, strict=True):
            group["lr"] = rate * factor
