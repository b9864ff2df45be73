"""From a name or a file to a model and its task, and back to a file."""

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

from elir_deploy.checkpoints.containers import first_line, opened_container
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
#: PyTorch's default initialisation has a third of the variance that keeps activations' variance.
_INITIAL_GAIN = math.sqrt(3)


@dataclass(frozen=True)
class Checkpoint:
    """A model with its weights and what is known about them.

    Attributes:
        model: in evaluation mode, float32, on the CPU, not requiring gradients; collapsed or
            over-parametrised as the file is.
        task: of the table of tasks, with the file's architecture and, for our own files, its
            image size, steps and sigma_s.
        name: the file's name without its folder, or ``random``.
        sha256: of the file's bytes; None for random weights.
        random: whether the weights are random and good for speed only.
        layout: ``released``, ``training``, ``elir`` (our own) or ``random``.
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
        source: a file; or, where there is no file of that name, ``random`` (random weights for
            ``task``, which must be given), ``tiny`` (the weights in this package) or the name of
            released weights such as ``elir_bfr``, downloaded once to a cache.
        task: name of the task. Checked against the file; needed where the shapes do not tell.
        seed: of random weights.
        progress: called with what is done, the bytes done and the bytes in all of a download.

    Raises:
        CheckpointError: the file is missing, damaged, incomplete, or not of ``task``.
        DownloadError: released weights could not be fetched.
        UsageError: no task of that name, or ``random`` without a task.
    """
    wanted = task_named(task) if task is not None else None
    name = str(source)
    if not os.path.isfile(name):
        if name == RANDOM:
            return _random_checkpoint(wanted, seed)
        if name == TINY:
            return _tiny_checkpoint(wanted)
        for spec in TASKS.values():
            if name == spec.released_name:
                return _released_checkpoint(name, spec, wanted, progress)
        if not os.path.exists(name) and os.path.basename(name) == name:
            names = ", ".join(spec.released_name for spec in TASKS.values() if spec.released_name)
            raise CheckpointError(
                f"{name}: there is no such file, and no weights of that name: "
                f"there are {RANDOM}, {TINY}, {names}"
            )
    return _from_file(Path(name), wanted)


def load_autoencoder(path: str | Path) -> tuple[Encoder, Decoder]:
    """Load the autoencoder from diffusers' ``AutoencoderTiny`` weights or from a whole checkpoint.

    Args:
        path: a file with keys ``encoder.layers.N`` and ``decoder.layers.N`` (safetensors or
            torch.save), or a checkpoint of any layout.

    Returns:
        Encoder and decoder in evaluation mode, float32, not requiring gradients. Images are in
        [0, 1]; diffusers' own class takes and gives [-1, 1].

    Raises:
        CheckpointError: as for :func:`load_checkpoint`.
    """
    path = Path(path)
    with _named_in_errors(path), opened_container(path) as container:
        named = named_tensors(container)
        if named.layout == "autoencoder":
            return build_autoencoder(named)
        model, _ = _model_and_configuration(named)
        return model.encoder, model.decoder


def save_checkpoint(path: str | Path, model: Elir, task: TaskSpec) -> None:
    """Write a model in our own format: safetensors with its configuration inside.

    Equal models give equal bytes. The file appears complete or not at all.

    Args:
        path: where to write; an existing file is replaced.
        model: collapsed or over-parametrised; stored as it is, in float32.
        task: its name, image size, steps and sigma_s are stored (change them with
            ``dataclasses.replace``); the architecture stored is the model's own.

    Raises:
        CheckpointError: a weight is not finite.
        OutputError: the file cannot be written.
    """
    write_file(Path(path), model, task)


