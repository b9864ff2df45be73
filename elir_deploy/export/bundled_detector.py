"""The face detector of a bundle: which one it gets, and its files."""

from __future__ import annotations

from elir_deploy.errors import MissingDependencyError, UsageError
from elir_deploy.export.bundle import BundleWriter
from elir_deploy.export.detectors import PreparedDetector, prepare_detector
from elir_deploy.export.options import NO_DETECTOR, ExportOptions, Settings
from elir_deploy.progress import WarningCallback
from elir_deploy.runtime.manifest import Detector
from elir_deploy.tasks import TaskSpec

__all__ = ["choose_detector", "write_detector"]

_GRAPH, _LICENCE = "detector.fp32.onnx", "detector.LICENSE"


def choose_detector(
    task: TaskSpec, settings: Settings, options: ExportOptions, warn: WarningCallback
) -> PreparedDetector | None:
    """The detector that the options or, without a choice, the task asks for; None: no detector.

    Raises:
        UsageError: one was chosen for a task, or for shapes, that aligned faces do not fit.
        MissingDependencyError, DownloadError, CheckpointError: as :func:`prepare_detector`.
    """
    if options.detector == NO_DETECTOR:
        return None
    obstacle = _obstacle(task, settings)
    if options.detector is None:
        if not task.detectable or obstacle is not None:
            return None
        try:
            return prepare_detector("centerface", options.opset)
        except MissingDependencyError:
            warn(
                "the bundle gets no face detector, so it restores aligned crops only: pip install "
                "'elir-deploy[faces]', or choose --detector yunet, a file, or none"
            )
            return None
    if obstacle is not None:
        raise UsageError(f"--detector needs {obstacle}: leave it out")
    return prepare_detector(options.detector, options.opset, warn)


def _obstacle(task: TaskSpec, settings: Settings) -> str | None:
    """What a detector needs that the model has not; None: nothing."""
    if not task.faces:
        return f"a task for aligned faces, and {task.name} is not"
    if task.upscale > 1:
        return f"a task that keeps the size, and {task.name} enlarges"
    if all(shape.height != shape.width for shape in settings.shapes):
        return "an image size that is a square"
    return None


def write_detector(writer: BundleWriter, prepared: PreparedDetector) -> Detector:
    """Write the files; returns their entry."""
    return prepared.entry(
        writer.add(_GRAPH, prepared.graph), writer.add(_LICENCE, prepared.licence_text)
    )
