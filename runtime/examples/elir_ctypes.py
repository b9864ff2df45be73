"""libelir from Python with ctypes and NumPy.

    python elir_ctypes.py libelir.so BUNDLE INPUT.png OUTPUT.png

The command also needs Pillow to read and write pictures. (In Python, ``elir_deploy.runtime`` does
the same without a C++ library; this shows how languages with a C interface can use it.)
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

OK = 0
MAX_FACES = 1024
FACES = {"auto": 0, "all": 1, "largest": 2, "centre": 3, "aligned": 4, "list": 5}
FITS = {None: 0, "resize": 1, "tile": 2}
MODES = {"latency": 0, "throughput": 1}

LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)


class Params(ctypes.Structure):
    """``elir_params``."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("backend", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("fit", ctypes.c_int),
        ("force", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("device", ctypes.c_int),
        ("mode", ctypes.c_int),
        ("skip_accuracy_check", ctypes.c_int),
        ("queue", ctypes.c_int),
        ("log", LogCallback),
        ("log_user", ctypes.c_void_p),
        ("cache", ctypes.c_char_p),
        ("sigma_s", ctypes.c_double),
        ("seed", ctypes.c_int64),
        ("tile_overlap", ctypes.c_int32),
        ("strength", ctypes.c_double),
        ("long_side", ctypes.c_int32),
        ("device_name", ctypes.c_char_p),
    )


class Image(ctypes.Structure):
    """``elir_image``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("stride", ctypes.c_ssize_t),
        ("format", ctypes.c_int),
        ("memory", ctypes.c_int),
        ("stream", ctypes.c_void_p),
    )


class Shape(ctypes.Structure):
    """``elir_shape``."""

    _fields_ = (
        ("batch", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
    )


class Face(ctypes.Structure):
    """``elir_face``."""

    _fields_ = (
        ("box", ctypes.c_double * 4),
        ("landmarks", ctypes.c_double * 2 * 5),
        ("score", ctypes.c_double),
        ("restored", ctypes.c_int32),
        ("reason", ctypes.c_char_p),
    )


class PhotoParams(ctypes.Structure):
    """``elir_photo_params``."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("faces", ctypes.c_int),
        ("face_list", ctypes.POINTER(Face)),
        ("face_count", ctypes.c_size_t),
        ("background", ctypes.POINTER(Image)),
    )


class Tensor(ctypes.Structure):
    """``elir_tensor``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_int),
        ("layout", ctypes.c_int),
        ("shape", ctypes.c_int32 * 4),
        ("bytes", ctypes.c_size_t),
    )


class Description(ctypes.Structure):
    """``elir_description``."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("task", ctypes.c_char_p),
        ("backend", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("shapes", ctypes.POINTER(Shape)),
        ("shape_count", ctypes.c_int32),
        ("largest_batch", ctypes.c_int32),
        ("upscale", ctypes.c_int32),
        ("fit", ctypes.c_int),
        ("aligned_faces", ctypes.c_int32),
        ("face_detector", ctypes.c_int32),
        ("random", ctypes.c_int32),
        ("concurrency", ctypes.c_int32),
        ("input", Tensor),
        ("output", Tensor),
    )


