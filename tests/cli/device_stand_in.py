"""Steps of a device report on a machine with a GPU and TensorRT, both stand-ins, and with faults.

``ELIR_TEST_FAULT`` is what goes wrong and where, such as ``abort build tensorrt fp16``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from elir_deploy.cli import build, device_step
from elir_deploy.runtime.bundle import Bundle
from tests.bundles import read_manifest, stage_ends
from tests.export.tensorrt import stand_in
from tests.runtime import stand_in_cuda

CAPABILITY = "sm86"


def name_of(options: dict[str, Any]) -> str:
    """The name that the report gives to a step."""
    about = options.get("runner") or options.get("protocol", {}).get("name", "")
    return f"{options['step']} {about}".strip()


def install(
    bundle: Path | None, patch: pytest.MonkeyPatch, kind: str = "tensorrt"
) -> stand_in_cuda.StandInGpu:
    """Let this process have a GPU and the library of ``kind``; TensorRT builds engines, too."""
    gpu = stand_in_cuda.StandInGpu().install(patch, kind)
    for module in (build, device_step):
        patch.setattr(module, "device_capabilities", lambda: (CAPABILITY,))
    patch.setattr(build, "missing_cuda_device", lambda: None)
    if bundle is not None and kind == "tensorrt":
        _add_builder(sys.modules[kind], bundle, patch)
    return gpu


def _add_builder(library: Any, bundle: Path, patch: pytest.MonkeyPatch) -> None:
    stage = Bundle.open(bundle).stages[0]
    shapes = {"image": stage.input, "restored": stage.output}
    builder = stand_in.StandIn(
        stand_in_cuda.VERSIONS["tensorrt"], ends=stand_in.DataType.UINT8, shapes=shapes
    )
    engine = stand_in_cuda.engine_bytes(*stage_ends(read_manifest(bundle)))

    def build_serialized_network(self: Any, network: Any, config: Any) -> bytes:
        self._logger.log(library.ILogger.WARNING, f"a kernel of {Path.home()} was skipped")
        return engine

    def create_engine_inspector(self: Any) -> Any:
        return builder.EngineInspector()

    patch.setattr(builder.Builder, "build_serialized_network", build_serialized_network)
    patch.setattr(
        library.ICudaEngine, "create_engine_inspector", create_engine_inspector, raising=False
    )
    patch.setattr(stand_in_cuda, "DataType", stand_in.DataType)
    library.DataType = stand_in.DataType
    for name, value in vars(builder).items():
        if not hasattr(library, name):
            setattr(library, name, value)


def fail(fault: str, name: str) -> None:
    """Do what ``fault`` says, if it is of the step called ``name``."""
    kind, _, where = fault.partition(" ")
    if where != name:
        return
    if kind == "abort":
        os.abort()
    if kind == "exit":
        os._exit(3)
    if kind == "kill":
        os.kill(os.getppid(), signal.SIGKILL)  # as where the machine goes down
        os._exit(1)
    while kind == "ignore":  # as a library may that never returns
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(600)
    if kind == "hang":
        time.sleep(600)
    raise RuntimeError(f"the library failed in {Path.home()}/secret folder/lib.so")


def take_step(messages: Connection, log: Connection, options: dict[str, Any]) -> None:
    """As :func:`elir_deploy.cli.device_step.take_step`."""
    install(options.get("bundle"), pytest.MonkeyPatch())
    fault = os.environ.get("ELIR_TEST_FAULT", "")
    faulty(fault, options["step"], name_of(options), pytest.MonkeyPatch())
    device_step.take_step(messages, log, options)


def faulty(fault: str, step: str, name: str, patch: pytest.MonkeyPatch) -> None:
    """Let a step fail when it is taken."""
    right: Callable[..., Any] = device_step._STEPS[step]

    def wrong(*arguments: Any, **options: Any) -> Any:
        fail(fault, name)
        yield from right(*arguments, **options) or ()

    patch.setitem(device_step._STEPS, step, wrong)
