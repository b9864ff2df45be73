"""The roofline over layers of known cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from elir_deploy.cost.devices import Device
from elir_deploy.cost.roofline import Layer, Totals, predict
from elir_deploy.errors import UnavailableError, UsageError

DEVICE = Device("d", "a device", {"fp32": 100.0, "int8": 400.0}, 10.0, 0.0, "invented")


def layer(
    macs: int = 0, other: int = 0, read: int = 0, written: int = 0, precision: str = "fp32"
) -> Layer:
    return Layer("l", "Op", "flow", precision, macs, other, read, written)


def test_the_longer_of_two_times_counts() -> None:
    computes, moves = layer(macs=100, other=100, read=10), layer(macs=5, read=20, written=20)
    told = predict([computes, moves], DEVICE)
    first, second = told.layers
    assert (first.compute_seconds, first.memory_seconds, first.seconds) == (3.0, 1.0, 3.0)
    assert (first.bound, second.bound, second.seconds) == ("compute", "memory", 4.0)
    assert (told.seconds, told.fps) == (7.0, 1 / 7)
    assert (told.bound_seconds("compute"), told.bound_seconds("memory")) == (3.0, 4.0)
    assert told.costliest(1) == [second]
    assert Totals.of([computes, moves]).intensity == 310 / 50


def test_precision_speeds_up_the_product_only() -> None:
    (time,) = predict([layer(macs=200, other=100, precision="int8")], DEVICE).layers
    assert time.compute_seconds == 400 / 400 + 100 / 100


def test_short_kernels_wait_for_the_host_and_long_ones_hide_it() -> None:
    short, long = layer(read=1), layer(read=100)  # 0.1 s and 10 s
    slow = replace(DEVICE, launch_seconds=1.0)
    told = predict([short, short, short], slow)
    assert told.seconds == pytest.approx(3.1)
    assert told.waiting_seconds == pytest.approx(2.8)
    # While the long one runs, the host launches what follows.
    assert predict([long, short, short], slow).seconds == pytest.approx(11.2)
    assert predict([short], slow).seconds == pytest.approx(1.1)


def test_what_cannot_be_predicted() -> None:
    with pytest.raises(UsageError, match="without layers"):
        predict([], DEVICE)
    half = layer(macs=1, precision="fp16")
    assert predict([layer(precision="fp16", other=100)], DEVICE).seconds == 1.0  # no product
    with pytest.raises(UnavailableError, match=r"^d: the fp16 rate is unknown$"):
        predict([half], DEVICE)
