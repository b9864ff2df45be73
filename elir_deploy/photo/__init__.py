"""Whole photographs: faces found, aligned, restored and put back.

Needs numpy, Pillow and what reads the manifest.

::

    with PhotoRestorer("bfr", background="bsr") as restore:
        photo = restore(image, faces="all", scale=2)  # photo.pixels, photo.faces
"""

from elir_deploy.photo.detection import FaceDetector
from elir_deploy.photo.faces import FACES, Face, Faces, choose, is_aligned
from elir_deploy.photo.restorer import PhotoRestorer
from elir_deploy.photo.restoring import SCALES, Photo, SquareRestorer, restore_photo

__all__ = [
    "FACES",
    "SCALES",
    "Face",
    "FaceDetector",
    "Faces",
    "Photo",
    "PhotoRestorer",
    "SquareRestorer",
    "choose",
    "is_aligned",
    "restore_photo",
]
