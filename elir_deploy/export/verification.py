"""Verification of each exported precision against float32 PyTorch, in a process of its own.

The verifying process shares only files with the exporting one: it opens the bundle with the runtime
a user has, so that what is verified is what is shipped. float16 runs a second time in emulated half
arithmetic, because a CPU's own float16 path hides overflows; the worse result counts. bfloat16 has
no file: it is one way to compute the float32 one, and only emulated. Photographs decide whether a
precision passes, synthetic pictures too whether it is automatic.

Run as ``python -m elir_deploy.export.verification JOB_FOLDER`` by :func:`verify_bundle`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from elir_deploy.errors import ElirError
from elir_deploy.export.emulation import emulate_bfloat16, emulate_float16
from elir_deploy.export.graphs import cut
from elir_deploy.export.pixels import Feeder, from_network
from elir_deploy.export.precision import open_session
from elir_deploy.fixed_shapes import fixed
from elir_deploy.pixels import db_from_json, decibels, finite_or_none, psnr_db
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import (
    NOISE_TENSOR,
    BakedNoise,
    ImageFidelity,
    Manifest,
    Shape,
    Verification,
    file_precision,
)
from elir_deploy.runtime.noise import NoiseField
from elir_deploy.scopes import DECODER, boundaries

if TYPE_CHECKING:
    from elir_deploy.export.references import Reference

__all__ = [
    "AUTOMATIC_DB",
    "FLOORS_DB",
    "fidelity",
    "is_automatic",
    "signal_to_error",
    "verify_bundle",
]

#: Least PSNR of 8-bit outputs against those of float32 PyTorch.
FLOORS_DB = {"fp32": 60.0, "fp16": 45.0, "bf16": 35.0, "int8": 35.0, "w8": 35.0}
#: Least PSNR of every picture, synthetic ones included, for an automatic precision: what a default
#: may cost. Chosen by measurement (docs/decisions.md).
AUTOMATIC_DB = 35.0
BACKEND = "onnxruntime"
#: Precisions that CPUs do not compute as other hardware does: their emulation, and its name.
_EMULATIONS: dict[str, tuple[Callable[[ModelProto], ModelProto], str]] = {
    "fp16": (emulate_float16, "half"),
    "bf16": (emulate_bfloat16, "bfloat16"),
}
#: Stands for minus infinity, which JSON does not have.
LOST = -1000.0
#: Tensors by name, or the ends of parts by part.
_Ends = Mapping[str, NDArray[Any]]
#: What follows the decoder: clipping, rounding, layout.
FORMATTING = "formatting"


def fidelity(
    name: str,
    image: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    *,
    synthetic: bool = False,
    finite: bool = True,
) -> ImageFidelity:
    """Agreement of an 8-bit image with its reference of the same shape.

    Args:
        name: of the picture.
        image, reference: (H, W, 3) RGB.
        synthetic: whether the picture is.
        finite: whether the network gave only finite numbers for it.
    """
    error = np.abs(image.astype(np.int16) - reference.astype(np.int16)).astype(np.float64) / 255
    return ImageFidelity(
        name=name,
        width=image.shape[1],
        height=image.shape[0],
        synthetic=synthetic,
        psnr_db=finite_or_none(_rounded(psnr_db(image, reference))),
        max_error=_rounded(float(error.max())) if finite else None,
        mean_error=_rounded(float(error.mean())) if finite else None,
    )


def _rounded(value: float) -> float:
    """To six digits."""
    return float(f"{value:.6g}")


def signal_to_error(value: NDArray[np.float32], reference: NDArray[np.float32]) -> float | None:
    """Energy of the reference over energy of the difference in dB; None where there is none.

    A value that is not finite has lost everything, which is given as :data:`LOST`.
    """
    if not np.isfinite(value).all():
        return LOST
    error = float(np.sum((value.astype(np.float64) - reference) ** 2))
    signal = float(np.sum(reference.astype(np.float64) ** 2))
    if error == 0:
        return None
    return _rounded(decibels(error / signal)) if signal else LOST


def verify_bundle(
    folder: Path,
    references: Sequence[Reference],
    floors_db: Mapping[str, float],
    progress: ProgressCallback = no_progress,
) -> dict[str, Verification]:
    """Verify every precision of a bundle, each in a fresh process.

    Args:
        folder: of the bundle, whose manifest has no verification yet.
        references: with the float32 model's results; at least one is a photograph.
        floors_db: least PSNR of each precision to verify.

    Raises:
        ElirError: the verifying process failed; the message ends with its own.
    """
    reports = {}
    with tempfile.TemporaryDirectory(prefix="elir-verify-") as job:
        job_folder = Path(job)
        for number, reference in enumerate(references):
            arrays: dict[str, Any] = {
                "image": reference.image,
                "restored": reference.restored,
                **reference.boundaries,
            }
            np.savez(job_folder / f"{number}.npz", **arrays)
        for done, (precision, floor_db) in enumerate(floors_db.items()):
            progress(f"verifying {precision}", done, len(floors_db))
            request = {
                "bundle": str(folder.resolve()),
                "precision": precision,
                "floor_db": floor_db,
                "images": [(reference.name, reference.synthetic) for reference in references],
            }
            (job_folder / "job.json").write_text(json.dumps(request), "utf-8")
            reports[precision] = _run_child(job_folder)
    return reports


def _run_child(job_folder: Path) -> Verification:
    command = [sys.executable, "-m", "elir_deploy.export.verification", str(job_folder)]
    # Python puts the current folder first on its path: not the user's, which may hold anything.
    child = subprocess.run(command, cwd=job_folder, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        messages = child.stderr.strip().splitlines()
        raise ElirError(
            f"the verifying process ended with status {child.returncode}: "
            f"{messages[-1] if messages else 'it printed no error'}"
        )
    return msgspec.json.decode((job_folder / "result.json").read_bytes(), type=Verification)


def _verify_precision(job: dict[str, Any], job_folder: Path) -> Verification:
    precision = job["precision"]
    bundle = Bundle.open(job["bundle"])
    graphs = _load_graphs(bundle, file_precision(precision))
    emulation, arithmetic = _emulation(precision, graphs)
    # The float32 file in float32 would say nothing of bfloat16.
    has_file = precision == file_precision(precision)
    runs = [f"{BACKEND} on the CPU"] * has_file
    runs += [f"in emulated {arithmetic} arithmetic"] * (emulation is not None)
    feeder, results = _feeder(bundle.manifest), _Results()
    size, parts = (), None
    with Restorer(bundle, backend=BACKEND, precision=file_precision(precision)) as restorer:
        for number, (name, synthetic) in enumerate(job["images"]):
            with np.load(job_folder / f"{number}.npz") as stored:
                reference = {key: stored[key] for key in stored.files}
            image, restored = reference.pop("image"), reference.pop("restored")
            if parts is None or size != image.shape[:2]:
                size, parts = image.shape[:2], None  # frees those of another size
                parts = _Parts(
                    _fix_to_size(graphs, bundle.manifest, *size),
                    emulation,
                    bundle.manifest.model.steps,
                )
            inputs = feeder(image)
            outputs, ends = [], {}
            # The emulation is the harsher of the two, and enough for a synthetic picture.
            if has_file and not (synthetic and emulation):
                outputs.append(from_network(restorer.run(*inputs.values())))
            if emulation or not synthetic:
                ends = parts.run_in_turn(inputs)
                outputs.append(from_network(ends.pop(FORMATTING)))
            finite = all(np.isfinite(end).all() for end in ends.values())
            candidates = (
                fidelity(name, output, restored, synthetic=synthetic, finite=finite)
                for output in outputs
            )
            results.images.append(min(candidates, key=_decibels))
            if not synthetic:
                results.add_parts(ends, parts.run_alone(inputs, reference), reference)
    return _summarize(results, job["floor_db"], ", and ".join(runs))


@dataclass
class _Results:
    """Agreement of each image, and the worst of each part after and without earlier errors."""

    images: list[ImageFidelity] = field(default_factory=list)
    boundaries: dict[str, float | None] = field(default_factory=dict)
    parts: dict[str, float | None] = field(default_factory=dict)

    def add_parts(self, ends: _Ends, alone: _Ends, exact: _Ends) -> None:
        """Keep the worse of these ends of parts, in turn and ``alone``, and earlier ones."""
        for table, values in ((self.boundaries, ends), (self.parts, alone)):
            for part, value in values.items():
                _keep_worst(table, part, signal_to_error(value, exact[part]))


def _fix_to_size(
    graphs: list[ModelProto], manifest: Manifest, height: int, width: int
) -> list[ModelProto]:
    """The graphs for one image of a size, if they are for several shapes; else themselves."""
    if not manifest.several:
        return graphs
    shape = Shape(1, height, width)
    return [
        fixed(graph, {v.name: manifest.tensor(v.name, shape).shape for v in graph.graph.input})
        for graph in graphs
    ]


def _feeder(manifest: Manifest) -> Feeder:
    io, noise = manifest.input.dtype, manifest.noise
    if isinstance(noise, BakedNoise):
        return Feeder(io)
    tensor = manifest.tensors[NOISE_TENSOR]
    field = NoiseField(noise.seed, manifest.model.sigma_s)
    return Feeder(io, field, tensor.channels, tensor.stride)


def _emulation(
    precision: str, graphs: Sequence[ModelProto]
) -> tuple[Callable[[ModelProto], ModelProto] | None, str]:
    """What emulates a precision, and the name of its arithmetic; None where nothing has to."""
    # INT8 and w8 graphs may compute in float16 elsewhere.
    has_half = any(t.data_type == TensorProto.FLOAT16 for g in graphs for t in g.graph.initializer)
    return _EMULATIONS.get("fp16" if has_half else precision, (None, ""))


def _summarize(results: _Results, floor_db: float, backend: str) -> Verification:
    photographs = [image for image in results.images if not image.synthetic]
    worst = min(map(_decibels, photographs))
    max_errors = [image.max_error for image in photographs if image.max_error is not None]
    mean_errors = [image.mean_error for image in photographs if image.mean_error is not None]
    finite = len(max_errors) == len(photographs)
    passed = finite and worst >= floor_db
    measured = {part: db for part, db in results.parts.items() if db is not None}
    return Verification(
        psnr_db=finite_or_none(worst),
        max_error=max(max_errors) if finite else None,
        mean_error=_rounded(float(np.mean(mean_errors))) if finite else None,
        floor_db=floor_db,
        passed=passed,
        automatic=is_automatic(results.images, passed=passed),
        backend=backend,
        images=results.images,
        boundaries=results.boundaries,
        parts=results.parts,
        worst_part=min(measured, key=lambda part: measured[part]) if measured else None,
        kept_float32=[],
    )


def is_automatic(images: Sequence[ImageFidelity], *, passed: bool) -> bool:
    """Whether a precision is automatic: it passed, and no picture loses more than a default may."""
    return passed and min(map(_decibels, images)) >= AUTOMATIC_DB


def _decibels(image: ImageFidelity) -> float:
    return db_from_json(image.psnr_db)


def _keep_worst(table: dict[str, float | None], part: str, value: float | None) -> None:
    before = table.get(part)
    known = [db for db in (before, value) if db is not None]
    table[part] = min(known) if known else None


def _load_graphs(bundle: Bundle, precision: str) -> list[ModelProto]:
    graphs = []
    for stage in bundle.stages:
        (artifact,) = [
            artifact
            for artifact in stage.artifacts
            if artifact.kind == "onnx" and artifact.precision == precision
        ]
        graphs.append(onnx.load_model_from_string((bundle.path / artifact.file).read_bytes()))
    return graphs


class _Parts:
    """The network cut into its parts, to measure each one's error."""

    def __init__(
        self,
        graphs: list[ModelProto],
        emulation: Callable[[ModelProto], ModelProto] | None,
        steps: int,
    ) -> None:
        # Names of inputs and output of each part, and its session.
        self.sessions: dict[str, tuple[list[str], str, Any]] = {}
        expected = boundaries(steps)
        for graph in graphs:
            whole = emulation(graph) if emulation is not None else graph
            start = graph.graph.input[0].name
            extractor = onnx.utils.Extractor(whole)
            outputs = {name for node in graph.graph.node for name in node.output}
            ends = {part: end.tensor for part, end in expected.items() if end.tensor in outputs}
            if DECODER in ends:
                ends[FORMATTING] = graph.graph.output[0].name
            for part, end in ends.items():
                model = cut(extractor, start, end)
                names = [value.name for value in model.graph.input]
                self.sessions[part] = names, end, open_session(model)
                start = end
        missing = [
            f"{end.tensor} ({part})" for part, end in expected.items() if part not in self.sessions
        ]
        if missing:
            raise ElirError(
                f"the graphs lack the tensors at the ends of parts: {', '.join(missing)}"
            )

    def run_in_turn(self, inputs: _Ends) -> dict[str, NDArray[Any]]:
        """Output of every part, each given the output of the one before it."""
        ends = {}
        values = dict(inputs)
        for part, (names, end, session) in self.sessions.items():
            ends[part] = session.run(None, {name: values[name] for name in names})[0]
            values[end] = ends[part]
        return ends

    def run_alone(self, inputs: _Ends, exact: _Ends) -> dict[str, NDArray[Any]]:
        """Output of every part, each given the exact output of the one before it."""
        ends = {}
        values = dict(inputs)
        for part, (names, end, session) in self.sessions.items():
            if part in exact:
                ends[part] = session.run(None, {name: values[name] for name in names})[0]
                values[end] = exact[part]
        return ends


def _main(job_folder: Path) -> None:
    job = json.loads((job_folder / "job.json").read_text("utf-8"))
    report = _verify_precision(job, job_folder)
    (job_folder / "result.json").write_bytes(msgspec.json.encode(report))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
