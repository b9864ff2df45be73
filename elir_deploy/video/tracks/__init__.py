"""Faces followed through a film, so that their restorations flicker less.

A detector sees a picture at a time: its landmarks jitter, and a face that it misses once would be
left as it is in that picture. So faces are detected in every second picture and where scenes begin
and end, followed, and smoothed over pictures before and after, which wait until then. Motion
between pictures is measured from them, so smoothing does not lag behind it.
"""

from elir_deploy.video.tracks.frames import TrackedFrames

__all__ = ["TrackedFrames"]
