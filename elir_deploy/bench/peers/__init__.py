"""The part of the benchmark that knows PyTorch: what a user would otherwise take, and checkpoints.

Peers are runners beside the bundle's own: PyTorch, eager and compiled, and the model exported
without this project onto onnxruntime and OpenVINO. :data:`PEERS` lists them; all run the bundle's
model with the bundle's noise, so that their pictures can be compared with its references.

It reaches for torch, the model and the exporter when a function is called, so that everything
else measures on machines that have none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from elir_deploy.bench.clocks import Clock, wall_clock
from elir_deploy.bench.peers.base import Workbench, as_unavailable
from elir_deploy.bench.peers.eager_layers import eager_model_layers
from elir_deploy.bench.peers.plain import (
    ONNXRUNTIME,
    OPENVINO,
    PlainRunner,
    open_onnxruntime,
    open_openvino,
)
from elir_deploy.bench.peers.pytorch import (
    COMPILED,
    TORCH,
    CompiledRunner,
    TorchRunner,
    open_compiled,
    open_eager,
)
from elir_deploy.bench.peers.subject import check_source, subject_of
from elir_deploy.bench.runners import Runner, Unavailable
from elir_deploy.errors import MissingDependencyError, UnavailableError, UsageError
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.bundle import file_sha256
from elir_deploy.runtime.manifest import file_precision

if TYPE_CHECKING:
    from elir_deploy.checkpoints import Checkpoint

__all__ = [
    "PEERS",
    "TORCH",
    "CompiledRunner",
    "Peer",
    "PlainRunner",
    "TorchRunner",
    "checkpoint_of",
    "eager_model_layers",
    "export_to_bundle",
    "load",
    "open_peers",
    "torch_missing",
]


@dataclass(frozen=True)
class Peer:
    """One way to run the model without this project.

    Attributes:
        summary: what it is, in one line.
        open: makes the runner.
    """

    summary: str
    open: Callable[[Workbench], Runner]


#: What ``--backend`` takes beside the runtime's backends.
PEERS: dict[str, Peer] = {
    TORCH: Peer("eager PyTorch in float32", open_eager),
    COMPILED: Peer("torch.compile in its default mode, which needs a C++ compiler", open_compiled),
    ONNXRUNTIME: Peer("torch.onnx.export and onnxruntime as they come", open_onnxruntime),
    OPENVINO: Peer("torch.onnx.export and OpenVINO as they come", open_openvino),
}


def open_peers(
    names: Sequence[str],
    bundle: Bundle,
    checkpoint: Checkpoint | None,
    threads: int | None,
    say: ProgressCallback = no_progress,
    *,
    clock: Clock = wall_clock,
) -> tuple[list[Runner], list[Unavailable]]:
    """Peers by name, ready to run. One that fails does not stop the others.

    Args:
        names: of :data:`PEERS`, in the order of the runners.
        bundle: whose model, numbers and noise they take.
        checkpoint: it was made from. None: the packaged one, if it was made from that; else random
            weights of the same architecture, whose speed is the same.
        threads: CPU threads of each.
        say: told what is being done.
        clock: to time with.

    Returns:
        the runners that can run, and why the others cannot. Nothing is left on disk.

    Raises:
        UsageError: no peer of that name, another checkpoint than the bundle's, or a manifest with
            no architecture.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in PEERS:
            raise UsageError(f"no peer {name!r}: choose from {', '.join(PEERS)}")
    reason = torch_missing()
    if reason is not None or not wanted:
        return [], [Unavailable(name, reason or "") for name in wanted]
    runners: list[Runner] = []
    missing: list[Unavailable] = []
    try:
        with Workbench(subject_of(bundle, checkpoint), threads=threads, say=say, clock=clock) as on:
            for name in wanted:
                opened = _open(name, on)
                if isinstance(opened, Unavailable):
                    missing.append(opened)
                else:
                    runners.append(opened)
    except BaseException:
        for runner in runners:
            runner.close()
        raise
    return runners, missing


def _open(name: str, bench: Workbench) -> Runner | Unavailable:
    try:
        with as_unavailable(f"{name} cannot be opened"):
            return PEERS[name].open(bench)
    except UnavailableError as error:
        return Unavailable(name, str(error))


def torch_missing() -> str | None:
    """None if PyTorch can be imported, else why not and what to do."""
    if find_spec("torch") is not None:
        return None
    return str(MissingDependencyError("torch", "export", "run the PyTorch model"))


def load(source: str, task: str | None, progress: ProgressCallback = no_progress) -> Checkpoint:
    """Load a checkpoint by file or name.

    Raises:
        MissingDependencyError: PyTorch is not installed.
        CheckpointError: as for :func:`elir_deploy.checkpoints.load_checkpoint`.
    """
    if find_spec("torch") is None:
        raise MissingDependencyError("torch", "export", "measure a checkpoint")
    from elir_deploy.checkpoints import load_checkpoint

    return load_checkpoint(source, task, progress=progress)


def checkpoint_of(
    bundle: Bundle, source: str, progress: ProgressCallback = no_progress
) -> Checkpoint:
    """Load the checkpoint that a bundle was made from, by file or name.

    Raises:
        UsageError: ``source`` is another one; the message has both SHA-256.
        MissingDependencyError: PyTorch is not installed.
        CheckpointError: as for :func:`elir_deploy.checkpoints.load_checkpoint`.
    """
    if Path(source).is_file():  # told before it is read as something that it is not
        check_source(bundle, file_sha256(Path(source)), source)
    checkpoint = load(source, bundle.manifest.model.task, progress)
    check_source(bundle, checkpoint.sha256, source)
    return checkpoint


def export_to_bundle(
    checkpoint: Checkpoint,
    folder: Path,
    precisions: Sequence[str] | None,
    progress: ProgressCallback = no_progress,
    *,
    stages: Literal["fused", "split"] = "fused",
    steps: int | None = None,
    image_size: int | None = None,
    sigma_s: float | None = None,
    seed: int = 0,
) -> Bundle:
    """Export a checkpoint to a temporary ``folder``, which must not exist, with default options.

    Args:
        checkpoint: what to export.
        folder: of the bundle.
        precisions: to be run; None: the exporter's default.
        progress: told what is done.
        stages: one graph, or one for each part.
        steps: Euler steps M; None: the task's.
        image_size: side of the image that the graph takes; None: the task's.
        sigma_s: standard deviation of the noise; None: the task's.
        seed: of the noise.

    Raises:
        QualityError: a precision missed its floor.
        MissingDependencyError: a package of the ``export`` extra is not installed.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            extra = "cpu" if package == "onnxruntime" else "export"
            raise MissingDependencyError(package, extra, "measure a checkpoint")
    from elir_deploy.export.pipeline import ExportOptions, export_bundle

    options = ExportOptions(
        stages=stages, steps=steps, image_size=image_size, sigma_s=sigma_s, seed=seed
    )
    if precisions is not None:
        files = dict.fromkeys(file_precision(precision) for precision in precisions)
        options = replace(options, precisions=tuple(files))
    export_bundle(checkpoint, folder, options, progress)
    return Bundle.open(folder, temporary=True)
