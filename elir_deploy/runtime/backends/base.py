"""What a backend is: something that runs the stages of a bundle on a device.

A backend's module is imported to learn its name, so it imports its library only inside functions.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Artifact, Stage, file_precision
from elir_deploy.runtime.tensors import TensorSpec

__all__ = ["Backend", "Session", "allocate", "missing_cuda_device"]

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


class Session(ABC):
    """A bundle's stages, loaded and ready to run one image at a time.

    The caller writes ``input``, calls :meth:`run` and reads ``output``; both arrays are the same
    at every run, and a run allocates nothing. Not thread-safe: one thread at a time.

    Attributes:
        input: of the shape and dtype of the bundle's input.
        output: of the shape and dtype of the bundle's output; contiguous.
        threads: CPU threads a run uses; None: it uses the GPU, or the library does not tell.
    """

    input: NDArray[Any]
    output: NDArray[Any]
    threads: int | None = None

    @abstractmethod
    def run(self) -> None:
        """Compute ``output`` from ``input``.

        Raises:
            UnavailableError: the device failed.
        """

    def steps(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        """What :meth:`run` does, in order, for whoever times it: name and call of each part.

        Calling all in order is a run. One part alone, unless every stage ends before the next
        begins anyway.
        """
        return (("all stages", self.run),)

    def arithmetic(self) -> dict[str, int] | None:
        """How many convolutions really run in which type, as the library tells; None: it does not.

        Types are named as in ``float32``, ``bfloat16``, ``float16`` and ``int8``.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Give back the device's memory; harmless when called twice."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Backend(ABC):
    """One way to run bundles.

    Attributes:
        name: what ``--backend`` takes.
        kind: of the artifacts it loads.
        precisions: it can run, the best first: what is taken where the caller has no wish. One
            may use the files of another (see :func:`~elir_deploy.runtime.bundle.file_precision`).
        automatic: whether ``--backend auto`` may choose it.
        on_gpu: whether it computes on a GPU.
    """

    name: str
    kind: str
    precisions: tuple[str, ...]
    automatic: bool = True
    on_gpu: bool = False

    @abstractmethod
    def available(self) -> str | None:
        """None if this machine has what it takes, else why not and what to do about it."""

    @abstractmethod
    def open(
        self, bundle: Bundle, precision: str, *, threads: int | None = None, device: int = 0
    ) -> Session:
        """Load all stages.

        Args:
            bundle: whose files are hashed on the way.
            precision: one of :meth:`held_precisions`.
            threads: CPU threads a run may use; None leaves it to the library.
            device: number of the device, where there are several.

        Raises:
            MissingDependencyError: the library is not installed.
            UnavailableError: the device is not there, or refused.
            BundleError: a file is damaged.
        """

    def open_several(
        self, bundle: Bundle, precision: str, *, threads: int | None = None, device: int = 0
    ) -> tuple[Session, ...]:
        """Load all stages once, for as many images at a time as restore the most in a second.

        Each session may run in a thread of its own. One alone, unless a backend gains by more.
        Arguments and errors are those of :meth:`open`, which restores one image the fastest.
        """
        return (self.open(bundle, precision, threads=threads, device=device),)

    def unsupported(self, precision: str) -> str | None:
        """None if this machine can run in ``precision``, one of :attr:`precisions`, else why not.

        Asked only where the backend is :meth:`available`.
        """
        return None

    def incompatibility(self, artifact: Artifact) -> str | None:
        """Why a file of :attr:`kind` is not for this machine; None: it is, or nothing is known."""
        return None

    def obstacle(self, bundle: Bundle) -> str | None:
        """Why files made for machines like this one cannot run here, and what to do; else None."""
        return None

    def takes(self, artifact: Artifact) -> bool:
        """Whether ``artifact`` can be loaded on this machine."""
        return artifact.kind == self.kind and artifact.target is None

    def held_precisions(self, bundle: Bundle) -> tuple[str, ...]:
        """Those for which ``bundle`` holds every stage, best first."""
        return tuple(
            precision
            for precision in self.precisions
            if all(self._fitting(stage, precision) for stage in bundle.stages)
        )

    def artifacts(self, bundle: Bundle, precision: str, *, device: int = 0) -> tuple[Artifact, ...]:
        """The file of each stage that :meth:`open` takes on this device, in order.

        Raises:
            BundleError: a stage has none.
        """
        chosen = []
        for stage in bundle.stages:
            fitting = self._fitting(stage, precision)
            if not fitting:
                raise BundleError(
                    f"{bundle.path}: {stage.name} has no "
                    f"{file_precision(precision)} {self.kind} file that {self.name} "
                    "can load"
                )
            chosen.append(fitting[0])
        return tuple(chosen)

    def _fitting(self, stage: Stage, precision: str) -> list[Artifact]:
        wanted = file_precision(precision)
        return [a for a in stage.artifacts if a.precision == wanted and self.takes(a)]


def allocate(spec: TensorSpec) -> NDArray[Any]:
    """A zeroed, contiguous array of the shape and dtype of ``spec``."""
    return np.zeros(spec.shape, np.dtype(spec.dtype))


def missing_cuda_device() -> str | None:
    """None if the CUDA driver finds a device, else why not. Asks the driver only, no toolkit."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no CUDA driver (libcuda.so.1 is not found): install NVIDIA's driver"
    status = driver.cuInit(0)
    if status not in (0, _NO_DEVICE):
        return f"the CUDA driver does not start (cuInit gives {status}): see nvidia-smi"
    count = ctypes.c_int()
    if status or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
        return "the CUDA driver finds no device: see nvidia-smi and CUDA_VISIBLE_DEVICES"
    return None
