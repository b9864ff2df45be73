"""PyTorch itself: eager, and compiled by ``torch.compile``."""

from __future__ import annotations

import contextlib
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

__all__ = ["COMPILED", "TORCH", "CompiledRunner", "TorchRunner"]

#: Names of ``--backend``.
TORCH = "torch"
COMPILED = "torch-compile"


class TorchRunner(PeerRunner):
    """PyTorch: eager, float32, one image at a time, on the CPU, with single 3x3 convolutions.

    The number of threads is set for the whole process.
    """

    def __init__(self, bench: Workbench) -> None:
        import torch

        subject = bench.subject
        super().__init__(subject)
        if bench.threads is not None:
            torch.set_num_threads(bench.threads)
        self.label = f"{TORCH} eager fp32"
        self.backend = TORCH
        self.precision = "fp32"
        self.version = f"torch {installed_version('torch')}"
        self._network: Callable[..., Any] | None = subject.collapsed
        self._steps = subject.manifest.model.steps
        self._noise = subject.noise

    def close(self) -> None:
        self._network = None

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        import torch

        assert self._network is not None
        with torch.inference_mode():
            x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div(255).contiguous()
            start = time.perf_counter_ns()
            restored = self._network(x, self._steps, self._noise)
            self.device_ns = time.perf_counter_ns() - start
            # As elir_deploy.pixels, but in PyTorch, which is what is measured.
            levels = restored[0].nan_to_num(0).mul(255).round().to(torch.uint8).permute(1, 2, 0)
            output: NDArray[np.uint8] = levels.contiguous().numpy()
            return output


class CompiledRunner(TorchRunner):
    """``torch.compile`` in its default mode, for this size and this number of threads.

    The compiled code goes to the workbench's folder: with PyTorch's cache, a second benchmark would
    report no time for compiling. (Headers stay in that cache.)

    Raises:
        UnavailableError: there is no C++ compiler, or compiling failed.
    """

    def __init__(self, bench: Workbench) -> None:
        super().__init__(bench)
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
