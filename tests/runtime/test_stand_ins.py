"""The stand-ins, and the types that the runtime gives libraries without any, against the real ones.

A stand-in that takes other arguments than the library proves nothing. Each comparison is skipped
where the library, or its stubs, are not installed; none needs a GPU.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from elir_deploy.runtime import tensorrt_engine
from elir_deploy.runtime.cuda_python import CudaRuntime
from tests.runtime.stand_in_cuda import StandInGpu

GPU = StandInGpu()
CUDA_FUNCTIONS = sorted(name for name in vars(CudaRuntime) if re.match(r"cuda[A-Z]\w+$", name))

#: Classes of TensorRT, and what the runtime uses of each beside their construction.
TENSORRT = {
    "Runtime": ("deserialize_cuda_engine", "engine_host_code_allowed"),
    "ICudaEngine": (
        *("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype"),
        *("get_tensor_shape", "get_tensor_format", "get_tensor_location"),
        "create_execution_context",
        *("num_optimization_profiles", "get_tensor_profile_shape"),
    ),
    "IExecutionContext": (
        *("set_tensor_address", "execute_async_v3"),
        *("set_optimization_profile_async", "set_input_shape", "get_tensor_shape"),
    ),
    "ILogger": ("log", "ERROR", "INTERNAL_ERROR"),
    "DataType": ("UINT8", "FLOAT"),
    "TensorIOMode": ("INPUT", "OUTPUT"),
    "TensorFormat": ("LINEAR",),
    "TensorLocation": ("DEVICE",),
    "Dims": ("__len__", "__getitem__"),
}
#: What TensorRT-RTX has besides.
RTX = {
    "Runtime": ("get_engine_validity",),
    "ICudaEngine": ("create_runtime_config",),
    "IExecutionContext": ("is_stream_capturable",),
    "IRuntimeConfig": ("cuda_graph_strategy", "create_runtime_cache", "set_runtime_cache"),
    "IRuntimeCache": ("deserialize", "serialize"),
    "EngineValidity": ("INVALID",),
    "EngineInvalidityDiagnostics": ("MALFORMED_ENGINE", "CUDA_ERROR"),
    "CudaGraphStrategy": ("WHOLE_GRAPH_CAPTURE",),
}


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


# cuda-python --------------------------------------------------------------------------------------


def cuda_python() -> Any:
    with contextlib.suppress(ImportError):
        return importlib.import_module("cuda.bindings.runtime")
    with contextlib.suppress(ImportError):
        return importlib.import_module("cuda.cudart")
    return pytest.skip("cuda-python is not installed")


@pytest.mark.parametrize("name", CUDA_FUNCTIONS)
def test_functions_of_cuda_python(name: str) -> None:
    typed, stood_in = getattr(CudaRuntime, name), getattr(GPU.cuda, name)
    assert parameters(typed) == parameters(stood_in)
    assert parameters(getattr(cuda_python(), name)) == parameters(stood_in)


def test_constants_of_cuda_python() -> None:
    real = cuda_python()
    for name in CudaRuntime.__annotations__:
        stood_in, there = getattr(GPU.cuda, name), getattr(real, name)
        if isinstance(stood_in, int):
            assert int(there) == stood_in
        else:
            for member in stood_in:
                assert int(getattr(there, member.name)) == member.value
    for error in GPU.cuda.cudaError_t:
        assert int(getattr(real.cudaError_t, error.name)) == error.value


def test_integers_are_taken_for_handles() -> None:
    """Whatever they answer, it is not that the type is wrong. Without a driver nothing is done."""
    from elir_deploy.runtime.backends.base import missing_cuda_device

    if missing_cuda_device() is None:
        pytest.skip("the handles would be real")
    real = cuda_python()
    if real.__name__ == "cuda.cudart":
        pytest.skip("up to 12.6, nothing can be called without a driver")
    mode = real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    kind = real.cudaMemcpyKind.cudaMemcpyHostToDevice
    for call in (
        lambda: real.cudaStreamSynchronize(7),
        lambda: real.cudaStreamDestroy(7),
        lambda: real.cudaEventRecord(7, 7),
        lambda: real.cudaEventSynchronize(7),
        lambda: real.cudaEventDestroy(7),
        lambda: real.cudaMemcpyAsync(64, 64, 1, kind, 7),
        lambda: real.cudaMemcpy2DAsync(64, 8, 64, 8, 8, 1, kind, 7),
        lambda: real.cudaPointerGetAttributes(64),
        lambda: real.cudaStreamWaitEvent(7, 7, 0),
        lambda: real.cudaStreamIsCapturing(7),
        lambda: real.cudaStreamBeginCapture(7, mode),
        lambda: real.cudaStreamEndCapture(7),
        lambda: real.cudaGraphInstantiateWithFlags(7, 0),
        lambda: real.cudaGraphLaunch(7, 7),
        lambda: real.cudaGraphDestroy(7),
        lambda: real.cudaGraphExecDestroy(7),
        lambda: real.cudaFree(7),
        lambda: real.cudaFreeHost(7),
    ):
        assert int(call()[0]) != 0
    assert (
        int(real.cudaStream_t(7)) == int(real.cudaGraphExec_t(7)) == int(real.cudaEvent_t(7)) == 7
    )


# TensorRT -----------------------------------------------------------------------------------------


def stubs() -> Path:
    """The stubs of TensorRT's bindings, one file."""
    try:
        files = importlib.metadata.files("tensorrt-stubs") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("tensorrt-stubs is not installed")
    (found,) = [file for file in files if file.name == "tensorrt.pyi"]
    return Path(str(found.locate()))


