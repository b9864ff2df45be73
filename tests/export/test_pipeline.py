"""Whole exports of a small model: what lands in the bundle, and what happens when one fails."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from PIL import Image

from elir_deploy.checkpoints import Checkpoint
from elir_deploy.degradations import enlarge
from elir_deploy.errors import (
    BundleError,
    CheckpointError,
    MissingDependencyError,
    QualityError,
    UsageError,
)
from elir_deploy.export import manifest, pipeline
from elir_deploy.export import options as options_module
from elir_deploy.export.block_choice import QuantizationOptions
from elir_deploy.export.budget import Budget
from elir_deploy.export.convolutions import convolution_precisions
from elir_deploy.export.pipeline import ExportOptions, ExportReport, export_bundle
from elir_deploy.export.references import PHOTOGRAPHS, compute_references
from elir_deploy.export.synthetic import synthetic_pictures
from elir_deploy.export.tensorrt import engines
from elir_deploy.export.tensorrt.builder import BuiltEngine
from elir_deploy.export.verification import AUTOMATIC_DB
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import BakedNoise, FieldNoise, Shape, Source, Tensor
from elir_deploy.runtime.manifest_file import decode_manifest
from elir_deploy.runtime.noise import FIELD_GENERATOR, NoiseField
from elir_deploy.runtime.tensorrt_engine import Library
from elir_deploy.static_graph import fixed_noise, noise_values
from elir_deploy.targets import RTX, targets_named
from elir_deploy.tasks import task_named
from tests.export.conftest import SIZE, STEPS


@pytest.fixture(scope="session")
def report(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export_bundle(checkpoint, tmp_path_factory.mktemp("export") / "bundle")


@pytest.fixture
def exported_before(
    taking: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> dict[str, onnx.ModelProto]:
    """The checkpoint's graphs as they are made elsewhere, where making them is not on trial."""
    monkeypatch.setattr(pipeline, "export_stages", lambda *_: dict(taking))
    return taking


