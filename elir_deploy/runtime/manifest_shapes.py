"""Entries of the manifest about what goes in: noise, shapes, tensors."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from elir_deploy.runtime.manifest_fields import Count, Record, Sha256, Side, Text

__all__ = ["BakedNoise", "FieldNoise", "Shape", "Tensor"]


class BakedNoise(Record, frozen=True, tag_field="kind", tag="baked"):
    """Noise that is a constant of the graph.

    Attributes:
        generator: the random number generator.
        seed: its seed.
        sha256: hash of the float32 values, scaled by sigma_s.
    """

    generator: Text
    seed: Count
    sha256: Sha256


class FieldNoise(Record, frozen=True, tag_field="kind", tag="field"):
    """Noise that is an input of the graph, a function of seed, channel and position.

    Attributes:
        generator: the function that computes it.
        seed: the default seed.
    """

    generator: Text
    seed: Count


class Shape(Record, frozen=True):
    """A shape of the input.

    Attributes:
        batch: the largest batch.
        height, width: size of each image in pixels.
        padded_height, padded_width: size that the graph takes, if the network needs multiples;
            None: ``height`` and ``width``.
    """

    batch: Annotated[int, Meta(ge=1, le=1024)]
    height: Side
    width: Side
    padded_height: Side | None = None
    padded_width: Side | None = None

    @property
    def graph_height(self) -> int:
        return self.padded_height or self.height

    @property
    def graph_width(self) -> int:
        return self.padded_width or self.width

    @property
    def graph_size(self) -> tuple[int, int]:
        """(graph_height, graph_width)."""
        return self.graph_height, self.graph_width

    def with_batch(self, batch: int) -> Shape:
        """The same size for ``batch`` images."""
        return msgspec.structs.replace(self, batch=batch)


class Tensor(Record, frozen=True):
    """An input or output of a stage, for all shapes.

    Attributes:
        dtype: type of its values.
        layout: order of its four axes.
        channels: number of channels.
        stride: size of one of its pixels in image pixels.
        range: minimum and maximum of an RGB image; None: it is a latent.
    """

    dtype: Literal["uint8", "float32"]
    layout: Literal["NHWC", "NCHW"]
    channels: Side
    stride: Annotated[int, Meta(ge=1, le=1024)]
    range: tuple[Count, Count] | None = None
