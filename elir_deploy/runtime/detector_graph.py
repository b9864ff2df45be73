"""The graph of a bundle's face detector, for the backends that run it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.graph_ends import End, GraphEnds
from elir_deploy.runtime.manifest import Artifact, Detector
from elir_deploy.tasks import TASKS

__all__ = [
    *("DetectorNetwork", "check_detector_ends", "detector_of", "onnx_artifact", "onnx_detector"),
]


@dataclass(frozen=True)
class DetectorNetwork:
    """A face detector's network on a backend, for one thread at a time.

    Attributes:
        run: from a picture, (1, 3, H, W) float32 in 0..255, to the outputs by name. Raises
            UnavailableError if the device fails.
        sizes: heights and widths of the pictures that it takes; empty: any multiples of what the
            detector needs.
        close: frees its resources; may be called twice.
    """

    run: Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]
    sizes: Sequence[tuple[int, int]] = ()
    close: Callable[[], None] = lambda: None

    def size_for(self, height: int, width: int) -> tuple[int, int] | None:
        """Height and width of the smallest picture that it takes and that holds another.

        None if there is none.
        """
        if not self.sizes:
            return height, width
        holding = [size for size in self.sizes if size[0] >= height and size[1] >= width]
        return min(holding, key=math.prod, default=None)


def detector_of(bundle: Bundle) -> Detector:
    """The bundle's face detector.

    Raises:
        BundleError: it has none.
    """
    detector = bundle.manifest.detector
    if detector is None:
        model = bundle.manifest.model
        if not model.faces:
            raise BundleError(
                f"{bundle.path} has no face detector: it is of {model.task}, which restores the "
                "whole picture; use a bundle of faces, such as bfr"
            )
        task = TASKS.get(model.task)
        again = "export it again with --detector centerface, or "
        if task is not None and not task.detectable:
            again = f"none sees faces in inputs of {task.name}, so "
        raise BundleError(
            f"{bundle.path} has no face detector: {again}restore aligned crops (--faces aligned)"
        )
    return detector


def onnx_detector(bundle: Bundle) -> tuple[Detector, Path]:
    """The detector and its graph, whose hash and content are checked.

    Raises:
        BundleError: there is none, or it is damaged.
    """
    detector = detector_of(bundle)
    return detector, bundle.checked_file(onnx_artifact(detector).file)


def onnx_artifact(detector: Detector) -> Artifact:
    """The detector's ONNX file, of which every manifest has one."""
    [graph] = [artifact for artifact in detector.artifacts if artifact.kind == "onnx"]
    return graph


def check_detector_ends(path: Path, detector: Detector, ends: GraphEnds) -> None:
    """Compare what a library read with the manifest; shapes of outputs are checked when decoded.

    Raises:
        BundleError: they differ.
    """
    picture = End(detector.input, "float32", (1, 3, None, None))
    if ends.inputs != [picture]:
        seen = ", ".join(map(str, ends.inputs)) or "nothing"
        raise BundleError(f"{path}: the detector's input is {seen}, expected {picture}")
    missing = set(detector.outputs) - {end.name for end in ends.outputs if end.dtype == "float32"}
    if missing:
        raise BundleError(
            f"{path}: the detector has no float32 output {', '.join(sorted(missing))}: export the "
            "bundle again"
        )
