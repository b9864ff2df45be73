"""A stand-in for pyiqa that records its calls.

Its signatures are those of pyiqa as of May 2026: ``create_metric`` of ``pyiqa/api_helpers.py``,
``forward`` of ``pyiqa/models/inference_model.py`` and of ``pyiqa/archs/fid_arch.py``; so are its
checks of arguments. Where pyiqa is installed, ``test_metrics`` compares them.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

#: The metrics that are used: mode and lower_better as pyiqa/default_model_configs.py has them.
CONFIGS: dict[str, tuple[str, bool]] = {
    "lpips": ("FR", True),
    "niqe": ("NR", True),
    "musiq": ("NR", False),
    "clipiqa": ("NR", False),
    "fid": ("NR", True),
}


def fid_forward(
    fdir1=None,
    fdir2=None,
    mode="clean",
    distance_type="frechet",
    kernel_type="polynomial",
    dataset_name=None,
    dataset_res=1024,
    dataset_split="train",
    num_workers=4,
    batch_size=8,
    device=None,
    verbose=True,
    **kwargs,
) -> dict[str, Any]:
    """The arguments of ``FID.forward``, which ignores unknown keywords."""
    assert not kwargs, f"pyiqa would silently ignore {kwargs}"
    assert fdir1 is not None
    assert (fdir2 is None) != (dataset_name is None)
    return {key: value for key, value in locals().items() if key != "kwargs"}


class InferenceModel:
    def __init__(self, module: StandIn, metric_name: str) -> None:
        self.module = module
        self.metric_name = metric_name
        self.metric_mode, self.lower_better = CONFIGS[metric_name]

    def forward(self, target, ref=None, **kwargs):
        calls = self.module.calls
        if "fid" in self.metric_name:
            call = fid_forward(target, ref, device="cpu", **kwargs)
            folders = [folder for folder in (call["fdir1"], call["fdir2"]) if folder is not None]
            call["files"] = [len(list(Path(folder).iterdir())) for folder in folders]
            calls.append((self.metric_name, call))
            return self.module.values.get(self.metric_name, 40.0)
        images = [target, ref] if self.metric_mode == "FR" else [target]
        for image in images:
            assert isinstance(image, torch.Tensor)
            assert image.dim() == 4
            assert image.shape[1] in (1, 3)
            assert image.dtype == torch.float32
            assert image.min() >= 0
            assert image.max() <= 1
        assert not kwargs
        calls.append((self.metric_name, images))
        value = self.module.values.get(self.metric_name, 0.5)
        if isinstance(value, Exception):
            raise value
        shape = (
            () if self.metric_name == "niqe" else (1, 1) if "lpips" in self.metric_name else (1,)
        )
        return torch.full(shape, value)

    __call__ = forward


class StandIn(ModuleType):
    """The module; ``values`` are its metrics' results or errors."""

    def __init__(self) -> None:
        super().__init__("pyiqa")
        self.calls: list[tuple[str, Any]] = []
        self.created: list[str] = []
        self.values: dict[str, Any] = {}
        self.creation_error: Exception | None = None
        self.create_metric = self._create_metric

    def _create_metric(self, metric_name, as_loss=False, device=None, **kwargs):
        assert metric_name in CONFIGS, f"Metric {metric_name} not implemented yet."
        assert not kwargs
        if self.creation_error is not None:
            raise self.creation_error
        self.created.append(metric_name)
        return InferenceModel(self, metric_name)
