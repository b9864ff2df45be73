"""Between the pixels of films and RGB: what is lost."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("av")

from av import VideoFrame
from av.video.reformatter import VideoReformatter

from elir_deploy.video.colours import Colours, FromFilm, ToFilm

BT709 = 1


def test_a_smooth_picture_loses_less_than_with_swscales_own_flags() -> None:
    y, x = np.mgrid[0:240, 0:320]
    waves = (np.sin(x / 40), np.sin(y / 50 + 1), np.cos((x + y) / 60))
    picture = (127 + 100 * np.stack(waves, -1)).round().astype(np.uint8)
    colours = Colours(BT709, full=False, tags={})
    ours = FromFilm(colours, 8)(ToFilm(colours, "yuv420p")(picture))
    frame, scaler = VideoFrame.from_numpy_buffer(picture, "rgb24"), VideoReformatter()
    frame.colorspace = BT709
    halved = scaler.reformat(frame, format="yuv420p")
    theirs = scaler.reformat(halved, format="rgb24").to_ndarray()
    error, usual = (np.abs(after.astype(int) - picture).mean() for after in (ours, theirs))
    assert error < 0.5
    assert usual > 3 * error
