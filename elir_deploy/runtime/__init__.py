"""Running a bundle: needs numpy, Pillow and msgspec, and one backend's library.

::

    with Restorer("bundle") as restore:
        restored = restore(image)  # (H, W, 3) uint8 RGB
"""

from elir_deploy.runtime.backends import BACKENDS, Backend, Session
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.images import LoadedImage, Metadata, read_image, write_image
from elir_deploy.runtime.manifest import Manifest
from elir_deploy.runtime.restorer import Fit, Mode, Restorer
from elir_deploy.runtime.strength import blend

__all__ = [
    "BACKENDS",
    "Backend",
    "Bundle",
    "Fit",
    "LoadedImage",
    "Manifest",
    "Metadata",
    "Mode",
    "Restorer",
    "Session",
    "blend",
    "read_image",
    "write_image",
]
