"""Models of a Triton repository, as Triton's own definition of the configuration reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from elir_deploy.errors import BundleError, OutputError, UsageError
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.serve.triton import TritonOptions, write_model
from tests.bundles import make_bundle, read_manifest, sha256, write_manifest

BATCHES = [{"batch": 4, "height": 32, "width": 48}]


def written(bundle: Path, repository: Path, **options: Any) -> Any:
    model = write_model(
        Bundle.open(bundle), repository, "face", TritonOptions(**options), overwrite=False
    )
    text = (repository / "face" / "config.pbtxt").read_text("utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (config.name, config.backend) == ("face", model.backend)
    return config


@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize(
    ("shapes", "batch", "sides"),
    [(None, 0, (32, 32)), (BATCHES, 4, (32, 48))],
    ids=["square", "batches"],
)
def test_one_graph_on_onnx_runtime(
    tmp_path: Path, io: str, shapes: Any, batch: int, sides: tuple[int, int]
) -> None:
    bundle = make_bundle(tmp_path / "b", io=io, shapes=shapes, gain=0.5)
    config = written(bundle, tmp_path / "models")
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == batch
    one = [] if batch else [1]
    dims = [*one, *sides, 3] if io == "uint8" else [*one, 3, *sides]
    types = {"uint8": model_config_pb2.TYPE_UINT8, "float32": model_config_pb2.TYPE_FP32}
    for tensor, name in ((config.input[0], "image"), (config.output[0], "restored")):
        assert (tensor.name, tensor.data_type) == (name, types[io])
        assert list(tensor.dims) == dims
    assert list(config.dynamic_batching.preferred_batch_size) == ([batch] if batch else [])
    # The request that warms it up runs, and is the reference picture.
    sample = config.model_warmup[0]
    data = sample.inputs["image"]
    shape = [*data.dims] if sample.batch_size == 0 else [sample.batch_size, *data.dims]
    folder = tmp_path / "models" / "face"
    values = np.frombuffer((folder / "warmup" / data.input_data_file).read_bytes(), io)
    session = onnxruntime.InferenceSession(folder / "1" / config.default_model_filename)
    (restored,) = session.run(None, {"image": values.reshape(shape)})
    with Restorer(bundle, "onnxruntime", precision="fp32") as restorer:
        np.testing.assert_array_equal(restored, restorer.run(values.reshape(shape)))


def test_openvino(tmp_path: Path) -> None:
    config = written(make_bundle(tmp_path / "b"), tmp_path / "models", backend="openvino")
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert (tmp_path / "models/face/1" / config.default_model_filename).is_file()


def with_engines(bundle: Path, *targets: str) -> Path:
    """Adds files that are listed as TensorRT's engines."""
    manifest = read_manifest(bundle)
    for target in targets:
        file = f"fused.fp32.{target}.tensorrt.engine"
        (bundle / file).write_bytes(target.encode())
        manifest["stages"][0]["artifacts"].append(
            manifest["stages"][0]["artifacts"][0]
            | {
                "file": file,
                "kind": "tensorrt",
                "target": target,
                "sha256": sha256(bundle / file),
                "bytes": len(target),
            }
        )
    write_manifest(bundle, manifest)
    return bundle


def test_engines_by_compute_capability(tmp_path: Path) -> None:
    bundle = with_engines(make_bundle(tmp_path / "b", shapes=BATCHES), "sm75", "sm120")
    config = written(bundle, tmp_path / "models", instances=2)
    assert config.backend == "tensorrt"
    (group,) = config.instance_group
    assert group.count == 2
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    files = dict(config.cc_model_filenames)
    assert sorted(files) == ["12.0", "7.5"]
    assert (tmp_path / "models/face/1" / files["12.0"]).read_bytes() == b"sm120"
    assert config.default_model_filename in files.values()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"stride": 8}, "the noise is another input"),
        ({"stages": "split"}, "4 stages"),
        ({"upscale": 4, "kernel": "bicubic"}, "enlarged by 4"),
    ],
    ids=["field", "split", "upscale"],
)
def test_what_one_graph_cannot_do_takes_the_runtime(
    tmp_path: Path, arguments: dict[str, Any], reason: str
) -> None:
    bundle = make_bundle(tmp_path / "b", size=64, **arguments)
    config = written(bundle, tmp_path / "models")
    assert config.backend == "python"
    assert list(config.input[0].dims) == list(config.output[0].dims) == [-1, -1, 3]
    copy = Bundle.open(tmp_path / "models/face/1/bundle")
    assert copy.manifest == Bundle.open(bundle).manifest
    assert not copy.damaged_files()
    with pytest.raises(UsageError, match=f"{reason}.*--backend python"):
        written(bundle, tmp_path / "other", backend="openvino")
    assert not any((tmp_path / "other").glob("*"))


def test_choices_that_are_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    with pytest.raises(UsageError, match="no face detector"):
        written(bundle, tmp_path / "models", faces="all")
    with pytest.raises(BundleError, match="no fp16 files"):
        written(bundle, tmp_path / "models", precision="fp16")
    with pytest.raises(BundleError, match="no precision for Triton's tensorrt backend"):
        written(bundle, tmp_path / "models", backend="tensorrt")
    with pytest.raises(UsageError, match="no name for a model"):
        write_model(
            Bundle.open(bundle), tmp_path / "models", "a/b", TritonOptions(), overwrite=False
        )
    assert not list(tmp_path.rglob("config.pbtxt"))


def test_only_a_model_is_replaced(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    written(bundle, tmp_path / "models")
    with pytest.raises(OutputError, match="already holds a model; --overwrite replaces it"):
        written(bundle, tmp_path / "models")
    opened = Bundle.open(bundle)
    options = TritonOptions(backend="python")
    model = write_model(opened, tmp_path / "models", "face", options, overwrite=True)
    assert model.backend == "python"
    assert not (tmp_path / "models/face/1/model.onnx").exists()
    (tmp_path / "models/other").mkdir()
    (tmp_path / "models/other/diary.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files"):
        write_model(opened, tmp_path / "models", "other", options, overwrite=True)
