"""Whole photographs: faces found, aligned, restored and put back.

Needs numpy, Pillow and what reads the manifest; knows no backend.
"""

from elir_deploy.photo.detection import FaceDetector
from elir_deploy.photo.faces import FACES, Face, Faces, choose, is_aligned
from elir_deploy.photo.restoring import SCALES, Photo, Squares, restore_photo

__all__ = [
    "FACES",
    "SCALES",
    "Face",
    "FaceDetector",
    "Faces",
    "Photo",
    "Squares",
    "choose",
    "is_aligned",
    "restore_photo",
]
