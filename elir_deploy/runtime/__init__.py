"""Running a bundle: needs numpy, Pillow and fastjsonschema, and one backend's library.

::

    with Restorer("bundle") as restore:
        restored = restore(image)  # (H, W, 3) uint8 RGB
"""

from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.restorer import Restorer

__all__ = ["Bundle", "Restorer"]
