"""Joules from counters and from powers."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from elir_deploy.bench.sensors import energy
from elir_deploy.bench.sensors.energy import EnergyMeter, PowerSource, Source
from elir_deploy.bench.sensors.nvml import Nvml
from tests.bench.sensors import trees
from tests.bench.sensors.nvml_stand_in import NoDriver, StandIn, not_installed
from tests.bench.sensors.test_files import forbid
from tests.bench.sensors.trees import RAPL, plant


@pytest.fixture
def clock(monkeypatch):
    """The meter's clock, which stands still."""
    stopped = SimpleNamespace(now=100.0)
    monkeypatch.setattr(energy, "monotonic", lambda: stopped.now)
    return stopped


def no_nvml() -> Nvml:
    return Nvml(not_installed)


def meter_of(root, nvml=None):
    """A meter without a thread, and what it misses."""
    return EnergyMeter.search(nvml or no_nvml(), root, thread=False)


def test_packages_and_their_memory_and_nothing_twice(tmp_path):
    trees.desktop_intel(tmp_path)
    meter, missing = meter_of(tmp_path)
    assert missing == ()
    assert meter.source == "RAPL package-0 + RAPL package-0 dram"
    assert meter.scope == "the processor + the processor's memory"
    assert meter.read() == 0
    plant(
        tmp_path,
        {
            f"{RAPL}/intel-rapl:0/energy_uj": 1_000_000 + 30_000_000,
            f"{RAPL}/intel-rapl:0:0/energy_uj": 10**9,
            f"{RAPL}/intel-rapl:0:1/energy_uj": 10**9,
            f"{RAPL}/intel-rapl:0:2/energy_uj": 200_000 + 4_000_000,
            f"{RAPL}/intel-rapl:1/energy_uj": 10**10,
            f"{RAPL}/intel-rapl-mmio:0/energy_uj": 10**10,
        },
    )
    assert meter.read() == pytest.approx(34.0)
    assert meter.problems() == ()


def test_two_packages(tmp_path):
    plant(
        tmp_path,
        {
            **trees.zone(0, "package-0", 10**9, 5),
            **trees.zone("0:0", "dram", 10**9, 5),
            **trees.zone(1, "package-1", 10**9, 5),
            **trees.zone("1:0", "dram", 10**9, 5),
        },
    )
    meter, missing = meter_of(tmp_path)
    assert [source.name for source in meter.sources] == [
        "RAPL package-0",
        "RAPL package-0 dram",
        "RAPL package-1",
        "RAPL package-1 dram",
    ]
    assert missing == ()


def test_a_counter_that_wraps(tmp_path):
    # 610987 uJ before its end.
    trees.laptop_amd(tmp_path)
    meter, _ = meter_of(tmp_path)
    assert meter.source == "RAPL package-0"
    plant(tmp_path, {f"{RAPL}/intel-rapl:0/energy_uj": 2_000_000})
    assert meter.read() == pytest.approx(2.610987)
    plant(tmp_path, {f"{RAPL}/intel-rapl:0/energy_uj": 5_000_000})
    assert meter.read() == pytest.approx(5.610987)
    assert meter.problems() == ()


def joules(source: Source) -> float:
    source.update()
    return source.joules


def test_a_counter_that_fails_for_a_while():
    values = iter([10, None, 50, 20, 30])
    source = Source("X", "x", lambda: next(values), 2.0)
    assert joules(source) == 0
    assert source.problem == "X could not be read"
    # What was used meanwhile is not lost.
    assert joules(source) == 80
    assert source.problem is None
    # A restart: what it counted before is lost, and that is reported.
    assert joules(source) == 80
    assert joules(source) == 100
    assert source.problem == "X decreased"


def test_counters_of_root_alone(tmp_path, monkeypatch):
    trees.desktop_intel(tmp_path)
    forbid(monkeypatch, "energy_uj")
    meter, (reason,) = meter_of(tmp_path)
    assert meter is None
    assert reason.startswith("RAPL: readable by root only; until the next start, ")
    assert "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj" in reason


def test_a_virtual_machine_has_no_meter(tmp_path):
    trees.virtual_machine(tmp_path)
    meter, missing = meter_of(tmp_path)
    assert meter is None
    assert missing == ("RAPL: /sys/class/powercap has no package",)


def test_a_gpus_counter_beside_the_processors(tmp_path):
    trees.desktop_intel(tmp_path)
    stand_in = StandIn()
    meter, missing = meter_of(tmp_path, Nvml(lambda: stand_in))
    assert meter.source == "NVML energy of GPU 0 + RAPL package-0 + RAPL package-0 dram"
    stand_in.energy += 90_000
    plant(tmp_path, {f"{RAPL}/intel-rapl:0/energy_uj": 1_000_000 + 10_000_000})
    assert meter.read() == pytest.approx(100)
    # The driver was reloaded.
    stand_in.energy = 0
    assert meter.read() == pytest.approx(100)
    assert meter.problems() == ("NVML energy of GPU 0 decreased",)
    assert missing == ()
    meter.close()
    # The session stays open.
    assert stand_in.open == 1


