from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elir_deploy.degradations import enlarge
from elir_deploy.errors import UsageError
from elir_deploy.runtime import Restorer
from elir_deploy.training.subjects import BundleSubject, Variant, plan_variants
from tests.bundles import make_bundle
from tests.training.small import photo

DEFAULT = Variant(3, 0.1)


def test_the_default_plan() -> None:
    plan = plan_variants(DEFAULT)
    assert (plan.main, plan.variants, plan.curves) == (DEFAULT, (DEFAULT,), {})


def test_one_value_replaces_the_default() -> None:
    plan = plan_variants(DEFAULT, steps=[5], sigmas=[0.0])
    assert plan.variants == (Variant(5, 0.0),)
    assert plan.curves == {}


def test_several_values_make_a_curve_besides_the_default() -> None:
    plan = plan_variants(DEFAULT, steps=[10, 1, 1], sigmas=[0.1, 0.2])
    assert plan.main == DEFAULT
    assert plan.curves == {
        "steps": (Variant(1, 0.1), Variant(10, 0.1)),
        "sigma_s": (Variant(3, 0.1), Variant(3, 0.2)),
    }
    assert plan.variants == (DEFAULT, Variant(1, 0.1), Variant(10, 0.1), Variant(3, 0.2))


def test_a_curve_at_one_value_of_the_other_parameter() -> None:
    plan = plan_variants(DEFAULT, steps=[1, 2], sigmas=[0.0])
    assert plan.curves["steps"] == (Variant(1, 0.0), Variant(2, 0.0))


def test_a_bundle(tmp_path: Path) -> None:
    path = make_bundle(
        tmp_path / "b", size=32, upscale=4, kernel="bicubic", task="bsr", bias=10 / 255, random=True
    )
    low = photo(0, 8, 8).clip(30, 200)
    subject = BundleSubject(Restorer(path, "onnxruntime"))
    restored = subject.restore(low)
    np.testing.assert_array_equal(restored.input, enlarge("bsr", low))
    np.testing.assert_array_equal(restored.pictures[0], restored.input + 10)
    assert restored.coarse is None
    assert (subject.task, subject.side, subject.upscale, subject.random) == ("bsr", 32, 4, True)
    assert subject.description["backend"] == "onnxruntime"
    subject.close()


def test_squares_are_evaluated(tmp_path: Path) -> None:
    wide, square = ({"batch": 1, "height": 32, "width": width} for width in (64, 32))
    several = make_bundle(tmp_path / "several", shapes=[wide, square], stride=8)
    with Restorer(several, "onnxruntime") as restorer:
        assert BundleSubject(restorer).side == 32
    alone = make_bundle(tmp_path / "wide", shapes=[wide], stride=8)
    with (
        Restorer(alone, "onnxruntime") as restorer,
        pytest.raises(UsageError, match="is for images of 64x32, and squares are evaluated"),
    ):
        BundleSubject(restorer)
