"""Opening peers, and turning a library's errors into reasons."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.peers.subject import Subject
from elir_deploy.bench.runners import Fidelity, Runner, compare_with_references
from elir_deploy.degradations import enlarge
from elir_deploy.errors import ElirError, UnavailableError
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime import Bundle
from elir_deploy.text import shortened

__all__ = ["PeerRunner", "PlainGraph", "Workbench", "as_unavailable", "quiet", "workbench_folder"]


class PeerRunner(Runner):
    """A subject on a library with its defaults, on the CPU."""

    def __init__(self, subject: Subject) -> None:
        self.weights = subject.weights
        self._task = subject.manifest.model.task
        self._incomparable = subject.incomparable

    def restore(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self.run_pixels(enlarge(self._task, image))

    def run_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Run the model on (H, W, 3) uint8 RGB, already enlarged.

        Raises:
            UnavailableError: the library failed.
        """
        with as_unavailable(f"{self.label} failed"):
            return self._run(pixels)

    def fidelity(self, bundle: Bundle) -> Fidelity:
        if self._incomparable is not None:
            return Fidelity.unknown(self._incomparable)
        return compare_with_references(bundle, self.run_pixels)

    @abstractmethod
    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As :meth:`run_pixels`, with the library's own errors; sets ``device_ns``."""


class PlainGraph(NamedTuple):
    """An exported model: its ONNX file, beside its weights, and the seconds of the export."""

    path: Path
    seconds: float


@dataclass
class Workbench:
    """What peers are opened with.

    Attributes:
        subject: the model of all peers.
        folder: for files that opening needs.
        device: PyTorch's, for eager PyTorch.
        graph: the export that several peers share, or why it failed.
    """

    subject: Subject
    threads: int | None
    folder: Path
    device: str = "cpu"
    progress: ProgressCallback = no_progress
    graph: PlainGraph | UnavailableError | None = None


@contextmanager
def workbench_folder() -> Iterator[Path]:
    """A temporary folder; libraries on Linux go on using files that were removed while open."""
    # Files that an interrupted compiler still writes are not worth an error.
    temporary = tempfile.TemporaryDirectory(prefix="elir-bench-", ignore_cleanup_errors=True)
    try:
        with temporary as folder:
            yield Path(folder)
    except BaseException:
        # A compiler's thread that outlived the interruption would create its folder again.
        atexit.register(shutil.rmtree, temporary.name, ignore_errors=True)
        raise


@contextmanager
def as_unavailable(what: str) -> Iterator[None]:
    """Turn whatever a library raises into one line of reason, so that the others are measured."""
    try:
        yield
    except ElirError:
        raise
    except Exception as error:  # libraries' errors have no common base
        raise UnavailableError(f"{what}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """The most telling line of an error, shortened."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    # A C++ compiler's first complaint, if there is one, follows pages of its command.
    lines = [line for line in lines if "error:" in line] or lines or [type(error).__name__]
    return shortened(lines[0], 300)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep exporters and compilers from warning about their own internals."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
