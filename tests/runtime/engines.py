"""Bundles with engines for the stand-in libraries."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.bundles import make_bundle, read_manifest, stage_ends, write_manifest
from tests.runtime.stand_in_cuda import VERSIONS, engine_bytes


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
    made = engine_bytes(*stage_ends(manifest, stage), gain, bias) if content is None else content
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
    **engine: Any,
) -> Path:
    """A bundle with ONNX files and an engine for each; ``engine`` goes to :func:`put_engine`."""
    path = make_bundle(
        folder, precisions=precisions, io=io, stages=stages, size=size, gain=gain, bias=bias
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
