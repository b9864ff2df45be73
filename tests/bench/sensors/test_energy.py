"""Joules from counters and from powers."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from elir_deploy.bench.sensors import energy
from elir_deploy.bench.sensors.energy import CounterSource, EnergyMeter, PowerSource
from elir_deploy.bench.sensors.files import Tree
from elir_deploy.bench.sensors.jetson import Jtop, find_rails, total_of
from elir_deploy.bench.sensors.nvml import Nvml
from elir_deploy.bench.sensors.rapl import find_zones
from tests.bench.sensors import trees
from tests.bench.sensors.nvml_stand_in import NoDriver, StandIn, not_installed
from tests.bench.sensors.test_files import forbid
from tests.bench.sensors.trees import RAPL, plant


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def no_nvml() -> Nvml:
    return Nvml(not_installed)


def meter_of(root, nvml=None, load_jtop=not_installed):
    """A meter that looks when it is told to, its clock, and what it misses."""
    clock = Clock()
    meter, missing = EnergyMeter.search(
        root, nvml=nvml or no_nvml(), load_jtop=load_jtop, clock=clock, thread=False
    )
    return meter, clock, missing


def test_packages_and_their_memory_and_nothing_twice(tmp_path):
    trees.desktop_intel(tmp_path)
    meter, _, missing = meter_of(tmp_path)
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
    zones, reason = find_zones(Tree(tmp_path))
    assert [zone.name for zone in zones] == [
        "package-0",
        "package-0 dram",
        "package-1",
        "package-1 dram",
    ]
    assert reason is None


def test_a_counter_begins_anew(tmp_path):
    # 610987 uJ before its end.
    trees.laptop_amd(tmp_path)
    meter, _, _ = meter_of(tmp_path)
    assert meter.source == "RAPL package-0"
    plant(tmp_path, {f"{RAPL}/intel-rapl:0/energy_uj": 2_000_000})
    assert meter.read() == pytest.approx(2.610987)
    plant(tmp_path, {f"{RAPL}/intel-rapl:0/energy_uj": 5_000_000})
    assert meter.read() == pytest.approx(5.610987)
    assert meter.problems() == ()


def test_a_counter_that_fails_for_a_while():
    values = iter([10, None, 50, 20, 30])
    source = CounterSource("X", "x", lambda: next(values), unit=2.0)
    assert source.joules(0) == 0
    assert source.problem == "X could not be read"
    # What was used meanwhile is not lost.
    assert source.joules(0) == 80
    assert source.problem is None
    # A restart: what it counted before is, and is told.
    assert source.joules(0) == 80
    assert source.joules(0) == 100
    assert source.problem == "X went back"


def test_counters_of_root_alone(tmp_path, monkeypatch):
    trees.desktop_intel(tmp_path)
    forbid(monkeypatch, "energy_uj")
    meter, _, (reason,) = meter_of(tmp_path)
    assert meter is None
    assert "read by root only" in reason
    assert "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj" in reason


def test_a_virtual_machine_has_no_meter(tmp_path):
    trees.virtual_machine(tmp_path)
    meter, _, missing = meter_of(tmp_path)
    assert meter is None
    assert missing == ("RAPL: /sys/class/powercap has no package",)
    assert EnergyMeter.search(tmp_path, nvml=no_nvml(), load_jtop=not_installed)[0] is None


def test_a_gpus_counter_beside_the_processors(tmp_path):
    trees.desktop_intel(tmp_path)
    stand_in = StandIn()
    meter, _, missing = meter_of(tmp_path, Nvml(lambda: stand_in))
    assert meter.source == "NVML energy of GPU 0 + RAPL package-0 + RAPL package-0 dram"
    stand_in.energy += 90_000
    plant(tmp_path, {f"{RAPL}/intel-rapl:0/energy_uj": 1_000_000 + 10_000_000})
    assert meter.read() == pytest.approx(100)
    # The driver is loaded anew.
    stand_in.energy = 0
    assert meter.read() == pytest.approx(100)
    assert meter.problems() == ("NVML energy of GPU 0 went back",)
    assert missing == ()
    meter.close()
    # Whoever opened the session closes it.
    assert stand_in.open == 1


def test_a_gpu_without_a_counter_is_sampled(tmp_path):
    stand_in = StandIn(instant=100_000)
    stand_in.refused = {"nvmlDeviceGetTotalEnergyConsumption"}
    meter, clock, missing = meter_of(tmp_path, Nvml(lambda: stand_in))
    assert meter.source == "NVML power of GPU 0"
    assert missing == ("RAPL: /sys/class/powercap has no package",)
    clock.now += 0.5
    stand_in.instant = 200_000
    meter.update()
    assert meter.read() == pytest.approx(75)


def test_a_gpu_without_either(tmp_path):
    stand_in = StandIn(instant=None)
    stand_in.refused = {
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetPowerUsage",
    }
    meter, _, missing = meter_of(tmp_path, Nvml(lambda: stand_in))
    assert meter is None
    assert missing[0] == "GPU: its driver tells neither energy nor power"


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (not_installed, "GPU: nvidia-ml-py is not installed"),
        (NoDriver, "GPU: NVML: NVML Shared Library Not Found"),
    ],
)
def test_a_gpu_that_is_there_and_cannot_be_asked(tmp_path, load, reason):
    trees.desktop_intel(tmp_path)
    folder = "sys/bus/pci/devices/0000:01:00.0"
    plant(tmp_path, {f"{folder}/vendor": "0x10de", f"{folder}/class": "0x030000"})
    meter, _, missing = meter_of(tmp_path, Nvml(load))
    assert meter.source == "RAPL package-0 + RAPL package-0 dram"
    assert missing == (reason,)
    assert meter.missing == missing


def test_a_jetsons_module_and_nothing_beside_it(tmp_path):
    trees.orin_nano(tmp_path)
    meter, clock, missing = meter_of(tmp_path, Nvml(StandIn))
    assert meter.source == "INA3221 VDD_IN"
    assert meter.scope == "the Jetson's module, without the carrier board"
    assert missing == ()
    clock.now += 0.1
    # 4.968 V times 2 A.
    assert meter.read() == pytest.approx(0.9936)
    plant(
        tmp_path,
        {
            "sys/devices/platform/bus@0/c240000.i2c/i2c-1/1-0040/hwmon/hwmon1/curr1_input": 3000,
        },
    )
    meter.update()
    assert meter.read() == pytest.approx(4.968 * 2.5 * 0.1)


def test_rails_are_found_by_the_class_too(tmp_path):
    trees.orin_nano(tmp_path)
    (tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040").unlink()
    rails = find_rails(Tree(tmp_path))
    assert [rail.label for rail in rails] == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
    assert [rail.watts() for rail in rails] == pytest.approx([9.936, 3.472, 1.984])


def test_the_older_driver(tmp_path):
    meter, clock, _ = meter_of(trees.nano(tmp_path))
    assert meter.source == "INA3221 POM_5V_IN"
    clock.now += 1
    assert meter.read() == pytest.approx(4.5)


def test_rails_that_add_up(tmp_path):
    meter, clock, _ = meter_of(trees.agx_orin(tmp_path))
    # The memory's is inside the 5 V rail.
    assert meter.source == "INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    clock.now += 1
    assert meter.read() == pytest.approx(5 + 10 + 15)
    # Without one of them there is no sum.
    (tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr2_input").unlink()
    clock.now += 5
    meter.update()
    assert meter.read() == pytest.approx(30)
    (problem,) = meter.problems()
    assert problem.endswith("gave nothing for 6.0 s")


def test_rails_that_are_not_known_to_add_up(tmp_path):
    trees.orin_nano(tmp_path)
    sensor = "sys/devices/platform/bus@0/c240000.i2c/i2c-1/1-0040/hwmon/hwmon1"
    plant(tmp_path, {f"{sensor}/in1_label": "VDD_OTHER"})
    meter, _, missing = meter_of(tmp_path)
    assert meter is None
    assert missing[0] == (
        "module: its rails (VDD_OTHER, VDD_CPU_GPU_CV, VDD_SOC) are not known to add up to it, "
        "jetson-stats is not installed"
    )


def test_sensors_of_root_alone(tmp_path, monkeypatch):
    trees.nano(tmp_path)
    forbid(monkeypatch, "rail_name_0", "in_power0_input", "rail_name_1", "rail_name_2")
    meter, _, missing = meter_of(tmp_path)
    assert meter is None
    assert "sudo chmod a+r /sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*" in missing[0]


class Service:
    """The module of jetson-stats, and its client."""

    def __init__(self, power, fails=False):
        self.power = power
        self.fails = fails
        self.events = []

    def jtop(self, interval):
        self.events.append(interval)
        return self

    def start(self):
        if self.fails:
            raise RuntimeError("The jtop.service is not active")
        self.events.append("start")

    def close(self):
        self.events.append("close")


NANO_POWER = {
    "rail": {"POM_5V_CPU": {"power": 900}, "POM_5V_GPU": {"power": 1200}},
    "tot": {"name": "POM_5V_IN", "power": 4500, "avg": 4400},
}


def test_the_service_where_the_sensors_are_roots(tmp_path, monkeypatch):
    trees.nano(tmp_path)
    forbid(monkeypatch, "rail_name_0", "in_power0_input", "rail_name_1", "rail_name_2")
    service = Service(NANO_POWER)
    meter, clock, missing = meter_of(tmp_path, load_jtop=lambda: service)
    assert (meter.source, missing) == ("jetson-stats", ())
    clock.now += 1
    assert meter.read() == pytest.approx(4.5)
    meter.close()
    assert service.events == [0.1, "start", "close"]


@pytest.mark.parametrize(
    ("power", "watts"),
    [
        (NANO_POWER, 4.5),
        # Its own total counts the memory twice.
        (
            {
                "rail": {
                    "VDD_GPU_SOC": {"power": 5000},
                    "VDD_CPU_CV": {"power": 3000},
                    "VIN_SYS_5V0": {"power": 4000},
                    "VDDQ_VDD2_1V8AO": {"power": 1000},
                },
                "tot": {"power": 13_000, "avg": 13_000},
            },
            12.0,
        ),
        ({"rail": {"X": {"power": 1}}, "tot": {"power": 1}}, None),
        ({}, None),
        (None, None),
        ({"rail": {}, "tot": {"name": "VDD_IN", "power": "much"}}, None),
    ],
)
def test_what_the_service_says(power, watts):
    jtop = Jtop(lambda: Service(power))
    assert jtop.watts() == watts
    assert jtop.reason == (None if watts else "jetson-stats knows no power")
    jtop.close()
    assert jtop.watts() is None


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (not_installed, "jetson-stats is not installed"),
        (lambda: Service({}, fails=True), "jetson-stats: The jtop.service is not active"),
        (SimpleNamespace, "jetson-stats: 'types.SimpleNamespace' object has no attribute 'jtop'"),
    ],
)
def test_why_there_is_no_service(load, reason):
    jtop = Jtop(load)
    assert jtop.reason == reason
    assert jtop.watts() is None
    jtop.close()


def test_channels_without_a_connection(tmp_path):
    rails = find_rails(Tree(trees.agx_orin(tmp_path)))
    labels = [rail.label for rail in rails]
    assert labels == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"]
    assert total_of(()) == ()


def test_trapezoids():
    powers = iter([10.0, 20.0, 40.0])
    source = PowerSource("P", "p", lambda: next(powers), now=0.0)
    assert source.joules(0.0) == 0
    source.update(1.0)
    assert source.joules(1.0) == 15
    # Until the next sample the last power goes on.
    assert source.joules(1.5) == 15 + 10
    source.update(2.0)
    assert source.joules(2.0) == 15 + 30
    assert source.problem is None


def test_the_sum_never_falls():
    powers = iter([100.0, 0.0])
    source = PowerSource("P", "p", lambda: next(powers), now=0.0)
    assert source.joules(0.9) == 90
    source.update(1.0)
    # The trapezoid is 50.
    assert source.joules(1.0) == 90
    # Nor does it for a clock that goes back.
    assert source.joules(0.5) == 90


def test_a_power_that_is_no_longer_told():
    values = iter([50.0, None, 50.0])
    source = PowerSource("P", "p", lambda: next(values), now=0.0)
    source.update(0.5)
    assert source.joules(1.0) == 50
    assert source.problem is None
    # Beyond a second nobody knows; it is said, and it is not made up.
    assert source.joules(10.0) == 50
    assert source.problem == "P gave nothing for 10.0 s"
    # When it is back, the gap is filled, and stays said.
    source.update(20.0)
    assert source.joules(20.0) == 1000
    assert source.problem == "P gave nothing for 20.0 s"


def test_a_sensor_that_takes_long_keeps_no_reader_waiting():
    asked, go_on = threading.Event(), threading.Event()
    calls = iter([False, True])

    def watts():
        if next(calls):
            asked.set()
            assert go_on.wait(10)
        return 7.0

    source = PowerSource("P", "p", watts, now=0.0)
    sampler = threading.Thread(target=source.update, args=(1.0,))
    sampler.start()
    assert asked.wait(10)
    began = time.perf_counter()
    assert source.joules(0.5) == 3.5
    assert time.perf_counter() - began < 5
    go_on.set()
    sampler.join()
    assert source.joules(1.0) == 7


def test_the_thread_samples_and_ends(monkeypatch):
    monkeypatch.setattr(PowerSource, "period_seconds", 0.01)
    samples = threading.Semaphore(0)

    def watts():
        samples.release()
        return 3.0

    before = set(threading.enumerate())
    closed = []
    source = PowerSource("P", "p", watts, now=time.monotonic())
    with EnergyMeter([source], also_close=[lambda: closed.append(1)]) as meter:
        (thread,) = set(threading.enumerate()) - before
        assert thread.daemon
        for _ in range(6):
            assert samples.acquire(timeout=10)
        assert meter.read() > 0
    assert not thread.is_alive()
    assert closed == [1]
    meter.close()
    assert closed == [1]


def test_the_thread_looks_at_each_source_when_it_is_due(monkeypatch):
    monkeypatch.setattr(PowerSource, "period_seconds", 0.01)
    monkeypatch.setattr(CounterSource, "period_seconds", 3600.0)
    counted, sampled = [], threading.Semaphore(0)

    def read():
        counted.append(1)
        return 0

    def watts():
        sampled.release()
        return 1.0

    counter = CounterSource("C", "c", read, unit=1.0)
    power = PowerSource("P", "p", watts, now=time.monotonic())
    with EnergyMeter([counter, power]):
        for _ in range(5):
            assert sampled.acquire(timeout=10)
    assert len(counted) == 1


def test_a_counter_is_looked_at_before_it_can_wrap_twice():
    # 2**32 counts of 15.3 uJ, at 1 kW.
    assert energy.COUNTER_SECONDS < 2**32 * 15.3e-6 / 1000 / 2


def test_reading_is_cheap(tmp_path):
    meter, _, _ = meter_of(trees.desktop_intel(tmp_path))
    took = []
    for _ in range(50):
        began = time.perf_counter()
        meter.read()
        took.append(time.perf_counter() - began)
    assert min(took) < 1e-3
