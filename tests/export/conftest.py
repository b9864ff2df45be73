"""A small model as a static graph and as ONNX, made once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import ModelProto
from torch import nn

from elir_deploy.checkpoints import Checkpoint
from elir_deploy.export.graphs import fuse_stages
from elir_deploy.export.onnx import export_stages
from elir_deploy.export.pixels import Feeder
from elir_deploy.model import Elir
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.scopes import Outline
from elir_deploy.static_graph import FixedNoise, StaticElir, build_static_graph, fixed_noise
from elir_deploy.tasks import TASKS, Architecture

SIZE = 64
STEPS = 2
BYTES = Feeder("uint8")
#: Large, so that noise in a wrong place or of a wrong picture shows.
FIELD = NoiseField(3, 0.5)
SMALL = Architecture(
    autoencoder_width=16,
    autoencoder_blocks=1,
    estimator_blocks=1,
    estimator_growth=16,
    vector_field_width=32,
    time_frequencies=16,
    time_width=32,
)


@pytest.fixture(scope="session")
def model() -> Elir:
    """Random weights whose pictures are not flat, so that errors show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Elir(SMALL).eval().requires_grad_(False)
        last = network.decoder.layers[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.normal_(last.weight, std=0.2)
        nn.init.constant_(last.bias, 0.5)
    return network


@pytest.fixture(scope="session")
def noise() -> FixedNoise:
    return fixed_noise(0, TASKS["tiny"].sigma_s, (1, 16, SIZE // 8, SIZE // 8))


@pytest.fixture(scope="session")
def checkpoint(model: Elir) -> Checkpoint:
    from dataclasses import replace

    task = replace(TASKS["tiny"], architecture=SMALL, image_size=SIZE, steps=STEPS)
    return Checkpoint(
        model=model, task=task, name="small.safetensors", sha256="0" * 64, random=False,
        layout="elir",
    )  # fmt: skip


@pytest.fixture(scope="session")
def static(model: Elir, noise: FixedNoise) -> StaticElir:
    return build_static_graph(model, image_size=SIZE, steps=STEPS, noise=noise)


@pytest.fixture(scope="session")
def outline(static: StaticElir) -> Outline:
    return static.outline


@pytest.fixture(scope="session")
def stages(static: StaticElir) -> dict[str, ModelProto]:
    return export_stages(static)


@pytest.fixture(scope="session")
def taking(model: Elir) -> dict[str, ModelProto]:
    """The stages of a graph that takes its noise."""
    return export_stages(build_static_graph(model, image_size=SIZE, steps=STEPS, noise=FIELD))


@pytest.fixture(scope="session")
def fused(stages: dict[str, ModelProto]) -> ModelProto:
    return fuse_stages(stages)


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """One image (1, 64, 64, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
