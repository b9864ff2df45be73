"""What options of ONNX Runtime's CUDA provider are worth to our graphs, and what a CUDA graph is.

    python benchmarks/gpu_options.py gpu-options.md tiny build/bench/bfr [--precision fp16]

Every variant has a process of its own, which may abort: the runtime does not capture ONNX Runtime's
work as a CUDA graph yet. Times are medians of runs from page-locked memory to page-locked memory.
PSNR is the worst of the bundle's reference pictures, against float32 PyTorch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from elir_deploy.output_files import write_text
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.backends import BACKENDS, Session
from elir_deploy.runtime.onnxruntime_stage import OnnxRuntimeStage
from elir_deploy.runtime.opening import field_noise
from elir_deploy.text import pipes

#: Longest that a variant may take, in seconds.
LONGEST_S = 120
#: Whether the session captures, which is no option of ONNX Runtime.
CAPTURED = "captured"
EXHAUSTIVE = {"cudnn_conv_algo_search": "EXHAUSTIVE"}
NHWC = {"prefer_nhwc": "1"}
FUSED = {"fuse_conv_bias": "1"}
TF32 = {"use_tf32": "1"}
#: Convolutions whose weights are dequantised once, not in every run.
UNPAIRED = {"session.disable_quant_qdq": "1"}
#: Options beside the backend's own; keys with a dot are the session's, the others the provider's.
VARIANTS: dict[str, dict[str, str]] = {
    "as the backend has it": {},
    "captured": {CAPTURED: "1"},
    "captured by ONNX Runtime": {"enable_cuda_graph": "1"},
    "captured, exhaustive choice of algorithms": {CAPTURED: "1", **EXHAUSTIVE},
    "captured, default algorithms": {CAPTURED: "1", "cudnn_conv_algo_search": "DEFAULT"},
    "captured, small workspaces": {CAPTURED: "1", "cudnn_conv_use_max_workspace": "0"},
    "captured, bias fused": {CAPTURED: "1", **FUSED},
    "captured, NHWC": {CAPTURED: "1", **NHWC},
    "captured, NHWC, bias fused": {CAPTURED: "1", **NHWC, **FUSED},
    "captured, NHWC, exhaustive": {CAPTURED: "1", **NHWC, **EXHAUSTIVE},
    "captured, TF32": {CAPTURED: "1", **TF32},
}
QUANTISED = {
    "captured, Q/DQ not paired": {CAPTURED: "1", **UNPAIRED},
    "captured, Q/DQ not paired, TF32": {CAPTURED: "1", **UNPAIRED, **TF32},
    "captured, Q/DQ not paired, TF32, NHWC": {CAPTURED: "1", **UNPAIRED, **TF32, **NHWC},
}


def opened(bundle: Bundle, precision: str, options: dict[str, str]) -> Session:
    """As the backend does, with other options, which the whole process then has."""
    import onnxruntime

    backend: Any = BACKENDS["onnxruntime-cuda"]

    def providers(*arguments: Any) -> list[tuple[str, dict[str, str]]]:
        ((name, own),) = backend.providers(*arguments)
        more = {key: value for key, value in options.items() if "." not in key and key != CAPTURED}
        return [(name, own | more)]

    class Settings(onnxruntime.SessionOptions):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for key, value in options.items():
                if "." in key:
                    self.add_session_config_entry(key, value)

    onnxruntime.SessionOptions = Settings
    OnnxRuntimeStage.capturable = CAPTURED in options
    session: Session = replace(backend, providers=providers).open(bundle, precision)
    noise = field_noise(bundle.manifest, None, None)
    if session.noise is not None and noise is not None:
        noise.fill(session.noise[0], 0, 0)
    return session


def milliseconds(session: Session, runs: int) -> float:
    samples = []
    for _ in range(runs):
        begin = time.perf_counter()
        session.run()
        samples.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(samples))


def measure(bundle: Bundle, precision: str, options: dict[str, str]) -> list[str]:
    """Cells of a variant's row."""
    begin = time.perf_counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        session = opened(bundle, precision, options)
        with session:
            loaded = time.perf_counter()
            session.run()
            first = time.perf_counter()
            milliseconds(session, 5)
            median = milliseconds(session, 30)
            worst = np.inf
            for _, image, expected in bundle.reference_images():
                session.input[...] = image
                session.run()
                worst = min(worst, psnr_db(session.output[0], expected))
    remarks = "; ".join(dict.fromkeys(" ".join(str(each.message).split())[:200] for each in said))
    times = (f"{median:.3f}", f"{loaded - begin:.1f}", f"{first - loaded:.1f}")
    return [*times, f"{worst:.1f}", remarks]


def in_child(bundle: str, precision: str, variant: str) -> list[str]:
    """Cells of a variant's row, or why there are none."""
    command = [sys.executable, __file__, "--child", bundle, precision, variant]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        return ["", "", "", "", f"took longer than {LONGEST_S} s"]
    if ended.returncode == 0:
        cells: list[str] = json.loads(ended.stdout.splitlines()[-1])
        return cells
    lines = [line for line in ended.stderr.splitlines() if line.strip()] or [""]
    return ["", "", "", "", f"ended with code {ended.returncode}: {lines[-1][:200]}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="the Markdown page")
    parser.add_argument("bundle", nargs="+", help="folders of bundles, or tiny")
    parser.add_argument("--precision", action="append", help="default: fp16, fp32 and int8")
    options = parser.parse_args()
    parts = ["# Options of ONNX Runtime's CUDA provider"]
    for name in options.bundle:
        task = Bundle.open(name).manifest.model.task
        for precision in options.precision or ("fp16", "fp32", "int8"):
            variants = VARIANTS | (QUANTISED if precision == "int8" else {})
            rows = []
            for variant in variants:
                rows.append([variant, *in_child(name, precision, variant)])
                print(task, precision, *rows[-1], sep=" | ", flush=True)
            header = ["", "ms", "s to load", "s of the first run", "PSNR, dB", "remarks"]
            parts += [f"## {task}, {precision}", pipes(header, rows)]
            write_text(options.output, "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        folder, number_format, chosen = sys.argv[2:]
        row = measure(Bundle.open(folder), number_format, (VARIANTS | QUANTISED)[chosen])
        print(json.dumps(row))
    else:
        main()
