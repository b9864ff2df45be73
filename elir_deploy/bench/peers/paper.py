"""What the paper compares its speed with (Table 1), and how much of it can be measured here.

The networks are spandrel's, of the sizes of the released weights and with random values: dense
networks are as fast with any. They run as the paper's own model does beside them, in eager PyTorch
in float32, at the paper's sizes: models of faces turn 512x512 into 512x512, and models that enlarge
four times turn 64x64 into 256x256, for which the paper's own takes the enlarged 256x256.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.device import installed_version
from elir_deploy.bench.peers.base import as_unavailable, quiet
from elir_deploy.bench.peers.pytorch import run_eagerly
from elir_deploy.bench.runners import Fidelity, Runner
from elir_deploy.errors import MissingDependencyError, UnavailableError, UsageError
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime import Bundle
from elir_deploy.tasks import TASKS

__all__ = ["CODEFORMER", "PAPER", "RIVALS", "Comparison", "Rival", "check_rivals", "open_rivals"]

#: Names of ``--peers``: every rival but the last, and the last.
PAPER = "paper"
CODEFORMER = "codeformer"

_ABSENT = "in neither spandrel nor spandrel_extra_arches, the libraries of the extra 'paper'"
#: Module, class and arguments.
_Network = tuple[str, str, dict[str, Any]]
_GFPGAN: _Network = ("spandrel.architectures.GFPGAN", "GFPGAN", {})
_RRDB: _Network = ("spandrel.architectures.ESRGAN", "ESRGAN", {"scale": 4})
_SWIN_IR: _Network = (
    "spandrel.architectures.SwinIR",
    "SwinIR",
    {
        "img_size": 64,
        "window_size": 8,
        "depths": [6] * 9,
        "embed_dim": 240,
        "num_heads": [8] * 9,
        "mlp_ratio": 2,
        "upscale": 4,
        "upsampler": "nearest+conv",
        "resi_connection": "3conv",
    },
)
_CODEFORMER: _Network = ("spandrel_extra_arches.architectures.CodeFormer", "CodeFormer", {})


@dataclass(frozen=True)
class Rival:
    """A model in the paper's table, which is this project's or another.

    Attributes:
        name: the paper's.
        parameters: the paper's figure.
        fps: the paper's figure, on its device.
        network: of another; None: it is this project's, or cannot be had.
        licence: of the network's code; None where there is none.
        option: what it is named with in ``--peers``.
    """

    name: str
    parameters: float
    fps: float
    network: _Network | None = None
    licence: str | None = None
    option: str = PAPER


def _own(task: str, parameters: float) -> Rival:
    fps = TASKS[task].paper_fps
    assert fps is not None
    return Rival("ELIR", parameters, fps)


#: By task, the paper's own model and those that it is compared with. BSRGAN and RealESRGAN are one
#: network with different weights.
RIVALS: dict[str, tuple[Rival, ...]] = {
    "bfr": (
        _own("bfr", 37e6),
        Rival("GFPGAN", 86e6, 26.37, _GFPGAN, "Apache-2.0, partly NVIDIA's"),
        Rival("CodeFormer", 94e6, 12.79, _CODEFORMER, "S-Lab 1.0: non-commercial", CODEFORMER),
        Rival("VQFRv2", 83e6, 8.54),
        Rival("DifFace, 100 steps", 176e6, 0.20),
        Rival("DiffBIR, 50 steps", 1667e6, 0.07),
        Rival("ResShift, 4 steps", 195e6, 4.26),
        Rival("PMRF, 25 steps", 176e6, 0.63),
    ),
    "bsr": (
        _own("bsr", 18e6),
        Rival("BSRGAN, RealESRGAN", 16.7e6, 45.85, _RRDB, "Apache-2.0, BSD-3-Clause"),
        Rival("SwinIR-GAN", 28e6, 19.18, _SWIN_IR, "Apache-2.0"),
        Rival("DiffBIR, 50 steps", 1683e6, 0.07),
        Rival("DiffIR, 4 steps", 25e6, 23.24),
        Rival("ResShift, 4 steps", 174e6, 4.95),
        Rival("SinSR, 1 step", 174e6, 19.80),
    ),
}


@dataclass(frozen=True)
class Comparison:
    """A model of the paper's table in a run.

    Attributes:
        label: of its runner; None: it is not measured.
        parameters: counted; None: it is not measured.
        reason: why it is not measured, and what to do; None: it is.
    """

    rival: Rival
    label: str | None = None
    parameters: int | None = None
    reason: str | None = None


class RivalRunner(Runner):
    """A rival's network with random weights in eager PyTorch, float32."""

    backend = "spandrel"
    precision = "fp32"
    weights = "random"

    def __init__(self, rival: Rival, output: tuple[int, int], device: str) -> None:
        self.label = f"{rival.name} eager fp32{' on cuda' * (device != 'cpu')}"
        self.version = (
            f"torch {installed_version('torch')}, spandrel {installed_version('spandrel')}"
        )
        self.on_cpu = device == "cpu"
        self._device = device
        self._output = (*output, 3)
        model = _network(rival).to(device)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self._model: Any = model

    def restore(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with as_unavailable(f"{self.label} failed"):
            restored, self.device_ns = run_eagerly(self._restored, image, self._device)
        if restored.shape != self._output:
            raise UnavailableError(
                f"{self.label} restores {image.shape} to {restored.shape}, expected {self._output}"
            )
        return restored

    def fidelity(self, bundle: Bundle) -> Fidelity:
        return Fidelity.unknown("another model than the bundle's, with random weights")

    def close(self) -> None:
        self._model = None

    def _restored(self, x: Any) -> Any:
        result = self._model(x)
        # The face models also return what they were trained with.
        return (result[0] if isinstance(result, tuple) else result).clamp(0, 1)


def check_rivals(bundle: Bundle, names: Sequence[str]) -> None:
    """Raise :class:`UsageError` if the paper has no comparison for a bundle, or at another size."""
    model, shape = bundle.manifest.model, bundle.manifest.shapes[0]
    if model.task not in RIVALS:
        raise UsageError(
            f"--peers {','.join(names)}: the paper compares speeds for {' and '.join(RIVALS)}, not "
            f"for {model.task}"
        )
    side = TASKS[model.task].image_size
    if (shape.height, shape.width) != (side, side):
        raise UsageError(
            f"--peers {','.join(names)}: the paper measured {model.task} at {side}x{side}, and "
            f"{bundle.path} is for {shape.width}x{shape.height}: export it with --image-size {side}"
        )


def open_rivals(
    names: Sequence[str],
    bundle: Bundle,
    threads: int | None,
    device: str,
    eager: Runner | None,
    progress: ProgressCallback = no_progress,
) -> tuple[list[Runner], list[Comparison]]:
    """Open the rivals of a bundle's model that were named. One that fails does not stop the others.

    Args:
        names: :data:`PAPER`, :data:`CODEFORMER` or both; none: no rivals.
        threads: CPU threads, set for the whole process.
        device: PyTorch's.
        eager: the bundle's model in eager PyTorch; None: it does not run.

    Returns:
        the runners, and every model of the paper's table.

    Raises:
        UsageError: see :func:`check_rivals`.
    """
    if not names:
        return [], []
    check_rivals(bundle, names)
    model = bundle.manifest.model
    own, *rivals = RIVALS[model.task]
    runners: list[Runner] = []
    compared = [Comparison(own, eager.label, model.parameters) if eager else Comparison(own)]
    for rival in rivals:
        reason = _not_asked_for(rival, names)
        if reason is not None:
            compared.append(Comparison(rival, reason=reason))
            continue
        progress(f"loading {rival.name}", 0, 0)
        try:
            with as_unavailable(f"{rival.name} cannot be opened"):
                runner = _open(rival, bundle, threads, device)
        except UnavailableError as error:
            compared.append(Comparison(rival, reason=str(error)))
            continue
        runners.append(runner)
        compared.append(Comparison(rival, runner.label, runner.parameters))
    return runners, compared


def _open(rival: Rival, bundle: Bundle, threads: int | None, device: str) -> RivalRunner:
    assert rival.network is not None
    for package in ("torch", rival.network[0].partition(".")[0]):
        if find_spec(package) is None:
            raise MissingDependencyError(package, PAPER, "measure the paper's rivals")
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return RivalRunner(rival, bundle.manifest.shapes[0].graph_size, device)


def _not_asked_for(rival: Rival, names: Sequence[str]) -> str | None:
    if rival.network is None:
        return _ABSENT
    if rival.option in names:
        return None
    if rival.option == PAPER:
        return f"not asked for: --peers {PAPER}"
    return (
        f"its licence is non-commercial, so only if you ask for it: --peers {PAPER},{rival.option}"
    )


def _network(rival: Rival) -> Any:
    """The network in evaluation mode, with random weights of a fixed seed."""
    import torch

    assert rival.network is not None
    module, name, arguments = rival.network
    try:
        with quiet():
            build: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except RuntimeError as error:  # of torchvision, built for another PyTorch
        raise UnavailableError(
            f"spandrel cannot be imported ({error}): install torchvision from where torch is from"
        ) from None
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(**arguments)
    return model.eval().requires_grad_(False)
