"""Small models, folders of images and a stand-in for pyiqa."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from elir_deploy.tasks import TASKS, Architecture
from elir_deploy.training import metrics

SIZE = 64
SMALL = Architecture(
    autoencoder_width=16,
    autoencoder_blocks=1,
    latent_channels=4,
    estimator_blocks=1,
    estimator_growth=8,
    vector_field_width=32,
    time_frequencies=8,
    time_width=16,
)


def photo(seed: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: a smooth picture with some texture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(4, 30) + y / rng.uniform(4, 30)) for _ in range(3)]
    picture = 128 + 80 * np.stack(waves, axis=2) + rng.normal(0, 6, (height, width, 3))
    return picture.clip(0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def save_photos(folder: Path) -> Path:
    """Four images, all larger than SIZE."""
    for number in range(4):
        save(folder / f"{number}.png", photo(number, 70 + number, 90))
    return folder


def make_checkpoint() -> Any:
    """Over-parametrised random weights whose pictures are not flat; not marked as random."""
    torch = pytest.importorskip("torch")
    from elir_deploy.checkpoints import Checkpoint
    from elir_deploy.model import Elir

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Elir(SMALL, collapsible=True).eval().requires_grad_(False)
        last = model.decoder.layers[-1]
        torch.nn.init.normal_(last.weight, std=0.3)
        torch.nn.init.constant_(last.bias, 0.5)
        for parameter in model.encoder.parameters():
            parameter.mul_(1.7)
        model.vector_field.final_proj.weight.mul_(3)
    task = replace(TASKS["tiny"], architecture=SMALL, image_size=SIZE, sigma_s=0.1)
    return Checkpoint(model, task, "small.safetensors", "0" * 64, False, "elir")


def install_stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install the stand-in as pyiqa."""
    pytest.importorskip("torch")
    from tests.training.standin_pyiqa import StandIn

    module = StandIn()
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    pretend_installed(monkeypatch, pyiqa=True)
    return module


def pretend_installed(monkeypatch: pytest.MonkeyPatch, **packages: bool) -> None:
    """Let :mod:`elir_deploy.training.metrics` find the packages that are True."""
    original: Callable[..., Any] = metrics.find_spec

    def find_spec(name: str) -> Any:
        return packages[name] or None if name in packages else original(name)

    monkeypatch.setattr(metrics, "find_spec", find_spec)
