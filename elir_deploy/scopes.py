"""Names of the nodes and tensors of exported graphs, and their meaning.

A node is named after the module that it comes from, its *scope*: ``encoder.layers.3.conv.0`` makes
``encoder.layers.3.conv.0.conv``. In the flow the Euler step comes in between:
``flow.step2.vector_field.first_proj.conv``. Without the step it is a *layer*: what all steps
share, weights included. The static graph has its modules under these names and publishes an
:class:`Outline` of them, and the exporter carries the names into ONNX. Code that looks for
something in a graph uses this module.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from elir_deploy.errors import ElirError

__all__ = [
    "DECODED",
    "DECODER",
    "ENCODER",
    "ESTIMATOR",
    "FLOW",
    "FUSED",
    "IMAGE_INPUT",
    "IMAGE_OUTPUT",
    "STAGE_SCOPES",
    "STAGE_TENSORS",
    "Boundary",
    "Outline",
    "boundaries",
    "in_scope",
    "in_step",
    "layer_of",
    "node_name",
    "stage_of",
    "step_name",
    "step_scope",
]

IMAGE_INPUT = "image_input"
ENCODER = "encoder"
ESTIMATOR = "estimator"
FLOW = "flow"
DECODER = "decoder"
#: Converts the decoded image to the output format.
IMAGE_OUTPUT = "image_output"

#: The outermost scopes of each stage, in order.
STAGE_SCOPES: dict[str, tuple[str, ...]] = {
    ENCODER: (IMAGE_INPUT, ENCODER),
    ESTIMATOR: (ESTIMATOR,),
    FLOW: (FLOW,),
    DECODER: (DECODER, IMAGE_OUTPUT),
}
#: All stages in one graph.
FUSED = "fused"
#: Input and output of each stage; neighbours share a tensor.
STAGE_TENSORS: dict[str, tuple[str, str]] = {
    ENCODER: ("image", "encoded"),
    ESTIMATOR: ("encoded", "coarse"),
    FLOW: ("coarse", "flowed"),
    DECODER: ("flowed", "restored"),
    FUSED: ("image", "restored"),
}
#: The decoded image before it is clipped.
DECODED = "decoded"
_STEP = re.compile(r"\.step\d+(?=\.)")


def step_name(step: int) -> str:
    """Name of an Euler step, counted from 1."""
    return f"step{step}"


def step_scope(step: int) -> str:
    """The scope of an Euler step, counted from 1."""
    return f"{FLOW}.{step_name(step)}"


def in_step(scope: str, step: str) -> str:
    """A scope of the flow within the step of scope ``step``; :func:`layer_of` undoes it."""
    return step if scope == step else step + scope.removeprefix(FLOW)


def layer_of(name: str) -> str:
    """A node's name without its Euler step: what all steps share, weights included."""
    return _STEP.sub("", name)


def node_name(scope: str, operator: str) -> str:
    """Name of the first node with this operator in a scope."""
    return f"{scope}.{operator.lower()}"


def in_scope(name: str, scope: str) -> bool:
    """Whether a node, a tensor or a scope of that name is inside ``scope``, or is it."""
    return name == scope or name.startswith(f"{scope}.")


def stage_of(name: str) -> str | None:
    """The stage that a node belongs to; None where its name does not begin with a scope."""
    for stage, scopes in STAGE_SCOPES.items():
        if any(in_scope(name, scope) for scope in scopes):
            return stage
    return None


@dataclass(frozen=True)
class Boundary:
    """The end of a part of the network that errors are measured at.

    Attributes:
        scope: of the part's module.
        tensor: that it ends with.
    """

    scope: str
    tensor: str


def boundaries(steps: int) -> dict[str, Boundary]:
    """The ends of encoder, estimator, Euler steps (``step1`` ...) and decoder, in graph order."""
    ends = {
        ENCODER: Boundary(ENCODER, STAGE_TENSORS[ENCODER][1]),
        ESTIMATOR: Boundary(ESTIMATOR, STAGE_TENSORS[ESTIMATOR][1]),
    }
    for step in range(1, steps + 1):
        name = step_name(step)
        tensor = name if step < steps else STAGE_TENSORS[FLOW][1]
        ends[name] = Boundary(step_scope(step), tensor)
    ends[DECODER] = Boundary(DECODER, DECODED)
    return ends


@dataclass(frozen=True)
class Outline:
    """The structure of a static graph, by scopes without Euler steps.

    Attributes:
        steps: Euler steps.
        blocks: modules that may be quantised, each as a whole or not at all.
        rgb_ends: the convolutions that read and write RGB, which are in none of the blocks.
    """

    steps: int
    blocks: tuple[str, ...]
    rgb_ends: tuple[str, ...]

    def block_of(self, layer: str) -> str | None:
        """The block that a convolution belongs to; None for the RGB ends.

        Raises:
            ElirError: it is neither.
        """
        for block in self.blocks:
            if in_scope(layer, block):
                return block
        if not any(in_scope(layer, end) for end in self.rgb_ends):
            raise ElirError(
                f"convolution {layer} is in no block of the static graph, expected one of "
                f"{', '.join((*self.blocks, *self.rgb_ends))}"
            )
        return None

    def check(self, stage: str, layers: Collection[str]) -> None:
        """Check that a stage's graph has the structure of the static graph.

        Args:
            stage: one of :data:`STAGE_SCOPES`.
            layers: of the graph's convolutions.

        Raises:
            ElirError: a convolution that is in no block, or a block or an RGB end that is missing.
        """
        for layer in layers:
            self.block_of(layer)
        for scope in (*self.blocks, *self.rgb_ends):
            if stage_of(scope) == stage and not any(in_scope(layer, scope) for layer in layers):
                raise ElirError(f"the exported {stage} has no convolution in {scope}")
