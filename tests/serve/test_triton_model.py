"""The model of the python backend, driven as Triton drives it; Triton's module is a stand-in."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from elir_deploy.photo import PhotoRestorer
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.serve.triton import TritonOptions, write_model
from elir_deploy.serve.triton_model import TritonPythonModel
from tests.bundles import make_bundle
from tests.photo.pictures import face_bundle, spots

BATCHES = [{"batch": 4, "height": 32, "width": 32}]


@dataclass
class Tensor:
    name: str
    values: Any

    def as_numpy(self) -> Any:
        return self.values


@dataclass
class Response:
    tensors: list[Tensor] | None = None
    error: Any = None


@dataclass
class Request:
    values: Any
    given: dict[str, Any]

    def parameters(self) -> str:
        return json.dumps(self.given)


@pytest.fixture(autouse=True)
def triton_s_module(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in: Any = ModuleType("triton_python_backend_utils")
    stand_in.Tensor, stand_in.InferenceResponse = Tensor, Response
    stand_in.TritonError = str
    stand_in.get_input_tensor_by_name = lambda request, name: Tensor(name, request.values)
    stand_in.Logger = type("Logger", (), {"log_info": staticmethod(print)})
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in)


@contextmanager
def loaded(path: Path, models: Path, **options: Any) -> Iterator[TritonPythonModel]:
    """The model of a bundle, as Triton loads it."""
    chosen = TritonOptions("python", "fp32", **options)
    write_model(Bundle.open(path), models, "m", chosen, overwrite=False)
    text = (models / "m/config.pbtxt").read_text("utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    model = TritonPythonModel()
    model.initialize(
        {
            "model_config": json_format.MessageToJson(config, preserving_proto_field_name=True),
            "model_repository": str(models / "m"),
            "model_version": "1",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
            "model_name": "m",
        }
    )
    yield model
    model.finalize()


@pytest.fixture
def model(tmp_path: Path) -> Iterator[TritonPythonModel]:
    path = make_bundle(tmp_path / "b", shapes=BATCHES, gain=0.5)
    with loaded(path, tmp_path / "models", instances=2) as model:
        yield model


def pictures(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)


def test_answers_are_the_runtime_s(model: TritonPythonModel, tmp_path: Path) -> None:
    requests = [
        Request(pictures(1, 32, 32), {}),
        Request(pictures(3, 32, 32), {}),
        Request(pictures(2, 50, 70), {"strength": 1}),
    ]
    opened: Any = model._restorer
    with Restorer(tmp_path / "b", opened.backend, precision="fp32", threads=1) as restorer:
        for strength in ({}, {"strength": 0.5}):  # the second time, strengths differ
            requests[0].given = strength
            for request, response in zip(requests, model.execute(requests), strict=True):
                (tensor,) = response.tensors
                assert tensor.name == "restored"
                value = request.given.get("strength", 1.0)
                expected = [restorer(image, strength=value) for image in request.values]
                np.testing.assert_array_equal(tensor.values, expected)


def test_a_bad_request_fails_alone(model: TritonPythonModel) -> None:
    good = Request(pictures(1, 32, 32), {})
    answers = model.execute([good, *(Request(good.values, {"strength": s}) for s in ("x", 2, []))])
    assert answers[0].error is None
    for answer in answers[1:]:
        assert "strength is" in answer.error
        assert answer.tensors is None
    empty = Request(pictures(1, 0, 32), {})
    bad, fine = model.execute([empty, good])
    assert "empty" in bad.error
    np.testing.assert_array_equal(fine.tensors[0].values, answers[0].tensors[0].values)


def test_faces_in_photographs(tmp_path: Path) -> None:
    path = face_bundle(tmp_path / "b", gain=0.5)
    group = spots(160, 200, (60, 80), (140, 80))
    photographs = np.stack([group, group[::-1].copy()])
    requests = [Request(photographs, {}), Request(group[None], {"strength": 0.5})]
    with loaded(path, tmp_path / "models", faces="all") as model:
        opened: Any = model._restorer
        backend = opened.restorer.backend
        with PhotoRestorer(path, backend=backend, precision="fp32") as restorer:
            expected = [
                [restorer.restore(image, "all", strength=s).pixels for image in request.values]
                for request, s in zip(requests, (1.0, 0.5), strict=True)
            ]
        answers = model.execute(requests)
        bad, *others = model.execute([Request(group[None], {"strength": 2}), *requests])
    assert "strength is 2" in bad.error
    assert (expected[0][0] != group).any()
    for each in (answers, others):
        for answer, pixels in zip(each, expected, strict=True):
            np.testing.assert_array_equal(answer.tensors[0].values, pixels)


def test_instances_share_the_processor(model: TritonPythonModel) -> None:
    restorer = model._restorer
    assert isinstance(restorer, Restorer)
    assert restorer.threads == max(1, len(os.sched_getaffinity(0)) // 2)
