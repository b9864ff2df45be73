from __future__ import annotations

import hashlib

import numpy as np
import pytest

from elir_deploy.export.synthetic import checks, synthetic_pictures


@pytest.mark.parametrize("size", [(8, 8), (40, 40), (256, 256), (64, 40)])
def test_every_size_has_the_whole_set(size: tuple[int, int]) -> None:
    pictures = synthetic_pictures(*size)
    assert set(pictures) == {"lines", "white", "magenta", "speckle", "patches"}
    for picture in pictures.values():
        assert (picture.shape, picture.dtype) == ((*size, 3), np.uint8)


def test_they_are_the_same_everywhere() -> None:
    """Or two exports of one checkpoint would have different figures."""
    content = b"".join(p.tobytes() for p in synthetic_pictures(64, 64).values())
    digest = "7c946661b6ac121490fe38e531f31b4c0586ce6764087e898462214f603b5427"
    assert hashlib.sha256(content).hexdigest() == digest


def test_checks_alternate() -> None:
    assert checks(4, 4, 2)[..., 0].tolist() == [
        [0, 0, 255, 255],
        [0, 0, 255, 255],
        [255, 255, 0, 0],
        [255, 255, 0, 0],
    ]


def test_patches_are_at_the_ends_of_the_range() -> None:
    patches = synthetic_pictures(64, 64)["patches"]
    assert set(np.unique(patches)) == {0, 255}
    assert len(np.unique(patches.reshape(-1, 3), axis=0)) >= 6