@contextmanager
def _named_in_errors(path: Path) -> Iterator[None]:
    """Put the file's name before the message of every :class:`CheckpointError`."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (MemoryError, RecursionError) as error:
        raise CheckpointError(f"{path}: is damaged, or needs more memory than there is") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {first_line(error)}") from error


def _from_file(path: Path, wanted: TaskSpec | None) -> Checkpoint:
    with _named_in_errors(path):
        with opened_container(path) as container:
            named = named_tensors(container)
            model, configuration = _model_and_configuration(named)
        task = _settled_task(model.arch, configuration, wanted, stem=path.stem)
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
            f"is damaged: its content has SHA-256 {digest[:12]}…, "
            f"recorded is {configuration.sha256[:12]}…"
        )
    model = build_model(named, configuration.spec.architecture)
    if (model.arch, model.collapsible) != (
        configuration.spec.architecture,
        configuration.collapsible,
    ):
        raise CheckpointError(
            "its tensors do not have the recorded architecture: "
            f"{_difference(configuration.spec.architecture, model.arch)}"
        )
    return model, configuration


def _settled_task(
    architecture: Architecture,
    configuration: Configuration | None,
    wanted: TaskSpec | None,
    stem: str,
) -> TaskSpec:
    """The task of a file: recorded in it, given, the only one that fits, or said by its name.

    A given task must fit. Shapes that are no task's own are a model of the user's, and the task
    they are given for takes them; shapes of another task are a mistake.
    """
    if configuration is not None:
        recorded = configuration.spec
        if wanted is not None and wanted.name != recorded.name:
            raise CheckpointError(
                f"was saved for task {recorded.name}, not {wanted.name}: leave out --task"
            )
        return recorded
    fitting = [spec for spec in TASKS.values() if spec.architecture == architecture]
    fitting_names = ", ".join(spec.name for spec in fitting)
    if wanted is not None:
        if not fitting and architecture.middle_blocks:  # without any, it is rather incomplete
            return dataclasses.replace(
                wanted, architecture=architecture, released_name=None, paper_fps=None
            )
        if wanted not in fitting:
            raise CheckpointError(
                f"--task {wanted.name} wants {_difference(wanted.architecture, architecture)}: "
                f"it fits {fitting_names or 'no task'}"
            )
        return wanted
    if not fitting:
        nearest = min(
            TASKS.values(), key=lambda spec: len(_differing(spec.architecture, architecture))
        )
        raise CheckpointError(
            f"fits no task; the nearest, {nearest.name}, wants "
            f"{_difference(nearest.architecture, architecture)}; if it is a model of your own, "
            "say with --task what it is for"
        )
    named = [spec for spec in fitting if spec.released_name == stem]
    if named:
        return named[0]
    if len(fitting) > 1:
        raise CheckpointError(f"its shapes fit {fitting_names} alike: say which it is with --task")
    return fitting[0]


def _differing(wanted: Architecture, seen: Architecture) -> list[str]:
    """Names of the numbers that differ."""
    entries = seen.to_dict()
    return [name for name, value in wanted.to_dict().items() if entries[name] != value]


def _difference(wanted: Architecture, seen: Architecture) -> str:
    """Such as ``middle_blocks 3; this file has 1``."""
    names = _differing(wanted, seen)
    entries, seen_entries = wanted.to_dict(), seen.to_dict()
    return (
        " and ".join(f"{name} {entries[name]}" for name in names)
        + "; this file has "
        + " and ".join(str(seen_entries[name]) for name in names)
    )


def _tiny_checkpoint(wanted: TaskSpec | None) -> Checkpoint:
    packaged = resources.files("elir_deploy") / "data" / "tiny.safetensors"
    if not packaged.is_file():
        raise CheckpointError(
            "tiny: this version of elir-deploy carries no trained weights yet; "
            "name a file, or 'random' where only the speed matters"
        )
    with resources.as_file(packaged) as path:
        return _from_file(path, wanted)


def _released_checkpoint(
    name: str,
    spec: TaskSpec,
    wanted: TaskSpec | None,
    progress: ProgressCallback,
) -> Checkpoint:
    if wanted is not None and wanted != spec:
        raise CheckpointError(f"{name} is for task {spec.name}, not {wanted.name}")
    return _from_file(fetch_released(name, progress), spec)


def _random_checkpoint(wanted: TaskSpec | None, seed: int) -> Checkpoint:
    if wanted is None:
        raise UsageError(f"random weights need --task: one of {', '.join(TASKS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Elir(wanted.architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(_INITIAL_GAIN)
        # Around mid-grey, so that the result is not all clipped.
        head = model.decoder.layers[-1]
        assert isinstance(head, nn.Conv2d)
        assert head.bias is not None
        head.weight.mul_(0.5)
        head.bias.fill_(0.5)
    model.requires_grad_(False).eval()
    return Checkpoint(
        model=model, task=wanted, name=RANDOM, sha256=None, random=True, layout=RANDOM
    )
