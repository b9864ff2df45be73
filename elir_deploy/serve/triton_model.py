"""The model of Triton's python backend: a bundle, restored by the runtime.

Triton imports :class:`TritonPythonModel` from the ``model.py`` beside the bundle. The module
``triton_python_backend_utils`` exists only inside its server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import ElirError, UsageError
from elir_deploy.operating_system import allowed_cores
from elir_deploy.photo import PhotoRestorer
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.bundle import Bundle

__all__ = ["TritonPythonModel"]

Pictures = NDArray[np.uint8]


class TritonPythonModel:
    """Restores pictures: (N, H, W, 3) uint8 RGB in and out, of any size.

    A request may carry the parameter ``strength``, a number from 0 to 1. Requests that Triton's
    batcher brings together run in the bundle's batches; one that fails does not fail the others.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle; ``args`` are Triton's, and describe this instance of the model."""
        import triton_python_backend_utils as triton

        self._triton = triton
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        folder = Path(args["model_repository"]) / args["model_version"] / "bundle"
        gpu = args["model_instance_kind"] == "GPU"
        instances = sum(int(group["count"]) for group in config["instance_group"])
        cores = len(allowed_cores() or ())
        bundle = Bundle.open(folder)
        options: dict[str, Any] = {
            "precision": parameters.get("precision"),
            "device": int(args["model_instance_device_id"]) if gpu else 0,
            # Several instances share the processor.
            "threads": max(1, cores // instances) if instances > 1 else None,
        }
        self._faces: Any = parameters.get("faces")
        self._restorer: Restorer | PhotoRestorer = (
            Restorer(bundle, **options) if self._faces is None else PhotoRestorer(bundle, **options)
        )
        self._input = bundle.manifest.input.name
        self._output = bundle.manifest.output.name
        triton.Logger.log_info(f"{args['model_name']}: {self._restorer}")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer ``requests``, in order."""
        pictures = [
            self._triton.get_input_tensor_by_name(request, self._input).as_numpy()
            for request in requests
        ]
        try:
            strengths = [_strength(request.parameters()) for request in requests]
            results = self._restored_together(pictures, strengths)
            return [self._answer(restored) for restored in results]
        except ElirError:  # of one of them: each alone has its own error
            return [
                self._answered(request, images)
                for request, images in zip(requests, pictures, strict=True)
            ]

    def finalize(self) -> None:
        """Close the bundle."""
        self._restorer.close()

    def _restored_together(
        self, pictures: Sequence[Pictures], strengths: Sequence[float]
    ) -> Iterator[Pictures]:
        if isinstance(self._restorer, PhotoRestorer) or len(set(strengths)) > 1:
            for images, strength in zip(pictures, strengths, strict=True):
                yield self._restored(images, strength)
            return
        everything = [image for images in pictures for image in images]
        restored = self._restorer.map(everything, strength=strengths[0])
        for images in pictures:
            yield np.stack([next(restored) for _ in images])

    def _restored(self, images: Pictures, strength: float) -> Pictures:
        if isinstance(self._restorer, PhotoRestorer):
            photos = [
                self._restorer.restore(image, self._faces, strength=strength) for image in images
            ]
            return np.stack([photo.pixels for photo in photos])
        return np.stack(list(self._restorer.map(images, strength=strength)))

    def _answered(self, request: Any, images: Pictures) -> Any:
        try:
            return self._answer(self._restored(images, _strength(request.parameters())))
        except ElirError as error:
            return self._triton.InferenceResponse(error=self._triton.TritonError(str(error)))

    def _answer(self, restored: Pictures) -> Any:
        return self._triton.InferenceResponse([self._triton.Tensor(self._output, restored)])


def _strength(parameters: str | None) -> float:
    """The strength in a request's parameters, which Triton passes as JSON."""
    value = json.loads(parameters or "{}").get("strength", 1.0)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"strength is {value!r}, expected a number from 0 to 1") from None
