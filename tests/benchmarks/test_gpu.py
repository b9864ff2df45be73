"""Taking turns on a GPU, with runners that only count; and the bundle's rows on a CPU."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.gpu import BLOCK, BundleRunner, Runner, fastest, in_turns, row
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime import Bundle
from tests.bundles import make_bundle


class Sleeper(Runner):
    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        self.name, self.precision = name, "fp32"
        self._seconds, self._log = seconds, log
        self.closed = False

    def run(self) -> None:
        self._log.append(self.name)
        time.sleep(self._seconds)

    def close(self) -> None:
        self.closed = True


def test_runners_take_turns() -> None:
    log: list[str] = []
    samples = in_turns([Sleeper("a", 0, log), Sleeper("b", 0, log)], 2)
    assert [len(own) for own in samples] == [2 * BLOCK, 2 * BLOCK]
    assert log == (["a"] * BLOCK + ["b"] * BLOCK) * 3  # the first turn warms up


def test_the_faster_layout_stays() -> None:
    slow, fast = Sleeper("slow", 0.005, []), Sleeper("fast", 0.0001, [])
    assert fastest([slow, fast]) is fast
    assert (slow.closed, fast.closed) == (True, False)


def test_a_row_compares_with_eager_and_with_the_graph() -> None:
    own = [2.0] * (4 * BLOCK)
    cells = row(Sleeper("a", 0, []), own, [8.0] * len(own), [3.0] * len(own), 55.55)
    assert cells[:5] == ["a", "fp32", "2.00", "2.00", "4.00"]
    assert cells[5] == "1.50 (1.50 to 1.50)"
    assert cells[6] == "55.5"
    assert row(Sleeper("a", 0, []), own, own, None, 1)[5] == ""


def test_a_bundle_is_compared_with_its_references(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path / "b", gain=0.5, exact=False))
    runner = BundleRunner(bundle, "onnxruntime", "fp32")
    halves = [
        psnr_db(np.rint(0.5 * image).astype(np.uint8), expected)
        for _, image, expected in bundle.reference_images()
    ]
    assert runner.psnr_db(bundle) == pytest.approx(min(halves))
    runner.close()


@pytest.mark.parametrize("batch", [1, 3])
def test_every_image_of_a_batch_has_the_noise_of_the_references(tmp_path: Path, batch: int) -> None:
    shapes = [{"batch": 3, "height": 32, "width": 32}]
    bundle = Bundle.open(make_bundle(tmp_path / "b", gain=0.5, stride=8, shapes=shapes))
    runner = BundleRunner(bundle, "onnxruntime", "fp32", batch)
    assert runner.input.shape == (batch, 32, 32, 3)
    assert runner.psnr_db(bundle) == np.inf
    runner.close()
