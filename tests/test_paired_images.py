from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elir_deploy.degradations import degrade
from elir_deploy.errors import UsageError
from elir_deploy.paired_images import Sample, SampleFolder, Skipped
from elir_deploy.runtime import write_image
from tests.training.small import SIZE, photo, save, save_photos


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return save_photos(tmp_path / "photos")


def samples_of(folder: SampleFolder) -> list[Sample]:
    found = list(folder)
    assert all(isinstance(item, Sample) for item in found), found
    return found  # type: ignore[return-value]


def test_the_middle_is_cut_out_and_degraded(photos: Path) -> None:
    for item in samples_of(SampleFolder(photos, "tiny", side=SIZE, seed=7)):
        whole = photo(item.number, 70 + item.number, 90)
        top, left = (70 + item.number - SIZE) // 2, (90 - SIZE) // 2
        np.testing.assert_array_equal(item.truth, whole[top : top + SIZE, left : left + SIZE])
        rng = np.random.default_rng([7, item.number])
        np.testing.assert_array_equal(item.low, degrade("tiny", item.truth, rng))
        assert item.name == f"{item.number}.png"


def test_a_part_of_a_folder_has_the_images_of_the_whole(photos: Path) -> None:
    whole = samples_of(SampleFolder(photos, "bsr", side=SIZE, upscale=4))
    part = samples_of(SampleFolder(photos, "bsr", side=SIZE, upscale=4, limit=2))
    assert [item.name for item in part] == ["0.png", "1.png"]
    for one, other in zip(whole, part, strict=False):
        assert one.low.shape == (SIZE // 4, SIZE // 4, 3)
        np.testing.assert_array_equal(one.low, other.low)
    (photos / "0.png").write_bytes(b"")  # what cannot be read keeps its number
    rest = [
        item for item in SampleFolder(photos, "bsr", side=SIZE, upscale=4) if item.name != "0.png"
    ]
    np.testing.assert_array_equal(rest[0].low, whole[1].low)


def test_what_is_not_read_is_known(photos: Path, tmp_path: Path) -> None:
    save_photos(tmp_path / "low")
    for folder in (photos, tmp_path / "low"):
        (folder / "x.psd").write_bytes(b"\0")
    assert SampleFolder(photos, "tiny", side=SIZE).unread.files[".psd"][0] == 1
    both = SampleFolder(photos, "tiny", side=SIZE, degraded=tmp_path / "low")
    assert both.unread.files == {".psd": (2, photos / "x.psd")}


def test_transparency_is_taken_away(tmp_path: Path) -> None:
    alpha = np.zeros((SIZE, SIZE), np.uint8)
    alpha[8:-8, 8:-8] = 255
    pixels = np.where(alpha[:, :, None] > 0, np.uint8(200), np.uint8(0)).repeat(3, axis=2)
    for folder in ("truth", "low"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "a.png", pixels, alpha=alpha)
    samples = SampleFolder(tmp_path / "truth", "tiny", side=SIZE, degraded=tmp_path / "low")
    (sample,) = samples_of(samples)
    assert (sample.truth == 200).all()
    assert (sample.low == 200).all()


def test_another_seed_is_another_degradation(photos: Path) -> None:
    one, other = (
        samples_of(SampleFolder(photos, "tiny", side=SIZE, seed=seed, limit=1))[0]
        for seed in (0, 1)
    )
    assert not np.array_equal(one.low, other.low)
    np.testing.assert_array_equal(one.truth, other.truth)


def test_faces_are_scaled(tmp_path: Path) -> None:
    flat = np.zeros((200, 128, 3), np.uint8)
    flat[36:164] = np.linspace(0, 255, 128).astype(np.uint8)[:, None, None]
    save(tmp_path / "faces" / "a.png", flat)
    save(tmp_path / "faces" / "b.png", photo(1, SIZE, SIZE))
    long, square = samples_of(SampleFolder(tmp_path / "faces", "denoise", side=SIZE, faces=True))
    # The middle square, all of it: black at the top, white at the bottom.
    assert long.truth[0].max() < 5
    assert long.truth[-1].min() > 250
    assert "128x200, not square" in long.warning
    assert square.warning is None
    np.testing.assert_array_equal(square.truth, photo(1, SIZE, SIZE))


def test_what_is_left_out_and_why(photos: Path) -> None:
    save(photos / "4 small.png", photo(9, SIZE, SIZE - 1))
    whole = save(photos / "5 cut.png", photo(5, 80, 80)).read_bytes()
    (photos / "5 cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "6 empty.jpg").write_bytes(b"")
    found = list(SampleFolder(photos, "tiny", side=SIZE))
    reasons = [item.reason for item in found if isinstance(item, Skipped)]
    assert len(found) == 7
    assert [item.name for item in found if isinstance(item, Skipped)] == [
        "4 small.png", "5 cut.png", "6 empty.jpg",
    ]  # fmt: skip
    assert "is 63x64, smaller than the model's 64x64" in reasons[0]
    assert "is cut off" in reasons[1]
    assert "is empty" in reasons[2]


# Pairs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("faces", [False, True])
@pytest.mark.parametrize("shape", [(90, 118), (64, 64), (131, 97)])
def test_a_pair_shows_the_same_place(tmp_path: Path, shape: tuple[int, int], faces: bool) -> None:
    """Every pixel holds its row and column in units of 4: the small image is every fourth."""
    y, x = np.mgrid[: shape[0], : shape[1]] // 4
    truth = np.stack([y, x, 0 * y], axis=2).astype(np.uint8) * 4
    save(tmp_path / "truths" / "a.png", truth)
    low = truth[: shape[0] // 4 * 4 : 4, : shape[1] // 4 * 4 : 4]
    save(tmp_path / "low" / "a.bmp", low)
    (item,) = samples_of(
        SampleFolder(
            tmp_path / "truths", "bsr", side=SIZE, upscale=4, faces=faces, degraded=tmp_path / "low"
        )
    )
    assert item.truth.shape == (SIZE, SIZE, 3)
    assert item.low.shape == (SIZE // 4, SIZE // 4, 3)
    middle = item.truth.reshape(SIZE // 4, 4, SIZE // 4, 4, 3).mean(axis=(1, 3))
    scaled = faces and min(shape) // 4 * 4 != SIZE
    np.testing.assert_allclose(item.low, middle, atol=6 if scaled else 0)


def test_a_pair_of_other_sizes_is_left_out(photos: Path, tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / "low" / f"{number}.png", photo(0, 17, 22 + (number == 2)))
    found = list(SampleFolder(photos, "bsr", side=SIZE, upscale=4, degraded=tmp_path / "low"))
    skipped = [item for item in found if isinstance(item, Skipped)]
    reasons = {item.name: item.reason for item in skipped}
    assert "2.png is 23x17, expected 22x18 (1/4 of the ground truth)" in reasons["2.png"]
    assert "0.png" not in reasons


def test_a_missing_partner(photos: Path, tmp_path: Path) -> None:
    save(tmp_path / "low" / "1.jpg", photo(0, 80, 80))
    with pytest.raises(UsageError, match=r"0\.png has no degraded image .* nor do 2 others"):
        SampleFolder(photos, "tiny", side=SIZE, degraded=tmp_path / "low")


def test_two_partners(photos: Path, tmp_path: Path) -> None:
    for name in ("1.jpg", "1.png"):
        save(tmp_path / "low" / name, photo(0, 80, 80))
    with pytest.raises(UsageError, match="differ only in their suffix"):
        SampleFolder(photos, "tiny", side=SIZE, degraded=tmp_path / "low")


def test_folders_inside_are_looked_into(tmp_path: Path) -> None:
    save(tmp_path / "photos" / "a" / "x.png", photo(0, SIZE, SIZE))
    save(tmp_path / "photos" / "b" / "x.png", photo(1, SIZE, SIZE))
    save(tmp_path / "low" / "a" / "x.jpg", photo(2, SIZE, SIZE))
    save(tmp_path / "low" / "b" / "x.jpg", photo(3, SIZE, SIZE))
    found = samples_of(
        SampleFolder(tmp_path / "photos", "tiny", side=SIZE, degraded=tmp_path / "low")
    )
    assert [item.name for item in found] == ["a/x.png", "b/x.png"]
    np.testing.assert_array_equal(found[1].truth, photo(1, SIZE, SIZE))


def test_no_folder_no_images(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "nothing", "does not exist"),
        (photos / "0.png", "is a file, expected a folder"),
        (tmp_path / "empty", "no images in it"),
    ):
        with pytest.raises(UsageError, match=message):
            SampleFolder(path, "tiny", side=SIZE)
