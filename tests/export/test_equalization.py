from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from elir_deploy.export.calibration import TensorStatistics, collect_statistics
from elir_deploy.export.equalization import LIMIT, channel_factors, equalize
from elir_deploy.export.precision import open_session
from elir_deploy.export.quantization import activations
from elir_deploy.scopes import DECODED


@pytest.fixture(scope="module")
def statistics(fused: ModelProto, pixels: np.ndarray) -> dict[str, TensorStatistics]:
    read = activations(fused)
    return collect_statistics(fused, read, [{"image": pixels}], images=1)


def image_before_rounding(model: ModelProto, pixels: np.ndarray) -> np.ndarray:
    probe = ModelProto()
    probe.CopyFrom(model)
    value = next(v for v in model.graph.value_info if v.name == DECODED)
    del probe.graph.output[:]
    probe.graph.output.append(value)
    return open_session(probe).run(None, {"image": pixels})[0]


def test_the_image_is_the_same(
    fused: ModelProto, statistics: dict[str, TensorStatistics], pixels: np.ndarray
) -> None:
    equalized = equalize(fused, channel_factors(fused, statistics))
    before, after = (image_before_rounding(m, pixels) for m in (fused, equalized))
    assert np.ptp(before) > 0.1
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert equalized != fused


def test_statistics_follow_the_factors(
    fused: ModelProto, statistics: dict[str, TensorStatistics], pixels: np.ndarray
) -> None:
    factors = channel_factors(fused, statistics)
    equalized = equalize(fused, factors)
    again = collect_statistics(equalized, list(factors & statistics.keys()), [{"image": pixels}],
                               images=1)  # fmt: skip
    assert again
    for name, measured in again.items():
        predicted = statistics[name].scaled(factors[name])
        np.testing.assert_allclose(measured.peak, predicted.peak, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(measured.mean, predicted.mean, rtol=1e-2, atol=1e-4)


def test_channels_come_closer_together(
    fused: ModelProto, statistics: dict[str, TensorStatistics]
) -> None:
    factors = channel_factors(fused, statistics)
    inside = "encoder.layers.1.conv.1.relu"
    before, after = statistics[inside].peak, statistics[inside].peak * factors[inside]
    audible = before > before.max() * 1e-3
    assert np.log(after[audible]).std() < np.log(before[audible]).std()


def test_only_what_commutes_with_a_factor_is_touched(
    fused: ModelProto, statistics: dict[str, TensorStatistics]
) -> None:
    factors = channel_factors(fused, statistics)
    assert factors
    assert {name.partition(".")[0] for name in factors} == {"encoder", "decoder"}
    latents = {"encoded", "coarse", "flowed"}
    assert not latents & factors.keys()
    assert DECODED not in factors


def test_silent_channels_are_left_alone_and_factors_are_bounded(
    fused: ModelProto, statistics: dict[str, TensorStatistics]
) -> None:
    name = "encoder.layers.1.conv.1.relu"
    peak = statistics[name].peak.copy()
    peak[0], peak[1] = 0, peak.max() * 1e9
    strange = {**statistics, name: TensorStatistics(peak, statistics[name].mean,
                                                    statistics[name].samples)}  # fmt: skip
    found = channel_factors(fused, strange)[name]
    assert found[0] == 1
    for factors in channel_factors(fused, strange).values():
        assert np.isfinite(factors).all()
        assert (factors >= 1 / LIMIT).all()
        assert (factors <= LIMIT).all()
