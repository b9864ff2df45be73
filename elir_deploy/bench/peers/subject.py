"""The model that every peer runs: its weights, its noise, and whether results are comparable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from elir_deploy.bench.runners import RANDOM_WEIGHTS
from elir_deploy.errors import MissingDependencyError, UsageError
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.bundle import file_sha256
from elir_deploy.runtime.manifest import BakedNoise, Manifest
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.tasks import Architecture

if TYPE_CHECKING:
    from torch import Tensor

    from elir_deploy.checkpoints import Checkpoint
    from elir_deploy.model import Elir

__all__ = ["Subject", "load_checkpoint_of", "subject_of"]


@dataclass(frozen=True)
class Subject:
    """A bundle's model in PyTorch.

    Attributes:
        manifest: the bundle's.
        noise: (1, latent_channels, h, w) float32, scaled: that inside the bundle's graphs, or of a
            picture.
        model: collapsed or over-parametrised, as in the file; in evaluation mode.
        weights: their origin.
        incomparable: why results cannot be compared with the bundle's references; None: they can.
    """

    manifest: Manifest
    noise: Tensor
    model: Elir
    weights: str
    incomparable: str | None

    @cached_property
    def collapsed(self) -> Elir:
        """The model with single 3x3 convolutions; :attr:`model` is left as it is."""
        import copy

        from elir_deploy.model import collapse_convolutions

        if not self.model.collapsible:
            return self.model
        model = copy.deepcopy(self.model)
        collapse_convolutions(model)
        return model


def subject_of(bundle: Bundle, checkpoint: Checkpoint | None) -> Subject:
    """The model of a bundle.

    Args:
        checkpoint: from which it was made. None: the packaged one, if it was made from that; else
            random weights of the same architecture, whose speed is the same.

    Raises:
        UsageError: another checkpoint than the bundle's, or a manifest without an architecture.
    """
    from elir_deploy.static_graph import Noise, fixed_noise, latent_shape, noise_values

    info = bundle.manifest
    if checkpoint is None:
        checkpoint = _packaged_checkpoint(bundle)
    else:
        _check_source(bundle, checkpoint.sha256, checkpoint.name)
    incomparable: str | None = None
    if checkpoint is None:
        import torch

        from elir_deploy.model import Elir

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Elir(Architecture.from_dict(dict(info.model.architecture)))
        model = model.eval().requires_grad_(False)
        weights = "random, of the bundle's architecture"
        incomparable = "not compared: other weights than the bundle's"
    else:
        model = checkpoint.model
        weights = "random" if checkpoint.random else checkpoint.name
    shape = latent_shape(model, info.shapes[0].graph_size)
    seed, sigma_s = info.noise.seed, info.model.sigma_s
    noise: Noise = NoiseField(seed, sigma_s)
    if isinstance(info.noise, BakedNoise):
        noise = fixed_noise(seed, sigma_s, shape)
        if incomparable is None and noise.sha256 != info.noise.sha256:
            incomparable = (
                f"not compared: the noise of seed {seed} has SHA-256 {noise.sha256} here, "
                f"the bundle's {info.noise.sha256}"
            )
    incomparable = RANDOM_WEIGHTS if info.source.random else incomparable
    return Subject(info, noise_values(noise, shape), model, weights, incomparable)


def load_checkpoint_of(
    bundle: Bundle, source: str, progress: ProgressCallback = no_progress
) -> Checkpoint:
    """Load the checkpoint from which a bundle was made, by file or name.

    Raises:
        UsageError: ``source`` is another one; the message has both SHA-256.
        MissingDependencyError: PyTorch is not installed.
        CheckpointError: as for :func:`elir_deploy.checkpoints.load_checkpoint`.
    """
    if Path(source).is_file():  # before it is read, which a wrong file may not survive
        _check_source(bundle, file_sha256(Path(source)), source)
    if find_spec("torch") is None:
        raise MissingDependencyError("torch", "export", "load a checkpoint")
    from elir_deploy.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(source, bundle.manifest.model.task, progress=progress)
    _check_source(bundle, checkpoint.sha256, source)
    return checkpoint


def _check_source(bundle: Bundle, sha256: str | None, name: str) -> None:
    """Raise :class:`UsageError` unless a bundle was made from this checkpoint."""
    source = bundle.manifest.source
    if sha256 == source.sha256:
        return
    if source.sha256 is None:
        raise UsageError(
            f"{bundle.path} has {source.name} weights, which no checkpoint contains: leave out "
            "--checkpoint"
        )
    raise UsageError(
        f"{name} is not the checkpoint that {bundle.path} was exported from: its SHA-256 is "
        f"{sha256 or 'none (random weights)'}, expected {source.sha256} ({source.name})"
    )


def _packaged_checkpoint(bundle: Bundle) -> Checkpoint | None:
    """The packaged one if ``bundle`` was made from it."""
    packaged = resources.files("elir_deploy") / "data" / "tiny.safetensors"
    if bundle.manifest.source.sha256 is None or not packaged.is_file():
        return None
    from elir_deploy.checkpoints import load_checkpoint

    with resources.as_file(packaged) as file:
        path = Path(file)
        return load_checkpoint(path) if file_sha256(path) == bundle.manifest.source.sha256 else None
