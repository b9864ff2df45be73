"""Peers: ways to run a bundle's model without this project, and the paper's rivals.

PyTorch, eager and compiled, and the model exported by ``torch.onnx.export`` onto onnxruntime and
OpenVINO. :data:`PEERS` lists them; all run the bundle's model with the bundle's noise, so that
their pictures can be compared with its references. :mod:`.paper` has models of others.

torch and the model are imported when a function is called, so that everything else measures on
machines that have neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from elir_deploy.bench.peers.base import Workbench, as_unavailable, workbench_folder
from elir_deploy.bench.peers.paper import (
    CODEFORMER,
    PAPER,
    Comparison,
    check_rivals,
    open_rivals,
)
from elir_deploy.bench.peers.plain import ONNXRUNTIME, OPENVINO, open_onnxruntime, open_openvino
from elir_deploy.bench.peers.pytorch import (
    COMPILED,
    TORCH,
    CompiledRunner,
    TorchRunner,
    eager_device,
)
from elir_deploy.bench.peers.subject import load_checkpoint_of, subject_of
from elir_deploy.bench.runners import Runner, Unavailable
from elir_deploy.errors import MissingDependencyError, UnavailableError, UsageError
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.backends import BACKENDS

if TYPE_CHECKING:
    from elir_deploy.checkpoints import Checkpoint

__all__ = [
    "ALL",
    "CODEFORMER",
    "PAPER",
    "PEERS",
    "TORCH",
    "Comparison",
    "Peer",
    "check_rivals",
    "load_checkpoint_of",
    "named_peers",
    "open_peers",
    "open_rivals",
    "runners_named",
    "torch_device",
    "torch_missing",
]

#: Name of ``--peers`` for all of :data:`PEERS`.
ALL = "all"


@dataclass(frozen=True)
class Peer:
    """One way to run the model without this project, with a line on it for people."""

    summary: str
    open: Callable[[Workbench], Runner]


#: Names of ``--backend`` beside the runtime's backends.
PEERS: dict[str, Peer] = {
    TORCH: Peer("eager PyTorch in float32", TorchRunner),
    COMPILED: Peer("torch.compile in its default mode, which needs a C++ compiler", CompiledRunner),
    ONNXRUNTIME: Peer("torch.onnx.export and onnxruntime with their defaults", open_onnxruntime),
    OPENVINO: Peer("torch.onnx.export and OpenVINO with their defaults", open_openvino),
}


def named_peers(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """What ``--peers`` names: peers, and the options of rivals.

    Eager PyTorch takes part beside the paper's rivals, which the paper measured so.

    Args:
        texts: each one or more names, separated by commas.

    Raises:
        UsageError: an unknown name.
    """
    names = [name for text in texts for name in text.split(",")]
    rivals = [name for name in (PAPER, CODEFORMER) if name in names]
    named = [TORCH] if rivals else []
    for name in names:
        if name not in (ALL, *PEERS, PAPER, CODEFORMER):
            choices = ", ".join((ALL, *PEERS, PAPER, CODEFORMER))
            raise UsageError(f"unknown peer {name!r}: choose from {choices}")
        named += PEERS if name == ALL else [name]
    return [name for name in dict.fromkeys(named) if name in PEERS], rivals


class Runners(NamedTuple):
    """Names of runners; see :class:`~elir_deploy.bench.runs.BenchOptions`."""

    backends: list[str] | None
    peers: list[str]
    rivals: list[str]


def runners_named(backends: Sequence[str] | None, others: Sequence[str] | None) -> Runners:
    """The runners that the options of a command name.

    Args:
        backends: of ``--backend``, where peers may be named, too; None: the bundle's own and eager
            PyTorch, which is what others are compared with.
        others: of ``--peers``; see :func:`named_peers`.

    Raises:
        UsageError: an unknown name.
    """
    added, rivals = named_peers(others or ())
    for name in backends or ():
        if name not in PEERS and name not in BACKENDS:
            names = ", ".join([*PEERS, *BACKENDS])
            raise UsageError(f"unknown backend {name!r}: choose from {names}")
    if backends is None:
        return Runners(None, list(dict.fromkeys([TORCH, *added])), rivals)
    named = [name for name in backends if name in PEERS]
    own = [name for name in dict.fromkeys(backends) if name not in PEERS]
    return Runners(own, list(dict.fromkeys([*added, *named])), rivals)


def torch_device(rivals: Sequence[str]) -> str:
    """Where eager PyTorch runs: beside the paper's rivals on the GPU, if it has one."""
    return eager_device() if rivals and torch_missing() is None else "cpu"


def open_peers(
    names: Sequence[str],
    bundle: Bundle,
    checkpoint: Checkpoint | None,
    threads: int | None,
    progress: ProgressCallback = no_progress,
    *,
    device: str = "cpu",
) -> tuple[list[Runner], list[Unavailable]]:
    """Open peers by name. One that fails does not stop the others.

    Args:
        names: of :data:`PEERS`, in the order of the runners.
        checkpoint: as for :func:`elir_deploy.bench.peers.subject.subject_of`.
        device: PyTorch's, for eager PyTorch; all other peers run on the CPU.

    Returns:
        the runners, and those that cannot run with the reason. No file is left behind.

    Raises:
        UsageError: no peer of that name, another checkpoint than the bundle's, or a manifest
            without an architecture.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in PEERS:
            raise UsageError(f"unknown peer {name!r}: choose from {', '.join(PEERS)}")
    reason = torch_missing()
    if reason is not None or not names:
        return [], [Unavailable(name, reason or "") for name in names]
    runners: list[Runner] = []
    missing: list[Unavailable] = []
    subject = subject_of(bundle, checkpoint)
    try:
        with workbench_folder() as folder:
            bench = Workbench(subject, threads, folder, device, progress)
            for name in names:
                try:
                    with as_unavailable(f"{name} cannot be opened"):
                        runners.append(PEERS[name].open(bench))
                except UnavailableError as error:  # noqa: PERF203
                    missing.append(Unavailable(name, str(error)))
    except BaseException:
        for runner in runners:
            runner.close()
        raise
    return runners, missing


def torch_missing() -> str | None:
    """Why PyTorch cannot be imported, and what to do; None where it can."""
    if find_spec("torch") is not None:
        return None
    return str(MissingDependencyError("torch", "export", "run the PyTorch model"))
