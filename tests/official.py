"""Checkpoints in the layouts of the released files, with values that can be made anywhere.

The released weights cannot be had where the tests run, but their names and shapes are known:
``data/official/*.json``. The values are a rule, so that ``data/golden/*.npz`` could be made from
them by another implementation: a normal deviate per number from PCG64 seeded with the CRC-32 of the
tensor's name, scaled so that activations keep their size.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elir_deploy.tasks import Architecture

DATA = Path(__file__).parent / "data"
LAYOUTS = DATA / "official"
GOLDEN = DATA / "golden"


def layout(name: str) -> dict[str, Any]:
    """Names and shapes of a released file: ``bsr.pth``, ``bfr.pth``, ``bsr.ckpt``, …"""
    shapes: dict[str, Any] = json.loads((LAYOUTS / f"{name}.json").read_text())
    return shapes


def values(name: str, shape: list[int]) -> torch.Tensor:
    """The tensor that the rule gives for a name (in a training file: ``part/name``).

    Biases are 0.05 times the deviates, normalisation weights 1 + 0.1 times; other weights are
    divided by the root of their fan-in. The decoder's last layer, the only one with three outputs,
    has half that and a bias of 0.5: images come out around mid-grey.
    """
    to_rgb = shape[0] == 3
    if name.endswith("bias") and to_rgb:
        return torch.full(shape, 0.5)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    deviates = generator.standard_normal(shape).astype(np.float32)
    if name.endswith("bias"):
        return torch.from_numpy(0.05 * deviates)
    if len(shape) == 1:
        return torch.from_numpy(1 + 0.1 * deviates)
    gain = (0.5 if to_rgb else 1.0) / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy((gain * deviates).astype(np.float32))


def state_dict(shapes: dict[str, Any]) -> dict[str, Any]:
    """The whole content of a file of that layout."""
    return {
        key: {inner: values(f"{key}/{inner}", shape) for inner, shape in entry.items()}
        if isinstance(entry, dict)
        else values(key, entry)
        for key, entry in shapes.items()
    }


def write(name: str, folder: Path) -> Path:
    """Write a file of that layout into ``folder``, as the authors' code would."""
    path = folder / name
    torch.save(state_dict(layout(name)), path)
    return path


#: Widths of the bsr layouts to those of :data:`SMALL`; kernel sizes are not among them.
_AUTOENCODER_WIDTHS = {64: 8, 16: 4}
_ESTIMATOR_WIDTHS = {16: 4, 64: 16, 96: 8, 384: 32, 112: 12, 208: 20, 304: 28, 400: 36}
_VECTOR_FIELD_WIDTHS = {16: 4, 96: 32, 192: 64, 384: 128, 768: 256, 1536: 512, 160: 8, 640: 16}
_WIDTHS = {
    "enc": _AUTOENCODER_WIDTHS,
    "dec": _AUTOENCODER_WIDTHS,
    "mmse": _ESTIMATOR_WIDTHS,
    "fmir": _VECTOR_FIELD_WIDTHS,
}
#: What the small layouts are the layouts of.
SMALL = Architecture(
    autoencoder_width=8,
    latent_channels=4,
    estimator_growth=8,
    vector_field_width=32,
    time_frequencies=8,
    time_width=16,
)


def small_layout(name: str) -> dict[str, Any]:
    """``bsr.pth`` or ``bsr.ckpt`` with fewer channels."""

    def small(key: str, entry: Any) -> Any:
        if isinstance(entry, dict):
            return {inner: small(key, shape) for inner, shape in entry.items()}
        widths = _WIDTHS[key.removeprefix("state_dict_").partition(".")[0]]
        return [widths.get(size, size) for size in entry]

    return {key: small(key, entry) for key, entry in layout(name).items()}


def golden(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays made by an implementation that is not this one; ``restored`` is every fourth pixel."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def golden_input(arrays: dict[str, np.ndarray[Any, Any]]) -> torch.Tensor:
    """The degraded image of golden arrays, (1, 3, H, W) in [0, 1]."""
    image = torch.from_numpy(arrays["input_uint8"]).permute(2, 0, 1)[None]
    return image.float() / 255
