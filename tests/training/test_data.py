from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from elir_deploy.errors import ImageError, UsageError
from elir_deploy.runtime import write_image
from elir_deploy.training.data import (
    PhotoFolder,
    SampleNumbers,
    TrainingSamples,
    as_images,
    collate,
    fit_to_square,
)
from tests.training.small import photo, save


def samples(folder: Path, **changes: object) -> TrainingSamples:
    options = {"task_name": "denoise", "noise_shape": (4, 4, 4), "whole": False, "seed": 0}
    return TrainingSamples(PhotoFolder.scan(folder), 32, **(options | changes))  # type: ignore[arg-type]


def same(a: dict[str, object], b: dict[str, object]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_folders_are_searched_in_order(tmp_path: Path) -> None:
    for name in ("b/2.png", "a.JPG", "b/1.webp"):
        save(tmp_path / name.lower(), photo(0, 8, 8)).rename(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    files = PhotoFolder.scan(tmp_path).files
    assert [str(path.relative_to(tmp_path)) for path in files] == ["a.JPG", "b/1.webp", "b/2.png"]


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images in it"):
        PhotoFolder.scan(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        PhotoFolder.scan(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        PhotoFolder.scan(tmp_path / "file")


def test_unread_and_hidden_files(photos: Path) -> None:
    count = len(PhotoFolder.scan(photos).files)
    (photos / "x.psd").write_bytes(b"\0")
    (photos / "._0.png").write_bytes(b"metadata that macOS writes")
    folder = PhotoFolder.scan(photos)
    assert (len(folder.files), folder.unread.files) == (count, {".psd": (1, photos / "x.psd")})


def test_transparency_is_removed(tmp_path: Path) -> None:
    alpha = np.zeros((32, 32), np.uint8)
    alpha[8:-8, 8:-8] = 255
    pixels = np.where(alpha[:, :, None] > 0, np.uint8(200), np.uint8(0)).repeat(3, axis=2)
    write_image(tmp_path / "a.png", pixels, alpha=alpha)
    assert (samples(tmp_path)[0]["clean"] == 200).all()


def test_seed_and_number_determine_a_sample(photos: Path) -> None:
    first, again = samples(photos), samples(photos)
    assert all(same(first[k], again[k]) for k in (9, 0, 5))
    assert not same(first[0], samples(photos, seed=1)[0])
    assert not same(first[0], first[len(first)])  # a new sample even of the same photograph


def test_contents_of_a_sample(photos: Path) -> None:
    item = samples(photos)[3]
    assert item["clean"].shape == item["degraded"].shape == (3, 32, 32)
    assert item["clean"].dtype == item["degraded"].dtype == np.uint8
    assert item["noise"].dtype == np.float32
    assert item["time"].dtype == np.float32
    assert set(samples(photos, task_name=None, noise_shape=None)[3]) == {"clean", "unreadable"}


def test_inputs_are_enlarged_to_full_size(photos: Path) -> None:
    item = samples(photos, task_name="sr")[0]
    assert item["degraded"].shape == (3, 32, 32)
    blocks = item["degraded"].reshape(3, 4, 8, 4, 8)
    assert (blocks == blocks[:, :, :1, :, :1]).all()


def test_every_epoch_shuffles_all_photographs(photos: Path) -> None:
    data = samples(photos)
    epochs = [[data.file_number(4 * epoch + k) for k in range(4)] for epoch in range(6)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_distributions_of_times_noise_and_flips(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(32, dtype=np.uint8)[None, :, None] * 8, (32, 1, 3))
    save(tmp_path / "ramp.png", ramp)
    drawn = [samples(tmp_path)[k] for k in range(400)]
    times = np.array([item["time"] for item in drawn])
    # Standard errors: 0.289 / 20 for the mean of 400 uniform numbers.
    assert abs(times.mean() - 0.5) < 4 * 0.0145
    assert times.min() >= 0
    assert times.max() < 1
    noise = np.stack([item["noise"] for item in drawn])
    assert abs(noise.mean()) < 4 / noise.size**0.5
    assert abs(noise.std() - 1) < 4 / (2 * noise.size) ** 0.5
    flipped = sum(int(item["clean"][0, 0, 0] > item["clean"][0, 0, -1]) for item in drawn)
    assert abs(flipped - 200) < 4 * 10


def test_crops_are_anywhere(photos: Path) -> None:
    image = np.arange(50 * 60, dtype=np.uint32).reshape(50, 60)
    rgb = np.stack([image % 256, image // 256, image * 0], axis=2).astype(np.uint8)
    corners = set()
    for seed in range(300):
        piece = fit_to_square(rgb, 48, np.random.default_rng(seed), whole=False)
        corners.add(int(piece[0, 0, 0]) + 256 * int(piece[0, 0, 1]))
    assert len(corners) == 3 * 13
    middle = fit_to_square(rgb, 48, None, whole=False)
    np.testing.assert_array_equal(middle, rgb[1:49, 6:54])


def test_whole_and_small_images() -> None:
    image = photo(0, 40, 100)
    whole = fit_to_square(image, 20, None, whole=True)
    expected = Image.fromarray(image[:, 30:70]).resize((20, 20), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(whole, np.asarray(expected))
    small = fit_to_square(photo(0, 10, 30), 32, np.random.default_rng(0), whole=False)
    assert small.shape == (32, 32, 3)


def test_unreadable_images_are_skipped_and_listed(photos: Path) -> None:
    (photos / "0.png").write_bytes(b"")
    cut = photos / "1.png"
    cut.write_bytes(cut.read_bytes()[:400])
    data = samples(photos)
    items = [data[k] for k in range(4)]
    noted = {number for item in items for number in item["unreadable"]}
    assert {data.photos.files[number].name for number in noted} == {"0.png", "1.png"}
    assert same(items[0], samples(photos)[0])


def test_nothing_readable(photos: Path) -> None:
    for path in photos.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ImageError, match="4 images in a row cannot be read"):
        samples(photos)[0]


def test_batches(photos: Path) -> None:
    data = samples(photos)
    batch = collate([data[0], data[1]])
    assert batch["clean"].shape == (2, 3, 32, 32)
    assert batch["unreadable"] == []
    images = as_images(batch["clean"])
    torch.testing.assert_close(images * 255, batch["clean"].float())


def test_processes_share_an_update() -> None:
    alone = list(SampleNumbers(3, 6, 4, 0, 1))
    assert alone == [[12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]
    shares = [list(SampleNumbers(3, 6, 4, rank, 2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == alone
