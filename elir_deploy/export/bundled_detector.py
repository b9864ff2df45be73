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
                f"without a face detector, {task.name} restores aligned crops alone: pip install "
                "'elir-deploy[faces]', or choose --detector yunet, a file, or none"
            )
            return None
    if obstacle is not None:
        raise UsageError(f"a face detector was chosen, but {obstacle}: leave --detector out")
    return prepare_detector(options.detector, options.opset)


def _obstacle(task: TaskSpec, settings: Settings) -> str | None:
    """Why aligned faces are not what the model restores; None: they are."""
    if not task.faces:
        return f"{task.name} is not for aligned faces"
    if task.upscale > 1:
        return f"{task.name} enlarges what it restores"
    if all(shape.height != shape.width for shape in settings.shapes):
        return "no image size is a square"
    return None


def write_detector(writer: BundleWriter, prepared: PreparedDetector) -> Detector:
    """Write the files; returns their entry."""
    return prepared.entry(
        writer.add(_GRAPH, prepared.graph), writer.add(_LICENCE, prepared.licence_text)
    )
