"""Files that several modules read, and a task small enough to read them hundreds of times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from elir_deploy.checkpoints import save_checkpoint
from elir_deploy.model import Elir
from elir_deploy.tasks import TASKS, TaskSpec
from tests import official

SMALL_TASK = TaskSpec(
    name="small",
    title="for tests",
    architecture=official.SMALL,
    image_size=64,
    steps=2,
    sigma_s=0.125,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Most tests here touch thousands of small tensors, where a second thread only costs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_task() -> Iterator[TaskSpec]:
    """A task that the small layouts fit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "small", SMALL_TASK)
        yield SMALL_TASK


@pytest.fixture(scope="session")
def small_flat() -> dict[str, torch.Tensor]:
    """The content of a small file in the released layout; copy before changing it."""
    return official.state_dict(official.small_layout("bsr.pth"))


@pytest.fixture(scope="session")
def small_parts() -> dict[str, Any]:
    """The content of a small file in the training layout; copy before changing it."""
    return official.state_dict(official.small_layout("bsr.ckpt"))


@pytest.fixture(scope="session")
def small_model() -> Elir:
    torch.manual_seed(0)
    return Elir(official.SMALL).requires_grad_(False).eval()


@pytest.fixture(scope="session")
def bsr_pth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = official.write("bsr.pth", tmp_path_factory.mktemp("official"))
    yield path
    path.unlink()  # pytest would keep it for days


@pytest.fixture(scope="session")
def bsr_ckpt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = official.write("bsr.ckpt", tmp_path_factory.mktemp("official"))
    yield path
    path.unlink()  # pytest would keep it for days


@pytest.fixture
def small_file(tmp_path: Path, small_model: Elir, small_task: TaskSpec) -> Path:
    """A small model in our own format."""
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, small_model, small_task)
    return path