def noise_of(checkpoint: Checkpoint) -> torch.Tensor:
    field = NoiseField(0, checkpoint.task.sigma_s)
    return noise_values(field, (1, 16, SIZE // 8, SIZE // 8))


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_bundle_holds_what_its_manifest_says(report: ExportReport) -> None:
    bundle = Bundle.open(report.folder)
    listed = {artifact.file for stage in bundle.stages for artifact in stage.artifacts}
    assert listed == {"fused.fp32.onnx", "fused.fp16.onnx"}
    pictures = {f"reference/{n}.{r}.png" for n in PHOTOGRAPHS for r in ("input", "output")}
    assert set(files_of(report.folder)) == listed | pictures | {"bundle.json"}
    for artifact in bundle.manifest.artifacts:
        counts = convolution_precisions(onnx.load(report.folder / artifact.file))
        assert artifact.graph_convolutions == counts
        assert counts[artifact.precision] == max(counts.values()) > 0
    text = (report.folder / "bundle.json").read_text()
    assert str(report.folder.parent) not in text


def test_the_manifest_describes_model_and_noise(report: ExportReport) -> None:
    model = report.manifest.model
    assert (model.task, report.manifest.image_size, model.steps) == ("tiny", SIZE, STEPS)
    assert report.manifest.noise == FieldNoise(FIELD_GENERATOR, 0)
    assert report.manifest.stages[0].inputs == ["image", "noise"]
    assert report.manifest.tensors["noise"] == Tensor("float32", "NCHW", 16, 8)
    assert report.manifest.source == Source("small.safetensors", "0" * 64, random=False)


def test_both_precisions_pass(report: ExportReport) -> None:
    fp32, fp16 = report.verification["fp32"], report.verification["fp16"]
    assert fp32.passed
    assert fp16.passed
    assert fp32.psnr_db is None or fp32.psnr_db > 70
    assert fp16.psnr_db is not None
    assert 45 < fp16.psnr_db < 75
    parts = ["encoder", "estimator", "step1", "step2", "decoder"]
    assert list(fp16.parts) == parts
    assert list(fp16.boundaries) == parts
    assert fp16.worst_part in parts
    # What one part loses alone is no more than what has been lost by its end, within rounding.
    assert fp32.parts["encoder"] == pytest.approx(fp32.boundaries["encoder"])


def test_pictures_unlike_photographs_are_verified_too(
    report: ExportReport, checkpoint: Checkpoint
) -> None:
    info = Bundle.open(report.folder).manifest
    drawn = synthetic_pictures(SIZE, SIZE)
    for verified in info.verification.values():
        assert [i.name for i in verified.images] == [*PHOTOGRAPHS, *drawn]
        assert [i.name for i in verified.images if i.synthetic] == list(drawn)
        assert {(i.width, i.height) for i in verified.images} == {(SIZE, SIZE)}
        photographs = [i.psnr_db for i in verified.images if not i.synthetic]
        assert verified.psnr_db == min((p for p in photographs if p is not None), default=None)
        assert verified.automatic is all(
            i.psnr_db is None or i.psnr_db >= AUTOMATIC_DB for i in verified.images
        )
    # What the figure of one of them is made of.
    noise = noise_of(checkpoint)
    x = torch.from_numpy(drawn["lines"].astype(np.float32) / 255).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = checkpoint.model(x, STEPS, noise)[0].permute(1, 2, 0)
    rounded = (expected.clip(0, 1) * 255).round().numpy()
    with Restorer(report.folder, "onnxruntime", precision="fp32") as restore:
        error = float(np.mean((restore(drawn["lines"]) - rounded) ** 2))
    (lines,) = [i for i in info.verification["fp32"].images if i.name == "lines"]
    found = 99.0 if lines.psnr_db is None else lines.psnr_db
    assert found == pytest.approx(10 * math.log10(255**2 / error) if error else 99.0, abs=3)


def test_synthetic_pictures_are_enlarged_as_users_pictures_are(checkpoint: Checkpoint) -> None:
    """Users of ``bsr`` give images of a quarter of the size."""
    task = task_named("bsr")
    noise = fixed_noise(0, task.sigma_s, (1, 16, SIZE // 8, SIZE // 8))
    numbers = {"image_size": SIZE, "steps": 1, "noise": noise}
    made = compute_references(checkpoint.model, task, **numbers, synthetic=True)[2:]
    drawn = synthetic_pictures(SIZE // 4, SIZE // 4)
    assert [reference.name for reference in made] == list(drawn)
    for reference in made:
        np.testing.assert_array_equal(reference.image, enlarge("bsr", drawn[reference.name]))
        assert reference.restored.shape == (SIZE, SIZE, 3)
        assert reference.synthetic


def test_references_are_the_models_own_results(
    report: ExportReport, checkpoint: Checkpoint
) -> None:
    noise = noise_of(checkpoint)
    for entry in report.manifest.references:
        pixels = np.asarray(Image.open(report.folder / entry.input.file))
        x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
        with torch.inference_mode():
            expected = checkpoint.model(x, STEPS, noise)[0].permute(1, 2, 0) * 255
        stored = np.asarray(Image.open(report.folder / entry.output.file)).astype(float)
        assert np.abs(stored - expected.round().numpy()).max() <= 1
        assert stored.std() > 10


def test_the_runtime_restores_with_it(report: ExportReport) -> None:
    entry = report.manifest.references[0]
    pixels = np.asarray(Image.open(report.folder / entry.input.file))
    expected = np.asarray(Image.open(report.folder / entry.output.file))
    for precision, tolerance in (("fp32", 1), ("fp16", 4)):
        with Restorer(report.folder, backend="onnxruntime", precision=precision) as restore:
            assert np.abs(restore(pixels).astype(int) - expected).max() <= tolerance


def test_two_exports_from_two_folders_are_identical(
    report: ExportReport, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = export_bundle(checkpoint, Path("somewhere/else"))
    assert files_of(other.folder) == files_of(report.folder)


@pytest.mark.usefixtures("exported_before")
def test_bytes_do_not_depend_on_the_number_of_threads(
    report: ExportReport, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    torch.set_num_threads(2)
    try:
        other = export_bundle(checkpoint, tmp_path / "bundle")
    finally:
        torch.set_num_threads(1)
    assert files_of(other.folder) == files_of(report.folder)


def test_split_float_bundle_agrees_with_the_fused_one(
    report: ExportReport, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    options = ExportOptions(stages="split", io="float32", precisions=("fp32", "fp16"))
    split = export_bundle(checkpoint, tmp_path / "split", options)
    names = [stage.name for stage in split.manifest.stages]
    assert names == ["encoder", "estimator", "flow", "decoder"]
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    with (
        Restorer(report.folder, backend="onnxruntime", precision="fp32") as fused,
        Restorer(split.folder, backend="onnxruntime", precision="fp32") as chained,
    ):
        difference = fused(pixels).astype(int) - chained(pixels)
    assert np.abs(difference).max() <= 1
    assert np.count_nonzero(difference) < difference.size / 1000


def test_other_numbers_than_the_tasks(checkpoint: Checkpoint, tmp_path: Path) -> None:
    options = ExportOptions(
        precisions=("fp32",), image_sizes=((96, 96),), steps=1, sigma_s=0.0, seed=5, opset=17,
        noise="baked",
    )  # fmt: skip
    made = export_bundle(checkpoint, tmp_path / "bundle", options)
    model = made.manifest.model
    assert (made.manifest.image_size, model.steps, model.sigma_s) == (96, 1, 0)
    graph = onnx.load(made.folder / "fused.fp32.onnx")
    assert [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == [1, 96, 96, 3]
    assert "flow.noise.values" not in {t.name for t in graph.graph.initializer}
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert metadata["elir.steps"] == "1"


def test_noise_baked_into_the_graph(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """As for faces, whose task asks for it by default."""
    faces = replace(checkpoint, task=replace(checkpoint.task, faces=True))
    made = export_bundle(faces, tmp_path / "bundle", ExportOptions(precisions=("fp32",), seed=3))
    expected = hashlib.sha256(
        np.ascontiguousarray(
            made.manifest.model.sigma_s
            * np.random.RandomState(3).standard_normal((1, 16, SIZE // 8, SIZE // 8)),
            dtype="<f4",
        ).tobytes()
    ).hexdigest()
    noise = made.manifest.noise
    assert isinstance(noise, BakedNoise)
    assert (noise.seed, noise.sha256) == (3, expected)
    graph = onnx.load(made.folder / "fused.fp32.onnx")
    assert [value.name for value in graph.graph.input] == ["image"]
    baked = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    digest = hashlib.sha256(baked["flow.noise.values"].tobytes()).hexdigest()
    assert digest == expected == {e.key: e.value for e in graph.metadata_props}["elir.noise_sha256"]


@pytest.fixture(scope="module")
def several(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """For three shapes, the second the largest and padded, and batches."""
    options = ExportOptions(
        precisions=("fp32", "fp16", "int8"),
        image_sizes=((SIZE, SIZE), (72, 160), (96, 64)),
        batch=8,
    )
    return export_bundle(checkpoint, tmp_path_factory.mktemp("several") / "bundle", options)


def test_several_shapes_have_their_weights_once(
    several: ExportReport, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    manifest = several.manifest
    shapes = [Shape(8, SIZE, SIZE), Shape(8, 72, 160, 96, 160), Shape(8, 96, 64)]
    assert manifest.shapes == shapes
    assert {p for p, v in several.verification.items() if v.passed} == {"fp32", "fp16", "int8"}
    options = ExportOptions(precisions=("fp32", "fp16", "int8"))
    alone = export_bundle(checkpoint, tmp_path / "alone", options)
    sizes = {a.file: a.bytes for a in alone.manifest.artifacts}
    for artifact in manifest.artifacts:
        assert artifact.bytes <= 1.02 * sizes[artifact.file]
    whole = [sum(file.bytes for file in m.files()) for m in (manifest, alone.manifest)]
    assert whole[0] <= 1.02 * whole[1]


def test_every_precision_is_verified_at_the_largest_shape_too(several: ExportReport) -> None:
    for verified in several.verification.values():
        sizes = [(i.name, i.width, i.height) for i in verified.images if not i.synthetic]
        assert sizes == [
            *((name, SIZE, SIZE) for name in PHOTOGRAPHS),
            *((name, 160, 96) for name in PHOTOGRAPHS),
        ]
        assert len([i for i in verified.images if i.synthetic and i.width == 160]) == 5
        assert verified.passed
    pictures = [several.folder / r.input.file for r in several.manifest.references]
    assert [Image.open(picture).size for picture in pictures] == [(SIZE, SIZE)] * len(PHOTOGRAPHS)


def test_a_padded_shape_alone(checkpoint: Checkpoint, tmp_path: Path) -> None:
    options = ExportOptions(precisions=("fp32", "int8"), image_sizes=((40, 72),), stages="split")
    made = export_bundle(checkpoint, tmp_path / "bundle", options)
    assert made.manifest.shapes == [Shape(1, 40, 72, 64, 96)]
    assert Image.open(made.folder / made.manifest.references[0].input.file).size == (96, 64)
    graph = onnx.load(made.folder / "flow.fp32.onnx").graph
    noise = graph.input[1].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in noise] == [1, 16, 8, 12]
    pixels = np.random.default_rng(0).integers(0, 256, (90, 100, 3), dtype=np.uint8)
    with Restorer(made.folder, "onnxruntime", precision="fp32") as restore:
        assert restore(pixels).shape == pixels.shape


@pytest.mark.usefixtures("exported_before")
def test_a_floor_that_is_missed_names_the_worst_part_and_writes_nothing(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    options = ExportOptions(precisions=("fp16",), floor_db=99.0)
    with pytest.raises(QualityError, match=r"fp16 reaches .* expected 99 dB; worst part: \w+"):
        export_bundle(checkpoint, tmp_path / "bundle", options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("exported_before")
def test_precisions_that_pass_are_written_and_others_named(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pipeline.FLOORS_DB, "fp16", 99.0)
    monkeypatch.setitem(pipeline.FLOORS_DB, "bf16", 99.0)
    options = ExportOptions(precisions=("fp32", "fp16", "bf16"))
    made = export_bundle(checkpoint, tmp_path / "bundle", options)
    assert set(made.failures) == {"fp16", "bf16"}
    assert re.match(
        r"fp16 reaches [\d.]+ dB .* expected 99 dB; worst part: \w+", made.failures["fp16"]
    )
    bundle = Bundle.open(made.folder)
    assert bundle.manifest.precisions == ["fp32"]
    assert [artifact.file for artifact in bundle.manifest.artifacts] == ["fused.fp32.onnx"]
    assert not (made.folder / "fused.fp16.onnx").exists()
    # bf16 has no file of its own: that it failed is kept, so that nothing takes it unasked.
    assert set(bundle.manifest.verification) == {"fp32", "bf16"}
    assert not bundle.manifest.verification["bf16"].automatic


@pytest.mark.usefixtures("exported_before")
def test_engines_of_another_precision_are_left_out_and_named(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(library: object, model: object, stage: object, precision: str, *_: Any) -> Any:
        return BuiltEngine(b"engine", {"int8": 0, "fp16": 0, "fp32": 99}, 9, 1.0, ())

    monkeypatch.setattr(options_module, "load_library", lambda *_: None)
    monkeypatch.setattr(options_module, "check_engine_specs", lambda *_: None)
    monkeypatch.setattr(pipeline, "load_library", lambda *_: Library(RTX, None, "1.7.1"))
    monkeypatch.setattr(engines, "build_engine", build)
    options = ExportOptions(precisions=("fp16", "fp32"), targets=targets_named(["rtx3090"]))
    made = export_bundle(checkpoint, tmp_path / "bundle", options)
    (reason,) = made.failures.values()
    assert "fused.fp16.sm86.rtx.engine is not fp16" in reason
    written = Bundle.open(made.folder).manifest
    assert written.precisions == ["fp16", "fp32"]
    assert [a.file for a in written.artifacts if a.target] == ["fused.fp32.sm86.rtx.engine"]
    assert [target.name for target in written.targets] == ["rtx3090"]


@pytest.mark.usefixtures("exported_before")
def test_int8_over_its_budget_leaves_the_other_precisions(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Budget, "allows", lambda *_: False)
    options = ExportOptions(precisions=("fp32", "int8"))
    made = export_bundle(checkpoint, tmp_path / "bundle", options)
    assert "INT8 misses its budget" in made.failures["int8"]
    bundle = Bundle.open(made.folder)
    assert bundle.manifest.precisions == ["fp32"]
    assert bundle.manifest.quantization is None
    assert not (made.folder / "calibration.json").exists()


@pytest.mark.usefixtures("exported_before")
def test_random_weights_need_not_reach_the_trained_floor(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pipeline.FLOORS_DB, "fp16", 99.0)
    made = export_bundle(
        replace(checkpoint, random=True, sha256=None),
        tmp_path / "bundle",
        ExportOptions(precisions=("fp16",)),
    )
    assert not made.verification["fp16"].passed
    assert made.manifest.source.random


def test_a_layer_that_overflows_float16_is_kept_and_the_picture_saved(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """A decoder whose hidden activations pass 65504 would give a black image in plain float16."""
    model = copy.deepcopy(checkpoint.model)
    first, last = model.decoder.layers[0], model.decoder.layers[-1]
    scale = 1e6
    for layer in model.decoder.layers:
        for module in layer.modules():
            if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
                module.bias.data.mul_(1 if module is last else scale)
    first.weight.data.mul_(scale)
    last.weight.data.div_(scale)
    made = export_bundle(
        replace(checkpoint, model=model),
        tmp_path / "bundle",
        ExportOptions(precisions=("fp16",)),
    )
    found = made.verification["fp16"]
    assert found.passed
    (line,) = [line for line in found.kept_float32 if line.startswith("convolution")]
    assert "values reach" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(precisions=()), "no precision"),
        (ExportOptions(precisions=("int4",)), "'int4'"),
        (ExportOptions(image_sizes=((0, 64),)), "image size is 64x0, expected sides of 1 to 4096"),
        (ExportOptions(image_sizes=((2**20, 64),)), "expected sides of 1 to 4096"),
        (
            ExportOptions(image_sizes=((64, 64), (64, 96)), noise="baked"),
            "baked noise is of one image size, but there are 2: use --noise field",
        ),
        (ExportOptions(batch=0), "batch is 0, expected 1 to 1024"),
        (ExportOptions(batch=1024, image_sizes=((4096, 4096),)), "expected a batch of at most 21"),
        (ExportOptions(steps=1001), "at most 100"),
        (ExportOptions(sigma_s=1e39), "fits float32"),
        (ExportOptions(sigma_s=1e39, noise="baked"), "too large"),
        (ExportOptions(floor_db=float("nan")), "floor"),
        (ExportOptions(steps=0), "at least 1"),
        (ExportOptions(sigma_s=-1.0), "sigma_s"),
        (ExportOptions(seed=-1), "seed"),
        (ExportOptions(opset=9), "opset"),
    ],
)
def test_bad_options_are_refused_and_leave_nothing(
    checkpoint: Checkpoint, tmp_path: Path, options: ExportOptions, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export_bundle(checkpoint, tmp_path / "bundle", options)
    assert list(tmp_path.iterdir()) == []


def test_missing_onnxruntime_is_an_error_before_the_work(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"elir-deploy\[cpu\]"):
        export_bundle(checkpoint, tmp_path / "bundle")


def test_images_are_known_by_name(stages: dict[str, onnx.ModelProto]) -> None:
    """Also beside a latent of three channels at the image's size."""
    (end,) = stages["encoder"].graph.output
    latent = onnx.helper.make_tensor_value_info(end.name, TensorProto.FLOAT, [1, 3, SIZE, SIZE])
    encoder = copy.deepcopy(stages["encoder"])
    encoder.graph.output[0].CopyFrom(latent)
    tensors = manifest.stage_tensors([encoder], SIZE)
    assert {name: tensor.range for name, tensor in tensors.items()} == {
        "image": (0, 255),
        end.name: None,
    }


def test_the_manifest_is_plain_json(report: ExportReport) -> None:
    content = (report.folder / "bundle.json").read_bytes()
    assert decode_manifest(content) == report.manifest
    assert json.loads(content)["format_version"] == 2


def shift(graph: onnx.ModelProto, name: str, by: float) -> None:
    """Spoil one initializer of a graph."""
    (tensor,) = [t for t in graph.graph.initializer if t.name == name]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(by), name))


@pytest.mark.parametrize(
    ("stage", "what", "part"),
    [
        ("decoder", "decoder.layers.0.bias", "decoder"),
        ("encoder", "encoder.layers.0.bias", "encoder"),
        ("flow", "flow.noise.add", "step1"),
    ],
)
@pytest.mark.parametrize("random", [False, True])
def test_a_wrong_graph_is_found_and_its_part_named(
    checkpoint: Checkpoint,
    exported_before: dict[str, onnx.ModelProto],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    what: str,
    part: str,
    random: bool,
) -> None:
    spoilt = {name: copy.deepcopy(graph) for name, graph in exported_before.items()}
    additions = [node for node in spoilt[stage].graph.node if node.name == what]
    for node in additions:
        node.input[1] = node.input[0]
    if not additions:
        shift(spoilt[stage], what, 0.5)
    monkeypatch.setattr(pipeline, "export_stages", lambda *_: spoilt)
    with pytest.raises(QualityError, match=rf"fp32 reaches .*; worst part: {part} "):
        export_bundle(
            replace(checkpoint, random=random),
            tmp_path / "bundle",
            ExportOptions(precisions=("fp32",)),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_gives_no_numbers_is_named(
    checkpoint: Checkpoint,
    exported_before: dict[str, onnx.ModelProto],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoilt = {name: copy.deepcopy(graph) for name, graph in exported_before.items()}
    shift(spoilt["flow"], "flow.vector_field.first_proj.bias", math.nan)
    monkeypatch.setattr(pipeline, "export_stages", lambda *_: spoilt)
    results: dict[str, Any] = {}
    verify = pipeline.verify_bundle
    monkeypatch.setattr(
        pipeline, "verify_bundle", lambda *given: results.update(verify(*given)) or results
    )
    with pytest.raises(QualityError, match="fp32 gives numbers that are not finite"):
        export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(precisions=("fp32",)))
    (result,) = results.values()
    assert not result.finite
    assert (result.max_error, result.mean_error) == (None, None)
    assert result.psnr_db is not None, "null stands for identical only"


@pytest.mark.usefixtures("exported_before")
def test_a_model_that_gives_no_numbers_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Black equals black: without numbers there is nothing to hold a graph against."""
    model = copy.deepcopy(checkpoint.model)
    for parameter in model.encoder.parameters():
        parameter.data.mul_(1e30)
    with pytest.raises(CheckpointError, match="encoder gives numbers that are not finite"):
        export_bundle(replace(checkpoint, model=model), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("exported_before")
def test_the_current_folder_is_not_searched_for_modules(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx.py").write_text("raise SystemExit('ran a file of the current folder')")
    monkeypatch.chdir(tmp_path)
    export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(precisions=("fp32",)))


def test_versions_do_not_depend_on_the_distributions_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # onnxruntime-gpu installs the module onnxruntime under another distribution.
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert manifest.version_of("onnxruntime")[0].isdigit()


# INT8 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def int8_report(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    options = ExportOptions(precisions=("fp32", "int8"))
    return export_bundle(checkpoint, tmp_path_factory.mktemp("int8") / "bundle", options)


def test_an_int8_bundle_holds_its_calibration(int8_report: ExportReport) -> None:
    bundle = Bundle.open(int8_report.folder)
    assert [a.file for a in bundle.manifest.artifacts] == ["fused.fp32.onnx", "fused.int8.onnx"]
    stored = bundle.manifest.quantization
    assert stored is not None
    assert stored == int8_report.manifest.quantization
    assert (stored.file, stored.images) == ("calibration.json", 3)
    assert not bundle.damaged_files()
    assert stored.measured is not None
    assert stored.measured.fidelity_db >= 35
    assert stored.measured.psnr_drop_db <= stored.max_psnr_drop_db == 0.3
    assert [block.block for block in stored.blocks if block.kept] == int8_report.quantization[
        "int8"
    ].figures.kept
    found = int8_report.verification["int8"]
    assert found.passed
    assert found.psnr_db is not None
    assert 35 <= found.psnr_db < 60


def test_int8_is_smaller_and_restores(int8_report: ExportReport) -> None:
    fp32, int8 = (artifact.bytes for artifact in int8_report.manifest.artifacts)
    assert int8 < 0.5 * fp32
    entry = int8_report.manifest.references[0]
    pixels = np.asarray(Image.open(int8_report.folder / entry.input.file))
    expected = np.asarray(Image.open(int8_report.folder / entry.output.file))
    with Restorer(int8_report.folder, backend="onnxruntime", precision="int8") as restore:
        assert np.abs(restore(pixels).astype(int) - expected).mean() < 4


def test_two_int8_exports_are_identical_also_from_a_stored_calibration(
    int8_report: ExportReport,
    checkpoint: Checkpoint,
    tmp_path: Path,
    exported_before: dict[str, onnx.ModelProto],
) -> None:
    options = ExportOptions(precisions=("fp32", "int8"))
    again = export_bundle(checkpoint, tmp_path / "again", options)
    assert files_of(again.folder) == files_of(int8_report.folder)
    reused = export_bundle(
        checkpoint, tmp_path / "reused", replace(options, calibration=int8_report.folder)
    )
    assert files_of(reused.folder) == files_of(int8_report.folder)


def test_a_damaged_calibration_is_refused(
    int8_report: ExportReport,
    checkpoint: Checkpoint,
    tmp_path: Path,
    exported_before: dict[str, onnx.ModelProto],
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(int8_report.folder, copied)
    file = copied / "calibration.json"
    file.write_bytes(file.read_bytes().replace(b'"images":3', b'"images":4'))
    options = ExportOptions(precisions=("int8",), calibration=copied)
    with pytest.raises(BundleError, match="is damaged"):
        export_bundle(checkpoint, tmp_path / "bundle", options)
    assert not (tmp_path / "bundle").exists()


def test_a_split_bundle_in_int8_computes_what_the_fused_one_does(
    int8_report: ExportReport,
    checkpoint: Checkpoint,
    tmp_path: Path,
    exported_before: dict[str, onnx.ModelProto],
) -> None:
    options = ExportOptions(
        precisions=("int8",), stages="split", calibration=int8_report.folder, floor_db=0
    )
    split = export_bundle(checkpoint, tmp_path / "split", options)
    names = [artifact.file for artifact in Bundle.open(split.folder).manifest.artifacts]
    assert names == [f"{s}.int8.onnx" for s in ("encoder", "estimator", "flow", "decoder")]
    entry = split.manifest.references[0]
    pixels = np.asarray(Image.open(split.folder / entry.input.file))
    restored = []
    for folder in (split.folder, int8_report.folder):
        with Restorer(folder, backend="onnxruntime", precision="int8") as restore:
            restored.append(restore(pixels))
    np.testing.assert_array_equal(*restored)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precisions": ("fp32",)}, "add --precision int8"),
        ({"calibration": Path("nowhere")}, "no such folder"),
        ({"calibration_images": 0}, "expected at least 1"),
        ({"quantization": QuantizationOptions(max_psnr_drop_db=-1)}, "expected a number of dB"),
    ],
)
def test_impossible_calibrations_are_refused_early(
    checkpoint: Checkpoint, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    options = ExportOptions(precisions=("int8",), calibration=tmp_path)
    with pytest.raises(UsageError, match=message):
        export_bundle(checkpoint, tmp_path / "bundle", replace(options, **change))


def test_a_budget_out_of_reach_leaves_nothing(
    checkpoint: Checkpoint,
    tmp_path: Path,
    exported_before: dict[str, onnx.ModelProto],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Budget, "allows", lambda *_: False)
    options = ExportOptions(precisions=("int8",))
    with pytest.raises(QualityError, match=r"INT8 misses its budget.*; worst block: "):
        export_bundle(checkpoint, tmp_path / "bundle", options)
    assert not any(tmp_path.iterdir())


def test_random_weights_are_quantised_without_a_budget(
    checkpoint: Checkpoint, tmp_path: Path, exported_before: dict[str, onnx.ModelProto]
) -> None:
    said: list[str] = []
    report = export_bundle(
        replace(checkpoint, random=True, sha256=None),
        tmp_path / "bundle",
        ExportOptions(precisions=("int8",)),
        warn=said.append,
    )
    stored = Bundle.open(report.folder).manifest.quantization
    assert stored is not None
    assert stored.blocks == []
    assert stored.measured is None
    assert "the package's 3 photographs" in said[0]


def test_int8_or_w8_and_float16_in_one_graph(
    int8_report: ExportReport,
    report: ExportReport,
    checkpoint: Checkpoint,
    tmp_path: Path,
    exported_before: dict[str, onnx.ModelProto],
) -> None:
    options = ExportOptions(
        precisions=("int8", "w8"), calibration=int8_report.folder, int8_fallback="float16"
    )
    made = export_bundle(checkpoint, tmp_path / "bundle", options)
    for precision in options.precisions:
        graph = onnx.load(made.folder / f"fused.{precision}.onnx").graph
        stored = {tensor.data_type for tensor in graph.initializer}
        assert {TensorProto.INT8, TensorProto.FLOAT16} <= stored
        assert made.verification[precision].passed
        assert made.verification[precision].backend.endswith("in emulated half arithmetic")
    assert list(made.quantization) == ["w8"]  # that of INT8 was measured before
    assert made.verification["w8"].psnr_db > made.verification["int8"].psnr_db
    found = made.verification["int8"]
    # Its error is that of either, added up.
    alone = int8_report.verification["int8"].psnr_db, report.verification["fp16"].psnr_db
    together = -10 * math.log10(sum(10 ** (-psnr / 10) for psnr in alone))
    assert found.psnr_db == pytest.approx(together, abs=1)


def test_a_path_without_calibration_is_refused_before_the_work(
    report: ExportReport,
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "build_static_graph", None)
    text = tmp_path / "readme.md"
    text.write_text("no calibration")
    for given, message in ((text, "expected a folder of images"), (report.folder, "lists no file")):
        options = ExportOptions(precisions=("int8",), calibration=given)
        with pytest.raises(BundleError, match=message):
            export_bundle(checkpoint, tmp_path / "bundle", options)
    assert not (tmp_path / "bundle").exists()
