"""OpenVINO cores with devices that this machine does not have; all of them compute on the CPU."""

from __future__ import annotations

import functools
from typing import Any

import openvino

#: Capabilities by device, as Intel's plugins for them give them.
CAPABILITIES = {
    "GPU": ["FP32", "BIN", "FP16", "INT8", "GPU_HW_MATMUL", "EXPORT_IMPORT"],
    "NPU": ["FP16", "INT8", "EXPORT_IMPORT"],
}
#: What those plugins can be told, of what the backend tells the CPU's.
OPTIONS = {"INFERENCE_PRECISION_HINT", "PERFORMANCE_HINT"}


@functools.cache
def core_with_a_spare() -> Any:
    """A core with the device SPARECPU: OpenVINO's plugin for processors under another name.

    Never deleted, as :func:`elir_deploy.runtime.openvino_library.shared_core`.
    """
    core = openvino.Core()
    core.register_plugin("openvino_intel_cpu_plugin", "SPARECPU")
    return core


class CoreElsewhere:
    """A core that has two GPUs and an NPU, with their limits and the CPU's results.

    Attributes:
        compiled: device and configuration of every model.
        wrong: types in which results are black.
    """

    available_devices = ("CPU", "GPU.0", "GPU.1", "NPU")

    def __init__(self, core: Any) -> None:
        self._core = core
        self.compiled: list[tuple[str, dict[str, Any]]] = []
        self.wrong: set[str] = set()

    def get_property(self, device: str, name: str) -> Any:
        if device == "CPU":
            return self._core.get_property(device, name)
        if name == "OPTIMIZATION_CAPABILITIES":
            return CAPABILITIES[device.partition(".")[0]]
        raise RuntimeError(f"[{device}] unknown property {name}")

    def compile_model(self, model: Any, device: str, config: dict[str, Any]) -> Any:
        self.compiled.append((device, config))
        if device == "CPU":
            return self._core.compile_model(model, device, config)
        assert any(device in (name, name.partition(".")[0]) for name in self.available_devices)
        if unknown := config.keys() - OPTIONS:
            raise RuntimeError(f"[{device}] unknown options {unknown}")
        compiled = self._core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return _Compiled(compiled, black=config["INFERENCE_PRECISION_HINT"] in self.wrong)


class _Compiled:
    def __init__(self, compiled: Any, black: bool) -> None:
        self._compiled = compiled
        self._black = black
        self.inputs, self.outputs = compiled.inputs, compiled.outputs

    def create_infer_request(self) -> Any:
        request = self._compiled.create_infer_request()
        return _Black(request) if self._black else request

    def get_property(self, name: str) -> Any:
        if name == "INFERENCE_NUM_THREADS":
            raise RuntimeError(f"unknown property {name}")
        return self._compiled.get_property(name)

    def get_runtime_model(self) -> Any:
        raise RuntimeError("not implemented")

    def export_model(self) -> Any:
        raise AssertionError("models of this device are not cached")


class _Black:
    def __init__(self, request: Any) -> None:
        self._request = request
        self.set_tensor = request.set_tensor

    def set_output_tensor(self, tensor: Any) -> None:
        self._output = tensor
        self._request.set_output_tensor(tensor)

    def infer(self, **options: Any) -> None:
        self._request.infer(**options)
        self._output.data[...] = 0