def stub_class(text: str, name: str) -> ast.ClassDef:
    """One class, by itself: the file as a whole is no valid Python."""
    found = re.search(rf"^class {name}\b.*?(?=^\S)", text, re.MULTILINE | re.DOTALL)
    assert found, name
    (node,) = ast.parse(found[0]).body
    assert isinstance(node, ast.ClassDef)
    return node


@pytest.mark.parametrize("name", TENSORRT)
def test_classes_of_tensorrt(name: str) -> None:
    described = stub_class(stubs().read_text("utf-8"), name)
    stood_in = getattr(GPU.tensorrt("tensorrt"), name)
    documented = ast.get_docstring(described) or ""
    for member in TENSORRT[name]:
        own = [n for n in described.body if isinstance(n, ast.FunctionDef) and n.name == member]
        methods = [n for n in own if not n.decorator_list or "overload" in ast.dump(n)]
        attributes = [
            n.target.id
            for n in described.body
            if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
        ]
        if not methods:
            assert member in attributes or own or f":ivar {member}:" in documented
            continue
        accepted = [[a.arg for a in method.args.args if a.arg != "self"] for method in methods]
        expected = parameters(getattr(stood_in, member))
        if member.startswith("__"):  # by operators, where names do not matter
            assert len(expected) in map(len, accepted)
        else:
            assert expected in accepted, member


@pytest.mark.parametrize("name", TENSORRT | RTX)
def test_classes_of_tensorrt_rtx(name: str) -> None:
    real = pytest.importorskip("tensorrt_rtx_bindings")
    described, stood_in = getattr(real, name), getattr(GPU.tensorrt("tensorrt-rtx"), name)
    for member in (*TENSORRT.get(name, ()), *RTX.get(name, ())):
        there = inspect.getattr_static(described, member, None)
        assert there is not None, member
        if isinstance(there, property) or not callable(getattr(described, member)):
            continue
        if member.startswith("__"):
            continue
        signatures = re.findall(rf"\b{member}\((self[^)]*)\)", there.__doc__ or "")
        accepted = [re.findall(r"(?:^|, )(\w+)(?=:)", signature)[1:] for signature in signatures]
        # A protocol of pybind11's, where a class of ours is called, has no names.
        assert parameters(getattr(stood_in, member)) in accepted, (member, signatures)


@pytest.mark.parametrize("name", ["EngineInvalidityDiagnostics", "EngineValidity"])
def test_values_of_tensorrt_rtx(name: str) -> None:
    real = getattr(pytest.importorskip("tensorrt_rtx_bindings"), name)
    stood_in = getattr(GPU.tensorrt("tensorrt-rtx"), name)
    assert {key: int(value) for key, value in real.__members__.items()} == {
        member.name: member.value for member in stood_in
    }


def test_the_protocols_of_tensorrt_rtx() -> None:
    library = GPU.tensorrt("tensorrt-rtx")
    for protocol, name in (
        ("RtxRuntime", "Runtime"),
        ("RtxEngine", "ICudaEngine"),
        ("RtxRuntimeConfig", "IRuntimeConfig"),
        ("RtxRuntimeCache", "IRuntimeCache"),
        ("RtxContext", "IExecutionContext"),
    ):
        typed = getattr(tensorrt_engine, protocol)
        for method, function in vars(typed).items():
            if not method.startswith("_"):
                stood_in = getattr(getattr(library, name), method)
                assert parameters(function) == parameters(stood_in), method


def test_types_against_the_stubs(tmp_path: Path) -> None:
    """mypy, strict, on what calls TensorRT, with the stubs made valid Python."""
    pytest.importorskip("mypy")
    source = stubs()
    for package in ("tensorrt", "tensorrt_bindings"):
        (tmp_path / "stubs" / package).mkdir(parents=True)
        for file in (source.parent.parent / package).glob("*.pyi"):
            text = re.sub(r"\bin: (?=\w)", "in_: ", file.read_text("utf-8"))
            text = text.replace("channel_axis: int)", "channel_axis: int = ...)")
            (tmp_path / "stubs" / package / file.name).write_text(text, "utf-8")
    settings = tmp_path / "mypy.ini"
    settings.write_text(
        f"[mypy]\nstrict = True\nmypy_path = {tmp_path / 'stubs'}\nfollow_imports = silent\n"
        "[mypy-tensorrt.*,tensorrt_bindings.*]\nignore_errors = True\n"
    )
    module = tmp_path / "engine.py"  # mypy reports nothing of what is installed
    module.write_text(Path(tensorrt_engine.__file__).read_text("utf-8"), "utf-8")
    # A mistake that must be found, or the stubs were not read.
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import tensorrt as trt\n"
        "def bind(context: trt.IExecutionContext) -> bool:\n"
        "    return context.set_tensor_address('image', 'address')\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file", str(settings)),
            *("--cache-dir", str(tmp_path / "cache"), str(module), str(wrong)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert "wrong.py:3" in errors[0]
    assert 'incompatible type "str"; expected "int"' in errors[0]
