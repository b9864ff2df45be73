"""The stages of a bundle on ONNX Runtime, on the CPU."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from elir_deploy.errors import BundleError, UnavailableError
from elir_deploy.runtime.backends.base import HostSession
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Shape
from elir_deploy.runtime.onnxruntime_stage import library_failures, one_line

__all__ = ["CpuSession"]


class CpuSession(HostSession):
    """The stages, with IO binding between them.

    Args:
        bundle: the bundle.
        precision: that the files are in.
        loaded: an ``InferenceSession`` for each stage.
        threads: of a run; None: the default, which ONNX Runtime does not report.

    Raises:
        BundleError: graphs of several sizes run in none of them.
    """

    def __init__(
        self, bundle: Bundle, precision: str, loaded: Sequence[Any], threads: int | None
    ) -> None:
        self.threads = threads
        self.exact_batches = _exact_batches(precision)
        self._loaded = loaded
        self._failures = library_failures()
        super().__init__(bundle.manifest)
        self._try_out(bundle)

    def _try_out(self, bundle: Bundle) -> None:
        """Run a small picture: only that shows whether free dimensions fit together."""
        reason: UnavailableError | None = None
        for shape in bundle.manifest.trial_shapes:
            reason = self._failure(shape)
            if reason is None:
                return
        if reason is not None:
            raise BundleError(f"{bundle.path}: its graphs do not fit its manifest: {reason}")

    def _failure(self, shape: Shape) -> UnavailableError | None:
        try:
            for call in self._bind(shape).calls:
                call()
        except UnavailableError as error:
            return error
        return None

    def _stage_call(
        self, index: int, shape: Shape, sources: Sequence[NDArray[Any]], sink: NDArray[Any]
    ) -> Callable[[], None]:
        loaded, stage = self._loaded[index], self._manifest.stages[index]
        binding = loaded.io_binding()
        try:
            for name, array in zip(stage.inputs, sources, strict=True):
                binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            binding.bind_output(
                stage.output, "cpu", 0, sink.dtype.type, sink.shape, sink.ctypes.data
            )
        except self._failures as error:
            raise UnavailableError(f"onnxruntime failed: {one_line(error)}") from None
        # The binding holds addresses, not references.
        return partial(self._run, loaded, binding, (*sources, sink))

    def _run(self, loaded: Any, binding: Any, arrays: object) -> None:
        try:
            loaded.run_with_iobinding(binding)
        except self._failures as error:
            raise UnavailableError(f"onnxruntime failed: {one_line(error)}") from None

    def close(self) -> None:
        super().close()
        self._loaded = ()


def _exact_batches(precision: str) -> bool:
    """Whether an image of a batch gets the bytes that it gets alone.

    Threads divide the pixels of a single image, but the images of a batch, and the order of a
    convolution's sums depends on the number of pixels. Not so in blocks of channels (NCHWc), which
    float32 has on this processor (docs/decisions.md).
    """
    return precision == "fp32" and platform.machine() in ("x86_64", "AMD64")
