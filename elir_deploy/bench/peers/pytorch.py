"""PyTorch itself: eager, and compiled by ``torch.compile``."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.device import installed_version
from elir_deploy.bench.peers.base import PeerRunner, Workbench, as_unavailable, quiet
from elir_deploy.bench.peers.subject import Subject
from elir_deploy.bench.runners import Preparation
from elir_deploy.errors import UnavailableError

__all__ = ["COMPILED", "TORCH", "CompiledRunner", "TorchRunner", "eager_device", "run_eagerly"]

#: Names of ``--backend``.
TORCH = "torch"
COMPILED = "torch-compile"


def eager_device() -> str:
    """PyTorch's device for models in eager mode: its first GPU, or else the CPU.

    On a GPU, float32 is then float32 in the whole process: TF32, PyTorch's default, is off.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return "cuda"


def run_eagerly(
    network: Callable[[Any], Any], pixels: NDArray[np.uint8], device: str
) -> tuple[NDArray[np.uint8], int]:
    """The network's result as pixels, and its nanoseconds.

    Args:
        network: (1, 3, h, w) float32 in [0, 1] to the same kind of tensor, of any size.
        pixels: (h, w, 3) RGB.
        device: PyTorch's.
    """
    import torch

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    with torch.inference_mode():
        x = torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None]
        x = x.float().div(255).contiguous()
        wait()
        start = time.perf_counter_ns()
        restored = network(x)
        wait()
        elapsed = time.perf_counter_ns() - start
        # As elir_deploy.pixels, but in PyTorch, which is what is measured.
        levels = restored[0].nan_to_num(0).mul(255).round().to(torch.uint8).permute(1, 2, 0)
        output: NDArray[np.uint8] = levels.contiguous().cpu().numpy()
        return output, elapsed


class TorchRunner(PeerRunner):
    """PyTorch: eager, float32, one image at a time, with single 3x3 convolutions.

    The number of threads is set for the whole process. ``device``, by default the bench's, is
    PyTorch's.
    """

    def __init__(self, bench: Workbench, device: str | None = None) -> None:
        import torch

        subject, self._device = bench.subject, device or bench.device
        super().__init__(subject)
        if bench.threads is not None:
            torch.set_num_threads(bench.threads)
        self.on_cpu = self._device == "cpu"
        self.label = f"{TORCH} eager fp32{' on cuda' * (not self.on_cpu)}"
        self.backend = TORCH
        self.precision = "fp32"
        self.version = f"torch {installed_version('torch')}"
        self._network: Callable[..., Any] | None = subject.collapsed
        if not self.on_cpu:  # others share it
            self._network = copy.deepcopy(subject.collapsed).to(self._device)
        self._steps = subject.manifest.model.steps
        self._noise = subject.noise.to(self._device)

    def close(self) -> None:
        self._network = None

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        network = self._network
        assert network is not None
        output, self.device_ns = run_eagerly(
            lambda x: network(x, self._steps, self._noise), pixels, self._device
        )
        return output


class CompiledRunner(TorchRunner):
    """``torch.compile`` in its default mode, for this size and this number of threads.

    The compiled code goes to the workbench's folder: with PyTorch's cache, a second benchmark would
    report no time for compiling. (Headers stay in that cache.)

    Raises:
        UnavailableError: there is no C++ compiler, or compiling failed.
    """

    def __init__(self, bench: Workbench) -> None:
        super().__init__(bench, "cpu")
        self.label = f"{COMPILED} fp32"
        self.backend = COMPILED
        bench.progress("compiling with torch.compile", 0, 0)
        start = time.perf_counter()
        with quiet(), as_unavailable("torch.compile failed"):
            self._compile(bench.subject, bench.folder / "torch")
        self.preparation = Preparation("to compile", time.perf_counter() - start)

    def close(self) -> None:
        import torch

        super().close()
        torch.compiler.reset()

    def _compile(self, subject: Subject, folder: Path) -> None:
        import torch
        from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir

        _require_compiler()
        self._network = torch.compile(subject.collapsed)
        try:
            with temporary_cache_dir(str(folder)):
                self._run(np.zeros((*subject.manifest.shapes[0].graph_size, 3), np.uint8))
        except BaseException:
            self.close()
            _stop_compiling()
            raise


def _require_compiler() -> None:
    """Raise :class:`UnavailableError` where PyTorch would, but before it has traced the model."""
    from torch._inductor import config, cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        names = ", ".join(str(name) for name in config.cpp.cxx if name is not None)
        raise UnavailableError(
            f"torch.compile needs a C++ compiler and {names} does not start: install g++, or "
            "set the environment variable CXX"
        ) from None


def _stop_compiling() -> None:
    """Cancel the kernels that wait for a compiler, and wait for those being compiled.

    Otherwise an interrupted process would compile them all before it ends.
    """
    with contextlib.suppress(ImportError, AttributeError):  # private to PyTorch
        from torch._inductor.async_compile import AsyncCompile

        if AsyncCompile.pool.cache_info().currsize:
            AsyncCompile.pool().shutdown(wait=True, cancel_futures=True)
            AsyncCompile.pool.cache_clear()
