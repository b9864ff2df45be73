"""The inputs and outputs of graphs, by the manifest and as a library reports them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from elir_deploy.errors import BundleError
from elir_deploy.text import shortened

__all__ = ["End", "GraphEnds", "check_ends"]


class End(NamedTuple):
    """An input or output of a graph.

    Attributes:
        name: of the tensor.
        dtype: of its elements, such as ``uint8``.
        dims: its sides; None for one that the graph leaves open.
    """

    name: str
    dtype: str
    dims: tuple[int | None, ...]

    def __str__(self) -> str:
        sides = "x".join("?" if side is None else str(side) for side in self.dims)
        return f"{shortened(self.name)}: {self.dtype} {sides}".rstrip()


class GraphEnds(NamedTuple):
    """The inputs and outputs of a graph, each in the graph's order."""

    inputs: list[End]
    outputs: list[End]


def check_ends(subject: str, actual: GraphEnds, expected: GraphEnds) -> None:
    """Compare what a library read with the manifest.

    Args:
        subject: whose ends they are, for the message, such as ``the graph's``.

    Raises:
        BundleError: they differ.
    """
    for what, seen, wanted in zip(("input", "output"), actual, expected, strict=True):
        if seen != wanted:
            raise BundleError(
                f"{subject} {what} is {_listed(seen)}, the manifest says {_listed(wanted)}: "
                "the files of two bundles were mixed, copy the bundle again"
            )


def _listed(ends: Sequence[End]) -> str:
    return ", ".join(map(str, ends[:4])) or "nothing"
