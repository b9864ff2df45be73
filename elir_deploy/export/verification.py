"""Each exported precision held against float32 PyTorch, in a process of its own.

The process that verifies shares nothing with the one that exported but files: it opens the bundle
with the runtime a user has, so that what is verified is what is shipped. float16 is run a second
time in emulated half arithmetic, because a CPU's own float16 path hides overflows, and the worse
of the two counts. bfloat16 has no file: it is what a backend may compute with the float32 one, and
is emulated only. Photographs decide whether a precision passes; whether it may run where nobody
asked for it is decided by pictures unlike photographs too.

Run as ``python -m elir_deploy.export.verification JOB_FOLDER`` by :func:`verify_bundle`.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from elir_deploy.errors import ElirError
from elir_deploy.export.emulation import emulate_bfloat16, emulate_float16
from elir_deploy.export.pixels import from_network, to_network
from elir_deploy.export.precision import open_session
from elir_deploy.pixels import db_from_json, finite_or_none, psnr_db
from elir_deploy.progress import ProgressCallback, no_progress
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import ImageFidelity, Verification, file_precision
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

#: What the PSNR of 8-bit outputs against float32 PyTorch, rounded the same way, must reach.
FLOORS_DB = {"fp32": 60.0, "fp16": 45.0, "bf16": 35.0, "int8": 35.0}
#: What every picture must reach, synthetic ones included, for a precision to run where nobody names
#: one: what a default may cost. Chosen by measurement (docs/decisions.md).
AUTOMATIC_DB = 35.0
BACKEND = "onnxruntime"
#: Precisions that no CPU computes as other hardware does, and what is computed for them instead.
_EMULATIONS: dict[str, tuple[Callable[[ModelProto], ModelProto], str]] = {
    "fp16": (emulate_float16, "half"),
    "bf16": (emulate_bfloat16, "bfloat16"),
}
#: Stands for minus infinity, which JSON does not have.
LOST = -1000.0
#: What follows the decoder: clipping, rounding, layout.
FORMATTING = "formatting"


def fidelity(
    name: str, image: NDArray[np.uint8], reference: NDArray[np.uint8], *, synthetic: bool = False
) -> ImageFidelity:
    """Agreement of the 8-bit image called ``name`` with its reference of the same shape."""
    error = np.abs(image.astype(np.int16) - reference.astype(np.int16)).astype(np.float64) / 255
    return ImageFidelity(
        name=name,
        width=image.shape[1],
        height=image.shape[0],
        synthetic=synthetic,
        psnr_db=finite_or_none(_rounded(psnr_db(image, reference))),
        max_error=_rounded(float(error.max())),
        mean_error=_rounded(float(error.mean())),
    )


def _rounded(value: float) -> float:
    """To six digits, so that a report reads well."""
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
    return _rounded(10 * math.log10(signal / error)) if signal else LOST


def verify_bundle(
    folder: Path,
    references: Sequence[Reference],
    precisions: Sequence[str],
    floors_db: dict[str, float],
    progress: ProgressCallback = no_progress,
) -> dict[str, Verification]:
    """Verify every precision of a bundle, each in a fresh process.

    Args:
        folder: the bundle, its manifest without a verification yet.
        references: images with the float32 model's results, photographs among them.
        precisions: those to verify.
        floors_db: least PSNR by precision.

    Raises:
        ElirError: the verifying process ended badly; the message ends with what it said.
    """
    reports = {}
    with tempfile.TemporaryDirectory(prefix="elir-verify-") as job:
        job_folder = Path(job)
        for reference in references:
            arrays: dict[str, Any] = {
                "image": reference.image,
                "restored": reference.restored,
                **reference.boundaries,
            }
            np.savez(job_folder / f"{reference.name}.npz", **arrays)
        for done, precision in enumerate(precisions):
            progress(f"verifying {precision}", done, len(precisions))
            request = {
                "bundle": str(folder.resolve()),
                "precision": precision,
                "floor_db": floors_db[precision],
                "images": {reference.name: reference.synthetic for reference in references},
            }
            (job_folder / "job.json").write_text(json.dumps(request))
            reports[precision] = _run_child(job_folder)
    return reports


def _run_child(job_folder: Path) -> Verification:
    command = [sys.executable, "-m", "elir_deploy.export.verification", str(job_folder)]
    # Python puts the current folder first on its path: not the user's, which may hold anything.
    child = subprocess.run(command, cwd=job_folder, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        said = child.stderr.strip().splitlines()
        raise ElirError(
            f"the verifying process ended with status {child.returncode}: "
            f"{said[-1] if said else 'it said nothing'}"
        )
    return msgspec.json.decode((job_folder / "result.json").read_bytes(), type=Verification)


def _verify_precision(job: dict[str, Any], job_folder: Path) -> Verification:
    precision = job["precision"]
    bundle = Bundle.open(job["bundle"])
    images: list[ImageFidelity] = []
    boundaries: dict[str, float | None] = {}
    own: dict[str, float | None] = {}
    graphs = _load_graphs(bundle, file_precision(precision))
    # INT8 graphs may compute in float16 elsewhere.
    holds_half = any(
        t.data_type == TensorProto.FLOAT16 for g in graphs for t in g.graph.initializer
    )
    emulation, arithmetic = _EMULATIONS.get("fp16" if holds_half else precision, (None, ""))
    parts = _Parts(graphs, emulation, bundle.manifest.model.steps)
    # The float32 file in float32 would say nothing of bfloat16.
    has_file = precision == file_precision(precision)
    runs = [f"{BACKEND} on the CPU"] * has_file
    runs += [f"in emulated {arithmetic} arithmetic"] * (emulation is not None)
    backend = ", and ".join(runs)
    with Restorer(bundle, backend=BACKEND, precision=file_precision(precision)) as restorer:
        for name, synthetic in job["images"].items():
            with np.load(job_folder / f"{name}.npz") as stored:
                reference = {key: stored[key] for key in stored.files}
            image, restored = reference.pop("image"), reference.pop("restored")
            fed = to_network(image, bundle.manifest.input.dtype)
            outputs = []
            # Of the two the emulation is the harsher one, and enough for a synthetic picture.
            if has_file and not (synthetic and emulation):
                outputs.append(from_network(restorer.run(fed)))
            if emulation or not synthetic:
                ends = parts.run_in_turn(fed)
                outputs.append(from_network(ends.pop(FORMATTING)))
            found = (fidelity(name, o, restored, synthetic=synthetic) for o in outputs)
            images.append(min(found, key=_decibels))
            if synthetic:
                continue
            for part, value in ends.items():
                _keep_worst(boundaries, part, signal_to_error(value, reference[part]))
            for part, value in parts.run_alone(fed, reference).items():
                _keep_worst(own, part, signal_to_error(value, reference[part]))
    photographs = [found for found in images if not found.synthetic]
    worst = min(map(_decibels, photographs))
    measured = {part: db for part, db in own.items() if db is not None}
    passed = worst >= job["floor_db"] and LOST not in boundaries.values()
    return Verification(
        psnr_db=worst if math.isfinite(worst) else None,
        max_error=max(found.max_error or 0.0 for found in photographs),
        mean_error=_rounded(float(np.mean([found.mean_error for found in photographs]))),
        floor_db=job["floor_db"],
        passed=passed,
        automatic=is_automatic(images, passed=passed),
        backend=backend,
        images=images,
        boundaries=boundaries,
        parts=own,
        worst_part=min(measured, key=lambda part: measured[part]) if measured else None,
        kept_float32=[],
    )


def is_automatic(images: Sequence[ImageFidelity], *, passed: bool) -> bool:
    """Whether a precision may run where nobody names one, by what it made of every picture."""
    return passed and min(map(_decibels, images)) >= AUTOMATIC_DB


def _decibels(found: ImageFidelity) -> float:
    return db_from_json(found.psnr_db)


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
    """The network cut into its parts, to see what each does to the error."""

    def __init__(
        self,
        graphs: list[ModelProto],
        emulation: Callable[[ModelProto], ModelProto] | None,
        steps: int,
    ) -> None:
        self.sessions: dict[str, tuple[str, Any]] = {}
        wanted = boundaries(steps)
        for graph in graphs:
            whole = emulation(graph) if emulation is not None else graph
            start = graph.graph.input[0].name
            extractor = onnx.utils.Extractor(whole)
            made = {name for node in graph.graph.node for name in node.output}
            ends = {part: end.tensor for part, end in wanted.items() if end.tensor in made}
            if DECODER in ends:
                ends[FORMATTING] = graph.graph.output[0].name
            for part, end in ends.items():
                self.sessions[part] = start, open_session(extractor.extract_model([start], [end]))
                start = end
        missing = [
            f"{end.tensor} ({part})" for part, end in wanted.items() if part not in self.sessions
        ]
        if missing:
            raise ElirError(f"the graphs do not make {', '.join(missing)}, the ends of parts")

    def run_in_turn(self, fed: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Every part's end when each is given what the one before made of the image."""
        found = {}
        value = fed
        for part, (start, session) in self.sessions.items():
            value = found[part] = session.run(None, {start: value})[0]
        return found

    def run_alone(
        self, fed: NDArray[Any], exact: dict[str, NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float32]]:
        """Every part's end when each is given the exact end of the part before it."""
        found = {}
        value = fed
        for part, (start, session) in self.sessions.items():
            if part in exact:
                found[part] = session.run(None, {start: value})[0]
                value = exact[part]
        return found


def _main(job_folder: Path) -> None:
    job = json.loads((job_folder / "job.json").read_text())
    report = _verify_precision(job, job_folder)
    (job_folder / "result.json").write_bytes(msgspec.json.encode(report))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
