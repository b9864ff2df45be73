"""The interface of backends, which run the stages of a bundle on a device.

Modules of backends are imported for their names, so they import libraries only inside functions.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError, UnavailableError, UsageError
from elir_deploy.operating_system import CUDA_DRIVER
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.detector_graph import DetectorNetwork
from elir_deploy.runtime.forks import leak
from elir_deploy.runtime.manifest import Artifact, Manifest, Shape, Stage, file_precision
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.runtime.tensors import TensorSpec

__all__ = [
    "Backend",
    "HostSession",
    "Selection",
    "Session",
    "allocate",
    "missing_cuda_device",
]

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


@dataclass
class Selection:
    """The arrays of one shape and batch, and the calls that run the stages on them.

    Attributes:
        input, noise, output: see :class:`Session`.
        calls: one for each stage, in order; together they are a run.
    """

    input: NDArray[Any]
    noise: NDArray[np.float32] | None
    output: NDArray[Any]
    calls: Sequence[Callable[[], None]] = ()


class Session(ABC):
    """A bundle's stages, loaded and ready to run images of one shape at a time.

    The caller writes ``input``, and ``noise`` if there is one, calls :meth:`run` and reads
    ``output``. The arrays stay the same until another shape or batch is selected, and a run
    allocates nothing. Not thread-safe: one thread at a time.

    Attributes:
        input: array with the dtype and layout of the bundle's input.
        noise: (n, C, H / stride, W / stride) float32; None: it is baked into the graph.
        output: contiguous array with the dtype and layout of the bundle's output.
        threads: CPU threads that a run uses; None: it uses the GPU, or the number is unknown.
        any_batch: whether every batch up to a shape's is worth its memory; if not, only the largest
            and 1 are.
        exact_batches: whether an image of a batch gets the bytes that it gets alone; if not, images
            run one by one.
    """

    input: NDArray[Any]
    noise: NDArray[np.float32] | None
    output: NDArray[Any]
    threads: int | None = None
    any_batch: bool = True
    exact_batches: bool = True
    _field: NoiseField | None = None

    def __init__(self, shape: Shape) -> None:
        self._selections: dict[Shape, Selection] = {}
        self.select(shape, 1)

    def select(self, shape: Shape, batch: int) -> None:
        """Make the arrays those of ``batch`` images of ``shape``.

        What was selected once stays allocated, with the values in it.

        Args:
            shape: one of the manifest.
            batch: 1 to ``shape.batch``.

        Raises:
            UnavailableError: the device or its memory does not allow it.
        """
        shape = shape.with_batch(batch)
        selected = self._selections.get(shape)
        if selected is None:
            try:
                selected = self._selections[shape] = self._bind(shape)
            except MemoryError:
                raise UnavailableError(
                    f"not enough memory to run {shape.batch} images of {shape.width}x"
                    f"{shape.height} together"
                ) from None
            self._fill_noise(selected)
        self._selected = selected
        self.input, self.noise, self.output = selected.input, selected.noise, selected.output

    def start_noise(self, field: NoiseField) -> None:
        """Fill ``noise`` of all selections, also of later ones, for pictures of one run."""
        self._field = field
        for selection in self._selections.values():
            self._fill_noise(selection)

    def _fill_noise(self, selection: Selection) -> None:
        if self._field is not None and selection.noise is not None:
            for noise in selection.noise:
                self._field.fill(noise, 0, 0)

    @abstractmethod
    def _bind(self, shape: Shape) -> Selection:
        """Allocate arrays for ``shape.batch`` images and bind them."""

    @abstractmethod
    def run(self) -> None:
        """Compute ``output`` from ``input`` and ``noise``.

        Raises:
            UnavailableError: the device failed.
        """

    def stage_calls(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        """Names and functions of the stages, in order, for timing them; all together are a run.

        A single function, unless every stage ends before the next one begins anyway. They run what
        is selected when they are called.
        """
        return (("all stages", self.run),)

    def refuse(self, check: Callable[[], None]) -> None:
        """Make every use call ``check``, which raises, also of methods that callers took before."""

        def refused(*arguments: object) -> None:
            check()

        vars(self).update(run=refused, stage_calls=refused, select=refused)
        for selection in self._selections.values():
            leak(selection.calls)
            selection.calls = (check,) * len(selection.calls)

    def arithmetic(self) -> dict[str, int] | None:
        """Number of convolutions by the type they run in, from the library; None: unknown.

        Types are ``float32``, ``bfloat16``, ``float16`` and ``int8``.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Free the device's memory; may be called twice."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class HostSession(Session):
    """Stages that share arrays on the CPU: the output of one is the input of the next."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        super().__init__(manifest.shapes[0])

    def _bind(self, shape: Shape) -> Selection:
        stages = self._manifest.stages_in(shape)
        arrays = [allocate(stages[0].input), *(allocate(stage.output) for stage in stages)]
        noises = [allocate(stage.noise) for stage in stages if stage.noise is not None]
        calls = [
            self._stage_call(
                index, shape, [arrays[index], *noises[: len(stage.inputs) - 1]], arrays[index + 1]
            )
            for index, stage in enumerate(stages)
        ]
        return Selection(arrays[0], noises[0] if noises else None, arrays[-1], calls)

    @abstractmethod
    def _stage_call(
        self, index: int, shape: Shape, sources: Sequence[NDArray[Any]], sink: NDArray[Any]
    ) -> Callable[[], None]:
        """The call that runs stage ``index``: it reads ``sources`` and writes ``sink``.

        Args:
            index: number of the stage.
            shape: what it runs on, with the batch.
            sources: its inputs; their names are ``self._manifest.stages[index].inputs``.
            sink: its output.

        The call raises UnavailableError if the library fails.
        """

    def run(self) -> None:
        for call in self._selected.calls:
            call()

    def stage_calls(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        def call(index: int) -> None:
            self._selected.calls[index]()

        return tuple(
            (stage.name, partial(call, index)) for index, stage in enumerate(self._manifest.stages)
        )

    def close(self) -> None:
        for selection in self._selections.values():
            selection.calls = ()


class Backend(ABC):
    """A library that runs artifacts, or one of its execution providers.

    Attributes:
        name: value of ``--backend``.
        kind: kind of the artifacts that it loads.
        precisions: precisions it can run, in order of preference. One may use the files of
            another (see :func:`~elir_deploy.runtime.manifest.file_precision`).
        automatic: whether ``--backend auto`` may choose it.
        on_gpu: whether it computes on a GPU, or another device beside the processor.
    """

    name: str
    kind: str
    precisions: tuple[str, ...]
    automatic: bool = True
    on_gpu: bool = False

    @abstractmethod
    def available(self) -> str | None:
        """None if the backend can be used on this machine, else the reason and what to do."""

    def on_device(self, name: str) -> Backend:
        """The same backend on a device that has a name; :meth:`available` tells if it is there.

        Args:
            name: in capitals.

        Raises:
            UsageError: its devices have numbers, not names.
        """
        raise UsageError(
            f"{self.name} has no device {name!r}: its GPUs have numbers, from 0 on; devices with "
            "names, such as GPU and NPU, are openvino's"
        )

    def other_devices(self) -> tuple[str, ...]:
        """Names of the devices of this machine that :meth:`on_device` takes, without its own."""
        return ()

    @abstractmethod
    def open(
        self, bundle: Bundle, precision: str, *, threads: int | None = None, device: int = 0
    ) -> Session:
        """Load all stages.

        Args:
            bundle: the bundle; the hashes of the files are checked.
            precision: one of :meth:`held_precisions`.
            threads: CPU threads that a run may use; None: the library's default.
            device: number of the GPU, if there are several.

        Raises:
            MissingDependencyError: the library is not installed.
            UnavailableError: the device is missing, or failed.
            BundleError: a file is damaged.
        """

    def open_several(
        self, bundle: Bundle, precision: str, *, threads: int | None = None, device: int = 0
    ) -> tuple[Session, ...]:
        """Load all stages once, with as many sessions as give the highest throughput.

        There is one session, unless several in threads of their own are faster. Arguments and
        errors are those of :meth:`open`, which gives the lowest latency.
        """
        return (self.open(bundle, precision, threads=threads, device=device),)

    def open_detector(
        self, bundle: Bundle, *, threads: int | None = None, device: int = 0
    ) -> DetectorNetwork:
        """Load the bundle's face detector, which runs in float32.

        Arguments are those of :meth:`open`.

        Raises:
            MissingDependencyError: the library is not installed.
            UnavailableError: the backend runs no detectors, or not here.
            BundleError: there is none, or it is damaged.
        """
        raise UnavailableError(f"{self.name} does not support face detectors")

    def unsupported(self, precision: str) -> str | None:
        """None if this machine can run in ``precision``, else the reason.

        The backend must be :meth:`available`, and ``precision`` one of :attr:`precisions`.
        """
        return None

    def incompatibility(self, artifact: Artifact) -> str | None:
        """Why a file of :attr:`kind` cannot run on this machine; None: it can, or unknown."""
        return None

    def obstacle(self, bundle: Bundle) -> str | None:
        """Why files for this kind of machine cannot run here, and what to do; None: they can."""
        return None

    def takes(self, artifact: Artifact) -> bool:
        """Whether ``artifact`` can be loaded on this machine."""
        return artifact.kind == self.kind and artifact.target is None

    def held_precisions(self, bundle: Bundle) -> tuple[str, ...]:
        """Precisions for which ``bundle`` has all stages, in order of preference."""
        return tuple(
            precision
            for precision in self.precisions
            if all(self._fitting(stage, precision) for stage in bundle.stages)
        )

    def artifacts(self, bundle: Bundle, precision: str, *, device: int = 0) -> tuple[Artifact, ...]:
        """The file that :meth:`open` loads for each stage on this device, in order.

        Raises:
            BundleError: there is none for a stage.
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
        needed = file_precision(precision)
        return [a for a in stage.artifacts if a.precision == needed and self.takes(a)]


def allocate(spec: TensorSpec) -> NDArray[Any]:
    """A zeroed, contiguous array with the shape and dtype of ``spec``."""
    return np.zeros(spec.shape, np.dtype(spec.dtype))


def missing_cuda_device() -> str | None:
    """None if the CUDA driver has a device, else the reason. Needs no CUDA toolkit."""
    try:
        driver = ctypes.CDLL(CUDA_DRIVER)
    except OSError:
        return f"no CUDA driver ({CUDA_DRIVER} is not found): install NVIDIA's driver"
    status = driver.cuInit(0)
    if status not in (0, _NO_DEVICE):
        return f"the CUDA driver does not start (cuInit returned {status}): check nvidia-smi"
    count = ctypes.c_int()
    if status or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
        return "the CUDA driver finds no device: check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return None
