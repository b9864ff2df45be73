"""This project's format: safetensors with the model's configuration in its metadata.

The metadata entry ``elir`` is JSON::

    {"format": 1, "task": "bsr", "form": "collapsed", "architecture": {…},
     "image_size": 256, "steps": 3, "sigma_s": 0.04, "sha256": "…"}

``form`` is ``collapsed`` or ``over-parametrised``. ``sha256`` covers all other entries and every
tensor's name, shape and bytes, so that damage is detected. Equal models give equal files.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elir_deploy.checkpoints.layouts import CONFIGURATION_KEY
from elir_deploy.errors import CheckpointError, UsageError
from elir_deploy.model import Elir
from elir_deploy.output_files import replacing
from elir_deploy.tasks import TASKS, Architecture, TaskSpec

__all__ = ["Configuration", "parse_configuration", "tensors_digest", "write_file"]

FORMAT = 1


@dataclass(frozen=True)
class Configuration:
    """The configuration in a file.

    Attributes:
        spec: the task, with the file's architecture, image size, steps and noise.
        collapsible: whether the tensors are over-parametrised.
        sha256: digest of the rest of the configuration and of all tensors.
    """

    spec: TaskSpec
    collapsible: bool
    sha256: str

    def entries(self) -> dict[str, Any]:
        """The configuration as JSON values, without the digest."""
        return {
            "format": FORMAT,
            "task": self.spec.name,
            "form": "over-parametrised" if self.collapsible else "collapsed",
            "architecture": self.spec.architecture.to_dict(),
            "image_size": self.spec.image_size,
            "steps": self.spec.steps,
            "sigma_s": self.spec.sigma_s,
        }


def parse_configuration(text: str) -> Configuration:
    """Parse the metadata entry of a file.

    Raises:
        CheckpointError: it is damaged, of a newer version or of an unknown task.
    """
    try:
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise CheckpointError(
                f"has format {values['format']!r}, this version reads {FORMAT}: update elir-deploy"
            )
        if values["task"] not in TASKS:
            raise CheckpointError(
                f"is for unknown task {values['task']!r}, expected one of {', '.join(TASKS)}"
            )
        forms = {"collapsed": False, "over-parametrised": True}
        spec = replace(
            TASKS[values["task"]],
            architecture=Architecture.from_dict(values["architecture"]),
            image_size=_positive(values["image_size"]),
            steps=_positive(values["steps"]),
            sigma_s=_deviation(values["sigma_s"]),
        )
        return Configuration(spec, forms[values["form"]], str(values["sha256"]))
    except (ValueError, KeyError, TypeError, AttributeError, UsageError, RecursionError) as error:
        raise CheckpointError(f"its configuration is damaged ({error})") from error


def _positive(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r}, expected a positive integer")
    return value


def _deviation(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(f"sigma_s is {value!r}, expected a number >= 0")
    return float(value)


def tensors_digest(configuration: Configuration, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the configuration and of all tensors, in the order of their names."""
    digest = hashlib.sha256(json.dumps(configuration.entries(), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_file(path: Path, model: Elir, spec: TaskSpec) -> None:
    """Write ``model``; see :func:`elir_deploy.checkpoints.save_checkpoint`."""
    from safetensors.torch import save

    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
    }
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"not saved: tensor {name!r} has infinities or NaNs")
    spec = replace(spec, architecture=model.arch)
    configuration = Configuration(spec, model.collapsible, "")
    entries = configuration.entries() | {"sha256": tensors_digest(configuration, tensors)}
    parse_configuration(json.dumps(entries))  # never write an unreadable file
    data = save(tensors, {CONFIGURATION_KEY: json.dumps(entries, sort_keys=True)})
    with replacing(path) as file:
        file.write(data)
