"""Writes a bundle with a face detector, and a photograph of three faces, for ``make bare``.

    python -m tests.photo.bare_photo FOLDER

The environment that restores it there has no package to write it with.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from tests.photo.pictures import face_bundle, spots

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    face_bundle(folder / "bundle", gain=0.5)
    picture = spots(300, 400, (100, 100), (300, 160), (120, 290))
    Image.fromarray(picture).save(folder / "group.png")
