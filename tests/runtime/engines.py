"""Bundles with engines for the stand-in libraries."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.bundles import make_bundle, read_manifest, stage_ends, write_manifest
from tests.runtime.stand_in_cuda import VERSIONS, detector_engine, engine_bytes

#: Heights and widths of the profiles of a detector's engine.
SIZES = ((960, 1280), (1280, 960), (1280, 1280))


def put_engine(
    folder: Path,
    stage: int = 0,
    *,
    kind: str = "tensorrt-rtx",
    precision: str = "fp32",
    target: str | None = "sm86",
    version: str | None = None,
    content: bytes | None = None,
    gain: float = 1.0,
    bias: float = 0.0,
    **more: Any,
) -> str:
    """Add an engine to a stage of the bundle in ``folder``; returns its file's name."""
    version = version or VERSIONS[kind]
    manifest = read_manifest(folder)
    entry = manifest["stages"][stage]
    made = _engine(manifest, stage, gain, bias) if content is None else content
    short = "rtx" if kind == "tensorrt-rtx" else "trt"
    file = f"{entry['name']}.{precision}.{target}.{version}.{short}.engine"
    (folder / file).write_bytes(made)
    entry["artifacts"].append(
        {
            "file": file,
            "kind": kind,
            "precision": precision,
            "target": target,
            "tool": kind,
            "tool_version": version,
            "sha256": hashlib.sha256(made).hexdigest(),
            "bytes": len(made),
            **more,
        }
    )
    write_manifest(folder, manifest)
    return file


def _engine(manifest: dict[str, Any], stage: int, gain: float, bias: float) -> bytes:
    """With a profile for each shape, if there are several or batches."""
    shapes = manifest["shapes"]
    ends, profiles = stage_ends(manifest, stage), None
    if len(shapes) > 1 or shapes[0]["batch"] > 1:
        each = [stage_ends(manifest | {"shapes": [shape]}, stage) for shape in shapes]
        profiles = [
            {e["name"]: [[1, *e["shape"][1:]], e["shape"], e["shape"]] for e in ends[:-1]}
            for ends in each
        ]
        for end in ends:
            free = [0] * any(shape["batch"] > 1 for shape in shapes)
            if len(shapes) > 1:
                free += [1, 2] if end["layout"] == "NHWC" else [2, 3]
            end["shape"] = [-1 if i in free else side for i, side in enumerate(end["shape"])]
    return engine_bytes(*ends, gain=gain, bias=bias, profiles=profiles)


def engine_bundle(
    folder: Path,
    *,
    kind: str = "tensorrt-rtx",
    precisions: tuple[str, ...] = ("fp32",),
    gain: float = 1.0,
    bias: float = 0.0,
    io: str = "uint8",
    stages: str = "fused",
    size: int = 32,
    stride: int | None = None,
    shapes: list[dict[str, int]] | None = None,
    **engine: Any,
) -> Path:
    """A bundle with ONNX files and an engine for each; ``engine`` goes to :func:`put_engine`."""
    path = make_bundle(
        *(folder,),
        precisions=precisions,
        io=io,
        stages=stages,
        size=size,
        gain=gain,
        bias=bias,
        stride=stride,
        shapes=shapes,
    )
    count = len(read_manifest(path)["stages"])
    for stage in range(count):
        last = stage == count - 1
        for precision in precisions:
            put_engine(
                path,
                stage,
                kind=kind,
                precision=precision,
                gain=gain if last else 1.0,
                bias=bias if last else 0.0,
                **engine,
            )
    return path


def put_detector_engine(
    bundle: Path,
    kind: str,
    *sizes: tuple[int, int],
    target: str = "sm86",
    version: str | None = None,
    **more: Any,
) -> Path:
    """Add an engine of the bundle's detector."""
    manifest = read_manifest(bundle)
    graph = (bundle / manifest["detector"]["artifacts"][0]["file"]).read_bytes()
    content = detector_engine(graph, *(sizes or SIZES), **more)
    file = f"detector.{kind}.{target}.engine"
    (bundle / file).write_bytes(content)
    entry = {
        "file": file,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "kind": kind,
        "precision": "fp32",
        "target": target,
        "tool": kind,
        "tool_version": version or VERSIONS[kind],
    }
    manifest["detector"]["artifacts"].append(entry)
    write_manifest(bundle, manifest)
    return bundle / file
