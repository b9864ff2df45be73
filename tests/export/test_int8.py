from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from elir_deploy.errors import BundleError, QualityError, UsageError
from elir_deploy.export.budget import Budget, Judge, blocks_of
from elir_deploy.export.calibration import CalibrationImage, packaged_images
from elir_deploy.export.int8 import Int8Options, Int8Report, Recipe, calibrate
from elir_deploy.export.precision import open_session
from elir_deploy.export.quantization import activations
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Int8Quality
from elir_deploy.scopes import Outline, layer_of
from elir_deploy.tasks import TASKS
from tests.export.conftest import BYTES, SIZE
from tests.processor import saturating_int8


@pytest.fixture(scope="module")
def images() -> list[CalibrationImage]:
    return packaged_images(TASKS["tiny"], SIZE)


@pytest.fixture(scope="module")
def calibrated(
    fused: ModelProto, outline: Outline, images: list[CalibrationImage]
) -> tuple[Recipe, Int8Report]:
    return calibrate(fused, outline, images, BYTES, Int8Options(max_psnr_drop_db=0.3), 35.0)


def restored(model: ModelProto, image: CalibrationImage) -> np.ndarray:
    return open_session(model).run(None, {"image": image.image[None]})[0].astype(float)


class TestCalibrating:
    def test_the_budget_holds(
        self,
        fused: ModelProto,
        outline: Outline,
        images: list[CalibrationImage],
        calibrated: tuple[Recipe, Int8Report],
    ) -> None:
        recipe, report = calibrated
        measured = report.figures.measured
        assert measured is not None
        assert measured.fidelity_db is not None
        assert measured.fidelity_db >= 35
        assert measured.psnr_drop_db is not None
        assert measured.psnr_drop_db <= 0.3
        again = Judge(fused, images, BYTES).measure(recipe.apply(fused))
        assert again.fidelity_db == pytest.approx(measured.fidelity_db, abs=0.005)
        assert again.psnr_drop_db == pytest.approx(measured.psnr_drop_db, abs=0.00005)
        names = [block.name for block in blocks_of(fused, outline)]
        assert [s.block.name for s in report.sensitivities] == names
        assert [block.block for block in report.figures.blocks] == names

    def test_random_weights_are_quantised_completely_and_not_measured(
        self, fused: ModelProto, outline: Outline, images: list[CalibrationImage]
    ) -> None:
        recipe, report = calibrate(fused, outline, images, BYTES, Int8Options(), None)
        assert report == Int8Report()
        assert recipe.layers == {
            layer for block in blocks_of(fused, outline) for layer in block.layers
        }

    def test_a_budget_out_of_reach_is_an_error(
        self,
        fused: ModelProto,
        outline: Outline,
        images: list[CalibrationImage],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(Budget, "allows", lambda *_: False)
        with pytest.raises(QualityError, match="the best is"):
            calibrate(fused, outline, images, BYTES, Int8Options(), 35.0)

    def test_identical_images_are_null_and_meet_every_floor(
        self, fused: ModelProto, outline: Outline, images: list[CalibrationImage]
    ) -> None:
        """With every block in floating point, 8-bit images do not change."""
        _, report = calibrate(fused, outline, images, BYTES, Int8Options(), 101.0)
        assert report.figures.measured == Int8Quality(0.0, None)
        assert all(block.kept for block in report.figures.blocks)

    @pytest.mark.parametrize("change", [{"equalize": False}, {"correct_biases": False}])
    def test_each_option_changes_the_graph(
        self,
        fused: ModelProto,
        outline: Outline,
        images: list[CalibrationImage],
        change: dict[str, bool],
    ) -> None:
        whole, _ = calibrate(fused, outline, images, BYTES, Int8Options(), None)
        block, _ = calibrate(fused, outline, images, BYTES, Int8Options(**change), None)
        assert whole.to_json() != block.to_json()
        assert bool(block.factors) is change.get("equalize", True)
        assert bool(block.corrections) is change.get("correct_biases", True)

    @pytest.mark.skipif(saturating_int8(), reason="INT8 saturates on this processor: no VNNI")
    def test_openvino_keeps_the_same_picture(
        self, fused: ModelProto, outline: Outline, images: list[CalibrationImage]
    ) -> None:
        openvino = pytest.importorskip("openvino")
        core = openvino.Core()
        recipe, _ = calibrate(fused, outline, images, BYTES, Int8Options(), None)
        made = recipe.apply(fused)
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(made.SerializeToString()), "CPU", settings)
        for image in images:
            exact, ours = restored(fused, image), restored(made, image)
            theirs = compiled(image.image[None])[0].astype(float)
            # Values half-way between two levels go either way, so their errors differ, but not
            # in size.
            assert np.abs(theirs - exact).mean() < 2 * np.abs(ours - exact).mean() + 0.1


