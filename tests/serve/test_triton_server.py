"""The python form on a real tritonserver, from an environment of its own (it needs NumPy 1)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import elir_deploy
from elir_deploy.runtime import Restorer
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.serve.triton import TritonOptions, write_model
from tests.bundles import make_bundle
from tests.serve.running import running

pytestmark = pytest.mark.slow

PACKAGES = ["nvidia-pytriton==0.7.0", "numpy<2", "onnxruntime", "Pillow", "msgspec", "typer"]
BATCHES = [{"batch": 4, "height": 64, "width": 64}]

CLIENT = """
import sys
import numpy as np
import tritonclient.http as client

address, folder, names = sys.argv[1:]
server = client.InferenceServerClient(address, network_timeout=300, connection_timeout=300)
for name in names.split(","):
    pictures = np.load(f"{folder}/{name}.npy")
    tensor = client.InferInput("image", list(pictures.shape), "UINT8")
    tensor.set_data_from_numpy(pictures)
    model = name.rpartition("-")[0]
    assert server.is_server_ready() and server.is_model_ready(model, "1")
    restored = server.infer(model, [tensor], model_version="1").as_numpy("restored")
    np.save(f"{folder}/{name}.restored.npy", restored)
try:
    server.infer(model, [tensor], parameters={"strength": 2.0})
except Exception as error:
    print(error.message())
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with tritonserver in which this package can be imported."""
    folder = tmp_path_factory.mktemp("triton") / "venv"
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin" / "python"
    pip = [interpreter, "-m", "pip", "install", "--quiet", *PACKAGES, "tritonclient[http]"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip installs no tritonserver: {done.stderr[-300:]}")
    (packages,) = folder.glob("lib/python3.*/site-packages")
    (packages / "elir.pth").write_text(str(Path(elir_deploy.__file__).parents[1]))
    return interpreter


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("b") / "half", size=64, shapes=BATCHES, gain=0.5)


@pytest.fixture(scope="module")
def models(half: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    options = TritonOptions("python", "fp32", instances=2)
    write_model(Bundle.open("tiny"), folder, "tiny", options, overwrite=False)
    write_model(Bundle.open(half), folder, "half", options, overwrite=False)
    return folder


@pytest.fixture(scope="module")
def address(python: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    (packages,) = python.parents[1].glob("lib/python3.*/site-packages")
    server = packages / "pytriton" / "tritonserver"
    backends = tmp_path_factory.mktemp("backends")
    shutil.copytree(server / "backends" / "python", backends / "python")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, backends / "python")
    (backends / "python" / stub.name).chmod(0o755)
    http, grpc, metrics = free_ports(3)
    environment = os.environ | {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
    }
    command = [
        server / "bin" / "tritonserver",
        *(f"--model-repository={models}", f"--backend-directory={backends}"),
        *("--http-address=127.0.0.1", "--grpc-address=127.0.0.1"),
        *(f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"),
    ]
    log = backends / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        while "Started HTTPService" not in log.read_text(errors="replace"):
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)
        yield f"127.0.0.1:{http}"
    finally:
        process.terminate()
        process.wait(60)


def test_its_answers_are_the_runtime_s(
    python: Path, half: Path, address: str, tmp_path: Path
) -> None:
    check_answers(python, half, address, tmp_path)


def test_its_client_gets_the_same_from_elir_serve(python: Path, half: Path, tmp_path: Path) -> None:
    options = ("--backend", "onnxruntime", "--precision", "fp32")
    with running("tiny", half, *options) as service:
        check_answers(python, half, service.url.removeprefix("http://"), tmp_path)


def check_answers(python: Path, half: Path, address: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    shapes = {"tiny-0": (1, 256, 256, 3), "tiny-1": (1, 70, 301, 3), "half-0": (3, 64, 64, 3)}
    for name, shape in shapes.items():
        np.save(tmp_path / f"{name}.npy", generator.integers(0, 256, shape, np.uint8))
    arguments = [address, str(tmp_path), ",".join(shapes)]
    done = subprocess.run(
        [python, "-c", CLIENT, *arguments], capture_output=True, text=True, check=True
    )
    assert "strength is 2" in done.stdout
    for name in shapes:
        bundle = "tiny" if name.startswith("tiny") else half
        with Restorer(bundle, "onnxruntime", precision="fp32") as restorer:
            expected = [restorer(image) for image in np.load(tmp_path / f"{name}.npy")]
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.restored.npy"), expected)
