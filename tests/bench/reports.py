"""Reports as elir-bench writes them, as far as a comparison reads them."""

from __future__ import annotations

import json

import numpy as np


def report_values(rows=("onnxruntime fp32",), *, seed=0, scale=1.0, count=200):
    """From an idle machine, without a yardstick."""
    rng = np.random.default_rng(seed)
    return {
        "schema_version": 1,
        "kind": "elir-bench",
        "complete": True,
        "protocol": {"name": "paper", "images": count, "warmup": 10, "block": 5, "batch": 1},
        "threads": 2,
        "model": {"task": "tiny", "image_size": 64, "versions": {"onnx": "1.20"}},
        "device": {
            "cpu": {"model": "a processor", "governor": "performance"},
            "gpus": [{"name": "a GPU", "driver_version": "550.1", "pstate": f"P{seed}"}],
            "libraries": {"onnxruntime": "1.19"},
            "cores_busy_elsewhere": {"other_programs": 0.01, "stolen": 0.0},
        },
        "runners": [
            {
                "label": label,
                "library": "onnxruntime 1.19",
                "artifacts": [{"file": "fused.fp32.onnx", "sha256": "aa"}],
                "image": {"samples_s": (scale * rng.normal(0.02, 2e-4, count)).tolist()},
            }
            for label in rows
        ],
    }


def write_report(path, values):
    path.write_text(json.dumps(values))
    return path
