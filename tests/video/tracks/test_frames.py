"""Films of stills with known motion: calmer than each picture alone, and no ghosts at cuts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from elir_deploy.errors import UsageError
from elir_deploy.photo import PhotoRestorer
from elir_deploy.video import PhotographFrames, TrackedFrames
from elir_deploy.video.tracks.tracks import EVERY, FADE, LOOKAHEAD
from tests.photo.pictures import face_bundle, spots

pytest.importorskip("onnxruntime")
#: Side of a head, which has a spot in its middle that the detector takes for a face.
HEAD = 90


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PhotoRestorer]:
    bundle = face_bundle(tmp_path_factory.mktemp("b") / "b", gain=0.5)
    with PhotoRestorer(bundle, backend="onnxruntime", threads=1) as opened:
        yield opened


def ground(height: int = 160, width: int = 260, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 160, (height, width, 3), np.uint8)


def with_head(picture: np.ndarray, left: int, top: int = 30) -> np.ndarray:
    """A head, larger than the grid that the detector sees, so that its position jumps."""
    picture = picture.copy()
    head = np.random.default_rng(2).integers(60, 160, (HEAD, HEAD, 3), np.uint8)
    head[42:48, 42:48] = 255
    picture[top : top + HEAD, left : left + HEAD] = head
    return picture


def restored(frames: PhotographFrames, pictures: list[np.ndarray]) -> list[np.ndarray]:
    return list(frames.map(iter(pictures)))


@pytest.mark.parametrize("turning", [60, 12])
def test_jitter_and_flicker_are_less_than_half(restorer: PhotoRestorer, turning: int) -> None:
    """To the right, and to and fro so often that a line through the places is none."""
    lefts = [20 + abs((number + turning) % (2 * turning) - turning) for number in range(60)]
    pictures = [with_head(ground(), left) for left in lefts]
    jitters, variances = [], []
    for frames in (PhotographFrames(restorer, "all"), TrackedFrames(restorer)):
        faces = [prepared.faces for prepared in frames._prepared(iter(pictures))]
        places = [np.mean(each[0].landmarks, axis=0)[0] for each in faces]  # type: ignore[index]
        jitters.append(np.diff(np.subtract(places, lefts)).std())
        heads = [
            picture[30 : 30 + HEAD, left : left + HEAD].astype(float)
            for picture, left in zip(restored(frames, pictures), lefts, strict=True)
        ]
        variances.append(np.var(heads, axis=0).mean())
    assert jitters[0] > 1
    assert jitters[1] < jitters[0] / 4
    assert variances[1] < variances[0] / 2


def test_a_still_film_stays_still(restorer: PhotoRestorer) -> None:
    pictures = [with_head(ground(), 40)] * 20
    first, *others = restored(TrackedFrames(restorer), pictures)
    assert (first != pictures[0]).mean() > 0.1
    for other in others:
        np.testing.assert_array_equal(other, first)
    np.testing.assert_array_equal(first, restorer(pictures[0], "all").pixels)


@pytest.mark.parametrize("cut", [7, 9, 20])
def test_no_ghosts_at_cuts(restorer: PhotoRestorer, cut: int) -> None:
    """Up to the cut the face is restored in full, after it nothing is."""
    scene = with_head(ground(), 40)
    other = np.full((160, 260, 3), 10, np.uint8)
    results = restored(TrackedFrames(restorer), [scene] * cut + [other] * 12 + [scene] * 4)
    full = restorer(scene, "all").pixels
    for result in results[:cut] + results[-4:]:
        np.testing.assert_array_equal(result, full)
    for result in results[cut:-4]:
        np.testing.assert_array_equal(result, other)


def test_one_face_stays_chosen(restorer: PhotoRestorer) -> None:
    """The largest and the central one would change places with each step of the motion."""

    def scene(number: int) -> np.ndarray:
        return spots(160, 400, (100 + number, 80), (292 - number, 80))

    pictures = [scene(number) for number in range(0, 48, 4)]
    prepared = list(TrackedFrames(restorer, "centre")._prepared(iter(pictures)))
    chosen = [
        next(np.mean(face.landmarks, axis=0)[0] for face in each.faces or () if face.reason is None)
        for each in prepared
    ]
    assert np.all(np.abs(np.diff(chosen)) < 12)
    others = [f.reason for each in prepared for f in each.faces or () if f.reason is not None]
    assert set(others) == {"another one is restored (centre)"}


def test_another_face_that_becomes_chosen_fades_in(restorer: PhotoRestorer) -> None:
    """As the one in the middle goes, which is seen for the last time in the picture ``last``."""
    last = 7 * EVERY
    pictures = [spots(160, 400, *[(200, 80)] * (n <= last), (60, 80)) for n in range(last + 12)]
    weights: dict[bool, list[float]] = {True: [], False: []}  # by whether it is in the middle
    for prepared in TrackedFrames(restorer, "centre")._prepared(iter(pictures)):
        for face, weight in zip(prepared.faces or (), prepared.weights or (), strict=True):
            if face.reason is None:
                weights[bool(np.mean(face.landmarks, axis=0)[0] > 150)].append(weight)
    fading = [(n + 1) / (FADE + 1) for n in range(FADE)]
    assert weights[True] == [1.0] * (last + 1 - FADE) + fading[::-1]
    assert weights[False] == [*fading, *[1.0] * (11 - FADE)]


def test_pictures_wait_in_bounded_number(restorer: PhotoRestorer) -> None:
    drawn = 0

    def pictures() -> Iterator[np.ndarray]:
        nonlocal drawn
        for _ in range(200):
            drawn += 1
            yield with_head(ground(), 40)

    ahead = []
    for number, _ in enumerate(TrackedFrames(restorer).map(pictures())):
        ahead.append(drawn - number)
    assert len(ahead) == 200
    assert max(ahead) <= LOOKAHEAD + 10


def test_few_pictures_are_searched(restorer: PhotoRestorer, monkeypatch) -> None:
    searched = []
    detect = restorer.detect
    monkeypatch.setattr(restorer, "detect", lambda image: searched.append(1) or detect(image))
    restored(TrackedFrames(restorer), [with_head(ground(), 40)] * 31)
    assert len(searched) == 1 + 30 // EVERY


@pytest.mark.parametrize("kind", [TrackedFrames, PhotographFrames])
def test_nothing_is_searched_where_nothing_is_restored(
    restorer: PhotoRestorer, monkeypatch, kind
) -> None:
    monkeypatch.setattr(restorer, "detect", lambda image: pytest.fail("searched"))
    film = [with_head(ground(), 40)] * 5
    for frame, original in zip(restored(kind(restorer, strength=0), film), film, strict=True):
        np.testing.assert_array_equal(frame, original)


def test_refusals(restorer: PhotoRestorer) -> None:
    with pytest.raises(UsageError, match="faces is 'aligned', expected one of auto, all, largest"):
        TrackedFrames(restorer, "aligned")


def test_a_film_without_pictures(restorer: PhotoRestorer, tmp_path: Path) -> None:
    assert restored(TrackedFrames(restorer), []) == []
