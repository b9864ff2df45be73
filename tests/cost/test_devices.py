"""Peak rates of devices."""

from __future__ import annotations

import pytest

from elir_deploy.cost import devices
from elir_deploy.cost.devices import DEVICES, measure_cpu

#: What the vendor states: dense INT8 TOPS of the GPU, half of those with sparsity.
VENDOR_TOPS = {
    "rtx2080ti": 215.2,
    "rtx3090": 284,
    "orin-nano-4gb": 10,
    "orin-nano-8gb": 20,
    "orin-nano-4gb-super": 34 / 2,
    "orin-nano-8gb-super": 67 / 2,
    "orin-nx-8gb": (70 - 20) / 2,
    "orin-nx-16gb": (100 - 40) / 2,
    "orin-nx-8gb-super": (117 - 40) / 2,
    "orin-nx-16gb-super": (157 - 80) / 2,
    "agx-orin-32gb": 108 / 2,
    "agx-orin-64gb": 170 / 2,
}


def test_devices_have_the_rates_that_their_vendor_states() -> None:
    assert list(DEVICES) == list(VENDOR_TOPS)
    for name, device in DEVICES.items():
        assert device.peaks["int8"] == pytest.approx(VENDOR_TOPS[name] * 1e12, rel=0.03), name
        assert device.peaks["fp32"] < device.peaks["fp16"] < device.peaks["int8"]
        assert "NVIDIA" in device.source
    card = DEVICES["rtx2080ti"]
    assert card.peaks["fp32"] == pytest.approx(13.4e12, rel=0.005)
    assert card.peaks["fp16"] == pytest.approx(53.8e12, rel=0.005)
    assert card.bandwidth == 616e9
    card = DEVICES["rtx3090"]
    assert card.peaks["fp32"] == pytest.approx(35.6e12, rel=0.005)
    assert card.peaks["fp16"] == pytest.approx(71e12, rel=0.005)
    assert DEVICES["agx-orin-64gb"].peaks["fp32"] == pytest.approx(5.3e12, rel=0.01)


def test_the_cpu_is_measured(monkeypatch) -> None:
    clock = iter([10.0, 12.0, 20.0, 21.0, *(40.0, 40.5, 50.0, 51.0)])
    monkeypatch.setattr(devices.time, "perf_counter", lambda: next(clock))
    for name, value in (("_SIDE", 64), ("_MEGABYTES", 1), ("_REPEATS", 2)):
        monkeypatch.setattr(devices, name, value)
    cpu = measure_cpu(2, "a CPU")
    assert cpu.peaks == {"fp32": 2 * 64**3 / 1.0}
    assert cpu.bandwidth == pytest.approx(2 * 2**20 / 0.5, rel=1e-3)
    assert (cpu.name, cpu.title, cpu.launch_seconds) == ("cpu", "a CPU, 2 cores", 0.0)
    assert "measured here" in cpu.source
