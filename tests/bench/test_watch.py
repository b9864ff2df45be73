"""The machine watched before, during and after a run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from elir_deploy.bench import watch as module
from elir_deploy.bench.watch import EnergySource, Watch, hottest_and_clock


class Machine:
    """Gives one state after another; each is its number, hotter and slower than the one before."""

    def __init__(self) -> None:
        self.read = 0
        self.options: list[dict] = []
        self.closed = 0

    def state(self, nvml, **how):
        assert nvml is self
        self.options.append(how)
        self.read += 1
        return a_state(celsius=40.0 + self.read, mhz=3000 - 100 * self.read, number=self.read)

    def close(self) -> None:
        self.closed += 1


def a_state(celsius=None, mhz=None, gpus=None, number=0):
    return SimpleNamespace(
        number=number,
        temperatures={} if celsius is None else {"cpu": celsius, "cool": 20.0},
        cpu=SimpleNamespace(mhz=mhz),
        gpus=gpus,
    )


def a_gpu(celsius=None, watts=None):
    return SimpleNamespace(temperature_celsius=celsius, power_watts=watts)


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(module, "Nvml", lambda: machine)
    monkeypatch.setattr(module, "read_state", machine.state)
    monkeypatch.setattr(module.EnergyMeter, "search", lambda nvml: (None, ("RAPL: no package",)))
    # Throttled whenever a state of an even number is read.
    monkeypatch.setattr(
        module,
        "throttled_between",
        lambda before, after, loaded=True: (
            [f"throttled {after.number} times"] * (after.number % 2 == 0)
        ),
    )
    return machine


def test_before_and_after_are_compared(machine):
    with Watch() as watch:
        assert (watch.sensors.before.number, watch.sensors.after) == (1, None)
        assert watch.throttling == []
        watch.finish()
        sensors = watch.sensors
        assert (sensors.before.number, sensors.after.number, sensors.during) == (1, 2, [])
        assert watch.throttling == ["throttled 2 times"]
        assert watch.energy == EnergySource(None, None, (), ("RAPL: no package",))


def test_what_came_and_went_during_the_run_is_reported_once(machine, monkeypatch):
    seen = {3: ["fan at 3 of 4"], 4: ["fan at 4 of 4", "a reason"], 6: ["a reason"]}
    loads = []

    def throttled(before, after, *, loaded=True):
        loads.append(loaded)
        return seen.get(after.number, [])

    monkeypatch.setattr(module, "throttled_between", throttled)
    with Watch() as watch:
        for second in range(0, 8, 2):
            watch.look(second)
        watch.finish()
    assert watch.throttling == ["a reason", "fan at 3 of 4"]
    # In between nothing keeps the processor busy, so its clock says nothing.
    assert loads == [False, False, False, True]


def test_the_sensors_are_read_every_two_seconds(machine):
    with Watch() as watch:
        for tenth in range(65):
            watch.look(tenth / 10)
    assert [seen.at_s for seen in watch.during] == [0, 2, 4, 6]
    assert [seen.celsius for seen in watch.during] == [42, 43, 44, 45]
    assert [seen.mhz for seen in watch.during] == [2800, 2700, 2600, 2500]
    assert [seen.throttled for seen in watch.during] == [None, False, True, False]


def test_readings_in_between_are_quick(machine):
    with Watch() as watch:
        watch.look(0)
        watch.heat()
        watch.finish()
    quick = {"quick": True}
    assert machine.options == [{}, quick, quick, {}]


def test_watts_are_of_all_gpus(machine, monkeypatch):
    gpus = [a_gpu(50, 100.0), a_gpu(None, 20.5), a_gpu(70, None)]
    monkeypatch.setattr(module, "read_state", lambda nvml, **how: a_state(40.0, 3000, gpus))
    with Watch() as watch:
        watch.look(0)
    assert watch.during[0].watts == 120.5
    assert watch.during[0].celsius == 70


def test_the_hottest_sensor():
    assert hottest_and_clock(a_state()) == (None, None)
    assert hottest_and_clock(a_state(40.0, 3000.0)) == (40.0, 3000.0)
    assert hottest_and_clock(a_state(40.0, None, [a_gpu(60)])) == (60.0, None)


@pytest.mark.parametrize("with_meter", [False, True])
def test_the_end_closes_meter_and_driver(machine, monkeypatch, with_meter):
    meter = SimpleNamespace(closed=0)
    meter.close = lambda: setattr(meter, "closed", meter.closed + 1)
    monkeypatch.setattr(
        module.EnergyMeter, "search", lambda nvml: (meter if with_meter else None, ())
    )
    with Watch() as watch:
        assert watch.meter is (meter if with_meter else None)
        assert (meter.closed, machine.closed) == (0, 0)
    assert meter.closed == with_meter
    assert machine.closed == 1


def test_on_this_machine():
    with Watch() as watch:
        watch.look(0.0)
        watch.finish()
    assert watch.sensors.after is not None
    assert len(watch.sensors.during) == 1
