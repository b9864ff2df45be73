"""Restoring images that are in a GPU's memory already: nothing but copies within the device, so
only images of a size of the bundle, and no mixing, enlarging or resizing."""

from __future__ import annotations

from typing import Any

from elir_deploy.errors import ImageError, UnavailableError
from elir_deploy.runtime.cuda_session import CudaSession
from elir_deploy.runtime.device_arrays import Borrowed, borrow, empty_like, pixels_of
from elir_deploy.runtime.manifest import Manifest, Shape
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.runtime.placement import check_pixels
from elir_deploy.runtime.pool import PixelSession

__all__ = ["check_on_device", "restore_on_device"]


def check_on_device(manifest: Manifest, *, enlarge: bool, strength: float = 1.0) -> None:
    """Check that nothing is asked for that images in a GPU's memory would have to leave it for.

    Args:
        manifest: of the bundle.
        enlarge: whether images are as they come, and not as large as the model takes them.
        strength: of the restoration.

    Raises:
        UnavailableError: something is.
    """
    model = manifest.model
    for spec in (manifest.input, manifest.output):
        if (spec.dtype, spec.layout) != ("uint8", "NHWC"):
            raise _for_the_host("and this bundle takes or gives no bytes (elir-export --io uint8)")
    if enlarge and model.upscale > 1:
        why = f"where {model.task} does not enlarge it by {model.upscale}"
        raise _for_the_host(why, ", or enlarge it there and call run_pixels")
    if strength != 1:
        raise _for_the_host(f"where strength must be 1, not {strength:g}")


def restore_on_device(
    session: PixelSession,
    image: Any,
    manifest: Manifest,
    noise: NoiseField | None,
    backend: str,
    several: bool,
) -> Any:
    """Run the model on an array in the memory of the session's device.

    Args:
        session: one of ``backend``.
        image: (H, W, 3) uint8 RGB of a size of the bundle or, if ``several``, also of its graph's,
            or (n, H, W, 3).
        manifest: of the bundle, which :func:`check_on_device` passed.
        noise: of each image; None: it is baked into the graphs.
        backend: the backend's name.
        several: whether there may be several images.

    Returns:
        a new array of the same library, shape and device. What the caller queues afterwards, on any
        stream, sees the result.

    Raises:
        ImageError: the array is elsewhere, or not such an image.
        UnavailableError: the session is not on a CUDA device, or the device failed.
        UsageError: the caller captures a CUDA graph.
    """
    cuda = session.session
    if not isinstance(cuda, CudaSession):
        raise _for_the_host(f"which {backend} does not support")
    device, stream = cuda.device, cuda.stream
    session.started_noise = None
    with device.current():
        source = borrow(image, device, stream)
        shape = _shape_of(source, manifest, several)
        sources = pixels_of(source, device)
        result = empty_like(image)
        # Also waits for earlier work on its memory, which libraries use again.
        sink = borrow(result, device, stream)
        results = pixels_of(sink, device)
        first = 0
        while first < len(sources):
            together = session.together(shape, len(sources) - first)
            cuda.select(shape, together)
            last = first + together
            cuda.run_images(sources[first:last], results[first:last], noise)
            first = last
    return result


def _shape_of(source: Borrowed, manifest: Manifest, several: bool) -> Shape:
    """The bundle's shape of an array.

    Raises:
        ImageError: there is none, or it is no image.
    """
    check_pixels(source.shape[several and len(source.shape) == 4 :], source.dtype)
    *_, height, width, _ = source.shape
    for shape in manifest.shapes:
        if (height, width) == (shape.height, shape.width):
            return shape
    for shape in manifest.shapes:
        if several and (height, width) == shape.graph_size:
            return shape
    sizes = " or ".join(f"{shape.width}x{shape.height}" for shape in manifest.shapes)
    raise ImageError(
        f"the image is {width}x{height} in CUDA memory, expected {sizes} (width x height): resize "
        "it on the GPU, pass a NumPy array, or export the bundle with "
        f"--image-size {width}x{height}"
    )


def _for_the_host(why: str, or_else: str = "") -> UnavailableError:
    return UnavailableError(f"the image is in CUDA memory, {why}: pass a NumPy array{or_else}")
