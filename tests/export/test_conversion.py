from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from elir_deploy.export import islands
from elir_deploy.export.conversion import convert_graphs
from elir_deploy.export.graphs import fuse_stages
from elir_deploy.export.islands import gather_evidence
from elir_deploy.export.options import ExportOptions
from elir_deploy.export.references import Reference
from elir_deploy.export.shapes import free_shapes
from elir_deploy.fixed_shapes import fixed
from elir_deploy.progress import no_progress
from elir_deploy.scopes import FUSED
from tests.export.conftest import SIZE
from tests.export.test_noise_input import WITH_NOISE

LARGE = (2 * SIZE, 3 * SIZE)


def reference(*size: int) -> Reference:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Reference("noise", pixels, pixels, {})


def squares(graph: ModelProto, size: tuple[int, int]) -> float:
    """Largest sum of squares in a normalisation, on the reference of a size."""
    feed = WITH_NOISE(reference(*size).image)
    sides = {name: array.shape for name, array in feed.items()}
    return max(gather_evidence(fixed(free_shapes(graph), sides), [feed]).sums.values())


@pytest.mark.parametrize("sizes", [[(SIZE, SIZE)], [(SIZE, SIZE), LARGE]])
def test_float16_is_measured_at_every_size_of_the_references(
    taking: dict[str, ModelProto], monkeypatch: pytest.MonkeyPatch, sizes: list[tuple[int, int]]
) -> None:
    """Sums in normalisation grow with the size: here they pass the limit at the larger one."""
    graph = fuse_stages(taking)
    small, large = squares(graph, (SIZE, SIZE)), squares(graph, LARGE)
    assert large > 4 * small
    monkeypatch.setattr(islands, "FLOAT16_MAX", 1e9)
    monkeypatch.setattr(islands, "HEADROOM", 1e9 / (2 * small))
    monkeypatch.setattr(islands, "LEAST_DB", -1000.0)
    monkeypatch.setattr("elir_deploy.export.conversion.extreme_images", lambda *_: {})
    for stages in ({FUSED: graph}, taking):
        references = [reference(*size) for size in sizes]
        ((_, converted),) = convert_graphs(
            stages, ExportOptions(), WITH_NOISE, references, None, ["fp16"], no_progress
        )
        reasons = [line for line in converted.kept if "sums of squares reach" in line]
        assert bool(reasons) == (len(sizes) > 1)
