"""Graphs whose noise is an input: what they compute is what graphs with the same constant do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto

from elir_deploy.export.block_choice import QuantizationOptions
from elir_deploy.export.budget import Judge, blocks_of, measure_sensitivities
from elir_deploy.export.calibration import CalibrationImage, packaged_images
from elir_deploy.export.emulation import emulate_bfloat16, emulate_float16
from elir_deploy.export.float16 import to_float16
from elir_deploy.export.graphs import fuse_stages
from elir_deploy.export.int8 import Recipe, calibrate
from elir_deploy.export.islands import gather_evidence, plan_float16, stage_feeds
from elir_deploy.export.onnx import export_stages
from elir_deploy.export.pixels import Feeder
from elir_deploy.export.precision import open_session
from elir_deploy.export.verification import _Parts
from elir_deploy.model import Elir
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.scopes import Outline, boundaries
from elir_deploy.static_graph import FixedNoise, build_static_graph, noise_values
from elir_deploy.tasks import TASKS
from tests.export.conftest import BYTES, FIELD, SIZE, STEPS

WITH_NOISE = replace(BYTES, noise=FIELD)
Stages = dict[str, ModelProto]


@pytest.fixture(scope="module")
def having(model: Elir) -> Stages:
    """The stages of a graph that has the same noise in it."""
    values = noise_values(FIELD, (1, 16, SIZE // 8, SIZE // 8))
    noise = FixedNoise(values, 3, "0" * 64)
    return export_stages(build_static_graph(model, image_size=SIZE, steps=STEPS, noise=noise))


@pytest.fixture(scope="module")
def images() -> list[CalibrationImage]:
    return packaged_images(TASKS["tiny"], SIZE)


def result(model: ModelProto, feeder: Feeder, image: np.ndarray) -> np.ndarray:
    return open_session(model).run(None, feeder(image))[0]


def test_the_noise_is_the_second_input_of_the_flow(taking: Stages) -> None:
    inputs = {stage: [v.name for v in graph.graph.input] for stage, graph in taking.items()}
    assert inputs == {
        "encoder": ["image"],
        "estimator": ["encoded"],
        "flow": ["coarse", "noise"],
        "decoder": ["flowed"],
    }
    for graph in (taking["flow"], fuse_stages(taking)):
        (noise,) = [v for v in graph.graph.input if v.name == "noise"]
        sides = [d.dim_value for d in noise.type.tensor_type.shape.dim]
        assert sides == [1, 16, SIZE // 8, SIZE // 8]
        assert not {t.name for t in graph.graph.initializer if "noise" in t.name}


def as_they_are(model: ModelProto, feeds: list[dict[str, np.ndarray]]) -> ModelProto:
    return model


def in_float16(model: ModelProto, feeds: list[dict[str, np.ndarray]]) -> ModelProto:
    return to_float16(model, plan_float16(model, gather_evidence(model, feeds)))


CONVERSIONS: dict[str, Callable[[ModelProto, list[dict[str, np.ndarray]]], ModelProto]] = {
    "fp32": as_they_are,
    "fp16": in_float16,
    "emulated fp16": lambda model, feeds: emulate_float16(in_float16(model, feeds)),
    "emulated bf16": lambda model, feeds: emulate_bfloat16(model),
}


@pytest.mark.parametrize("precision", CONVERSIONS)
def test_graphs_with_and_without_the_input_agree(
    taking: Stages, having: Stages, images: list[CalibrationImage], precision: str
) -> None:
    convert = CONVERSIONS[precision]
    results = []
    for stages, feeder in ((taking, WITH_NOISE), (having, BYTES)):
        whole = convert(fuse_stages(stages), [feeder(images[0].image)])
        results.append(result(whole, feeder, images[1].image))
    if precision in ("fp32", "emulated fp16"):
        np.testing.assert_array_equal(*results)
    else:  # a constant is rounded to bfloat16, an input is not; ONNX Runtime drops float16 casts
        difference = results[0].astype(int) - results[1]
        assert np.abs(difference).max() <= 1
        assert (difference != 0).mean() < 0.1
    other = result(convert(fuse_stages(taking), [WITH_NOISE(images[0].image)]),
                   replace(BYTES, noise=NoiseField(4, 0.5)), images[1].image)  # fmt: skip
    assert (other != results[0]).mean() > 0.5


def test_int8_is_calibrated_and_measured_with_the_noise(
    taking: Stages, having: Stages, outline: Outline, images: list[CalibrationImage]
) -> None:
    recipes: list[Recipe] = []
    figures = []
    for stages, feeder in ((taking, WITH_NOISE), (having, BYTES)):
        whole = fuse_stages(stages)
        recipe, _ = calibrate(whole, outline, images, feeder, QuantizationOptions(), None)
        blocks = [b for b in blocks_of(whole, outline) if b.stage in ("estimator", "decoder")][::4]

        def quantized(
            chosen: object, recipe: Recipe = recipe, whole: ModelProto = whole
        ) -> ModelProto:
            return recipe.apply(whole)

        found = measure_sensitivities(whole, blocks, quantized, images[:1], feeder)
        recipes.append(recipe)
        figures.append(
            (Judge(whole, images, feeder).measure(recipe.apply(whole)), [s.mse for s in found])
        )
    assert recipes[0].amax == recipes[1].amax
    assert figures[0] == figures[1]


def test_every_part_is_verified_with_the_noise(
    model: Elir, taking: Stages, images: list[CalibrationImage]
) -> None:
    x = torch.from_numpy(images[0].image.astype(np.float32) / 255).permute(2, 0, 1)[None]
    with torch.inference_mode():
        z = model.estimator(model.encoder(x)) + noise_values(FIELD, (1, 16, SIZE // 8, SIZE // 8))
        z = z + model.vector_field(z, torch.zeros(1)) / STEPS
    for graphs in (list(taking.values()), [fuse_stages(taking)]):
        parts = _Parts(graphs, None, STEPS)
        ends = parts.run_in_turn(WITH_NOISE(images[0].image))
        assert list(ends) == [*boundaries(STEPS), "formatting"]
        np.testing.assert_allclose(ends["step1"], z.numpy(), atol=1e-4, rtol=0)
        alone = parts.run_alone(WITH_NOISE(images[0].image), ends)
        for part, value in alone.items():
            np.testing.assert_array_equal(value, ends[part])


def test_float16_is_measured_with_the_noise(taking: Stages, images: list[CalibrationImage]) -> None:
    feed = WITH_NOISE(images[0].image)
    feeds = stage_feeds(taking, [feed])
    assert feeds["flow"][0]["noise"] is feed["noise"]
    assert list(feeds["decoder"][0]) == ["flowed"]
    loud = {**feed, "noise": 1e6 * feed["noise"]}
    flow = stage_feeds(taking, [loud])["flow"]
    assert (
        "flow.noise.add"
        in plan_float16(taking["flow"], gather_evidence(taking["flow"], flow)).reasons
    )


def test_the_graph_is_checked_whole(taking: Stages) -> None:
    for graph in taking.values():
        onnx.checker.check_model(graph, full_check=True)
