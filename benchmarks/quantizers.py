"""What INT8 engines make of the packaged model, from the same calibration images.

    python benchmarks/quantizers.py PHOTOS OTHER_PHOTOS docs/results/quantizers.md

PHOTOS are calibrated on, OTHER_PHOTOS measured on. Wherever an engine lets one choose, it is set to
what TensorRT needs: symmetric int8 activations with one scale a tensor, int8 weights with one scale
an output channel, float biases. The convolutions that read or write RGB stay in float. Engines that
are not installed are named and left out. All of them are

    pip install openvino nncf torchao "nvidia-modelopt[onnx]"

and then once more onnx and onnxruntime: ModelOpt's requirements replace them by older ones,
onnxruntime by its build for CUDA, but it works with the newer. onnxruntime's SmoothQuant wants a
neural-compressor before 3.0, which asks for older versions of much else (pip's --no-deps).

Every graph is made and run in a process of its own, so that its memory can be told and a crash
stays in its row.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from quantized_graphs import Form, convolutions
from quantizer_engines import ENGINES, SIDE, TASK, Bytes, Engine, Material, static

from elir_deploy.bench.device import describe_device, installed_version
from elir_deploy.export.calibration import CalibrationImage, calibration_images
from elir_deploy.export.graphs import fuse_stages
from elir_deploy.export.onnx import export_stages
from elir_deploy.output_files import write_text
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime.backends.openvino import read_model
from elir_deploy.text import pipes

LONGEST_S = 1800
LIBRARIES = ("onnx", "onnxruntime", "openvino", "nncf", "nvidia-modelopt", "torchao", "torch")


def run_onnxruntime(file: Path, images: Bytes) -> list[Bytes]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return [session.run(None, {"image": image[None]})[0][0] for image in images]


def run_openvino(file: Path, images: Bytes) -> list[Bytes]:
    """What is not int8 computes in float32, whatever the processor would prefer."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    model = read_model(file) if file.suffix == ".onnx" else file
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return [compiled([image[None]])[0][0].copy() for image in images]


BACKENDS = {"onnxruntime": run_onnxruntime, "openvino": run_openvino}


def child_make(number: int, folder: Path, model: Path) -> dict[str, Any]:
    """Runs in a process of its own; its imports and the model are not timed."""
    with np.load(folder / "images.npz") as stored:
        pairs = zip(stored["calibration"], stored["calibration_truth"], strict=True)
        images = [CalibrationImage(str(k), *pair) for k, pair in enumerate(pairs)]
    engine = ENGINES[number]
    for module in engine.needs:
        importlib.import_module(module)
    static()
    began = time.perf_counter()
    engine.make(Material(model, images, folder / str(number)))
    return {"seconds": time.perf_counter() - began, "peak_gib": _peak_gib()}


def child_run(backend: str, file: Path, folder: Path) -> dict[str, Any]:
    """Runs in a process of its own."""
    with np.load(folder / "images.npz") as stored:
        restored = BACKENDS[backend](file, stored["other"])
    np.save(folder / "restored.npy", np.stack(restored))
    return {}


