"""Model to verified bundle: ONNX, reduced precision, verification, bundle writing."""

from elir_deploy.export.pipeline import ExportOptions, export_bundle

__all__ = ["ExportOptions", "export_bundle"]
