"""elir-deploy: ELIR image restoration on edge devices, from checkpoint to verified engine.

The runtime is ``elir_deploy.runtime``; it needs neither torch nor onnx. Importing this package
imports nothing heavy.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
