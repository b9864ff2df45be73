"""What is written down, that it is strict JSON of the schema, and what it warns of."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re

import numpy as np
import pytest

from elir_deploy.bench.cold import ColdStart
from elir_deploy.bench.device import CoresElsewhere
from elir_deploy.bench.measurement import Measurement
from elir_deploy.bench.protocols import PROTOCOLS, BenchProtocol
from elir_deploy.bench.report import Results, build_report
from elir_deploy.bench.report_text import markdown, text
from elir_deploy.bench.report_types import SCHEMA_VERSION, EulerRow
from elir_deploy.bench.runners import Fidelity, Unavailable
from elir_deploy.bench.soak import Soak
from elir_deploy.bench.throughput import Load
from elir_deploy.bench.watch import EnergySource, Watch
from elir_deploy.bench.yardstick import Work
from elir_deploy.runtime import Bundle
from elir_deploy.tasks import TASKS
from tests.bench.reports import conditions
from tests.bench.schema import checked, typed
from tests.bench.synthetic import (
    FakeClock,
    SyntheticMeter,
    SyntheticRunner,
    SyntheticYardstick,
    bimodal,
    drifting,
    scattered,
    throttled,
)
from tests.bundles import make_bundle, read_manifest, write_manifest


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return Bundle.open(make_bundle(tmp_path_factory.mktemp("report") / "b", random=True))


def paper(images: int = 20) -> BenchProtocol:
    return BenchProtocol("paper", "a title", 0, images)


def report_of(
    bundle,
    latencies,
    *,
    clock=None,
    protocol=None,
    under=None,
    stop_after=None,
    results=None,
    **measuring,
):
    """Of runners with those latencies by label; the last is stopped after so many images."""
    clock = clock or FakeClock()
    protocol = protocol or paper()
    runners = [SyntheticRunner(name, clock, latency) for name, latency in latencies.items()]
    last = runners[-1]
    restore = last.restore

    def stopping(image):
        if stop_after is not None and len(last.images) >= stop_after:
            raise KeyboardInterrupt
        return restore(image)

    last.restore = stopping
    measurement = Measurement(runners, protocol, (8, 8, 3), clock=clock, **measuring)
    with contextlib.suppress(KeyboardInterrupt):
        measurement.run()
    found = Results(
        protocol,
        runners,
        complete=measurement.complete,
        measurement=measurement,
        **results or {},
    )
    return checked(build_report(found, bundle, under or conditions()))


PAIR = {"eager": 0.4, "fast": 0.1}


def warnings_of(bundle, latency, *, images=200, **more):
    return report_of(bundle, {"a": latency}, protocol=paper(images), **more)["warnings"]


# Figures --------------------------------------------------------------------------------------


def test_the_json_holds_all_samples(bundle):
    report = report_of(
        bundle,
        PAIR,
        results={
            "fidelities": {
                "eager": Fidelity.unknown("the reference itself"),
                "fast": Fidelity.of(math.inf, 2, "x"),
            },
            "unavailable": [Unavailable("onnxruntime-cuda", "no driver")],
        },
    )
    assert report["schema_version"] == SCHEMA_VERSION == 6
    assert report["complete"] is True
    eager, fast = report["runners"]
    for row, seconds in ((eager, 0.4), (fast, 0.1)):
        assert row["image"]["samples_s"] == [seconds] * 20
        assert row["image"]["statistics"]["mean"] == seconds
        assert row["device"]["statistics"]["mean"] == pytest.approx(0.9 * seconds)
        assert len(row["started_s"]) == 20
        assert row["started_s"] == sorted(row["started_s"])
    assert min(eager["started_s"][0], fast["started_s"][0]) == 0
    assert eager["speedup"] is None
    assert fast["speedup"] == {"value": 4.0, "low": 4.0, "high": 4.0}
    assert eager["fidelity"]["psnr_db"] is None
    assert fast["fidelity"] == {"psnr_db": None, "identical": True, "images": 2, "note": "x"}
    assert report["unavailable"] == [{"label": "onnxruntime-cuda", "reason": "no driver"}]
    assert report["warnings"] == []
    assert report["bundle"]["source"]["random"] is True
    for name in ("throughput", "steps", "soak"):
        assert report[name] == []
    assert report["yardstick"] is None


BACKENDS = {
    "constant": lambda clock: 0.1,
    "scattered": lambda clock: scattered(0.1, 0.1),
    "drifting": lambda clock: drifting(clock, 0.1, 0.01),
    "throttled": lambda clock: throttled(clock, 0.1, 12, 1.4),
    "bimodal": lambda clock: bimodal(0.1, 0.15, fast_of_ten=7),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_figures_are_those_of_the_samples_to_six_digits(bundle, name):
    clock = FakeClock()
    report = report_of(bundle, {"a": BACKENDS[name](clock)}, clock=clock, protocol=paper(203))
    (row,) = report["runners"]
    for key, share in (("image", 1), ("device", 0.9)):
        statistics, samples = row[key]["statistics"], np.array(row[key]["samples_s"])
        assert statistics.pop("count") == samples.size == 203
        assert samples.mean() == pytest.approx(share * np.mean(row["image"]["samples_s"]), rel=1e-6)
        p50, p90, p95, p99 = np.percentile(samples, (50, 90, 95, 99))
        expected = {
            "mean": samples.mean(),
            "std": samples.std(ddof=1),
            "minimum": samples.min(),
            "maximum": samples.max(),
            "p50": p50,
            "p90": p90,
            "p95": p95,
            "p99": p99,
        }
        assert statistics == pytest.approx(expected, rel=6e-6, abs=1e-12)


def test_percentiles_of_known_backends(bundle):
    """By hand, not by numpy."""
    report = report_of(
        bundle,
        {"two": bimodal(0.1, 0.15, fast_of_ten=7)},
        protocol=paper(200),
    )
    two = report["runners"][0]["image"]["statistics"]
    assert (two["minimum"], two["p50"], two["p90"], two["p99"]) == (0.1, 0.1, 0.15, 0.15)
    report = report_of(bundle, {"ramp": lambda k: 0.001 * (1 + k)}, protocol=paper(101))
    ramp = report["runners"][0]["image"]["statistics"]
    names = ("minimum", "p50", "p90", "p95", "p99", "maximum")
    assert [ramp[name] for name in names] == pytest.approx([0.001, 0.051, 0.091, 0.096, 0.1, 0.101])


def test_unknown_device_times_have_no_series(bundle):
    clock = FakeClock()
    runner = SyntheticRunner("a", clock, 0.1)
    restore = runner.restore

    def without(image):
        restored = restore(image)
        runner.device_ns = None
        return restored

    runner.restore = without
    measurement = Measurement([runner], paper(), (8, 8, 3), clock=clock)
    measurement.run()
    results = Results(paper(), [runner], True, measurement=measurement)
    (row,) = checked(build_report(results, bundle, conditions()))["runners"]
    assert row["device"] is None
    assert row["image"]["statistics"]["count"] == 20


def test_the_half_width_of_a_median(bundle):
    protocol = BenchProtocol("latency", "", 0, None, seconds=5, at_most_s=30, tolerance=0.02)
    (row,) = report_of(bundle, {"a": scattered(0.1, 0.05)}, protocol=protocol)["runners"]
    assert row["stable"] is True
    assert 0 < row["half_width"] <= 0.02
    (row,) = report_of(bundle, {"a": 0.1})["runners"]  # 20 images
    assert (row["stable"], row["half_width"]) == (None, None)


def test_the_protocol_states_only_what_applied(bundle):
    fixed = report_of(bundle, PAIR)["protocol"]
    assert (fixed["images"], fixed["seconds"], fixed["at_most_s"], fixed["tolerance"]) == (
        *(20, None),
        *(None, None),
    )
    protocol = BenchProtocol("latency", "", None, None, seconds=3, at_most_s=30, tolerance=0.02)
    until = report_of(bundle, {"a": 0.1}, protocol=protocol)["protocol"]
    assert (until["images"], until["warmup"]) == (None, None)
    assert (until["seconds"], until["at_most_s"], until["tolerance"]) == (3, 30, 0.02)


def test_the_yardstick_stands_beside_the_samples_of_the_processor_only(bundle):
    clock = FakeClock()
    runners = [SyntheticRunner("cpu", clock, 0.1), SyntheticRunner("gpu", clock, 0.1)]
    runners[1].on_cpu = False
    measurement = Measurement(
        runners,
        paper(),
        (8, 8, 3),
        clock=clock,
        yardstick=SyntheticYardstick(clock, lambda k: 0.001 * (1 + k % 2)),
    )
    measurement.run()
    results = Results(paper(), runners, True, measurement=measurement)
    under = conditions(yardstick=Work("a product", "2", None))
    report = checked(build_report(results, bundle, under))
    cpu, gpu = report["runners"]
    assert cpu["yardstick_s"] == [0.001] * 20
    assert gpu["yardstick_s"] is None
    assert report["yardstick"]["work"] == "a product"


def test_energy_is_per_image_and_in_watts(bundle):
    clock = FakeClock()
    report = report_of(
        bundle,
        {"even": 0.1, "odd": lambda k: 0.1 + 0.1 * (k % 2)},
        clock=clock,
        joules=SyntheticMeter(clock, 12.0).read,
        under=conditions(energy=EnergySource("a meter", "the board", (), ())),
    )
    even, odd = (row["energy"] for row in report["runners"])
    assert even == {"joules_per_image": 1.2, "watts": 12.0}
    mean = report["runners"][1]["image"]["statistics"]["mean"]
    assert mean > 0.12
    assert odd["joules_per_image"] == pytest.approx(12 * mean)
    assert odd["watts"] == pytest.approx(12)
    assert report["energy"] == {
        "source": "a meter",
        "scope": "the board",
        "problems": [],
        "missing": [],
    }


@pytest.mark.parametrize(("seconds", "rough"), [(0.1, True), (0.3, False)])
def test_energy_of_turns_shorter_than_a_meters_steps_is_rough(bundle, seconds, rough):
    clock = FakeClock()
    measurement = Measurement(
        [SyntheticRunner("a", clock, seconds)],
        paper(),
        (8, 8, 3),
        clock=clock,
        joules=SyntheticMeter(clock, 10.0).read,
    )
    measurement.run()
    results = Results(paper(), measurement.runners, True, measurement=measurement)
    warnings = checked(build_report(results, bundle, conditions()))["warnings"]
    assert (
        any("energy figures are rough" in line and "a 0.5 s" in line for line in warnings) == rough
    )


def test_energy_of_turns_without_a_reading_is_left_out(bundle):
    clock = FakeClock()
    meter = SyntheticMeter(clock, 12.0)

    def read() -> float:
        if meter.readings == 7:  # the end of the fourth turn is not seen
            raise KeyboardInterrupt
        return meter.read()

    report = report_of(bundle, {"a": 0.1}, clock=clock, joules=read)
    (row,) = report["runners"]
    assert row["image"]["statistics"]["count"] == 20
    assert row["energy"] == {"joules_per_image": 1.2, "watts": 12.0}


def test_stage_times(bundle):
    clock = FakeClock()
    parts = {"encoder": 0.3, "step 1": 0.5, "decoder": 0.2}
    runner = SyntheticRunner("a", clock, scattered(0.1, 0.2), parts=parts)
    whole = SyntheticRunner("b", clock, 0.1)
    measurement = Measurement([runner, whole], paper(64), (8, 8, 3), clock=clock)
    measurement.run()
    results = Results(paper(64), [runner, whole], True, measurement=measurement)
    report = checked(build_report(results, bundle, conditions()))
    stages, none = (row["stages"] for row in report["runners"])
    assert none == []  # it has one part only
    assert [stage["name"] for stage in stages] == [*parts, "runtime"]
    shares = [stage["share"]["value"] for stage in stages]
    assert shares == pytest.approx([0.27, 0.45, 0.18, 0.1], rel=1e-4)
    mean = report["runners"][0]["image"]["statistics"]["mean"]
    assert sum(stage["mean_s"] for stage in stages) == pytest.approx(mean, rel=1e-5)
    for stage in stages:
        assert stage["share"]["low"] <= stage["share"]["value"] <= stage["share"]["high"]
        assert stage["share"]["high"] - stage["share"]["low"] < 0.001


def test_shares_of_few_images_have_no_interval(bundle):
    clock = FakeClock()
    runner = SyntheticRunner("a", clock, 0.1, parts={"x": 0.5, "y": 0.5})
    measurement = Measurement([runner], paper(15), (8, 8, 3), clock=clock)
    measurement.run()
    results = Results(paper(15), [runner], True, measurement=measurement)
    (row,) = checked(build_report(results, bundle, conditions()))["runners"]
    intervals = [(stage["share"]["low"], stage["share"]["high"]) for stage in row["stages"]]
    assert set(intervals) == {(None, None)}


def test_the_interval_of_a_share_widens_with_its_scatter(bundle):
    clock = FakeClock()
    runner = SyntheticRunner("a", clock, 0.1, parts={"x": 0.5, "y": 0.5})
    restore, rng = runner.restore, np.random.default_rng(0)

    def scattering(image):
        restored = restore(image)
        x = round(runner.device_ns * rng.uniform(0.3, 0.7))
        runner.stages_ns = (x, runner.device_ns - x)
        return restored

    runner.restore = scattering
    measurement = Measurement([runner], paper(400), (8, 8, 3), clock=clock)
    measurement.run()
    results = Results(paper(400), [runner], True, measurement=measurement)
    (row,) = checked(build_report(results, bundle, conditions()))["runners"]
    x = row["stages"][0]["share"]
    # 0.9 of the time, 0.115 standard deviation, 400 images, and Student's 2.36 for 1.96.
    assert (x["high"] - x["low"]) / 2 == pytest.approx(2.36 * 0.9 * 0.115 / 20, rel=0.5)
    assert x["low"] - 0.01 < 0.45 < x["high"] + 0.01


def test_every_section_that_a_protocol_fills(bundle):
    clock = FakeClock()
    runner = SyntheticRunner("a", clock, 0.5)
    soak = Soak(runner, (8, 8, 3), 20.0, clock=clock, rss=lambda: 2**20 + len(soak.windows))
    soak.run()
    results = Results(
        PROTOCOLS["soak"],
        [runner],
        complete=True,
        colds={"a": ColdStart(0.5, 1.0, 2.0, None, 2**30)},
        loads=[
            dataclasses.replace(
                Load.of_pass(2, 2, 0.3, [0.1, 0.2]), label="a", fps_by_pass=(5.0, 8.0)
            )
        ],
        steps=[
            EulerRow("a", 3, Fidelity.unknown("no truth"), Fidelity.of(math.inf, 1, "x")),
        ],
        soaks=[soak, Soak(runner, (8, 8, 3), 20.0, clock=clock)],
    )
    report = checked(build_report(results, bundle, conditions()))
    (row,) = report["runners"]
    assert (row["image"], row["stable"]) == (None, None)
    assert row["cold"] == {
        "import_s": 0.5,
        "load_s": 1.0,
        "first_result_s": 2.0,
        "peak_rss_bytes": None,
        "device_bytes": 2**30,
    }
    (load,) = report["throughput"]
    assert load["fps"] == pytest.approx(2 / 0.3)
    assert load["fps_by_pass"] == [5.0, 8.0]
    statistics = load["calls"]["statistics"]
    assert (statistics["p50"], statistics["p90"], load["images"]) == (0.15, 0.19, 2)
    assert load["calls"]["samples_s"] == [0.1, 0.2]
    soaked, empty = report["soak"]
    assert len(soaked["windows"]) == 20
    assert all(len(w["samples_s"]) == w["images"] for w in soaked["windows"])
    assert soaked["drift_percent"]["value"] == pytest.approx(0, abs=1e-6)
    assert soaked["rss_growth_bytes"]["value"] == pytest.approx(3600)
    assert (empty["windows"], empty["complete"], empty["drift_percent"]) == ([], False, None)


def test_sensors_are_of_the_schema(bundle):
    with Watch() as watch:
        watch.look(0)
        watch.look(5)
        watch.finish()
    under = conditions(sensors=watch.sensors, unreadable=("a", "b"))
    report = report_of(bundle, PAIR, under=under)
    assert [seen["at_s"] for seen in report["sensors"]["during"]] == [0, 5]
    assert report["unreadable"] == ["a", "b"]


# Warnings -------------------------------------------------------------------------------------


def test_a_steady_backend_is_not_warned_of(bundle):
    assert warnings_of(bundle, scattered(0.1, 0.01)) == []


def test_an_unsteady_series_is_warned_of(bundle):
    (warning,) = warnings_of(bundle, lambda k: 0.1 * (1 + 0.08 * (k % 2)))
    assert "coefficient of variation exceeds 2.5% for 1 of 1 runners, up to 3.9% (a);" in warning
    assert "cpupower" in warning


def test_throttling_is_a_step(bundle):
    clock = FakeClock()
    warnings = warnings_of(bundle, throttled(clock, 0.1, 12, 1.4), clock=clock)
    assert len(warnings) == 2
    assert warnings[0].startswith("the coefficient of variation")
    assert re.match("a was 40% slower from image 120 on: the device throttled", warnings[1])


def test_a_step_to_faster_is_one_too(bundle):
    clock = FakeClock()
    warnings = warnings_of(bundle, throttled(clock, 0.1, 12, 0.8), clock=clock)
    assert warnings[1].startswith("a was 25% faster from image 120 on")


def test_drift_is_warned_of(bundle):
    clock = FakeClock()
    warnings = warnings_of(bundle, drifting(clock, 0.1, 0.01), clock=clock)
    assert len(warnings) == 2
    found = re.match(r"a became (\d+\.\d)% slower during the run", warnings[1])
    # exp(0.001 * 200) over its middle, exp(0.1).
    assert float(found[1]) == pytest.approx(100 * (math.exp(0.2) - 1) / math.exp(0.1), abs=0.7)


def test_two_speeds_are_warned_of(bundle):
    warnings = warnings_of(bundle, bimodal(0.1, 0.15, fast_of_ten=7))
    assert len(warnings) == 2
    assert warnings[1].startswith(
        "a has two speeds, 100 ms in 70% of the images and 150 ms in the others, so its mean is "
        "misleading"
    )


def test_an_imprecise_median_is_warned_of(bundle):
    protocol = BenchProtocol("latency", "", 0, None, seconds=1, at_most_s=30, tolerance=0.001)
    warnings = report_of(bundle, {"a": scattered(0.1, 0.02), "b": 0.1}, protocol=protocol)[
        "warnings"
    ]
    assert len(warnings) == 1
    assert re.match(
        r"after 30 s, medians were not known to within 0\.1%: a ±0\.\d%; close other programs.*"
        "or raise --at-most",
        warnings[0],
    )


def test_a_warm_up_without_an_end_is_warned_of(bundle):
    protocol = BenchProtocol("latency", "", None, 20)
    report = report_of(bundle, {"a": lambda k: 0.1 * 1.0001**k}, protocol=protocol)
    assert report["runners"][0]["warmup"]["settled"] is False
    (warning,) = report["warnings"]
    assert warning.startswith("latencies had not settled after the warm-up: a; ")


def test_a_busy_machine_is_warned_of(bundle):
    under = conditions(cores_busy_elsewhere=CoresElsewhere(1.5, 0.2))
    first, second = report_of(bundle, PAIR, under=under)["warnings"]
    assert first == (
        "results are unreliable: other programs kept 1.50 cores busy, and background load affects "
        "backends differently; measure on an idle machine"
    )
    assert second.startswith("results are unreliable: other virtual machines kept 0.20 cores busy")
    under = conditions(cores_busy_elsewhere=CoresElsewhere(0.1, 0.0))
    assert report_of(bundle, PAIR, under=under)["warnings"] == []


def test_throttling_and_a_faulty_energy_meter_are_warned_of(bundle):
    under = conditions(
        throttling=("the clock fell",), energy=EnergySource(None, None, ("RAPL decreased",), ())
    )
    assert report_of(bundle, PAIR, under=under)["warnings"] == [
        "results are unreliable: during the run the clock fell",
        "energy figures are invalid: RAPL decreased",
    ]


def soaked(latency, clock, *, rss=lambda: None, seconds=1200.0):
    soak = Soak(SyntheticRunner("a", clock, latency), (8, 8, 3), seconds, clock=clock, rss=rss)
    soak.run()
    return soak


def test_a_soak_that_slows_down_or_grows_is_warned_of(bundle):
    clock = FakeClock()
    growing = soaked(
        drifting(clock, 0.5, 0.1 / 3600), clock, rss=lambda: round(2**28 + 9 * 2**20 * clock.passed)
    )
    results = Results(PROTOCOLS["soak"], [], True, soaks=[growing])
    first, second = checked(build_report(results, bundle, conditions()))["warnings"]
    assert re.fullmatch(r"a became 3\.\d% slower within 20 min \(\+9\.\d% per hour\)", first)
    assert re.fullmatch(
        r"a: memory grows by 32[34]\d\d MiB per hour, which is more than noise", second
    )
    clock = FakeClock()
    steady = soaked(scattered(0.5, 0.02), clock, rss=lambda: 2**28 + round(1000 * clock.passed))
    results = Results(PROTOCOLS["soak"], [], True, soaks=[steady])
    assert checked(build_report(results, bundle, conditions()))["warnings"] == []


def test_a_soak_warns_of_what_it_saw_and_not_of_what_an_hour_might_bring(bundle):
    clock = FakeClock()
    # 12 % and 5 MiB an hour, both beyond chance: 2 % and 0.8 MiB in ten minutes.
    short = soaked(
        drifting(clock, 0.5, 0.12 / 3600),
        clock,
        rss=lambda: 2**28 + round(5 * 2**20 / 3600 * clock.passed),
        seconds=600,
    )
    report = checked(
        build_report(Results(PROTOCOLS["soak"], [], True, soaks=[short]), bundle, conditions())
    )
    assert report["soak"][0]["drift_percent"]["low"] > 10
    assert report["soak"][0]["rss_growth_bytes"]["low"] > 4 * 2**20
    assert report["warnings"] == []


def test_a_soak_that_throttles_is_warned_of(bundle):
    clock = FakeClock()
    noise = scattered(1.0, 0.02)
    late = throttled(clock, 0.5, 480.0, 1.3)
    results = Results(
        PROTOCOLS["soak"],
        [],
        True,
        soaks=[soaked(lambda k: late(k) * noise(k), clock, seconds=600)],
    )
    (warning,) = checked(build_report(results, bundle, conditions()))["warnings"]
    assert re.match(
        r"a was (29|30|31)\.\d% slower from minute [78]\.\d on: the device throttled", warning
    )


def test_what_makes_a_run_invalid_comes_first(bundle):
    under = conditions(cores_busy_elsewhere=CoresElsewhere(1.5, 0), throttling=("x",))
    report = report_of(bundle, {"a": lambda k: 0.1 * (1 + 0.1 * (k % 2))}, stop_after=60,
                       protocol=paper(200), under=under)  # fmt: skip
    words = ("interrupted", "other programs", "during the run x", "coefficient of variation")
    for warning, word in zip(report["warnings"], words, strict=True):
        assert word in warning


# Interruptions and failures -------------------------------------------------------------------


@pytest.mark.parametrize(("calls", "done"), [(0, 0), (6, 5), (12, 10)])
def test_an_interrupted_run(bundle, calls, done):
    report = report_of(bundle, PAIR, stop_after=calls)
    assert report["complete"] is False
    assert report["warnings"] == [f"interrupted after {done} of 20 images"]
    assert {len(row["started_s"]) for row in report["runners"]} == {done}
    assert (report["runners"][1]["speedup"] is None) == (done == 0)
    assert f"interrupted after {done} of 20 images" in text(typed(report))
    assert f"interrupted after {done} of 20 images" in markdown(typed(report))


def test_an_interrupted_run_without_a_number_of_images(bundle):
    protocol = BenchProtocol("latency", "", 0, None, tolerance=0.0001)
    report = report_of(bundle, {"a": scattered(0.1, 0.3)}, protocol=protocol, stop_after=47)
    assert report["warnings"][0] == "interrupted after 47 images"
    # It was the interruption, not the time, that left the median unknown.
    assert not any("not known" in warning for warning in report["warnings"])


def test_interrupted_loads_and_soaks(bundle):
    clock = FakeClock()
    runner = SyntheticRunner("a", clock, 0.5)
    loads = [Load.of_pass(1, 1, 0.1, [0.1])]
    report = build_report(
        Results(PROTOCOLS["throughput"], [runner], loads=loads), bundle, conditions()
    )
    assert checked(report)["warnings"] == ["interrupted after 1 loads: the passes are not complete"]
    soak = soaked(0.5, clock, seconds=30)
    soak.complete = False
    report = build_report(Results(PROTOCOLS["soak"], [], soaks=[soak]), bundle, conditions())
    assert checked(report)["warnings"] == ["interrupted after 30 s"]


def test_who_failed_is_listed_and_the_rest_compared_with_the_first_that_did_not(bundle):
    from elir_deploy.errors import UnavailableError

    clock = FakeClock()
    runners = [SyntheticRunner(name, clock, 0.1) for name in "abc"]

    def fail(image):
        raise UnavailableError("the device is gone")

    runners[0].restore = fail
    measurement = Measurement(runners, paper(), (8, 8, 3), clock=clock)
    measurement.run()
    results = Results(paper(), runners, True, measurement=measurement)
    report = checked(build_report(results, bundle, conditions()))
    assert [row["label"] for row in report["runners"]] == ["b", "c"]
    assert [row["speedup"] and row["speedup"]["value"] for row in report["runners"]] == [None, 1]
    assert report["unavailable"] == [{"label": "a", "reason": "the device is gone"}]


# The model, the paper, and places -------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "width", "shown"), [(5, 512, True), (3, 512, False), (5, 640, False)]
)
def test_the_papers_figure_stands_beside_the_papers_model_only(tmp_path, steps, width, shown):
    shapes = [{"batch": 1, "height": 512, "width": width}]
    folder = make_bundle(tmp_path / "b", shapes=shapes, task="bfr", faces=True, references=False)
    manifest = read_manifest(folder)
    manifest["model"] |= {"steps": steps, "architecture": TASKS["bfr"].architecture.to_dict()}
    write_manifest(folder, manifest)
    report = report_of(Bundle.open(folder), PAIR)
    assert (report["bundle"]["width"], report["bundle"]["height"]) == (width, 512)
    assert f"bfr, {width}x512, M = {steps}" in text(typed(report))
    assert (report["paper_fps"] is not None) == shown
    assert ("19.51 FPS on another device, NVIDIA RTX 2080 Ti" in text(typed(report))) == shown