class TestSmallestLayer:
    LIMIT = 5000

    @pytest.fixture(scope="class")
    def made(self, fused: ModelProto, outline: Outline, images: list[CalibrationImage]) -> Recipe:
        options = Int8Options(smallest_layer=self.LIMIT)
        return calibrate(fused, outline, images, BYTES, options, None)[0]

    def test_small_layers_have_no_pair_and_large_ones_do(
        self, fused: ModelProto, made: Recipe
    ) -> None:
        weights = {t.name: int(np.prod(t.dims)) for t in fused.graph.initializer}
        small, large = [], []
        for node in made.apply(fused).graph.node:
            if node.op_type in ("Conv", "ConvTranspose"):
                name = node.input[1].removesuffix(".dequantized")
                (small if weights[name] < self.LIMIT else large).append(node.input[1])
        assert small
        assert large
        assert not any(name.endswith(".dequantized") for name in small)
        assert all(name.endswith(".dequantized") for name in large)

    def test_all_steps_use_the_same_layers(
        self, fused: ModelProto, outline: Outline, made: Recipe
    ) -> None:
        blocks = blocks_of(fused, outline, self.LIMIT)
        assert made.layers == {layer for block in blocks for layer in block.layers}
        assert made.skips == {skip for block in blocks for skip in block.skips}
        read = set(activations(fused, outline.skip_blocks, self.LIMIT))
        assert set(made.amax) <= read < set(activations(fused, outline.skip_blocks))
        layers = {layer_of(node) for node in made.corrections}
        assert layers == made.layers

    def test_the_recipe_stores_the_limit(
        self, fused: ModelProto, made: Recipe, tmp_path: Path
    ) -> None:
        file = tmp_path / "calibration.json"
        file.write_bytes(made.to_json())
        again = Recipe.read(file)
        assert again.smallest_layer == self.LIMIT
        assert again.to_json() == made.to_json()
        assert again.kept == [f"convolutions of fewer than {self.LIMIT} weights"]

    def test_a_recipe_without_a_limit(self) -> None:
        stored = Bundle.open("tiny").path / "calibration.json"
        recipe = Recipe.read(stored)
        assert recipe.smallest_layer == 0
        assert recipe.to_json() == stored.read_bytes()

    @pytest.mark.parametrize("value", [-1, True, 1.0, "1", None])
    def test_a_smallest_layer_that_is_not_a_number(
        self, made: Recipe, tmp_path: Path, value: object
    ) -> None:
        values = {**json.loads(made.to_json()), "smallest_layer": value}
        (tmp_path / "calibration.json").write_text(json.dumps(values))
        with pytest.raises(BundleError, match="is not a number of weights"):
            Recipe.read(tmp_path / "calibration.json")

    def test_below_zero_is_an_error(self) -> None:
        with pytest.raises(UsageError, match="expected 0 weights or more"):
            Int8Options(smallest_layer=-1)

    def test_nothing_may_be_large_enough(
        self, fused: ModelProto, outline: Outline, images: list[CalibrationImage]
    ) -> None:
        options = Int8Options(smallest_layer=10**9)
        recipe, report = calibrate(fused, outline, images, BYTES, options, 35.0)
        assert not recipe.layers
        assert report.sensitivities == ()
        assert "QuantizeLinear" not in {node.op_type for node in recipe.apply(fused).graph.node}


class TestRecipe:
    def test_it_makes_the_same_graph_again(
        self, fused: ModelProto, calibrated: tuple[Recipe, Int8Report], tmp_path: Path
    ) -> None:
        recipe, _ = calibrated
        (tmp_path / "calibration.json").write_bytes(recipe.to_json())
        again = Recipe.read(tmp_path / "calibration.json")
        again.check_graph(fused)
        first, second = (
            r.apply(fused).SerializeToString(deterministic=True) for r in (recipe, again)
        )
        assert first == second
        assert again.to_json() == recipe.to_json()
        assert again.kept == calibrated[1].figures.kept

    def test_another_graph_refuses_it(
        self, fused: ModelProto, calibrated: tuple[Recipe, Int8Report], tmp_path: Path
    ) -> None:
        other = ModelProto()
        other.CopyFrom(fused)
        other.graph.initializer[0].raw_data = bytes(len(other.graph.initializer[0].raw_data))
        with pytest.raises(BundleError, match="for another graph"):
            calibrated[0].check_graph(other)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: text[: len(text) // 2],
            lambda text: b"",
            lambda text: b"\xff\xfe\x00",
            lambda text: b"[]",
            lambda text: b"[" * 100_000,
            lambda text: json.dumps({**json.loads(text), "version": 1}).encode(),
            lambda text: json.dumps({**json.loads(text), "format": "else"}).encode(),
            lambda text: json.dumps({**json.loads(text), "amax": [1, 2]}).encode(),
            lambda text: json.dumps({**json.loads(text), "amax": {"a": "b"}}).encode(),
            lambda text: json.dumps({**json.loads(text), "factors": {"a": [[1]]}}).encode(),
            lambda text: text.replace(b'"skips":', b'"steps":'),
            lambda text: text.replace(b'"everything_int8":', b'"everything":'),
            lambda text: text.replace(b'"macs":', b'"operations":'),
            lambda text: text.replace(b'"kept":false', b'"kept":0'),
            lambda text: text.replace(b'"corrections":{"', b'"corrections":{"a":[NaN],"'),
            lambda text: text.replace(b'"corrections":{"', b'"corrections":{"a":[1e999],"'),
        ],
    )
    def test_a_damaged_file_is_an_error(
        self, calibrated: tuple[Recipe, Int8Report], tmp_path: Path, damage: object
    ) -> None:
        file = tmp_path / "calibration.json"
        file.write_bytes(damage(calibrated[0].to_json()))  # type: ignore[operator]
        with pytest.raises(BundleError, match="is not a calibration of elir-export"):
            Recipe.read(file)

    def test_a_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="cannot be read"):
            Recipe.read(tmp_path / "none.json")
