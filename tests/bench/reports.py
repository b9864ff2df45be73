"""Reports of a known machine and known series, as plain values to change."""

from __future__ import annotations

import copy
import json
from functools import lru_cache

import msgspec
import numpy as np

from elir_deploy.bench.device import CoresElsewhere, Cpu, Device
from elir_deploy.bench.protocols import PROTOCOLS
from elir_deploy.bench.report import Results, build_report
from elir_deploy.bench.report_types import Conditions
from elir_deploy.bench.sensors.process import Affinity
from elir_deploy.bench.statistics import Series
from elir_deploy.bench.watch import EnergySource
from elir_deploy.runtime import Bundle
from tests.bench.synthetic import FakeClock, SyntheticRunner

DEVICE = Device(
    machine=None,
    cpu=Cpu("a processor", ["avx2"], False, "x86_64", 4, "performance"),
    gpus=[{"name": "a GPU", "driver_version": "550.1"}],
    memory_bytes=2**33,
    os="a system",
    kernel="6.1",
    python="3.11",
    elir_deploy="0.1.0",
    libraries={"onnxruntime": "1.19"},
    environment={},
    affinity=Affinity((0, 1), None),
)


def conditions(**changes) -> Conditions:
    """Of a machine without sensors and without a yardstick."""
    entries = {
        "seed": 0,
        "threads": 2,
        "device": DEVICE,
        "cores_busy_elsewhere": None,
        "sensors": None,
        "throttling": (),
        "unreadable": (),
        "yardstick": None,
        "energy": EnergySource(None, None, (), ()),
    }
    return Conditions(**entries | changes)


@lru_cache(maxsize=1)
def _template():
    """From an idle machine."""
    under = conditions(cores_busy_elsewhere=CoresElsewhere(0.01, 0.0))
    runner = SyntheticRunner("template", FakeClock(), 0.1)
    results = Results(PROTOCOLS["paper"], [runner], complete=True)
    return msgspec.to_builtins(build_report(results, Bundle.open("tiny"), under))


def report_values(rows=("onnxruntime fp32",), *, seed=0, scale=1.0, count=200):
    """Plain values of a report with normally distributed latencies of 20 ms."""
    values = copy.deepcopy(_template())
    (template,) = values["runners"]
    rng = np.random.default_rng(seed)
    values["device"]["gpus"][0]["pstate"] = f"P{seed}"
    values["runners"] = []
    for label in rows:
        samples = (scale * rng.normal(0.02, 2e-4, count)).tolist()
        row = copy.deepcopy(template) | {
            "label": label,
            "library": "onnxruntime 1.19",
            "artifacts": [artifact("fused.fp32.onnx", "aa")],
            "image": msgspec.to_builtins(Series.of(samples)),
        }
        values["runners"].append(row)
    return values


def artifact(file, byte):
    return {"file": file, "precision": "fp32", "bytes": 9, "sha256": 32 * byte}


def write_report(path, values):
    path.write_text(json.dumps(values))
    return path
