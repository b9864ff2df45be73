"""What peers have in common: how they are opened, and what becomes of a library's errors."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.clocks import Clock, wall_clock
from elir_deploy.bench.peers.subject import Subject
from elir_deploy.bench.runners import Fidelity, Runner, compare_with_references
from elir_deploy.degradations import enlarge
from elir_deploy.errors import ElirError, UnavailableError
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime import Bundle

__all__ = ["PeerRunner", "Workbench", "as_unavailable", "one_line", "quiet"]

T = TypeVar("T")

#: What the libraries log about themselves, and nobody can act on.
_CHATTY = (
    "torch.onnx",
    "torch.export",
    "onnxscript",
    "onnx_ir",
    "torch._inductor",
    "torch._dynamo",
)


class PeerRunner(Runner):
    """A subject on a library as it comes, on the CPU.

    Args:
        subject: what it runs.
        clock: to time the network with.
    """

    def __init__(self, subject: Subject, clock: Clock) -> None:
        self.weights = subject.weights
        self._task = subject.task
        self._doubt = subject.doubt
        self._clock = clock

    def restore(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self.run_pixels(enlarge(self._task, image))

    def run_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Run the model on (image_size, image_size, 3) uint8 RGB, already enlarged.

        Raises:
            UnavailableError: the library failed.
        """
        with as_unavailable(f"{self.label} failed"):
            return self._run(pixels)

    def fidelity(self, bundle: Bundle) -> Fidelity:
        if self._doubt is not None:
            return Fidelity(None, 0, self._doubt)
        return compare_with_references(bundle, self.run_pixels)

    @abstractmethod
    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As :meth:`run_pixels`, with the library's own errors; sets ``device_ns``."""


class Workbench:
    """What peers are opened with: the subject, and a folder that is gone when all are open.

    Libraries on Linux go on using files that were removed while they had them open.

    Args:
        subject: what all of them run.
        threads: CPU threads; None leaves them to the libraries.
        say: told what is being done.
        clock: to time with.

    Attributes:
        folder: for files that opening needs; there inside the ``with`` block.
    """

    folder: Path

    def __init__(
        self,
        subject: Subject,
        *,
        threads: int | None,
        say: ProgressCallback = no_progress,
        clock: Clock = wall_clock,
    ) -> None:
        self.subject = subject
        self.threads = threads
        self.say = say
        self.clock = clock
        self._made: dict[str, object] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Workbench:
        # What an interrupted compiler still writes is not worth an error.
        folder = tempfile.TemporaryDirectory(prefix="elir-bench-", ignore_cleanup_errors=True)
        self.folder = Path(self._stack.enter_context(folder))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        if kind is not None:
            # A compiler's thread that outlived the interruption would make its folder anew.
            atexit.register(shutil.rmtree, self.folder, ignore_errors=True)

    def once(self, what: str, make: Callable[[], T]) -> T:
        """What ``make`` gives, made for the first peer that asks; its error is every peer's.

        Raises:
            UnavailableError: ``make`` failed, now or before.
        """
        if what not in self._made:
            try:
                self._made[what] = make()
            except UnavailableError as error:
                self._made[what] = error
        made = self._made[what]
        if isinstance(made, UnavailableError):
            raise made
        return cast("T", made)


@contextmanager
def as_unavailable(what: str) -> Iterator[None]:
    """Whatever a library raises becomes one line of reason, so that the others are measured."""
    try:
        yield
    except ElirError:
        raise
    except Exception as error:  # libraries' errors have no common base
        raise UnavailableError(f"{what}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """The line of an error that says most, shortened."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    # A C++ compiler's first complaint, where there is one, behind pages of its command.
    told = [line for line in lines if "error:" in line] or lines or [type(error).__name__]
    return told[0] if len(told[0]) <= 300 else told[0][:297] + "..."


@contextmanager
def quiet() -> Iterator[None]:
    """Keep exporters and compilers from warning about their own internals."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
