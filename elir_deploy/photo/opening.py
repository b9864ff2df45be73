"""Which bundles a PhotoRestorer takes; its face detector, on the first backend that runs it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError, UnavailableError, UsageError
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.backends import Backend, detector_backends
from elir_deploy.runtime.detector_graph import DetectorNetwork, detector_of
from elir_deploy.runtime.forks import Owner, leak
from elir_deploy.runtime.manifest import BakedNoise, Manifest, Shape
from elir_deploy.runtime.opening import Failures
from elir_deploy.runtime.tiling import next_multiple

__all__ = ["SharedNetwork", "check_background", "noise_of_both", "open_detector", "square_of"]

#: Sides of the picture that a detector first runs on, at least.
_FIRST_SIDE = 64
#: Side of a square in pixels, so that its mask has a rim.
_MIN_SIDE = 16


def open_detector(
    bundle: Bundle, first: str, long_side: int, threads: int | None, device: int | str
) -> tuple[str, DetectorNetwork]:
    """The name of the backend, and the detector on it, which has run once.

    Args:
        bundle: with a detector.
        first: name of the backend to try first.
        long_side: longer side in pixels that pictures are shrunk to, all of which it must take.
        threads: as for :class:`~elir_deploy.runtime.Restorer`.
        device: likewise; where it has a name, the detector runs on the CPU.

    Raises:
        BundleError: the detector's ONNX file is damaged.
        UnavailableError: no backend runs it; the message has the reason for each.
    """
    failures = Failures()
    number = device if isinstance(device, int) else 0
    for backend in detector_backends(first, detector_of(bundle)):
        try:
            network = _open_and_run(backend, bundle, long_side, threads, number)
        except Exception as error:  # a library may raise anything
            if isinstance(error, BundleError) and backend.kind == "onnx":
                raise  # the others would run the same file
            failures.add(backend.name, None, error)
            continue
        if failures:
            text = f"the face detector runs on {backend.name}: {failures}"
            warnings.warn(text, RuntimeWarning, stacklevel=3)
        return backend.name, network
    raise failures.as_error("the face detector")


def _open_and_run(
    backend: Backend, bundle: Bundle, long_side: int, threads: int | None, device: int
) -> DetectorNetwork:
    """Missing libraries and a lack of memory often show only in a run.

    Of an engine's sizes the smallest is run alone: each keeps its memory from then on, and pictures
    of one orientation need one of them.
    """
    network = backend.open_detector(bundle, threads=threads, device=device)
    try:
        multiple = detector_of(bundle).multiple
        largest = next_multiple(long_side, multiple)
        if network.size_for(largest, largest) is None:
            sizes = ", ".join(f"{width}x{height}" for height, width in network.sizes)
            raise UnavailableError(
                f"its engine takes pictures of {sizes}, a long side of {long_side} needs up to "
                f"{largest}x{largest}"
            )
        side = min(next_multiple(_FIRST_SIDE, multiple), largest)
        first = network.size_for(side, side)
        assert first is not None
        network.run(np.zeros((1, 3, *first), np.float32))
    except BaseException:
        network.close()
        raise
    return network


def square_of(manifest: Manifest) -> Shape:
    """The shape of the squares that the bundle restores.

    Raises:
        UsageError: it is not for aligned faces.
    """
    model = manifest.model
    for shape in manifest.shapes:
        square = shape.height == shape.width >= _MIN_SIDE
        if model.faces and model.upscale == 1 and square:
            return shape
    raise UsageError(
        f"the bundle is for the task {model.task}; PhotoRestorer needs one for aligned faces, such "
        "as bfr"
    )


def check_background(manifest: Manifest) -> None:
    """Check that the bundle restores any picture.

    Raises:
        UsageError: it is for aligned faces.
    """
    if manifest.model.faces:
        raise UsageError(
            f"the background bundle is for the task {manifest.model.task} (aligned faces): use one "
            "for any picture, such as bsr"
        )


def noise_of_both(
    noise: dict[str, Any], faces: Bundle, background: Bundle | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the noise for the faces, and those for the background.

    Of two bundles, one with baked noise gets none if the other takes them; if neither takes them,
    both get them and refuse.
    """
    baked = [each and isinstance(each.manifest.noise, BakedNoise) for each in (faces, background)]
    if baked[1] is None or baked[0] == baked[1]:
        return noise, noise
    return ({}, noise) if baked[0] else (noise, {})


class SharedNetwork:
    """The network of a PhotoRestorer's detector: threads wait for each other until it is closed."""

    def __init__(self, network: DetectorNetwork) -> None:
        self._owner = Owner("this PhotoRestorer")
        self._network: DetectorNetwork | None = network
        self._lock = threading.Lock()

    def run(self, picture: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        with self._lock:
            return self._opened().run(picture)

    def _opened(self) -> DetectorNetwork:
        if self._network is None:
            raise UsageError("this PhotoRestorer is closed: open a new one")
        return self._network

    def check_open(self) -> None:
        self._opened()

    def close(self) -> None:
        with self._lock:
            network, self._network = self._network, None
            if network is not None:
                network.close()

    def __del__(self) -> None:
        if not self._owner.is_here():
            leak(self._network)
