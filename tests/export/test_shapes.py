"""Graphs of several shapes compute what a graph exported at each shape does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from onnx import ModelProto

from elir_deploy.export.emulation import emulate_float16
from elir_deploy.export.float16 import to_float16
from elir_deploy.export.graphs import fuse_stages, serialized
from elir_deploy.export.islands import gather_evidence, plan_float16
from elir_deploy.export.onnx import export_stages
from elir_deploy.export.pixels import Feeder
from elir_deploy.export.precision import open_session, shapes_of
from elir_deploy.export.quantization import conv_layers, place, quantize_graph
from elir_deploy.export.shapes import for_shapes, largest
from elir_deploy.fixed_shapes import fixed
from elir_deploy.model import Elir
from elir_deploy.runtime.manifest import Shape
from elir_deploy.static_graph import build_static_graph
from elir_deploy.tasks import TASKS
from tests.export.conftest import FIELD, SIZE, STEPS

FLOATS = Feeder("float32", FIELD)
SHAPES = [Shape(1, SIZE, SIZE), Shape(1, 96, 32), Shape(1, 32, 128)]


def whole(model: Elir, size: tuple[int, int], steps: int = STEPS, opset: int = 18) -> ModelProto:
    static = build_static_graph(model, image_size=size, steps=steps, noise=FIELD, io="float32")
    return fuse_stages(export_stages(static, opset))


def pictures(shape: Shape, count: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(shape.height)
    size = (shape.graph_height, shape.graph_width, 3)
    return [rng.integers(0, 256, size, dtype=np.uint8) for _ in range(count)]


def run(model: ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    return open_session(model).run(None, feed)[0]


def sides_of(feed: dict[str, np.ndarray]) -> dict[str, Sequence[int]]:
    return {name: array.shape for name, array in feed.items()}


def assert_equal_at_every_shape(
    network: Elir, shapes: list[Shape], steps: int, opset: int = 18
) -> None:
    first = (shapes[0].graph_height, shapes[0].graph_width)
    general = for_shapes(whole(network, first, steps, opset), shapes)
    for shape in shapes[1:]:
        alone = whole(network, (shape.graph_height, shape.graph_width), steps, opset)
        (picture,) = pictures(shape)
        feed = FLOATS(picture)
        expected = run(alone, feed)
        assert expected.std() > 0.01
        assert np.abs(run(general, feed) - expected).max() < 1e-5
        stated = fixed(general, sides_of(feed))
        assert np.abs(run(stated, feed) - expected).max() < 1e-5
        inferred = shapes_of(stated)
        known = {name: sides for name, sides in shapes_of(alone).items() if name in inferred}
        assert {value.name for value in alone.graph.value_info} <= set(known)
        assert known == {name: inferred[name] for name in known}


@pytest.mark.parametrize("opset", [17, 18, 21])
def test_a_graph_of_any_shape_equals_the_export_of_that_shape(model: Elir, opset: int) -> None:
    assert_equal_at_every_shape(model, SHAPES, STEPS, opset)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["bsr", "bfr"])
def test_so_it_is_for_the_tasks_networks(task: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Elir(TASKS[task].architecture).eval().requires_grad_(False)
        torch.nn.init.normal_(network.decoder.layers[-1].weight, std=0.2)
    assert_equal_at_every_shape(network, SHAPES[:2], TASKS[task].steps)


def quantized(model: ModelProto) -> ModelProto:
    placement = place(model, conv_layers(model))
    return quantize_graph(model, placement, dict.fromkeys(placement.groups.values(), 8.0))


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8 in fp16"])
def test_reduced_precisions_are_those_of_the_fixed_shape(model: Elir, precision: str) -> None:
    results = []
    feed = FLOATS(*pictures(SHAPES[1]))
    for shapes in (SHAPES, [SHAPES[1]]):
        exported = whole(model, (shapes[0].height, shapes[0].width))
        evidence = gather_evidence(exported, [FLOATS(*pictures(shapes[0]))])
        plan = plan_float16(exported, evidence, normalization="float32")
        graph = quantized(exported) if "int8" in precision else exported
        graph = to_float16(graph, plan) if "fp16" in precision else graph
        graph = for_shapes(graph, shapes)
        if "fp16" in precision:  # as it is verified: in true half arithmetic
            graph = emulate_float16(graph if len(shapes) == 1 else fixed(graph, sides_of(feed)))
        results.append(run(graph, feed))
    np.testing.assert_allclose(*results, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "shapes", [[Shape(3, SIZE, SIZE)], [Shape(3, SIZE, SIZE), Shape(3, 96, 32)]]
)
def test_a_batch_gives_what_its_images_give_alone(
    taking: dict[str, ModelProto], shapes: list[Shape]
) -> None:
    session = open_session(for_shapes(fuse_stages(taking), shapes))
    feeds = [Feeder("uint8", FIELD)(picture) for picture in pictures(shapes[-1], 3)]
    alone = [session.run(None, feed)[0] for feed in feeds]
    together = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    np.testing.assert_array_equal(session.run(None, together)[0], np.concatenate(alone))


def ends(model: ModelProto) -> dict[str, list[int | str]]:
    return {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (
            [Shape(8, SIZE, SIZE)],
            {
                "image": ["batch", SIZE, SIZE, 3],
                "noise": ["batch", 16, SIZE // 8, SIZE // 8],
                "restored": ["batch", SIZE, SIZE, 3],
            },
        ),
        (
            [Shape(1, SIZE, SIZE), Shape(1, 32, 96)],
            {
                "image": [1, "height", "width", 3],
                "noise": [1, 16, "", ""],
                "restored": [1, "", "", 3],
            },
        ),
        (
            [Shape(1, SIZE, SIZE), Shape(2, 32, 96)],
            {
                "image": ["batch", "height", "width", 3],
                "noise": ["batch", 16, "", ""],
                "restored": ["batch", "", "", 3],
            },
        ),
    ],
)
def test_only_the_dimensions_that_vary_are_free(
    taking: dict[str, ModelProto], shapes: list[Shape], expected: dict[str, list[int | str]]
) -> None:
    fused = fuse_stages(taking)
    general = for_shapes(fused, shapes)
    assert ends(general) == expected
    assert not general.graph.value_info
    assert len(serialized(general, {})) <= 1.02 * len(serialized(fused, {}))
    for stage in taking.values():
        serialized(for_shapes(stage, shapes), {})


def test_one_image_of_one_shape_is_the_graph_itself(taking: dict[str, ModelProto]) -> None:
    fused = fuse_stages(taking)
    assert for_shapes(fused, [Shape(1, SIZE, SIZE)]) is fused


def test_the_largest_shape_is_that_of_most_pixels() -> None:
    padded = Shape(1, 720, 1280, 736, 1280)
    assert largest([Shape(8, 64, 64), padded, Shape(1, 1280, 720, 1280, 736)]) is padded
