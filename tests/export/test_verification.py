from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import ModelProto

from elir_deploy.errors import ElirError
from elir_deploy.export.verification import (
    AUTOMATIC_DB,
    FLOORS_DB,
    _Parts,
    fidelity,
    is_automatic,
    signal_to_error,
)
from elir_deploy.runtime.manifest import ImageFidelity
from tests.export.conftest import STEPS


class TestFidelity:
    def test_known_values(self) -> None:
        reference = np.full((4, 4, 3), 100, np.uint8)
        image = reference.copy()
        image[0, 0, 0] = 110
        found = fidelity("x", image, reference)
        assert found.psnr_db == pytest.approx(10 * math.log10(255**2 / (100 / 48)), rel=1e-5)
        assert found.max_error == pytest.approx(10 / 255, rel=1e-5)
        assert found.mean_error == pytest.approx(10 / 255 / 48, rel=1e-5)

    def test_identical_images_have_no_psnr(self) -> None:
        image = np.zeros((2, 2, 3), np.uint8)
        assert fidelity("x", image, image).psnr_db is None

    def test_differences_do_not_wrap(self) -> None:
        black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
        assert fidelity("x", black, white).psnr_db == pytest.approx(0)
        assert fidelity("x", black, white).max_error == 1


class TestSignalToError:
    def test_known_values(self) -> None:
        reference = np.array([3.0, 4.0], np.float32)
        assert signal_to_error(reference, reference) is None
        assert signal_to_error(reference + 0.5, reference) == pytest.approx(
            10 * math.log10(50), rel=1e-5
        )

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_values_that_are_not_finite(self, bad: float) -> None:
        reference = np.array([3.0, 4.0], np.float32)
        assert signal_to_error(np.array([3.0, bad], np.float32), reference) == -1000


class TestParts:
    def test_they_are_the_network_in_order(self, stages: dict[str, ModelProto]) -> None:
        expected = ["encoder", "estimator", "step1", "step2", "decoder", "formatting"]
        assert list(_Parts(list(stages.values()), None, STEPS).sessions) == expected

    def test_a_boundary_that_no_graph_makes_is_an_error(self, fused: ModelProto) -> None:
        with pytest.raises(
            ElirError, match=r"lack the tensors at the ends of parts: step2 \(step2\)"
        ):
            _Parts([fused], None, STEPS + 1)


class TestAutomatic:
    def images(self, photograph: float | None, drawn: float | None) -> list[ImageFidelity]:
        return [
            ImageFidelity(
                name=name,
                width=64,
                height=64,
                synthetic=synthetic,
                psnr_db=psnr,
                max_error=0.1,
                mean_error=0.01,
            )
            for name, synthetic, psnr in (("fur", False, photograph), ("text", True, drawn))
        ]

    def test_every_picture_counts(self) -> None:
        just, short = AUTOMATIC_DB, AUTOMATIC_DB - 0.1
        assert is_automatic(self.images(just, just), passed=True)
        assert is_automatic(self.images(None, None), passed=True), "identical"
        assert not is_automatic(self.images(just, short), passed=True)
        assert not is_automatic(self.images(short, just), passed=True)

    def test_a_precision_below_its_floor_is_not(self) -> None:
        assert not is_automatic(self.images(60.0, 60.0), passed=False)

    def test_automatic_precisions_need_no_less_than_a_floor(self) -> None:
        assert min(FLOORS_DB.values()) <= AUTOMATIC_DB