def _peak_gib() -> float:
    """Of this process; what getrusage tells begins with its parent's."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**20


def in_child(*arguments: object) -> dict[str, Any] | str:
    """What a child process found out, or why it did not."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, Path(__file__).resolve(), "--child", answer, *arguments]
        try:
            ended = subprocess.run(
                [str(part) for part in command],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                timeout=LONGEST_S,
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            return f"took longer than {LONGEST_S // 60} minutes"
        if answer.exists():
            found: dict[str, Any] = json.loads(answer.read_text())
            return found
    return _why(ended)


def _why(ended: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    if ended.returncode < 0 or not lines:
        return f"ended with code {ended.returncode}"
    errors = [line for line in lines if "Error: " in line[:60] or "Exception: " in line[:60]]
    return (errors or lines)[-1][:200].replace("|", "/")


@dataclass(frozen=True)
class Tally:
    """What a graph does to the images that were not calibrated on.

    Attributes:
        drop_db: mean loss of PSNR to the truth.
        mean_db: mean PSNR against float32.
        worst_db: that of the worst image.
    """

    drop_db: float
    mean_db: float
    worst_db: float

    def cells(self) -> list[str]:
        return [f"{self.drop_db:.2f}", f"{self.mean_db:.1f}", f"{self.worst_db:.1f}"]


class Measured:
    """The images that are measured on, and graphs' results on them."""

    def __init__(self, folder: Path, model: Path, truths: list[Bytes]) -> None:
        self.folder = folder
        self.model = model
        self.truths = truths
        exact = self.restored("onnxruntime", model)
        assert not isinstance(exact, str), exact
        self.exact = exact

    def restored(self, backend: str, file: Path) -> Bytes | str:
        """All images, or why there are none."""
        found = in_child("run", backend, file, self.folder)
        if isinstance(found, str):
            return found
        restored: Bytes = np.load(self.folder / "restored.npy")
        return restored

    def tally(self, restored: Bytes) -> Tally:
        drops = [
            psnr_db(exact, truth) - psnr_db(made, truth)
            for exact, made, truth in zip(self.exact, restored, self.truths, strict=True)
        ]
        fidelities = agreement(restored, self.exact)
        return Tally(float(np.mean(drops)), float(np.mean(fidelities)), min(fidelities))


def agreement(images: Bytes, others: Bytes) -> list[float]:
    return [psnr_db(image, other) for image, other in zip(images, others, strict=True)]


def engine_rows(
    engine: Engine, number: int, measured: Measured
) -> tuple[list[str], list[str] | None]:
    """The row of results and, of an ONNX graph, that of its form."""
    missing = [module for module in engine.needs if find_spec(module) is None]
    if missing:
        return _failed(engine, f"not installed: {', '.join(missing)}"), None
    made = in_child("make", number, measured.folder, measured.model)
    if isinstance(made, str):
        return _failed(engine, made), None
    file = measured.folder / f"{number}.onnx"
    end = [f"{made['seconds']:.0f}", f"{made['peak_gib']:.1f}"]
    if not file.exists():
        return _openvino_row(engine, file.with_suffix(".xml"), measured, end), None
    first = measured.restored("onnxruntime", file)
    if isinstance(first, str):
        return _failed(engine, f"onnxruntime does not run it: {first}"), None
    cells = [engine.name, *measured.tally(first).cells()]
    second = measured.restored("openvino", file)
    if isinstance(second, str):
        cells += [f"fails: {second}", ""]
    else:
        same = np.mean(agreement(first, second))
        cells += [f"{measured.tally(second).drop_db:.2f}", f"{same:.1f}"]
    form = Form.of(onnx.load(file), onnx.load(measured.model))
    row = [*cells, str(form.nodes), f"{file.stat().st_size / 1e6:.1f}", *end]
    weights = [f"{form.weights_mb:.1f}", f"{form.copies:.2f}"]
    shape = [engine.name, form.activations, form.biases, *weights, str(form.scales)]
    return row, shape


def _openvino_row(engine: Engine, file: Path, measured: Measured, end: list[str]) -> list[str]:
    import openvino

    found = measured.restored("openvino", file)
    if isinstance(found, str):
        return _failed(engine, f"OpenVINO does not run it: {found}")
    tally = measured.tally(found)
    operations = openvino.Core().read_model(file).get_ops()
    nodes = sum(operation.get_type_name() != "Constant" for operation in operations)
    size = (file.stat().st_size + file.with_suffix(".bin").stat().st_size) / 1e6
    cells = [*tally.cells(), f"{tally.drop_db:.2f}", ""]
    return [engine.name, *cells, str(nodes), f"{size:.1f}", *end]


def _failed(engine: Engine, reason: str) -> list[str]:
    return [f"{engine.name}: {reason}", *[""] * (len(RESULT_HEADER) - 1)]


def moved_db(measured: Measured, file: Path) -> float:
    """PSNR between a graph and itself with its first bias a millionth larger."""
    model = onnx.load(file)
    bias = convolutions(model)[0].input[2]
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == bias)
    moved = numpy_helper.to_array(tensor) * np.float32(1 + 1e-6)
    tensor.CopyFrom(numpy_helper.from_array(moved, bias))
    moved_file = measured.folder / "moved.onnx"
    onnx.save(model, moved_file)
    pair = []
    for path in (file, moved_file):
        found = measured.restored("onnxruntime", path)
        assert not isinstance(found, str), found
        pair.append(found)
    return float(np.mean(agreement(*pair)))


def truths(images: list[CalibrationImage]) -> list[Bytes]:
    return [image.truth for image in images if image.truth is not None]


def write_images(
    folder: Path, calibration: list[CalibrationImage], other: list[CalibrationImage]
) -> None:
    np.savez(
        folder / "images.npz",
        calibration=np.stack([image.image for image in calibration]),
        calibration_truth=np.stack(truths(calibration)),
        other=np.stack([image.image for image in other]),
    )


RESULT_HEADER = [
    *("engine", "drop dB", "to float32 dB", "worst dB", "drop on OpenVINO dB"),
    *("the two agree dB", "nodes", "MB", "s to make", "GiB"),
]
FORM_HEADER = ["engine", "activations", "biases", "weights MB", "copies", "scales"]


def environment() -> str:
    cpu = describe_device().cpu
    packages = [f"{name} {version}" for name in LIBRARIES if (version := installed_version(name))]
    sets = {"avx512_vnni", "avx_vnni", "amx_int8"} & set(cpu.instruction_sets)
    return f"{cpu.model} ({', '.join(sorted(sets))}); " + ", ".join(packages)


@dataclass(frozen=True)
class Outcome:
    """All that the report tells.

    Attributes:
        calibrated_on: number of images.
        measured: on what.
        results: rows of the first table.
        forms: rows of the second.
        moved_db: see :func:`moved_db`.
    """

    calibrated_on: int
    measured: Measured
    results: list[list[str]]
    forms: list[list[str]]
    moved_db: float


def compare(photos: Path, others: Path, limit: int) -> str:
    """The whole comparison as Markdown."""
    calibration = calibration_images(photos, TASK, SIDE, count=16, warn=print)
    other = calibration_images(others, TASK, SIDE, count=limit, warn=print)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "float32.onnx"
        onnx.save(fuse_stages(export_stages(static())), model)
        write_images(Path(folder), calibration, other)
        measured = Measured(Path(folder), model, truths(other))
        results, forms = [], []
        for number, engine in enumerate(ENGINES):
            row, form = engine_rows(engine, number, measured)
            print(row, form, flush=True)
            results.append(row)
            forms += [form] if form else []
        moved = moved_db(measured, Path(folder) / "0.onnx")
        return report(Outcome(len(calibration), measured, results, forms, moved))


def report(outcome: Outcome) -> str:
    measured = outcome.measured
    exact = zip(measured.exact, measured.truths, strict=True)
    level = np.mean([psnr_db(image, truth) for image, truth in exact])
    parts = [
        "# INT8 engines on the packaged model",
        "Made by `python benchmarks/quantizers.py PHOTOS OTHER_PHOTOS "
        "docs/results/quantizers.md`; how each engine is set is in that program.",
        f"tiny, {SIDE}x{SIDE}, degraded as its task says; {outcome.calibrated_on} "
        f"photographs to calibrate with, {len(measured.truths)} others to measure on, which the "
        f"model was not trained on. The float32 graph reaches {level:.2f} dB on those; it has "
        f"{len(onnx.load(measured.model).graph.node)} nodes and "
        f"{measured.model.stat().st_size / 1e6:.1f} MB.",
        environment(),
        "## Engines",
        "Drop: mean loss of PSNR to the truth against float32. To float32: PSNR between the two, "
        "mean and worst image. Both on onnxruntime, but for NNCF's OpenVINO model, which is "
        "asymmetric and for OpenVINO only. Memory is the peak of the process that makes the "
        "graph.",
        pipes(RESULT_HEADER, outcome.results),
        "Backends add up in different orders, and rounding to int8 makes a whole step of a last "
        "bit: the first graph of the table and the same one with its first bias a millionth larger "
        f"agree to {outcome.moved_db:.1f} dB. Two backends cannot agree better; their drops can.",
        "### Form of the ONNX graphs",
        "Activations: quantised tensors by type; TensorRT reads uint8 as int8. Weights are those "
        "of all convolutions; copies: their number over that in the float32 graph, above 1 where "
        "they are stored for every Euler step. Scales: distinct ones of activations.",
        pipes(FORM_HEADER, outcome.forms),
    ]
    return "\n\n".join(parts) + "\n"


def child(answer: str, what: str, *arguments: str) -> None:
    if what == "make":
        number, folder, model = arguments
        found = child_make(int(number), Path(folder), Path(model))
    else:
        backend, file, folder = arguments
        found = child_run(backend, Path(file), Path(folder))
    Path(answer).write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("other_photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--limit", type=int, default=24, help="photographs to measure on")
    arguments = parser.parse_args()
    text = compare(arguments.photos, arguments.other_photos, arguments.limit)
    write_text(arguments.output, text)
    print(text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
