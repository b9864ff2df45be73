from __future__ import annotations

import pytest

from elir_deploy.errors import ElirError
from elir_deploy.runtime.manifest import SPLIT_STAGES
from elir_deploy.scopes import (
    STAGE_SCOPES,
    STAGE_TENSORS,
    Outline,
    boundaries,
    in_scope,
    in_step,
    layer_of,
    stage_of,
    step_scope,
)

OUTLINE = Outline(
    steps=2,
    blocks=("encoder.layers.1", "encoder.layers.12", "flow.vector_field.down.1"),
    rgb_ends=("encoder.layers.0",),
)


def test_stages_are_those_of_a_split_bundle_and_chain() -> None:
    assert tuple(STAGE_SCOPES) == SPLIT_STAGES
    ends = [STAGE_TENSORS[stage] for stage in STAGE_SCOPES]
    assert [before[1] for before in ends[:-1]] == [after[0] for after in ends[1:]]
    assert STAGE_TENSORS["fused"] == (ends[0][0], ends[-1][1])


@pytest.mark.parametrize(
    "scope", ["flow.vector_field.down.0.residual", "flow.vector_field", "flow.noise"]
)
def test_layers_are_the_same_in_every_step(scope: str) -> None:
    names = [f"{in_step(scope, step_scope(step))}.add" for step in (1, 12)]
    assert names[1] == f"flow.step12{scope.removeprefix('flow')}.add"
    assert {layer_of(name) for name in names} == {f"{scope}.add"}


def test_a_step_s_own_nodes_and_those_of_no_step() -> None:
    assert in_step(step_scope(2), step_scope(2)) == "flow.step2"
    assert layer_of("flow.step2.add") == "flow.add"
    assert layer_of("encoder.layers.0.conv") == "encoder.layers.0.conv"


def test_a_scope_is_no_prefix() -> None:
    assert in_scope("encoder.layers.1.conv.0", "encoder.layers.1")
    assert in_scope("encoder.layers.1", "encoder.layers.1")
    assert not in_scope("encoder.layers.12.conv.0", "encoder.layers.1")


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("image_input.cast", "encoder"),
        ("encoder.layers.0.conv", "encoder"),
        ("estimator.add", "estimator"),
        ("flow.step1.add", "flow"),
        ("image_output.clip", "decoder"),
        ("step1.to_fp32", None),
        ("encoded", None),
    ],
)
def test_stages_of_names(name: str, stage: str | None) -> None:
    assert stage_of(name) == stage


def test_the_last_step_ends_with_the_flow() -> None:
    assert {part: end.tensor for part, end in boundaries(3).items()} == {
        "encoder": "encoded",
        "estimator": "coarse",
        "step1": "step1",
        "step2": "step2",
        "step3": "flowed",
        "decoder": "decoded",
    }


def test_blocks_of_layers() -> None:
    assert OUTLINE.block_of("encoder.layers.12.conv") == "encoder.layers.12"
    assert OUTLINE.block_of("encoder.layers.0.conv") is None
    with pytest.raises(ElirError, match=r"encoder\.layers\.2\.conv is in no block of the static"):
        OUTLINE.block_of("encoder.layers.2.conv")


def test_a_stage_is_held_against_what_is_published_of_it() -> None:
    layers = [f"{part}.conv" for part in (*OUTLINE.blocks, *OUTLINE.rgb_ends)]
    OUTLINE.check("encoder", layers)
    OUTLINE.check("encoder", layers[:2] + layers[3:])  # the flow is another stage
    with pytest.raises(ElirError, match=r"flow has no convolution in flow\.vector_field\.down\.1"):
        OUTLINE.check("flow", [])
    with pytest.raises(ElirError, match=r"encoder has no convolution in encoder\.layers\.0"):
        OUTLINE.check("encoder", layers[:3])
