"""What is measured of tiles: repetition and steps that are put there are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.tiles import SIDE, correlation, grey, seam, whole_in_batches
from elir_deploy.runtime.tiling import spans
from tests.bundles import make_bundle


def test_a_pattern_that_repeats_is_found() -> None:
    noise = np.random.default_rng(1).normal(0, 20, (SIDE, SIDE, 1))
    image = np.clip(128 + noise, 0, 255).astype(np.uint8).repeat(3, axis=2)
    assert correlation(image)[0] < 0.05
    tile = image[:224, :224]
    highest, (down, right) = correlation(np.tile(tile, (5, 5, 1))[:SIDE, :SIDE])
    assert highest == pytest.approx(1, abs=1e-6)
    assert down % 224 == right % 224 == 0
    mixed = image // 2 + np.tile(tile, (5, 5, 1))[:SIDE, :SIDE] // 2
    assert 0.4 < correlation(mixed)[0] < 0.6


def test_a_step_between_tiles_is_found() -> None:
    image, axis = grey(noisy=True), spans(SIDE, 256, 32, 8)
    assert seam(image, axis) == pytest.approx(1, abs=0.02)
    image[:, axis[1].begin :] //= 2
    assert abs(seam(image, axis) - 1) > 0.02


def test_a_picture_in_batches_is_timed_in_pairs(tmp_path: Path) -> None:
    shapes = [{"batch": 8, "height": 512, "width": 512}]
    bundle = make_bundle(tmp_path / "b", stride=8, shapes=shapes, upscale=4, kernel="bicubic")
    ((tiles, pairs, *quartiles, megabytes),) = whole_in_batches(str(bundle), every=2)
    assert (tiles, pairs) == ("63", "3"), "9 x 7 tiles in 7 full batches, of which 0, 2, 4 and 6"
    assert sorted(quartiles) == quartiles
    assert float(megabytes) < 200
