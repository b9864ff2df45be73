"""Loading a model and its task from a name or a file, and saving it."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import nn

from elir_deploy.checkpoints.containers import first_line, open_container
from elir_deploy.checkpoints.files import (
    Configuration,
    parse_configuration,
    tensors_digest,
    write_file,
)
from elir_deploy.checkpoints.layouts import (
    NamedTensors,
    build_autoencoder,
    build_model,
    named_tensors,
    read_tensors,
)
from elir_deploy.checkpoints.released import fetch_released
from elir_deploy.errors import CheckpointError, UsageError
from elir_deploy.model import Elir
from elir_deploy.model.autoencoder import Decoder, Encoder
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime.bundle import file_sha256
from elir_deploy.tasks import TASKS, Architecture, TaskSpec, task_named

__all__ = ["Checkpoint", "load_autoencoder", "load_checkpoint", "save_checkpoint"]

RANDOM = "random"
TINY = "tiny"
#: PyTorch's default initialisation has a third of the variance that preserves activations.
_INITIAL_GAIN = math.sqrt(3)


@dataclass(frozen=True)
class Checkpoint:
    """A model with its weights, and their origin.

    Attributes:
        model: in evaluation mode, float32, on the CPU, without gradients; collapsed or
            over-parametrised like the file.
        task: the task, with the file's architecture and, for this project's files, its image
            size, steps and sigma_s.
        name: the file's name without its folder, or ``random``.
        sha256: hash of the file; None for random weights.
        random: whether the weights are random, for measuring speed only.
        layout: ``released``, ``training``, ``elir`` (this project's) or ``random``.
    """

    model: Elir
    task: TaskSpec
    name: str
    sha256: str | None
    random: bool
    layout: str


def load_checkpoint(
    source: str | Path,
    task: str | None = None,
    *,
    seed: int = 0,
    progress: ProgressCallback = no_progress,
) -> Checkpoint:
    """Load a model from a file of any layout or by name. Nothing in a file is ever executed.

    Args:
        source: a file; or, if there is no file of that name, ``random`` (random weights for
            ``task``), ``tiny`` (the weights in this package) or the name of released weights such
            as ``elir_bfr``, which are downloaded once to a cache.
        task: name of the task. Checked against the file; required if the shapes are ambiguous.
        seed: seed of random weights.
        progress: called with the current task, the bytes downloaded and the total.

    Raises:
        CheckpointError: the file is missing, damaged, incomplete, or not of ``task``.
        DownloadError: released weights could not be fetched.
        UsageError: no task has that name, or ``random`` without a task.
    """
    requested = task_named(task) if task is not None else None
    name = str(source)
    if not os.path.isfile(name):
        if name == RANDOM:
            return _random_checkpoint(requested, seed)
        if name == TINY:
            return _tiny_checkpoint(requested)
        for spec in TASKS.values():
            if name == spec.released_name:
                return _released_checkpoint(name, spec, requested, progress)
        if not os.path.exists(name) and os.path.basename(name) == name:
            names = ", ".join(spec.released_name for spec in TASKS.values() if spec.released_name)
            raise CheckpointError(
                f"{name}: no such file or weights; expected a file, {RANDOM}, {TINY}, {names}"
            )
    return _from_file(Path(name), requested)


def load_autoencoder(path: str | Path) -> tuple[Encoder, Decoder]:
    """Load the autoencoder from diffusers' ``AutoencoderTiny`` weights or from a checkpoint.

    Args:
        path: a file with keys ``encoder.layers.N`` and ``decoder.layers.N`` (safetensors or
            torch.save), or a checkpoint of any layout.

    Returns:
        Encoder and decoder in evaluation mode, float32, without gradients. Images are in [0, 1],
        those of diffusers' class in [-1, 1].

    Raises:
        CheckpointError: as for :func:`load_checkpoint`.
    """
    path = Path(path)
    with _prefix_errors(path), open_container(path) as container:
        named = named_tensors(container)
        if named.layout == "autoencoder":
            return build_autoencoder(named)
        model, _ = _model_and_configuration(named)
        return model.encoder, model.decoder


def save_checkpoint(path: str | Path, model: Elir, task: TaskSpec) -> None:
    """Write a model in this project's format: safetensors with its configuration.

    Equal models give equal files. The file is written atomically.

    Args:
        path: the file; replaced if it exists.
        model: collapsed or over-parametrised; stored in float32.
        task: its name, image size, steps and sigma_s are stored (change them with
            ``dataclasses.replace``), with the model's architecture.

    Raises:
        CheckpointError: a weight is not finite.
        OutputError: the file cannot be written.
    """
    write_file(Path(path), model, task)


@contextmanager
def _prefix_errors(path: Path) -> Iterator[None]:
    """Prefix the message of every :class:`CheckpointError` with the file's name."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (MemoryError, RecursionError) as error:
        raise CheckpointError(f"{path}: is damaged or needs more memory than available") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {first_line(error)}") from error


def _from_file(path: Path, requested: TaskSpec | None) -> Checkpoint:
    with _prefix_errors(path):
        with open_container(path) as container:
            named = named_tensors(container)
            model, configuration = _model_and_configuration(named)
        task = _determine_task(model.arch, configuration, requested, stem=path.stem)
        return Checkpoint(
            model=model,
            task=task,
            name=path.name,
            sha256=file_sha256(path),
            random=False,
            layout=named.layout,
        )


def _model_and_configuration(named: NamedTensors) -> tuple[Elir, Configuration | None]:
    if named.configuration is None:
        return build_model(named), None
    configuration = parse_configuration(named.configuration)
    digest = tensors_digest(configuration, read_tensors(named))
    if digest != configuration.sha256:
        raise CheckpointError(
            f"is damaged: its SHA-256 is {digest[:12]}…, expected {configuration.sha256[:12]}…"
        )
    model = build_model(named, configuration.spec.architecture)
    if (model.arch, model.collapsible) != (
        configuration.spec.architecture,
        configuration.collapsible,
    ):
        raise CheckpointError(
            "its tensors do not match the recorded architecture: "
            f"{_difference(configuration.spec.architecture, model.arch)}"
        )
    return model, configuration


def _determine_task(
    architecture: Architecture,
    configuration: Configuration | None,
    requested: TaskSpec | None,
    stem: str,
) -> TaskSpec:
    """The task of a file: recorded, requested, the only one that fits, or named by the file.

    A requested task must fit, unless the architecture is of no task: then it is a model of the
    user's for the requested task.
    """
    if configuration is not None:
        recorded = configuration.spec
        if requested is not None and requested.name != recorded.name:
            raise CheckpointError(
                f"was saved for task {recorded.name}, not {requested.name}: leave out --task"
            )
        return recorded
    fitting = [spec for spec in TASKS.values() if spec.architecture == architecture]
    fitting_names = ", ".join(spec.name for spec in fitting)
    if requested is not None:
        if not fitting and architecture.middle_blocks:  # none: probably an incomplete file
            return dataclasses.replace(
                requested, architecture=architecture, released_name=None, paper_fps=None
            )
        if requested not in fitting:
            raise CheckpointError(
                f"--task {requested.name} has {_difference(requested.architecture, architecture)}: "
                f"it fits {fitting_names or 'no task'}"
            )
        return requested
    if not fitting:
        nearest = min(
            TASKS.values(), key=lambda spec: len(_differing(spec.architecture, architecture))
        )
        raise CheckpointError(
            f"fits no task; the closest, {nearest.name}, has "
            f"{_difference(nearest.architecture, architecture)}; for a model of your own, name its "
            "task with --task"
        )
    named = [spec for spec in fitting if spec.released_name == stem]
    if named:
        return named[0]
    if len(fitting) > 1:
        raise CheckpointError(f"its shapes fit {fitting_names}: choose one with --task")
    return fitting[0]


def _differing(expected: Architecture, actual: Architecture) -> list[str]:
    """Names of the fields that differ."""
    values = actual.to_dict()
    return [name for name, value in expected.to_dict().items() if values[name] != value]


def _difference(expected: Architecture, actual: Architecture) -> str:
    """Such as ``middle_blocks 3; this file has 1``."""
    names = _differing(expected, actual)
    theirs, ours = expected.to_dict(), actual.to_dict()
    return (
        " and ".join(f"{name} {theirs[name]}" for name in names)
        + "; this file has "
        + " and ".join(str(ours[name]) for name in names)
    )


def _tiny_checkpoint(requested: TaskSpec | None) -> Checkpoint:
    with resources.as_file(resources.files("elir_deploy") / "data" / "tiny.safetensors") as path:
        return _from_file(path, requested)


def _released_checkpoint(
    name: str,
    spec: TaskSpec,
    requested: TaskSpec | None,
    progress: ProgressCallback,
) -> Checkpoint:
    if requested is not None and requested != spec:
        raise CheckpointError(f"{name} is for task {spec.name}, not {requested.name}")
    return _from_file(fetch_released(name, progress), spec)


def _random_checkpoint(task: TaskSpec | None, seed: int) -> Checkpoint:
    if task is None:
        raise UsageError(f"random weights need --task: one of {', '.join(TASKS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Elir(task.architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(_INITIAL_GAIN)
        # Around mid-grey, so that few pixels are clipped.
        head = model.decoder.layers[-1]
        assert isinstance(head, nn.Conv2d)
        assert head.bias is not None
        head.weight.mul_(0.5)
        head.bias.fill_(0.5)
    model.requires_grad_(False).eval()
    return Checkpoint(model=model, task=task, name=RANDOM, sha256=None, random=True, layout=RANDOM)
