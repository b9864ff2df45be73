from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper

from elir_deploy.errors import ElirError, UsageError
from elir_deploy.export import onnx as onnx_export
from elir_deploy.export.graphs import fuse_stages, serialized
from elir_deploy.export.onnx import OPSETS, export_stage, export_stages
from elir_deploy.export.precision import open_session
from elir_deploy.model import Elir
from elir_deploy.scopes import boundaries, layer_of, stage_of
from elir_deploy.static_graph import FixedNoise, Rewrites, StaticElir, build_static_graph
from tests.export.conftest import SIZE, SMALL, STEPS


def run(model: ModelProto, value: np.ndarray) -> np.ndarray:
    return open_session(model).run(None, {model.graph.input[0].name: value})[0]


def test_every_stage_equals_pytorch(
    static: StaticElir, stages: dict[str, ModelProto], pixels: np.ndarray
) -> None:
    value = pixels
    with torch.inference_mode():
        for name, graph in stages.items():
            expected = static.stages[name](torch.from_numpy(value)).numpy()
            given = run(graph, value)
            assert given.dtype == expected.dtype
            if name == "decoder":
                assert np.abs(given.astype(int) - expected).max() <= 1
            else:
                # The two libraries add up thousands of products in different orders.
                np.testing.assert_allclose(given, expected, atol=1e-4, rtol=0)
            value = expected


def test_fused_equals_the_chain_to_the_bit(
    stages: dict[str, ModelProto], fused: ModelProto, pixels: np.ndarray
) -> None:
    value = pixels
    for graph in stages.values():
        value = run(graph, value)
    np.testing.assert_array_equal(run(fused, pixels), value)


def test_float32_images_equal_the_model(
    model: Elir, noise: FixedNoise, stages: dict[str, ModelProto]
) -> None:
    static = build_static_graph(model, image_size=SIZE, steps=STEPS, noise=noise, io="float32")
    ends = {name: export_stage(static, name) for name in ("encoder", "decoder")}
    image = torch.rand(1, 3, SIZE, SIZE)
    restored = run(fuse_stages(stages | ends), image.numpy())  # between them images do not count
    with torch.inference_mode():
        expected = model(image, STEPS, noise.values).numpy()
    assert expected.std() > 0.05
    assert np.abs(restored - expected).max() < 1e-4


def test_weights_exist_once_whatever_the_number_of_steps(model: Elir, noise: FixedNoise) -> None:
    def flow_weights(steps: int) -> list[str]:
        static = build_static_graph(model, image_size=SIZE, steps=steps, noise=noise)
        graph = export_stage(static, "flow").graph
        return sorted(t.name for t in graph.initializer if len(t.dims) == 4 and t.dims[0] > 1)

    assert flow_weights(1) == flow_weights(4)


def test_nodes_are_named_after_their_modules(fused: ModelProto) -> None:
    names = [node.name for node in fused.graph.node]
    assert len(set(names)) == len(names)
    assert "encoder.layers.0.conv" in names
    assert "flow.step2.vector_field.down.0.residual.block1.norm.instancenormalization" in names
    assert "flow.vector_field.first_proj.weight" in {t.name for t in fused.graph.initializer}


def test_every_node_is_in_a_scope_of_its_stage(
    static: StaticElir, stages: dict[str, ModelProto]
) -> None:
    modules = {
        scope: module for stage in static.stages.values() for scope, module in stage.named_modules()
    }
    for stage, graph in stages.items():
        for node in graph.graph.node:
            assert stage_of(node.name) == stage
            scope, _, _ = layer_of(node.name).partition(f".{node.op_type.lower()}")
            assert scope == "flow" or scope in modules, node.name


def ends_of(graph: ModelProto, steps: int) -> dict[str, str]:
    """What makes each boundary that is in a graph."""
    makers = {name: node.name for node in graph.graph.node for name in node.output}
    return {
        part: makers[end.tensor] for part, end in boundaries(steps).items() if end.tensor in makers
    }


def test_boundaries_are_where_their_parts_end(fused: ModelProto) -> None:
    assert ends_of(fused, STEPS) == {
        "encoder": "encoder.layers.8.conv",
        "estimator": "estimator.add",
        "step1": "flow.step1.add",
        "step2": "flow.step2.add",
        "decoder": "decoder.layers.12.conv",
    }


@pytest.mark.parametrize("fold", [True, False])
def test_boundaries_of_the_plain_graph_too(model: Elir, noise: FixedNoise, fold: bool) -> None:
    rewrites = Rewrites() if fold else Rewrites.none()
    static = build_static_graph(
        model, image_size=SIZE, steps=3, noise=noise, io="float32", rewrites=rewrites
    )
    flow = export_stage(static, "flow")
    assert ends_of(flow, 3) == {f"step{k}": f"flow.step{k}.add" for k in (1, 2, 3)}


