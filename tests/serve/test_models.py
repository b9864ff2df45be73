from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import UsageError
from elir_deploy.photo.choices import Choices, file_restorer, open_pictures
from elir_deploy.runtime.images import LoadedImage
from elir_deploy.serve.models import Model, named_bundles
from elir_deploy.serve.parameters import RunOptions
from tests.bundles import make_bundle
from tests.photo.pictures import face_bundle


def opened(path: Path, stack: ExitStack) -> Model:
    [(name, bundle)] = named_bundles([str(path)]).items()
    return Model(name, Choices(bundle, None, "onnxruntime", "fp32"), stack)


def test_images_share_runs_by_their_options(tmp_path: Path) -> None:
    with ExitStack() as stack:
        model = opened(make_bundle(tmp_path / "any", stride=8), stack)
        chosen = [{}, {"seed": 1}, {"seed": 2}, {"sigma_s": 0.5}, {"fit": "resize"}]
        chosen += [{"tile_overlap": 2}, {"tile_overlap": 4}]
        restorers = [model.restorer(run=RunOptions(**each)) for each in chosen]
        assert len(set(restorers)) == len(chosen)
        for each, restorer in zip(chosen, restorers, strict=True):
            assert model.whole(RunOptions(**each)) is restorer
        for seed in range(1000):
            model.restorer(run=RunOptions(seed=seed))
        assert model._of_images.cache_info().currsize <= 64


def test_photographs_have_no_fit(tmp_path: Path) -> None:
    with ExitStack() as stack:
        model = opened(face_bundle(tmp_path / "faces", stride=8), stack)
        first = model.restorer("all", 2, RunOptions(seed=1))
        assert model.restorer("all", 2, RunOptions(seed=1)) is first
        for other in (("all", 1, RunOptions(seed=1)), ("all", 2, RunOptions(seed=2)), ("all", 2)):
            assert model.restorer(*other) is not first  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="fit is for images that the model sees as a whole"):
            model.restorer(run=RunOptions(fit="resize"))
        assert model.whole(RunOptions(fit="tile")) is not model.whole()


def test_aligned_faces_are_restored_as_by_elir_restore(tmp_path: Path) -> None:
    shapes = [{"batch": 1, "height": side, "width": side} for side in (64, 96)]
    path = face_bundle(tmp_path / "faces", shapes=shapes, io="float32", stride=8)
    pixels = np.random.default_rng(0).integers(0, 65536, (96, 96, 3), np.uint16)
    image = LoadedImage(pixels)
    with ExitStack() as stack:
        restorer = opened(path, stack).restorer("aligned", 1, RunOptions(fit="resize"))
        options: dict[str, Any] = {"precision": "fp32", "faces": "aligned", "fit": "resize"}
        choices = Choices.opened(path, None, backend="onnxruntime", **options)
        expected = file_restorer(choices, open_pictures(choices, stack))
        assert (restorer.bits, expected.bits) == (16, 16)
        results = [
            each.restore([each.prepare(image, 1.0)], 1.0, lambda *progress: None)[0].pixels
            for each in (restorer, expected)
        ]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(("name", "before"), [("tiny", ""), ("mine", "mine: ")])
def test_a_name_is_told_once(tmp_path: Path, name: str, before: str) -> None:
    with ExitStack() as stack:
        options: dict[str, Any] = {"task": "tiny"}
        model = opened(make_bundle(tmp_path / name, **options), stack)
        assert model.introduction.startswith(f"{before}tiny: onnxruntime, fp32")
