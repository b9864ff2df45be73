"""NVIDIA GPUs, by a stand-in that is compared with the real package."""

from __future__ import annotations

import ast
import inspect
import os
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from elir_deploy.bench.sensors import nvml as module
from elir_deploy.bench.sensors.files import Tree
from elir_deploy.bench.sensors.nvml import Nvml, decode_reasons, has_nvidia_driver, import_pynvml
from tests.bench.sensors.nvml_stand_in import PREFIX, NoDriver, StandIn, field, not_installed
from tests.bench.sensors.trees import plant


def opened(stand_in: StandIn) -> Nvml:
    return Nvml(lambda: stand_in)


def state_of(stand_in: StandIn) -> module.GpuState:
    with closing(opened(stand_in)) as nvml:
        (state,) = nvml.states()
    return state


def test_everything_a_gpu_tells():
    assert state_of(StandIn()) == module.GpuState(
        index=0,
        uuid="GPU-9f1c",
        sm_mhz=1545,
        application_sm_mhz=1350,
        temperature_celsius=82,
        power_watts=240.5,
        power_limit_watts=250.0,
        performance_state=2,
        reasons=("power cap",),
        slowed_seconds={
            "power cap": 3.0,
            "heat": 0.0,
            "sync boost": 0.0,
            "board limit": 0.0,
            "reliability voltage": 0.0,
        },
        ecc=False,
    )


def test_a_gpu_that_tells_nothing():
    stand_in = StandIn()
    kept = {"nvmlInit", "nvmlShutdown", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"}
    stand_in.refused = {name for name in dir(StandIn) if name.startswith(PREFIX)} - kept
    state = state_of(stand_in)
    known = {name for name, value in vars(state).items() if value is not None}
    assert known == {"index"}


def test_a_library_without_a_function():
    stand_in = StandIn()
    stand_in.absent = {"nvmlDeviceGetFieldValues"}
    assert state_of(stand_in).slowed_seconds is None


def test_a_performance_state_that_is_unknown():
    assert state_of(StandIn(performance=32)).performance_state is None


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0, ()),
        (0x1, ("idle",)),
        (0x2, ("application clocks",)),
        (0x4 | 0x20, ("power cap", "heat")),
        (0x8 | 0x40, ("hardware slowdown", "heat, by hardware")),
        (0x10 | 0x80 | 0x100, ("sync boost", "power brake", "display clocks")),
        (0x1000, ("reason 0x1000",)),
        (2**64 - 1, None),
    ],
)
def test_reasons_in_words(bits, words):
    found = decode_reasons(bits)
    assert found == words or (words is None and len(found) == 64)


def test_sessions_are_closed():
    stand_in = StandIn()
    with closing(opened(stand_in)) as nvml:
        assert stand_in.open == 1
        assert nvml.reason is None
    assert stand_in.open == 0
    nvml.close()
    assert stand_in.open == 0
    assert nvml.states() is None
    assert nvml.query("nvmlDeviceGetCount") is None


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (not_installed, "nvidia-ml-py is not installed: pip install 'elir-deploy[sensors]'"),
        (NoDriver, "NVML: NVML Shared Library Not Found"),
    ],
)
def test_why_there_is_no_nvml(load, reason):
    with closing(Nvml(load)) as nvml:
        assert nvml.reason == reason
        assert nvml.states() is None
        assert nvml.handles == ()
    assert nvml.reason == reason


def test_a_driver_without_gpus():
    stand_in = StandIn()
    stand_in.nvmlDeviceGetCount = lambda: 0
    with closing(opened(stand_in)) as nvml:
        assert nvml.reason == "NVML reports no GPU"
        assert nvml.states() is None
    assert stand_in.open == 0


def test_memory_of_a_process():
    this, other = os.getpid(), os.getpid() + 1
    entry = lambda pid, used: SimpleNamespace(pid=pid, usedGpuMemory=used)  # noqa: E731
    # Computing and drawing: the same sum in both lists. Two slices: twice in one.
    stand_in = StandIn(
        compute=[entry(this, 100), entry(this, 30), entry(other, 7)],
        graphics=[entry(this, 130), entry(other, None)],
    )
    nvml = opened(stand_in)
    (handle,) = nvml.handles
    assert nvml.process_bytes(handle, this) == 130
    assert nvml.process_bytes(handle, other) == 7
    assert nvml.process_bytes(handle, other + 1) is None
    stand_in.compute, stand_in.graphics = [], []
    assert nvml.process_bytes(handle, this) is None


