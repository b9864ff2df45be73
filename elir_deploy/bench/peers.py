"""The one module of the benchmark that knows PyTorch: the eager model, and checkpoints exported.

It reaches for torch, the model and the exporter when a function is called, so that everything
else measures on machines that have none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.clocks import Clock, wall_clock
from elir_deploy.bench.contenders import Contender, Fidelity
from elir_deploy.bench.cost_model import Layer
from elir_deploy.bench.device import installed_version
from elir_deploy.bench.eager_cost import eager_layers
from elir_deploy.degradations import enlarge
from elir_deploy.errors import MissingDependencyError
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.bundle import file_precision
from elir_deploy.tasks import Architecture

if TYPE_CHECKING:
    from elir_deploy.checkpoints import Checkpoint
    from elir_deploy.model import Elir

__all__ = [
    "TORCH",
    "TorchContender",
    "eager_model_layers",
    "export_to_bundle",
    "load",
    "torch_missing",
    "torch_peer",
]

#: What ``--backend`` calls PyTorch.
TORCH = "torch"
_OF_THE_NOISE = 0


class TorchContender(Contender):
    """PyTorch as it comes: eager, float32, one image at a time, on the CPU.

    Args:
        model: collapsed; its weights do not change how fast it is.
        task: name of the task, for how an image is enlarged before the network.
        image_size: side in pixels of the network's square image.
        steps: Euler steps M.
        sigma_s: standard deviation of the noise added to the coarse latent.
        weights: where the weights come from.
        fidelity_note: what to say in place of a comparison with the references.
        threads: CPU threads of PyTorch, for the whole process; None leaves them.
        clock: to time the network with.
    """

    def __init__(
        self,
        model: Elir,
        task: str,
        *,
        image_size: int,
        steps: int,
        sigma_s: float,
        weights: str,
        fidelity_note: str,
        threads: int | None,
        clock: Clock = wall_clock,
    ) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self.label = f"{TORCH} eager fp32"
        self.backend = TORCH
        self.precision = "fp32"
        self.version = f"torch {installed_version('torch')}"
        self.weights = weights
        self._model = model.eval().requires_grad_(False)
        self._task = task
        self._steps = steps
        self._fidelity_note = fidelity_note
        self._clock = clock
        side = image_size // model.arch.latent_stride
        generator = torch.Generator().manual_seed(_OF_THE_NOISE)
        shape = (1, model.arch.latent_channels, side, side)
        self._noise = sigma_s * torch.randn(shape, generator=generator)

    def restore(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(enlarge(self._task, image))
            x = pixels.permute(2, 0, 1)[None].float().div(255).contiguous()
            start = self._clock()
            restored = self._model(x, self._steps, self._noise)
            self.device_ns = self._clock() - start
            levels = restored[0].mul(255).round().to(torch.uint8).permute(1, 2, 0)
            made: NDArray[np.uint8] = levels.contiguous().numpy()
            return made

    def fidelity(self, bundle: Bundle) -> Fidelity:
        return Fidelity(None, 0, self._fidelity_note)


def torch_missing() -> str | None:
    """None if PyTorch can be imported, else why not and what to do."""
    if find_spec("torch") is not None:
        return None
    return str(MissingDependencyError("torch", "export", "run the PyTorch model"))


def torch_peer(
    bundle: Bundle,
    checkpoint: Checkpoint | None,
    *,
    threads: int | None,
    clock: Clock = wall_clock,
) -> TorchContender:
    """The PyTorch model of a bundle.

    Args:
        bundle: whose numbers are used.
        checkpoint: it was made from; None: random weights of the same architecture, which run
            just as fast.
        threads: CPU threads of PyTorch, for the whole process.
        clock: to time with.

    Raises:
        UsageError: the manifest's architecture is none.
    """
    import copy

    import torch

    from elir_deploy.model import Elir, collapse_convolutions

    info = bundle.info.model
    if checkpoint is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Elir(Architecture.from_dict(dict(info.architecture)))
        weights = "random, of the bundle's architecture (eager speed does not depend on them)"
        note = "not compared: other weights than the bundle's"
    else:
        model = copy.deepcopy(checkpoint.model)
        collapse_convolutions(model)
        weights = "random" if checkpoint.random else checkpoint.name
        note = "the reference itself"
    return TorchContender(
        model,
        info.task,
        image_size=info.image_size,
        steps=info.steps,
        sigma_s=info.sigma_s,
        weights=weights,
        fidelity_note=note,
        threads=threads,
        clock=clock,
    )


def load(
    source: str, task: str | None, progress: Callable[[str, int, int], None] | None = None
) -> Checkpoint:
    """Load a checkpoint by file or name.

    Raises:
        MissingDependencyError: PyTorch is not installed.
        CheckpointError: as for :func:`elir_deploy.checkpoints.load_checkpoint`.
    """
    if find_spec("torch") is None:
        raise MissingDependencyError("torch", "export", "measure a checkpoint")
    from elir_deploy.checkpoints import load_checkpoint

    return load_checkpoint(source, task, progress=progress)


def export_to_bundle(
    checkpoint: Checkpoint,
    folder: Path,
    precisions: Sequence[str] | None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Bundle:
    """Export a checkpoint with the default options to ``folder``, which must not exist.

    Args:
        checkpoint: what to export.
        folder: of the bundle.
        precisions: to be run; None: the exporter's default.
        progress: told what is done.

    Raises:
        QualityError: a precision missed its floor.
        MissingDependencyError: a package of the ``export`` extra is not installed.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            extra = "cpu" if package == "onnxruntime" else "export"
            raise MissingDependencyError(package, extra, "measure a checkpoint")
    from elir_deploy.export.pipeline import ExportOptions, export_bundle

    options = ExportOptions()
    if precisions is not None:
        files = dict.fromkeys(file_precision(precision) for precision in precisions)
        options = ExportOptions(tuple(files))
    export_bundle(checkpoint, folder, options, progress)
    return Bundle.open(folder)