class ElirError(Exception):
    """The error of ``elir_last_error``; ``status`` is its ``elir_status``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def load(path: str | Path) -> ctypes.CDLL:
    """Load the library and declare the types of its functions."""
    library = ctypes.CDLL(str(path))
    pointer = ctypes.c_void_p
    library.elir_last_error.restype = ctypes.c_char_p
    library.elir_version.restype = ctypes.c_char_p
    library.elir_backends.restype = ctypes.c_char_p
    library.elir_init_params.argtypes = [ctypes.POINTER(Params), ctypes.c_size_t]
    library.elir_init_params.restype = None
    library.elir_create.argtypes = [
        ctypes.c_char_p,
        ctypes.POINTER(Params),
        ctypes.POINTER(pointer),
    ]
    library.elir_destroy.argtypes = [pointer]
    library.elir_destroy.restype = None
    library.elir_describe.argtypes = [pointer, ctypes.POINTER(Description)]
    images = ctypes.POINTER(Image)
    library.elir_restore.argtypes = [pointer, images, images]
    library.elir_restore_batch.argtypes = [pointer, images, images, ctypes.c_size_t]
    faces = [ctypes.POINTER(Face), ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)]
    library.elir_detect.argtypes = [pointer, images, *faces]
    params = ctypes.POINTER(PhotoParams)
    library.elir_restore_photo.argtypes = [pointer, params, images, images, *faces]
    return library


class Restorer:
    """A bundle loaded on a backend: see elir.h."""

    def __init__(self, library: ctypes.CDLL, bundle: str | Path, **params: Any) -> None:
        self._library = library
        self._handle = ctypes.c_void_p()
        struct = Params()
        library.elir_init_params(ctypes.byref(struct), ctypes.sizeof(struct))
        self._params = struct  # keeps a log callback alive
        for name, value in params.items():
            setattr(struct, name, value.encode() if isinstance(value, str) else value)
        self._check(
            library.elir_create(
                str(bundle).encode(), ctypes.byref(struct), ctypes.byref(self._handle)
            )
        )

    def describe(self) -> Description:
        description = Description(struct_size=ctypes.sizeof(Description))
        self._check(self._library.elir_describe(self._handle, ctypes.byref(description)))
        return description

    def restore(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Restore an image: (H, W, 3) uint8 RGB, rows of any stride. Returns a new array."""
        output = self._output_for(image)
        source, sink = _image(image), _image(output)
        self._check(
            self._library.elir_restore(self._handle, ctypes.byref(source), ctypes.byref(sink))
        )
        return output

    def restore_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """Restore several images of any sizes, in batches where the bundle has them."""
        outputs = [self._output_for(image) for image in images]
        array = Image * len(images)
        sources, sinks = array(*map(_image, images)), array(*map(_image, outputs))
        self._check(self._library.elir_restore_batch(self._handle, sources, sinks, len(images)))
        return outputs

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """The faces in an image: (H, W, 3) uint8 RGB."""
        buffer, count = (Face * MAX_FACES)(), ctypes.c_size_t()
        source = _image(image)
        self._check(
            self._library.elir_detect(
                self._handle, ctypes.byref(source), buffer, MAX_FACES, ctypes.byref(count)
            )
        )
        return list(buffer[: count.value])

    def restore_photo(
        self,
        image: NDArray[np.uint8],
        faces: str | Sequence[Face] = "auto",
        scale: int = 1,
        background: NDArray[np.uint8] | None = None,
    ) -> tuple[NDArray[np.uint8], list[Face]]:
        """Restore the faces of a photograph: see elir_restore_photo.

        Args:
            image: (H, W, 3) uint8 RGB.
            faces: one of :data:`FACES`, or those of another detector.
            scale: 1, 2 or 4.
            background: of any size; what the result shows around the faces.

        Returns:
            the photograph, a new array, and all faces.
        """
        output = np.empty((image.shape[0] * scale, image.shape[1] * scale, 3), np.uint8)
        face_list = (Face * 0)() if isinstance(faces, str) else (Face * len(faces))(*faces)
        params = PhotoParams(ctypes.sizeof(PhotoParams))
        params.faces = FACES[faces if isinstance(faces, str) else "list"]
        if not isinstance(faces, str):
            params.face_list, params.face_count = face_list, len(face_list)
        if background is not None:
            params.background = ctypes.pointer(_image(background))
        capacity = max(MAX_FACES, len(face_list))
        buffer, count = (Face * capacity)(), ctypes.c_size_t()
        source, sink = _image(image), _image(output)
        self._check(
            self._library.elir_restore_photo(
                self._handle,
                ctypes.byref(params),
                ctypes.byref(source),
                ctypes.byref(sink),
                buffer,
                capacity,
                ctypes.byref(count),
            )
        )
        return output, list(buffer[: count.value])

    def close(self) -> None:
        self._library.elir_destroy(self._handle)
        self._handle = ctypes.c_void_p()

    def __enter__(self) -> Restorer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _output_for(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        upscale = self.describe().upscale
        return np.empty((image.shape[0] * upscale, image.shape[1] * upscale, 3), np.uint8)

    def _check(self, status: int) -> None:
        if status != OK:
            raise ElirError(status, self._library.elir_last_error().decode())


def _image(image: NDArray[np.uint8]) -> Image:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"the image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
    if image.strides[1:] != (3, 1):
        raise ValueError("the pixels of a row are not contiguous: use numpy.ascontiguousarray")
    return Image(image.ctypes.data, image.shape[1], image.shape[0], image.strides[0])


def main() -> None:
    from PIL import Image as Pillow

    library, bundle, source, sink = sys.argv[1:]
    with Restorer(load(library), bundle) as restorer:
        pixels = np.array(Pillow.open(source).convert("RGB"))
        Pillow.fromarray(restorer.restore(pixels)).save(sink)


if __name__ == "__main__":
    main()
