"""Films: read, restored picture by picture, and written with all that belongs to them.

Needs PyAV (the extra ``video``) besides what :mod:`elir_deploy.photo` needs.

::

    with Restorer("bsr") as restorer:
        film = open_film(Path("film.mp4"))
        restore_film(film, Path("restored.mp4"), WholeFrames(restorer), Encoding("libx264"))
"""

from elir_deploy.video.encoding import CONTAINERS, Encoding, default_codec
from elir_deploy.video.film import Film, open_film
from elir_deploy.video.frames import FrameRestorer, PhotographFrames, WholeFrames
from elir_deploy.video.reading import Span
from elir_deploy.video.restoring import RestoredFilm, restore_film
from elir_deploy.video.tracks import TrackedFrames

__all__ = [
    "CONTAINERS",
    "Encoding",
    "Film",
    "FrameRestorer",
    "PhotographFrames",
    "RestoredFilm",
    "Span",
    "TrackedFrames",
    "WholeFrames",
    "default_codec",
    "open_film",
    "restore_film",
]
