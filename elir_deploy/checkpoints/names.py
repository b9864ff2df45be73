"""Names of tensors: the authors' and this project's.

A rule is a pattern of a released name and the corresponding name here; both are followed by
``.weight`` or ``.bias``. The rules name over-parametrised convolutions, ``expand`` and ``project``;
for collapsed ones ``expand`` is removed afterwards.
"""

from __future__ import annotations

import re

from elir_deploy.model.estimator import DENSE_BLOCKS, DENSE_CONVOLUTIONS

__all__ = ["our_name", "released_name"]

_RESIDUAL_BLOCK = (
    (r"mlp\.1", r"time_bias"),
    (r"block1\.block\.0", r"block1.norm"),
    (r"block1\.block\.2", r"block1.conv.expand"),
    (r"block1\.block\.3", r"block1.conv.project"),
    (r"block2\.block\.0", r"block2.norm"),
    (r"block2\.block\.2", r"block2.conv.expand"),
    (r"block2\.block\.3", r"block2.conv.project"),
    (r"conv2d", r"skip"),
)
_RESIDUAL_BLOCKS = (
    (r"fmir\.down_blocks\.(\d+)\.0", r"vector_field.down.\1.residual"),
    (r"fmir\.mid_blocks\.(\d+)", r"vector_field.middle.\1"),
    (r"fmir\.up_blocks\.(\d+)\.1", r"vector_field.up.\1.residual"),
)
_DENSE_LAYERS = tuple(
    (
        rf"mmse\.lrm\.(\d+)\.RDB{block + 1}\.conv{conv + 1}\.block",
        rf"estimator.cascade.\1.dense_blocks.{block}.convs.{conv}",
    )
    for block in range(DENSE_BLOCKS)
    for conv in range(DENSE_CONVOLUTIONS)
)
_RULES = (
    (r"enc\.layers\.(\d+|\d+\.conv\.\d+)", r"encoder.layers.\1"),
    (r"dec\.layers\.(\d+|\d+\.conv\.\d+)", r"decoder.layers.\1"),
    (r"fmir\.time_mlp\.linear([12])", r"vector_field.time_embedding.linear\1"),
    (r"fmir\.first_proj", r"vector_field.first_proj"),
    (r"fmir\.down_blocks\.(\d+)\.1\.conv", r"vector_field.down.\1.downsample"),
    (r"fmir\.up_blocks\.(\d+)\.0\.convtr", r"vector_field.up.\1.upsample"),
    (r"fmir\.final_block\.block\.0", r"vector_field.final_block.norm"),
    (r"fmir\.final_block\.block\.2", r"vector_field.final_block.conv.expand"),
    (r"fmir\.final_block\.block\.3", r"vector_field.final_block.conv.project"),
    (r"fmir\.final_proj", r"vector_field.final_proj"),
    *(
        (rf"{block}\.{layer}", rf"{our_block}.{our_layer}")
        for block, our_block in _RESIDUAL_BLOCKS
        for layer, our_layer in _RESIDUAL_BLOCK
    ),
    *((rf"{layer}\.0", rf"{our_layer}.expand") for layer, our_layer in _DENSE_LAYERS),
    *((rf"{layer}\.1", rf"{our_layer}.project") for layer, our_layer in _DENSE_LAYERS),
)
_COMPILED_RULES = tuple(
    (re.compile(rf"{pattern}\.(weight|bias)"), rf"{ours}.\g<{re.compile(pattern).groups + 1}>")
    for pattern, ours in _RULES
)


def _inverse(pattern: str, ours: str) -> tuple[re.Pattern[str], str]:
    """The inverse of a rule; no rule has more than one group."""
    group = re.search(r"\([^)]*\)", pattern)
    if group is None:
        return re.compile(re.escape(ours)), pattern.replace(r"\.", ".")
    return (
        re.compile(re.escape(ours).replace(r"\\1", group[0])),
        pattern.replace(group[0], r"\1").replace(r"\.", "."),
    )


_INVERSE_RULES = tuple(_inverse(pattern, ours) for pattern, ours in _RULES)


def our_name(released: str) -> str | None:
    """This project's name of a tensor; None if there is no rule for it."""
    for pattern, ours in _COMPILED_RULES:
        match = pattern.fullmatch(released)
        if match:
            return match.expand(ours)
    return None


def released_name(ours: str, collapsible: bool) -> str:
    """The authors' name of a tensor, or ``ours`` if there is no rule for it."""
    layer, _, kind = ours.rpartition(".")
    for spelling in (layer,) if collapsible else (f"{layer}.expand", layer):
        for pattern, name in _INVERSE_RULES:
            match = pattern.fullmatch(spelling)
            if match:
                return f"{match.expand(name)}.{kind}"
    return ours
