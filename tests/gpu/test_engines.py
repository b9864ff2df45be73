"""Engines of the packaged model for the device at hand, where TensorRT or TensorRT-RTX is there.

Not run yet: there was no GPU where this was written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from elir_deploy.errors import UnavailableError
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.cuda import device_capabilities
from elir_deploy.targets import RTX_CAPABILITIES

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=["tensorrt-rtx", "tensorrt"])
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The packaged bundle with float16 engines of one of the libraries."""
    kind = request.param
    reason = BACKENDS[kind].available()
    if reason is not None:
        pytest.skip(reason)
    capability = device_capabilities()[0]
    if kind == "tensorrt-rtx" and capability not in RTX_CAPABILITIES:
        pytest.skip(f"TensorRT-RTX builds nothing for {capability}")
    path = tmp_path_factory.mktemp(kind) / "bundle"
    shutil.copytree(Bundle.open("tiny").path, path)
    target = ["--device"] if kind == "tensorrt" else ["--target", capability]
    command = [sys.executable, "-m", "elir_deploy.cli.build", str(path), *target]
    subprocess.run([*command, "--precision", "fp16"], check=True)
    return Bundle.open(path)


def backend_of(bundle: Bundle) -> str:
    (kind,) = {a.kind for a in bundle.info.artifacts} - {"onnx"}
    return kind


def test_the_quality_is_what_was_verified(engines: Bundle) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a wrong result, and of a capture that fails
        with Restorer(engines, backend_of(engines), precision="fp16") as restore:
            for _ in range(3):
                for _name, image, wanted in engines.reference_images():
                    made = restore.run_pixels(image)
                    error = np.mean((made.astype(np.float64) - wanted) ** 2)
                    assert 10 * np.log10(255**2 / error) >= 45
            assert restore.session._graph is not None  # type: ignore[attr-defined]


def test_several_at_once_give_the_same_pictures(engines: Bundle) -> None:
    rng = np.random.default_rng(0)
    side = engines.info.model.image_size
    images = [rng.integers(0, 256, (side, side, 3), np.uint8) for _ in range(30)]
    made = []
    for mode in ("latency", "throughput"):
        with Restorer(engines, backend_of(engines), precision="fp16", mode=mode) as restore:  # type: ignore[arg-type]
            made.append(list(restore.map(images)))
    np.testing.assert_array_equal(*made)


def test_compiled_kernels_are_used_again(
    engines: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend_of(engines) != "tensorrt-rtx":
        pytest.skip("TensorRT's engines hold compiled kernels")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        with Restorer(engines, "tensorrt-rtx", precision="fp16"):
            pass
    kept = [path for path in tmp_path.rglob("*.cache") if path.is_file()]
    assert len(kept) == 1


def test_a_truncated_engine(engines: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(engines.path, path)
    manifest = json.loads((path / "bundle.json").read_text("utf-8"))
    for artifact in manifest["stages"][0]["artifacts"]:
        if artifact["kind"] != "onnx":
            content = (path / artifact["file"]).read_bytes()[: artifact["bytes"] // 2]
            (path / artifact["file"]).write_bytes(content)
            artifact |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (path / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(Exception, match=r"cannot|is no engine") as caught:
        Restorer(path, backend_of(engines), precision="fp16")
    assert caught.value.exit_code in (2, UnavailableError.exit_code)  # type: ignore[attr-defined]
    # The device is as good as before.
    Restorer(engines, backend_of(engines), precision="fp16").close()
