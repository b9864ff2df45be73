from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from elir_deploy.export.bias_correction import bias_corrections
from elir_deploy.export.calibration import TensorStatistics, collect_statistics
from elir_deploy.export.precision import open_session
from elir_deploy.export.quantization import activations, conv_layers, place, quantize_graph
from tests.export.test_quantization import lone_convolution


def lone_statistics(model: ModelProto, images: np.ndarray) -> TensorStatistics:
    feeds = [{"x": image[None]} for image in images]
    return collect_statistics(model, ["x"], feeds, images=len(images))["x"]


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("peak", [6.0, 1.0], ids=["covered", "clipped"])
def test_the_mean_error_goes_away(op_type: str, peak: float) -> None:
    rng = np.random.default_rng(2)
    size = 4 if op_type == "ConvTranspose" else 3
    shape = (6, 4, size, size) if op_type == "ConvTranspose" else (4, 6, size, size)
    weight = rng.normal(size=shape).astype(np.float32)
    weight.flat[:: weight.size // 7] *= 40  # so that the others are rounded coarsely
    model = lone_convolution(op_type, weight, None)
    # Flat images: a border would be another mean, which one bias cannot make good.
    images = np.abs(rng.normal(1, 0.5, size=(8, 6, 1, 1))).repeat(8, 2).repeat(8, 3)
    images = images.astype(np.float32)
    placement = place(model, ["net.conv"])
    found = bias_corrections(model, placement, {"x": peak}, {"x": lone_statistics(model, images)})

    def mean_error(corrections: dict[str, np.ndarray]) -> np.ndarray:
        made = open_session(quantize_graph(model, placement, {"x": peak}, corrections))
        exact = open_session(model)
        errors = [
            made.run(None, {"x": i[None]})[0] - exact.run(None, {"x": i[None]})[0] for i in images
        ]
        return np.mean(errors, axis=(0, 1, 3, 4) if False else 0)[0, :, 2:-2, 2:-2].mean(
            axis=(1, 2)
        )

    before, after = mean_error({}), mean_error(found)
    assert np.abs(before).max() > 0.05
    # Within the interior every tap sees the mean; a transposed one sees a quarter of them in turn.
    assert np.abs(after).max() < 0.05 * np.abs(before).max() + 1e-4


def test_inputs_that_are_put_together_are_followed(fused: ModelProto, pixels: np.ndarray) -> None:
    read = activations(fused)
    statistics = collect_statistics(fused, read, [{"image": pixels}], images=1)
    placement = place(fused, conv_layers(fused))
    amax: dict[str, float] = {}
    for tensor, group in placement.groups.items():
        amax[group] = max(amax.get(group, 0), float(statistics[tensor].peak.max()))
    found = bias_corrections(fused, placement, amax, statistics)
    convolutions = {n.name: n for n in fused.graph.node if n.op_type in ("Conv", "ConvTranspose")}
    assert found.keys() == convolutions.keys()
    sizes = {t.name: t.dims for t in fused.graph.initializer}
    for name, correction in found.items():
        node = convolutions[name]
        channels = sizes[node.input[1]][1 if node.op_type == "ConvTranspose" else 0]
        assert correction.shape == (channels,)
        assert np.isfinite(correction).all()