def test_a_gpu_without_a_counter(tmp_path):
    stand_in = StandIn()
    stand_in.refused = {"nvmlDeviceGetTotalEnergyConsumption"}
    meter, missing = meter_of(tmp_path, Nvml(lambda: stand_in))
    assert meter is None
    assert missing[0] == "GPU 0: its driver reports no energy"


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (not_installed, "GPU: nvidia-ml-py is not installed: pip install 'elir-deploy[sensors]'"),
        (NoDriver, "GPU: NVML: NVML Shared Library Not Found"),
    ],
)
def test_a_gpu_that_is_there_and_cannot_be_asked(tmp_path, load, reason):
    trees.desktop_intel(tmp_path)
    plant(tmp_path, {"proc/driver/nvidia/version": "NVRM version: 550"})
    meter, missing = meter_of(tmp_path, Nvml(load))
    assert meter.source == "RAPL package-0 + RAPL package-0 dram"
    assert missing == (reason,)


def test_a_jetsons_module_and_nothing_beside_it(tmp_path, clock):
    trees.orin_nano(tmp_path)
    meter, missing = meter_of(tmp_path, Nvml(StandIn))
    assert meter.source == "INA3221 VDD_IN"
    assert meter.scope == "the Jetson's module, without the carrier board"
    assert missing == ()
    clock.now += 0.1
    # 4.968 V times 2 A.
    assert meter.read() == pytest.approx(0.9936)
    plant(tmp_path, {f"{SENSOR}/curr1_input": 3000})
    clock.now += 0.1
    assert meter.read() == pytest.approx(0.9936 + 4.968 * 2.5 * 0.1)


SENSOR = "sys/devices/platform/bus@0/c240000.i2c/i2c-1/1-0040/hwmon/hwmon1"


def test_rails_that_add_up(tmp_path, clock):
    meter, _ = meter_of(trees.agx_orin(tmp_path))
    # The memory's is inside the 5 V rail.
    assert meter.source == "INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    clock.now += 1
    assert meter.read() == pytest.approx(5 + 10 + 15)
    # Without one of them there is no sum.
    (tmp_path / "sys/class/hwmon/hwmon3/curr2_input").unlink()
    clock.now += 5
    assert meter.read() == pytest.approx(30)
    assert meter.problems() == (f"{meter.source} could not be read for 5.0 s",)


def test_rails_that_are_not_known_to_add_up(tmp_path):
    trees.orin_nano(tmp_path)
    plant(tmp_path, {f"{SENSOR}/in1_label": "VDD_OTHER"})
    meter, missing = meter_of(tmp_path)
    assert meter is None
    assert missing == (
        "module: no INA3221 rails that add up to it (rails: VDD_OTHER, VDD_CPU_GPU_CV, VDD_SOC)",
    )
    plant(tmp_path / "bare", {"etc/nv_tegra_release": "# R36"})
    assert meter_of(tmp_path / "bare")[1] == (
        "module: no INA3221 rails that add up to it (rails: none)",
    )


def power_source(values) -> PowerSource:
    powers = iter(values)
    return PowerSource("P", "p", lambda: next(powers))


def test_trapezoids(clock):
    source = power_source([10.0, 20.0, 40.0])
    clock.now += 1
    assert joules(source) == 15
    clock.now += 0.5
    assert joules(source) == 15 + 15
    assert source.problem is None


def test_a_power_sensor_that_is_silent_for_a_while(clock):
    source = power_source([50.0, 50.0, None, None, 50.0])
    clock.now += 0.5
    assert joules(source) == 25
    clock.now += 0.5
    assert joules(source) == 25
    assert source.problem is None
    # Beyond a second the power is unknown; that is reported, and nothing is made up.
    clock.now += 9.5
    assert joules(source) == 25
    assert source.problem == "P could not be read for 10.0 s"
    # The next reading fills the gap, and the problem stays.
    clock.now += 10
    assert joules(source) == 1025
    assert source.problem == "P could not be read for 20.0 s"


def test_a_power_sensor_that_is_silent_at_first(clock):
    source = power_source([None, 30.0])
    clock.now += 1
    assert joules(source) == 30


def test_the_thread_samples_and_ends(monkeypatch):
    monkeypatch.setattr(PowerSource, "period_seconds", 0.01)
    samples = threading.Semaphore(0)

    def watts():
        samples.release()
        return 3.0

    before = set(threading.enumerate())
    meter = EnergyMeter([Source("C", "c", lambda: 0), PowerSource("P", "p", watts)])
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    for _ in range(6):
        assert samples.acquire(timeout=10)
    assert meter.read() > 0
    meter.close()
    assert not thread.is_alive()
    meter.close()


def test_a_counter_is_read_before_it_can_wrap_twice():
    # 2**32 counts of 15.3 uJ, at 1 kW.
    assert energy.COUNTER_SECONDS < 2**32 * 15.3e-6 / 1000 / 2