def eager_model_layers(arch: Architecture, *, image_size: int, steps: int) -> list[Layer]:
    """Kernels that eager float32 PyTorch launches on a CUDA device for one image.

    The model runs without weights or data (on the ``meta`` device), so none of either is needed.

    Args:
        arch: of the network, in its collapsed form.
        image_size: side of the square image in pixels.
        steps: Euler steps M.

    Raises:
        MissingDependencyError: PyTorch is not installed.
    """
    if find_spec("torch") is None:
        raise MissingDependencyError("torch", "export", "predict what eager PyTorch costs")
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from elir_deploy.model import Elir

    layers: list[Layer] = []
    part = "encoder"

    class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's metaclass
        def __torch_dispatch__(
            self, call: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = call(*args, **(kwargs or {}))
            results = made if isinstance(made, tuple) else (made,)
            layers.extend(eager_layers(call.overloadpacket.__name__, args, results, part))
            return made

    def entering(name: str) -> Callable[..., None]:
        def enter(*_: object) -> None:
            nonlocal part
            part = name

        return enter

    with torch.device("meta"):
        model = Elir(arch).eval().requires_grad_(False)
        image = torch.empty(1, 3, image_size, image_size)
        side = image_size // arch.latent_stride
        noise = torch.empty(1, arch.latent_channels, side, side)
    model.estimator.register_forward_pre_hook(entering("estimator"))
    model.estimator.register_forward_hook(entering("flow"))
    model.decoder.register_forward_pre_hook(entering("decoder"))
    # Not inference_mode, under which a convolution arrives as a call that is none of CUDA's yet.
    with torch.no_grad(), torch.device("meta"), Recorder():  # type: ignore[no-untyped-call]
        model(image, steps, noise)
    return layers
