"""The matrix product between the turns."""

from __future__ import annotations

import numpy as np
import pytest

from elir_deploy.bench import yardstick as module
from elir_deploy.bench.yardstick import Yardstick, describe
from tests.bench.synthetic import FakeClock


@pytest.fixture
def products(monkeypatch):
    """Durations in seconds, by the number of the product; notes how many were made."""
    clock = FakeClock()
    made: list[float] = []

    def use(duration) -> tuple[Yardstick, list[float]]:
        def matmul(left, right, out):
            seconds = duration(len(made))
            made.append(seconds)
            clock.advance(seconds)

        monkeypatch.setattr(module.np, "matmul", matmul)
        return Yardstick(clock), made

    return use


def test_the_fastest_of_eight_counts(products):
    yardstick, made = products(lambda k: {4: 0.001, 13: 0.002, 19: 0.001}.get(k, 0.005))
    given = yardstick.measure()
    assert len(made) == 11 + 8  # as many as fill 50 ms first
    assert given == 2_000_000


def test_products_before_the_machine_has_settled_do_not_count(products):
    yardstick, made = products(lambda k: 0.001 if k < 5 else 0.005)
    assert yardstick.measure() == 5_000_000
    assert sum(made[:-8]) >= 0.0499


def test_a_product_that_takes_longer_than_settling(products):
    yardstick, made = products(lambda k: 0.2)
    assert yardstick.measure() == 200_000_000
    assert len(made) == 1 + 8


def test_a_clock_that_stands_still_does_not_keep_it(products):
    yardstick, made = products(lambda k: 0.0)
    assert yardstick.measure() == 0
    assert len(made) == 9


def test_it_is_a_product_of_matrices_always_the_same():
    first, second = Yardstick(), Yardstick()
    assert first.measure() > 0
    second.measure()
    np.testing.assert_allclose(first._product, first._left @ first._right, rtol=1e-4)
    assert np.array_equal(first._left, second._left)
    assert first._product.dtype == np.float32


def test_it_says_what_it_is():
    described = describe()
    assert described.work == "float32 matrix product, 640x640x640, fastest of 8"
    assert described.numpy == np.__version__


@pytest.mark.parametrize(
    "config", [lambda mode: {"Build Dependencies": {}}, lambda: None, lambda mode: None]
)
def test_a_blas_that_numpy_does_not_name(monkeypatch, config):
    monkeypatch.setattr(module.np, "show_config", config)
    assert describe().blas is None


def test_the_blas_that_numpy_names(monkeypatch):
    known = {"Build Dependencies": {"blas": {"name": "a-blas", "version": "1.2"}}}
    monkeypatch.setattr(module.np, "show_config", lambda mode: known)
    assert describe().blas == "a-blas 1.2"
