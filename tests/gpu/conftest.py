"""Engines for the device at hand, made once for all tests."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.cuda import device_capabilities
from elir_deploy.targets import RTX_CAPABILITIES

#: What engines are made from: the packaged bundle, or one whose ONNX files suit the TensorRT at
#: hand (elir-export --target), or of another size or in stages.
SOURCE = os.environ.get("ELIR_GPU_BUNDLE", "tiny")


KINDS = ("tensorrt-rtx", "tensorrt")


@pytest.fixture(scope="session")
def with_engines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """The bundle with float16 and INT8 engines of a library, or a skipped test."""
    return functools.cache(functools.partial(_with_engines, tmp_path_factory))


@pytest.fixture(scope="session", params=KINDS)
def engines(request: pytest.FixtureRequest, with_engines: Callable[[str], Bundle]) -> Bundle:
    """With engines of each of the libraries."""
    return with_engines(request.param)


def _with_engines(tmp_path_factory: pytest.TempPathFactory, kind: str) -> Bundle:
    reason = BACKENDS[kind].available()
    if reason is not None:
        pytest.skip(reason)
    capability = device_capabilities()[0]
    if kind == "tensorrt-rtx" and capability not in RTX_CAPABILITIES:
        pytest.skip(f"TensorRT-RTX builds nothing for {capability}")
    path = tmp_path_factory.mktemp(kind) / "bundle"
    shutil.copytree(Bundle.open(SOURCE).path, path)
    target = ["--device"] if kind == "tensorrt" else ["--target", capability]
    command = [sys.executable, "-m", "elir_deploy.cli.build", str(path), *target]
    subprocess.run([*command, "--precision", "fp16", "--precision", "int8"], check=True)
    return Bundle.open(path)


@pytest.fixture(params=["fp16", "int8"])
def precision(request: pytest.FixtureRequest, engines: Bundle) -> str:
    """One of those that there are engines in."""
    held = {artifact.precision for artifact in engines.manifest.artifacts}
    if request.param not in held:
        pytest.skip(f"{SOURCE} has no {request.param}")
    return str(request.param)


def backend_of(bundle: Bundle) -> str:
    """The library of its engines."""
    (kind,) = {artifact.kind for artifact in bundle.manifest.artifacts} - {"onnx"}
    return kind


def copies_of(call: Callable[[], object]) -> list[str]:
    """Names of the copies in a call, such as "Memcpy DtoD (Device -> Device)"."""
    import torch

    activities = [torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    return [event.name for event in profile.events() if event.name.startswith("Memcpy")]


def truncate_engines(source: Bundle, path: Path) -> None:
    """A copy whose engines end in the middle, with a manifest that says so."""
    shutil.copytree(source.path, path)
    manifest = json.loads((path / "bundle.json").read_text("utf-8"))
    for stage in manifest["stages"]:
        for artifact in stage["artifacts"]:
            if artifact["kind"] != "onnx":
                content = (path / artifact["file"]).read_bytes()[: artifact["bytes"] // 2]
                (path / artifact["file"]).write_bytes(content)
                artifact |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (path / "bundle.json").write_text(json.dumps(manifest), "utf-8")
