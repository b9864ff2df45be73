"""Manifests that lie about noise, shapes and batches: refused before anything is allocated."""

from __future__ import annotations

import copy
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elir_deploy.errors import BundleError, UnavailableError
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.manifest import NOISE_TENSOR, Manifest
from elir_deploy.runtime.manifest_file import MAX_MANIFEST_BYTES, MAX_TENSOR_BYTES
from elir_deploy.runtime.noise import FIELD_GENERATOR
from elir_deploy.runtime.tiling import choose_tiling
from tests.bundles import make_bundle, read_manifest, write_manifest
from tests.runtime.test_manifest_file import decoded

SHAPES = [{"batch": 4, "height": 32, "width": 64}, {"batch": 1, "height": 64, "width": 64}]

numbers = st.one_of(
    st.sampled_from([-(2**63), -1, 0, 1, 2, 7, 8, 31, 32, 33, 48, 64, 1024, 1025, 65536, 65537]),
    st.sampled_from([2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**63, 2**64, 10**30]),
    st.integers(-5, 3000),
)
odd = st.one_of(
    numbers,
    st.sampled_from([None, True, 0.5, -0.0, 1e308, "", "8", "noise", "image", FIELD_GENERATOR]),
    st.sampled_from([FIELD_GENERATOR.upper(), FIELD_GENERATOR + " ", "philox4x32-10", "x" * 2000]),
    st.sampled_from(["uint8", "float32", "float16", "NHWC", "NCHW", "baked", "field", [], {}]),
)
shapes = st.lists(
    st.fixed_dictionaries(
        {"batch": numbers, "height": numbers, "width": numbers},
        optional={"padded_height": numbers, "padded_width": numbers},
    ),
    max_size=70,
)


@st.composite
def changed(draw: st.DrawFn, plain: dict[str, Any]) -> dict[str, Any]:
    """A manifest with up to three changes to what is said of shapes, noise, tensors and stages."""
    manifest = copy.deepcopy(plain)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.integers(0, 5))
        if kind == 0:
            manifest["shapes"] = draw(shapes)
            continue
        if kind == 1:
            stride = draw(st.sampled_from([0, 1, 2, 5, 16, 32, 64, 1024, 1025]))
            manifest["tensors"]["noise"] = plain["tensors"]["noise"] | {"stride": stride}
            continue
        entry = draw(st.sampled_from(["noise", "model", "stages", "shapes", "tensors"]))
        place: Any = manifest[entry]
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.integers(0, 4)):
                place = place[key]
                continue
            if draw(st.integers(0, 5)):
                place[key] = draw(odd)
            else:
                del place[key]
            break
    return manifest


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "b"
    return make_bundle(folder, stride=8, shapes=SHAPES, references=False)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_what_passes_can_be_tiled(data: st.DataObject, hostile: Path) -> None:
    manifest = data.draw(changed(read_manifest(hostile)))
    tracemalloc.start()
    try:
        read = decoded(manifest)
    except BundleError:
        return
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10e6
    check_tensors(read)
    height, width = data.draw(st.integers(1, 3000)), data.draw(st.integers(1, 3000))
    stride = read.tensors[NOISE_TENSOR].stride if read.noise.generator == FIELD_GENERATOR else 1
    tiling = choose_tiling(read.shapes, height, width, stride)
    for spans, side, tile in (
        (tiling.rows, height, tiling.shape.graph_height),
        (tiling.columns, width, tiling.shape.graph_width),
    ):
        assert (spans[0].begin, spans[-1].end) == (0, side)
        assert all(s.start % stride == 0 and s.end <= s.start + tile for s in spans)


def check_tensors(manifest: Manifest) -> None:
    for shape in manifest.shapes:
        for name in manifest.tensors:
            spec = manifest.tensor(name, shape)
            assert 0 < spec.nbytes <= MAX_TENSOR_BYTES
            assert min(spec.shape) >= 1
            assert len(manifest.dimensions(name)) == len(spec.shape)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_files_that_do_not_fit_are_refused(data: st.DataObject, hostile: Path) -> None:
    """With the graph that the manifest was made for: it runs what it says, or nothing at all."""
    plain = read_manifest(hostile)
    write_manifest(hostile, data.draw(changed(plain)))
    image = np.zeros((40, 40, 3), np.uint8)
    tracemalloc.start()
    try:
        with Restorer(hostile, "onnxruntime", precision="fp32", threads=1) as restore:
            shape = restore.bundle.manifest.shapes[0]
            upscale = restore.bundle.manifest.model.upscale
            if shape.graph_height * shape.graph_width < 2**20:
                assert restore(image).shape == (40 * upscale, 40 * upscale, 3)
    except UnavailableError as error:  # sizes of free dimensions are the library's to check
        if "onnxruntime failed" not in str(error):
            raise
    except BundleError:
        assert tracemalloc.get_traced_memory()[1] < MAX_MANIFEST_BYTES + 3e6  # read at once
    finally:
        tracemalloc.stop()
        write_manifest(hostile, plain)
