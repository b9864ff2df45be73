"""The photographs in the package."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
from PIL import Image

from elir_deploy.errors import UsageError
from elir_deploy.runtime.photos import large_photograph, sample_photos

FOLDER = resources.files("elir_deploy") / "data" / "photos"


def test_names_sizes_and_order():
    assert list(sample_photos(64, faces=False)) == ["astronaut", "chelsea", "coffee"]
    assert list(sample_photos(64, faces=True)) == ["astronaut"]
    for size in (1, 64, 512):
        for photo in sample_photos(size, faces=False).values():
            assert (photo.shape, photo.dtype) == ((size, size, 3), np.uint8)
            assert photo.flags.c_contiguous
            assert photo.flags.writeable


def test_the_same_every_time_and_not_flat():
    first, second = sample_photos(256, faces=False), sample_photos(256, faces=False)
    for name, photo in first.items():
        assert np.array_equal(photo, second[name])
        assert photo.std() > 30


def test_rectangles_are_cut_from_the_middle_of_squares():
    square = sample_photos(96, faces=False)
    for size, cut in (((40, 96), np.s_[28:68]), ((96, 40), np.s_[:, 28:68])):
        for name, photo in sample_photos(size, faces=False).items():
            assert photo.shape == (*size, 3)
            assert photo.flags.c_contiguous
            assert np.array_equal(photo, square[name][cut])


def test_a_photograph_of_its_own_size_is_not_touched():
    with Image.open(FOLDER / "chelsea.png") as stored:
        assert np.array_equal(sample_photos(256, faces=False)["chelsea"], np.asarray(stored))


def test_the_face_is_a_crop():
    face = sample_photos(184, faces=True)["astronaut"]
    with Image.open(FOLDER / "astronaut.png") as stored:
        assert np.array_equal(face, np.asarray(stored)[14:198, 28:212])


def test_every_photograph_has_its_licence_and_all_are_small():
    licences = (FOLDER / "LICENSE.md").read_text("utf-8")
    photos = [path for path in FOLDER.iterdir() if path.name.endswith(".png")]
    sizes = [len(path.read_bytes()) for path in photos]
    assert all(f"`{path.name}`" in licences for path in photos)
    assert max(sizes) <= 150_000
    assert sum(sizes) <= 350_000


def test_a_size_that_is_none():
    with pytest.raises(UsageError, match="size is 0"):
        sample_photos(0, faces=False)


def test_the_large_photograph_is_drawn_once_and_not_written():
    picture = large_photograph()
    assert (picture.shape, picture.dtype) == ((3000, 4000, 3), np.uint8)
    assert large_photograph() is picture
    with pytest.raises(ValueError, match="read-only"):
        picture[0] = 0
