"""The training objective: latent consistency flow matching and the losses beside it.

Equation numbers are the paper's. Squared norms are means over the batch, so that alpha and beta do
not depend on the size of images and latents.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elir_deploy.model import Elir
from elir_deploy.model.vector_field import VectorField
from elir_deploy.training.settings import ObjectiveSettings

__all__ = ["LatentFlow", "RestorationObjective", "flow_point", "segment_end"]


def flow_point(z0: Tensor, z1: Tensor, t: Tensor, sigma_min: float) -> Tensor:
    """z_t on the straight path from z_0 to z_1 (Section 4.1).

    Args:
        z0: source latents (N, C, h, w).
        z1: target latents of the same shape.
        t: times (N,) in [0, 1].
        sigma_min: share of z_0 left at t = 1.
    """
    t = _as_factor(t)
    return t * z1 + (1 - (1 - sigma_min) * t) * z0


def segment_end(t: Tensor, segments: int) -> Tensor:
    """(i + 1) / K, the ends of the segments that times (N,) in [0, 1) are in."""
    return (torch.floor(t * segments) + 1) / segments


def _squared_errors(values: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each element of a batch, (N,)."""
    return F.mse_loss(values, target, reduction="none").flatten(1).mean(1)


def _as_factor(t: Tensor) -> Tensor:
    return t[:, None, None, None]


class LatentFlow(nn.Module):
    """A vector field as a model whose images are latents.

    ``clean`` is then z_1 and ``degraded`` the coarse estimate z; beta must be 0.
    """

    def __init__(self, vector_field: VectorField) -> None:
        super().__init__()
        self.encoder = nn.Identity()
        self.estimator = nn.Identity()
        self.vector_field = vector_field
        self.decoder = nn.Identity()


class RestorationObjective(nn.Module):
    """All losses of a batch.

    Gradients flow as in the paper: the estimator loss trains the encoder and the coarse estimator;
    the flow's losses train the vector field; the decoder and the teacher, a frozen copy of the
    initial encoder, get none.

    Args:
        model: over-parametrised or collapsed, with a trained autoencoder.
        settings: parameters of the objective.
        teacher: encoder of the clean images; None: a copy of the model's encoder.
        flow: train the vector field; otherwise encoder and coarse estimator alone.
    """

    def __init__(
        self,
        model: Elir | LatentFlow,
        settings: ObjectiveSettings,
        teacher: nn.Module | None = None,
        *,
        flow: bool = True,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.model = model
        self.flow = flow
        self.teacher = copy.deepcopy(model.encoder) if teacher is None else teacher
        self.teacher.requires_grad_(False)
        model.requires_grad_(True)
        model.decoder.requires_grad_(False)
        model.encoder.requires_grad_(settings.train_encoder)
        model.vector_field.requires_grad_(flow)

    def forward(
        self, clean: Tensor, degraded: Tensor, time: Tensor, noise: Tensor
    ) -> dict[str, Tensor]:
        """The losses of a batch.

        Args:
            clean: high-quality images x (N, 3, H, W) in [0, 1].
            degraded: their low-quality images y, of the same shape.
            time: uniform random numbers (N,) in [0, 1), which become t in [0, 1 - delta_t).
            noise: standard normal numbers of the latent's shape.

        Returns:
            Scalars: ``loss`` (Equation 5) and its parts ``estimator`` (L_2) and, where the vector
            field is trained, ``flow`` (L_LCFM), ``endpoint`` (Delta f), ``velocity`` (Delta v) and
            ``pixel`` (L_MSE).
        """
        settings = self.settings
        with torch.no_grad():
            z1 = self.teacher(clean).float()
        z = self.model.estimator(self.model.encoder(degraded)).float()
        errors = _squared_errors(z, z1)
        weights = torch.ones_like(errors)
        estimator = errors.mean()
        if settings.relative:
            floor = settings.sigma_s**2
            # Not floor / (e + floor): gradients of losses of 1e-6 are as small as AdamW's eps.
            weights = 1 / (errors.detach() + floor)
            estimator = torch.log1p(errors / floor).mean()
        if not self.flow:
            return {"loss": estimator, "estimator": estimator.detach()}
        z0 = z.detach() + settings.sigma_s * noise
        parts = (self._consistency if settings.consistency else self._plain)(
            z0, z1, time, clean, weights
        )
        beta = settings.beta
        loss = estimator + (1 - beta) * parts["flow"] + beta * parts["pixel"]  # Equations 4 and 5
        return {"loss": loss, "estimator": estimator, **parts}

    def _velocity(self, z: Tensor, t: Tensor) -> Tensor:
        velocity: Tensor = self.model.vector_field(z, t).float()
        return velocity

    def _consistency(
        self, z0: Tensor, z1: Tensor, time: Tensor, clean: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """Equation 3, and the pixel loss from the end of the segment (Section 4.2)."""
        settings = self.settings
        t = time * (1 - settings.delta_t)
        end = segment_end(t, settings.segments)
        later = torch.minimum(t + settings.delta_t, end)
        z_t = flow_point(z0, z1, t, settings.sigma_min)
        z_later = flow_point(z0, z1, later, settings.sigma_min)

        velocity = self._velocity(z_t, t)
        f = z_t + _as_factor(end - t) * velocity
        with torch.no_grad():
            later_velocity = self._velocity(z_later, later)
            later_f = z_later + _as_factor(end - later) * later_velocity
        endpoint_loss = (weights * _squared_errors(f, later_f)).mean()
        velocity_loss = (weights * _squared_errors(velocity, later_velocity)).mean()

        start = f.detach()
        # In the last segment the path ends at ``start``, and the pixel loss has no gradient.
        open_ended = end < 1

        def restored_latent() -> Tensor:
            velocity = self._velocity(start[open_ended], end[open_ended])
            return start[open_ended] + _as_factor(1 - end[open_ended]) * velocity

        pixel = self._pixel_loss(
            restored_latent, clean[open_ended], weights[open_ended], len(clean)
        )
        return {
            "flow": endpoint_loss + settings.alpha * velocity_loss,
            "endpoint": endpoint_loss.detach(),
            "velocity": velocity_loss.detach(),
            "pixel": pixel,
        }

    def _plain(
        self, z0: Tensor, z1: Tensor, time: Tensor, clean: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """Flow matching without consistency (Table 5): v is trained to be dz_t/dt. The pixel loss
        follows v from z_t to t = 1."""
        settings = self.settings
        z_t = flow_point(z0, z1, time, settings.sigma_min)
        velocity = self._velocity(z_t, time)
        target = z1 - (1 - settings.sigma_min) * z0
        flow = (weights * _squared_errors(velocity, target)).mean()
        pixel = self._pixel_loss(
            lambda: z_t + _as_factor(1 - time) * velocity, clean, weights, len(clean)
        )
        return {"flow": flow, "endpoint": flow.detach(), "velocity": flow.detach(), "pixel": pixel}

    def _pixel_loss(
        self,
        restored_latent: Callable[[], Tensor],
        clean: Tensor,
        weights: Tensor,
        batch_size: int,
    ) -> Tensor:
        """L_MSE of Section 4.2 for those images of a batch where it depends on the vector field.

        0 where beta is 0 or ``clean`` is empty: computing it is the costliest part.
        """
        if self.settings.beta == 0 or len(clean) == 0:
            return clean.new_zeros(())
        restored = self.model.decoder(restored_latent()).float()
        return (weights * _squared_errors(restored, clean)).sum() / batch_size
