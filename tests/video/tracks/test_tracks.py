"""Detections become tracks, which fade in and out within a scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from elir_deploy.photo import Face
from elir_deploy.video.tracks.tracks import EVERY, FADE, LOOKAHEAD, Scene
from tests.photo.pictures import face

#: Faces by the number of the picture.
Sight = Callable[[int], Sequence[Face]]


def follow(
    sight: Sight, end: int, pictures: Sequence[np.ndarray] = ()
) -> list[list[tuple[Face, float]]]:
    """What a scene of pictures 0 to ``end`` says of each, asked for as films do.

    Without ``pictures``, nothing is known of motion.
    """
    scene, found = Scene(0), []
    for number in range(end + LOOKAHEAD + 1):
        if number <= end:
            if pictures:
                scene.follow(number, pictures[number])
            if number % EVERY == 0 or number == end:
                scene.add(number, sight(number))
        if number == end:
            scene.close(end)
        if number >= LOOKAHEAD:
            found.append([(f, weight) for _, f, weight in scene.at(number - LOOKAHEAD)])
    return found


def centre(seen: Face) -> np.ndarray:
    return np.mean(seen.landmarks, axis=0)


def test_a_face_through_a_scene() -> None:
    found = follow(lambda n: [face(100 + 2 * n, 80, 120)], 50)
    assert [len(each) for each in found] == [1] * 51
    for number, [(seen, weight)] in enumerate(found):
        expected = face(100 + 2 * number, 80, 120)
        np.testing.assert_allclose(seen.landmarks, expected.landmarks, atol=1 / 64)
        np.testing.assert_allclose(seen.box, expected.box, atol=1 / 64)
        assert weight == 1, "there from the scene's beginning to its end"


def test_a_face_that_comes_and_goes_fades() -> None:
    found = follow(lambda n: [face(100, 80, 120)] if 12 <= n <= 42 else [], 60)
    weights = [each[0][1] if each else 0.0 for each in found]
    rising = [(i + 1) / (FADE + 1) for i in range(FADE)]
    assert weights[:12] == [0.0] * 12
    assert weights[43:] == [0.0] * 18, "nothing is put back where the face was not seen"
    assert weights[12 : 12 + FADE] == rising
    assert weights[43 - FADE : 43] == rising[::-1]
    assert set(weights[12 + FADE : 43 - FADE]) == {1.0}


def test_a_face_that_is_missed_once_stays() -> None:
    missed = {22, 40}
    found = follow(lambda n: [] if n in missed else [face(100 + n, 80, 120)], 60)
    for number, [(seen, weight)] in enumerate(found):
        assert weight == 1
        np.testing.assert_allclose(
            centre(seen)[0], centre(face(100 + number, 80, 120))[0], atol=0.1
        )


def test_what_is_seen_once_is_no_face() -> None:
    found = follow(lambda n: [face(300, 80, 120)] if n == 22 else [], 50)
    assert found == [[]] * 51
    assert len(follow(lambda n: [face(300, 80, 120)], 0)[0]) == 1, (
        "of one picture, all is seen once"
    )


def test_faces_that_pass_each_other_stay_apart() -> None:
    def sight(number: int) -> list[Face]:
        faces = [face(100 + 4 * number, 100, 120), face(300 - 4 * number, 150, 120)]
        return faces[:: 1 if number % 2 else -1]

    for number, each in enumerate(follow(sight, 50)):
        rows = sorted((centre(seen)[1], centre(seen)[0]) for seen, _ in each)
        assert len(rows) == 2
        np.testing.assert_allclose(rows[0][0], centre(face(0, 100, 120))[1], atol=0.1)
        np.testing.assert_allclose(rows[0][1], centre(face(100 + 4 * number, 0, 120))[0], atol=0.1)


def test_another_face_begins_another_track() -> None:
    """One that is far away, or of another size, at the same place."""
    for other in (face(400, 300, 120), face(100, 80, 300)):
        found = follow(lambda n: [face(100, 80, 120) if n < 30 else other], 60)  # noqa: B023
        weights = [max((weight for _, weight in each), default=0.0) for each in found]
        assert weights[27] < 0.3
        assert weights[30] < 0.2
        assert weights[10] == weights[50] == 1


def ground(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(40, 216, (24, 36, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((288, 192), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("cut", [20, 21])
def test_another_face_after_a_cut_that_was_missed(cut: int) -> None:
    """It is near enough to be the same one, but nothing in the pictures has moved there."""
    pictures = [ground(1)] * cut + [ground(2)] * (41 - cut)
    faces = [face(100, 80, 120)] * cut + [face(130, 80, 120)] * (41 - cut)
    found = follow(lambda number: [faces[number]], 40, pictures)
    for number, each in enumerate(found):
        for seen, _ in each:
            np.testing.assert_allclose(seen.landmarks, faces[number].landmarks, atol=1 / 64)
    assert [len(each) for each in found[:19] + found[23:]] == [1] * 37


def test_a_face_that_jumps_with_the_picture_stays_the_same() -> None:
    pictures = [np.roll(ground(1), 12 * (number > 20), axis=1) for number in range(41)]
    found = follow(lambda n: [face(112 if n > 20 else 100, 80, 120)], 40, pictures)
    assert [[weight for _, weight in each] for each in found] == [[1.0]] * 41


def test_a_face_that_jitters_unseen_stays_the_same() -> None:
    """As in the dark, where nothing tells how it moved."""
    rng = np.random.default_rng(0)
    faces = [face(100 + n + rng.normal(0, 2), 80 + rng.normal(0, 2), 120) for n in range(41)]
    found = follow(lambda n: [faces[n]], 40, [np.zeros((192, 288, 3), np.uint8)] * 41)
    assert [[weight for _, weight in each] for each in found] == [[1.0]] * 41


def test_small_faces_fade() -> None:
    """The eyes come as close as faces need that are restored, and closer."""
    found = follow(lambda n: [face(100, 80, 34 - n / 4)], 60)
    weights = [each[0][1] if each else 0.0 for each in found]
    assert weights[0] == 1
    assert max(np.diff(weights)) <= 1e-9
    assert weights[-1] == 0
    assert max(abs(np.diff(weights))) < 0.1


def test_memory_is_bounded() -> None:
    scene = Scene(0)
    for number in range(0, 1000, EVERY):
        for each in (number, number + 1):
            scene.follow(each, np.zeros((9, 9, 3), np.uint8))
        scene.add(number, [face(100, 80, 120), face(300 + number, 80, 120)])
        if number >= LOOKAHEAD:
            scene.at(number - LOOKAHEAD)
    assert sum(len(track.samples) for track in scene._tracks) < 40
    assert 30 < sum(len(track.movements) for track in scene._tracks) < 80