def test_energy():
    stand_in = StandIn()
    nvml = opened(stand_in)
    (handle,) = nvml.handles
    assert nvml.joules(handle) == 5000.0
    stand_in.refused = {"nvmlDeviceGetTotalEnergyConsumption"}
    assert nvml.joules(handle) is None


def test_fields_that_a_gpu_does_not_have():
    stand_in = StandIn()
    stand_in.nvmlDeviceGetFieldValues = lambda handle, numbers: [
        field(74, 2_000_000_000),
        field(75, 1, status=3),
        field(76, 1, kind=1),  # another type than the documented one
        SimpleNamespace(fieldId=77, nvmlReturn=0, valueType=99, value=None),
    ]
    nvml = opened(stand_in)
    assert nvml.slowed_seconds(nvml.handles[0]) == {"power cap": 2.0}
    stand_in.refused = {"nvmlDeviceGetFieldValues"}
    assert nvml.slowed_seconds(nvml.handles[0]) is None


def test_whether_there_is_a_driver(tmp_path):
    assert not has_nvidia_driver(Tree(tmp_path))
    plant(tmp_path, {"proc/driver/nvidia/version": "NVRM version: 550"})
    assert has_nvidia_driver(Tree(tmp_path))


def called_functions() -> set[str]:
    """Every NVML function that the sensors name."""
    found = set()
    for path in Path(module.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = None
            if isinstance(node, ast.Attribute):
                name = node.attr
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                name = node.value
            if name is not None and name.startswith(PREFIX) and name.isidentifier():
                found.add(name)
    return found - {PREFIX}


def stand_in_functions() -> set[str]:
    return {name for name in dir(StandIn) if name.startswith(PREFIX)}


def test_the_stand_in_has_what_is_called_and_no_more():
    assert called_functions() - {"nvmlReturn"} == stand_in_functions()


@pytest.fixture(scope="module")
def pynvml():
    """The real package; it imports without a driver."""
    pytest.importorskip("pynvml")
    return import_pynvml()


def test_the_real_package_has_every_function_with_the_same_parameters(pynvml):
    for name in sorted(called_functions() - {"nvmlReturn"}):
        real = inspect.signature(getattr(pynvml, name))
        ours = inspect.signature(getattr(StandIn(), name))
        assert list(ours.parameters) == list(real.parameters), name


def test_the_real_package_takes_the_arguments_that_are_given(pynvml):
    stand_in = StandIn()
    with closing(opened(stand_in)) as nvml:
        nvml.states()
        nvml.joules(nvml.handles[0])
        nvml.process_bytes(nvml.handles[0], 1)
    assert {name for name, _ in stand_in.calls} == stand_in_functions()
    for name, arguments in stand_in.calls:
        inspect.signature(getattr(pynvml, name)).bind(*arguments)


def test_the_real_package_has_the_same_numbers(pynvml):
    assert module.CLOCK_SM == pynvml.NVML_CLOCK_SM
    assert module.CLOCK_APPLICATION == pynvml.NVML_CLOCK_ID_APP_CLOCK_TARGET
    assert module.TEMPERATURE_GPU == pynvml.NVML_TEMPERATURE_GPU
    assert module.UNSIGNED_LONG_LONG == pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
    names = ("POWER", "THERMAL", "SYNC_BOOST", "BOARD_LIMIT", "RELIABILITY")
    numbers = [getattr(pynvml, f"NVML_FI_DEV_PERF_POLICY_{name}") for name in names]
    assert numbers == list(module.POLICIES)
    reasons = {
        "GpuIdle": "idle",
        "ApplicationsClocksSetting": "application clocks",
        "SwPowerCap": "power cap",
        "HwSlowdown": "hardware slowdown",
        "SyncBoost": "sync boost",
        "SwThermalSlowdown": "heat",
        "HwThermalSlowdown": "heat, by hardware",
        "HwPowerBrakeSlowdown": "power brake",
        "DisplayClockSetting": "display clocks",
        "BoardLimit": "board limit",
        "Reliability": "reliability voltage",
    }
    assert {
        getattr(pynvml, f"nvmlClocksThrottleReason{name}"): word for name, word in reasons.items()
    } == module.REASONS
    assert "ullVal" in {name for name, _ in pynvml.c_nvmlValue_t._fields_}
    struct = {name for name, _ in pynvml.c_nvmlFieldValue_t._fields_}
    assert struct >= {"fieldId", "nvmlReturn", "valueType", "value"}
    assert {name for name, _ in pynvml.c_nvmlProcessInfo_v3_t._fields_} >= {
        "pid",
        "usedGpuMemory",
    }