def test_a_stage_that_does_nothing_is_one_node(noise: FixedNoise) -> None:
    with torch.random.fork_rng():
        network = Elir(replace(SMALL, estimator_blocks=0)).eval()
    static = build_static_graph(network, image_size=SIZE, steps=1, noise=noise)
    graph = export_stage(static, "estimator").graph
    assert [(n.name, *n.input, *n.output) for n in graph.node] == [
        ("estimator.identity", "encoded", "coarse")
    ]


class TestUnexpected:
    """The exporter's graph is not what the static graph says."""

    def change_by(self, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]) -> None:
        export = onnx_export._export_module

        def changed(*arguments: Any) -> ModelProto:
            model = export(*arguments)
            change(model.graph)
            return model

        monkeypatch.setattr(onnx_export, "_export_module", changed)

    def test_a_node_without_a_module(
        self, static: StaticElir, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.change_by(monkeypatch, lambda graph: graph.node[3].ClearField("metadata_props"))
        message = (
            r"a Conv of the exported encoder comes from no module, expected .* another version"
        )
        with pytest.raises(ElirError, match=message):
            export_stage(static, "encoder")

    def test_a_node_of_another_module(
        self, static: StaticElir, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def change(graph: Any) -> None:
            for entry in graph.node[-1].metadata_props:
                entry.value = entry.value.replace("image_output", "last")

        self.change_by(monkeypatch, change)
        message = (
            "a Cast of the exported decoder comes from last, expected .* decoder or image_output"
        )
        with pytest.raises(ElirError, match=message):
            export_stage(static, "decoder")

    def test_a_step_that_is_missing(
        self, static: StaticElir, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outline = replace(static.outline, steps=STEPS + 1)
        monkeypatch.setattr(static, "outline", outline)
        with pytest.raises(ElirError, match=r"the exported flow has no node of flow\.step3"):
            export_stage(static, "flow")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"rgb_ends": ()},
                r"convolution encoder\.layers\.0\.conv is in no block .*, expected one",
            ),
            ({"blocks": ("encoder.layers.99",)}, r"convolution .* is in no block"),
            (
                {"blocks": ("encoder", "encoder.layers.99")},
                r"the exported encoder has no convolution in encoder\.layers\.99",
            ),
        ],
    )
    def test_another_outline(
        self,
        static: StaticElir,
        monkeypatch: pytest.MonkeyPatch,
        change: dict[str, tuple[str, ...]],
        message: str,
    ) -> None:
        monkeypatch.setattr(static, "outline", replace(static.outline, **change))
        with pytest.raises(ElirError, match=message):
            export_stage(static, "encoder")


def test_nothing_of_this_machine_and_nothing_unused_is_left(fused: ModelProto) -> None:
    graph = fused.graph
    for item in (fused, graph, *graph.node, *graph.initializer, *graph.value_info):
        assert not item.metadata_props
        assert not item.doc_string
    read = {name for node in graph.node for name in node.input}
    assert {t.name for t in graph.initializer} <= read
    assert b".py" not in fused.SerializeToString()
    # The time MLP is constants by now: a matrix product would be refused on Turing.
    assert not {node.op_type for node in graph.node} & {"Gemm", "MatMul", "Sin", "Cos"}


def test_bytes_are_reproducible(static: StaticElir, fused: ModelProto) -> None:
    again = fuse_stages(export_stages(static))
    assert again.SerializeToString(deterministic=True) == fused.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("opset", [17, 21, 23])
def test_every_opset_computes_the_same(
    static: StaticElir, fused: ModelProto, pixels: np.ndarray, opset: int
) -> None:
    graph = fuse_stages(export_stages(static, opset))
    assert graph.opset_import[0].version == opset
    difference = run(graph, pixels).astype(int) - run(fused, pixels)
    assert np.abs(difference).max() <= 1
    operators = collections.Counter(node.op_type for node in graph.graph.node)
    assert bool(operators["GroupNormalization"]) == (opset >= 21)


@pytest.mark.parametrize("opset", [OPSETS.start - 1, OPSETS.stop, 0])
def test_other_opsets_are_refused(static: StaticElir, opset: int) -> None:
    with pytest.raises(UsageError, match=f"opset is {opset}, expected 17 to"):
        export_stages(static, opset)


def test_uint8_input_meets_a_cast_first(fused: ModelProto) -> None:
    (reader,) = [node for node in fused.graph.node if "image" in node.input]
    assert reader.op_type == "Cast"
    (writer,) = [node for node in fused.graph.node if "restored" in node.output]
    assert writer.op_type == "Cast"


def test_metadata_travels_in_the_file(fused: ModelProto) -> None:
    read = onnx.load_model_from_string(serialized(fused, {"elir.task": "2", "elir.stage": "1"}))
    entries = [(entry.key, entry.value) for entry in read.metadata_props]
    assert entries == [("elir.stage", "1"), ("elir.task", "2")]
    assert not fused.metadata_props


def test_the_noise_is_baked_in(fused: ModelProto, noise: FixedNoise) -> None:
    baked = {t.name: numpy_helper.to_array(t) for t in fused.graph.initializer}["flow.noise.values"]
    np.testing.assert_array_equal(baked, noise.values.numpy())
