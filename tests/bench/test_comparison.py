"""Comparing two measurements: recorded runs of the same thing, and known changes."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest

from elir_deploy.bench.comparison import (
    BUSY_RUN_TO_RUN,
    FEWEST_RUNS,
    FEWEST_SAMPLES,
    RUN_TO_RUN,
    VIRTUAL_RUN_TO_RUN,
    Level,
    compare_levels,
    compare_runs,
    level,
)
from elir_deploy.bench.report_differences import Difference
from elir_deploy.bench.report_file import read_report
from elir_deploy.bench.sensors.board import DeviceClock, PowerMode
from elir_deploy.bench.sensors.cpu import Core, CpuState
from elir_deploy.bench.sensors.nvml import GpuState
from elir_deploy.bench.sensors.state import State
from elir_deploy.errors import InputError, UsageError
from tests.bench.reports import artifact, report_values, write_report

LATENCIES = Path(__file__).parents[1] / "data" / "latencies"
ROWS = ("onnxruntime_fp32", "openvino_fp32")


@pytest.fixture
def compared(tmp_path):
    def call(before, after, **options):
        sides = [side if isinstance(side, list) else [side] for side in (before, after)]
        files = [
            [write_report(tmp_path / f"{name}{k}.json", run) for k, run in enumerate(side)]
            for name, side in zip("ab", sides, strict=True)
        ]
        return compare_runs(*([read_report(file) for file in side] for side in files), **options)

    return call


# Rates ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    """Levels of quiet runs of the same thing, by row: against the yardstick, and bare."""
    runs = np.load(LATENCIES / "tiny64-yardstick.npz")
    quiet = runs["busy_cores"] <= 0.1
    assert quiet.sum() >= 20
    return {
        row: [
            (level(samples, yardstick), level(samples))
            for samples, yardstick in zip(
                runs[row][quiet] / 1e6, runs[f"{row}_yardstick"][quiet] / 1e6, strict=True
            )
        ]
        for row in ROWS
    }


def slowed(levels, factor):
    return [
        Level(one.log + np.log(factor), *(one.squared_error, 1.0, one.samples)) for one in levels
    ]


def share(sides, verdicts, *, slower=1.0, run_to_run=RUN_TO_RUN):
    found = [
        compare_levels("x", before, slowed(after, slower), run_to_run=run_to_run).verdict
        for before, after in sides
    ]
    return sum(verdict in verdicts for verdict in found) / len(found)


def five_a_side(recorded, *, bare=False):
    """Replays: five runs against five others, drawn anew each time."""
    rng = np.random.default_rng(0)
    sides = []
    for runs in recorded.values():
        for _ in range(400):
            drawn = [runs[k][bare] for k in rng.permutation(len(runs))[:10]]
            sides.append((drawn[:5], drawn[5:]))
    return sides


def one_a_side(recorded, *, bare=False):
    """Every two different runs, in either order."""
    rng = np.random.default_rng(0)
    sides = []
    for runs in recorded.values():
        for one, other in itertools.combinations([run[bare] for run in runs], 2):
            sides.append(([one], [other]) if rng.random() < 0.5 else ([other], [one]))
    return sides


def test_five_runs_a_side_tell_five_percent_and_seldom_see_what_is_not_there(recorded):
    sides = five_a_side(recorded)
    assert len(sides) >= 400
    assert share(sides, {"faster", "slower"}) <= 0.06
    assert share(sides, {"slower"}, slower=1.05) >= 0.9
    assert share(sides, {"faster"}, slower=1 / 1.05) >= 0.9


def test_without_the_yardstick_five_runs_a_side_do_not_tell_five_percent(recorded):
    sides = five_a_side(recorded, bare=True)
    assert share(sides, {"faster", "slower"}) <= 0.08
    assert share(sides, {"slower"}, slower=1.05) < 0.3


def test_the_yardstick_takes_out_most_of_what_differs_between_runs(recorded):
    for runs in recorded.values():
        measured, bare = (
            np.std([one.log for one in side], ddof=1) for side in zip(*runs, strict=True)
        )
        assert measured < 0.25 * bare


def test_one_run_a_side_seldom_sees_what_is_not_there(recorded):
    sides = one_a_side(recorded)
    assert len(sides) >= 400
    assert share(sides, {"faster", "slower"}) <= 0.06
    assert share(sides, {"slower"}, slower=1.12) >= 0.9


def test_one_run_a_side_without_the_yardstick_takes_the_allowance_of_a_shared_machine(recorded):
    sides = one_a_side(recorded, bare=True)
    assert share(sides, {"faster", "slower"}, run_to_run=VIRTUAL_RUN_TO_RUN) <= 0.06
    assert share(sides, {"faster", "slower"}, run_to_run=RUN_TO_RUN) > 0.3


def busy_pairs(prefix=""):
    recorded = np.load(LATENCIES / "tiny64.npz")
    names = ("onnxruntime_fp32", "openvino_fp32", "openvino_bf16")
    return [
        ([level(one)], [level(other)])
        for name in names
        for one, other in itertools.combinations(recorded[prefix + name] / 1e6, 2)
    ]


def test_on_a_busy_machine_only_large_changes_are_told():
    assert np.load(LATENCIES / "tiny64.npz")["busy_cores"].min() > 0.1
    pairs = busy_pairs()
    assert len(pairs) >= 400
    assert share(pairs, {"faster", "slower"}, run_to_run=BUSY_RUN_TO_RUN) <= 0.06
    assert share(pairs, {"slower"}, slower=1.25, run_to_run=BUSY_RUN_TO_RUN) >= 0.9


def test_why_an_overloaded_machine_gets_no_verdict():
    # Two cores and one thread; the last run was not overloaded any more.
    recorded = np.load(LATENCIES / "tiny64.npz")
    assert (recorded["overloaded_busy_cores"][:-1] > 1.25).all()
    pairs = busy_pairs("overloaded_")
    assert share(pairs, {"faster", "slower"}, run_to_run=BUSY_RUN_TO_RUN) > 0.3


# Levels ---------------------------------------------------------------------------------------


def flat(seconds, count=100):
    return level([seconds] * count)


def test_the_yardstick_is_divided_by():
    slow_machine = np.repeat([1.0, 1.5, 2.0, 1.2], 50)
    steady = level(0.01 * slow_machine, 0.002 * slow_machine)
    assert (steady.log, steady.squared_error) == (pytest.approx(np.log(5)), pytest.approx(0))
    assert steady.median_s == pytest.approx(0.0135)


def test_the_fastest_image_of_a_turn_counts():
    samples = np.tile([3.0, 3.0, 1.0, 3.0, 3.0], 20)
    assert level(samples, np.ones(100)).log == pytest.approx(0)
    assert level(samples, np.ones(100), block=1).log == pytest.approx(np.log(3))


def test_a_last_turn_that_was_cut_short():
    assert level([1.0] * 63, [0.5] * 63).log == pytest.approx(np.log(2))
    assert level([1.0] * 3, [0.5] * 3).log == pytest.approx(np.log(2))


def test_a_constant_series_leaves_the_allowance():
    change = compare_levels("x", [flat(0.2)], [flat(0.1)], run_to_run=0.01)
    assert (change.verdict, change.ratio) == ("faster", pytest.approx(2))
    assert change.low == pytest.approx(2 * np.exp(-1.96 * 2**0.5 * 0.01), rel=1e-4)
    exact = compare_levels("x", [flat(0.1)], [flat(0.1)], run_to_run=0)
    assert (exact.verdict, exact.low, exact.high, exact.within) == ("same", 1, 1, 0)


def test_several_runs_decide_by_their_own_scatter():
    logs = ([0.0, 0.01, -0.01, 0.02], [0.05, 0.06, 0.04])
    before, after = ([Level(log, 1.0, 1.0, 100) for log in side] for side in logs)
    change = compare_levels("x", before, after, run_to_run=9.0)
    # scipy.stats.ttest_ind(*logs, equal_var=False).confidence_interval(0.95)
    assert change.ratio == pytest.approx(np.exp(-0.045))
    assert np.log([change.low, change.high]) == pytest.approx([-0.06727, -0.02273], abs=2e-4)
    assert change.verdict == "slower"
    assert (change.runs, change.samples) == ((4, 3), (400, 300))
    assert "4 and 3 runs" in change.method


def test_fewer_runs_take_the_allowance_and_gain_by_their_number():
    one = compare_levels("x", [flat(1)], [flat(1)], run_to_run=0.02)
    two = compare_levels("x", [flat(1)] * 2, [flat(1)] * 2, run_to_run=0.02)
    assert FEWEST_RUNS == 3
    assert np.log(one.high) == pytest.approx(2**0.5 * np.log(two.high))


def test_the_other_way_round_is_the_reciprocal():
    rng = np.random.default_rng(0)
    a, b = [level(rng.normal(1, 0.01, 200))], [level(rng.normal(1.2, 0.01, 150))]
    there, back = (compare_levels("x", *p, run_to_run=0.01) for p in ((a, b), (b, a)))
    assert (there.verdict, back.verdict) == ("slower", "faster")
    assert there.ratio * back.ratio == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)


def test_drift_within_a_run_widens_the_interval():
    rng = np.random.default_rng(0)
    drift = rng.normal(1, 0.001, 200) * np.linspace(1, 1.2, 200)
    drifting = compare_levels("x", [level(drift)], [level(drift[::-1])], run_to_run=0)
    mixed = [[level(rng.permutation(drift))] for _ in range(2)]
    shuffled = compare_levels("x", *mixed, run_to_run=0)
    assert drifting.verdict == "same"
    assert drifting.within > 2 * shuffled.within


def test_too_few_samples_have_no_verdict():
    few = compare_levels("x", [flat(1.0, FEWEST_SAMPLES - 1)], [flat(2.0, 200)], run_to_run=0)
    assert (few.verdict, few.low, few.high, few.within) == ("unknown", None, None, None)
    assert few.ratio == pytest.approx(0.5)


@pytest.mark.parametrize("run_to_run", [-0.1, float("nan"), float("inf")])
def test_an_allowance_that_is_none(run_to_run):
    with pytest.raises(UsageError, match="expected 0 or more"):
        compare_levels("x", [flat(1)], [flat(1)], run_to_run=run_to_run)


def test_nothing_to_compare():
    with pytest.raises(UsageError, match="no samples"):
        level([])
    with pytest.raises(UsageError, match="no runs"):
        compare_levels("x", [], [flat(1)], run_to_run=0)


# Two reports ----------------------------------------------------------------------------------


def test_rows_in_common(compared):
    before = report_values(("torch fp32", "a fp32", "b fp32"))
    after = report_values(("b fp32", "a fp32", "c fp32"), seed=1, scale=0.8)
    found = compared(before, after)
    assert [(c.label, c.verdict) for c in found.changes] == [
        ("a fp32", "faster"),
        ("b fp32", "faster"),
    ]
    assert (found.only_before, found.only_after) == (("torch fp32",), ("c fp32",))
    assert [d.what for d in found.differences] == ["runners"]
    assert found.remarks == ()
    assert f"{RUN_TO_RUN:.2%}" in found.changes[0].method


def test_like_conditions_are_not_warned_of(compared):
    found = compared(report_values(), report_values(seed=1))
    assert (found.differences, found.remarks) == ((), ())


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("threads",), 1, Difference("threads", 2, 1)),
        (("bundle", "width"), 512, Difference("bundle width", 256, 512)),
        (("bundle", "height"), 512, Difference("bundle height", 256, 512)),
        (("bundle", "model", "steps"), 5, Difference("model steps", 3, 5)),
        (("device", "cpu", "model"), "other", Difference("cpu model", "a processor", "other")),
        (("device", "cpu", "governor"), None, Difference("cpu governor", "performance", None)),
        (
            ("device", "gpus", 0, "driver_version"),
            "560",
            Difference("GPU 0 driver_version", "550.1", "560"),
        ),
        (
            ("device", "libraries", "onnxruntime"),
            "1.20",
            Difference("device libraries onnxruntime", "1.19", "1.20"),
        ),
        (
            ("runners", 0, "artifacts", 0),
            artifact("fused.fp32.onnx", "bb"),
            Difference("onnxruntime fp32: SHA-256 of fused.fp32.onnx", 32 * "aa", 32 * "bb"),
        ),
        (
            ("runners", 0, "library"),
            "x",
            Difference("onnxruntime fp32: library", "onnxruntime 1.19", "x"),
        ),
    ],
)
def test_what_differs_is_named_with_both_values(compared, path, value, expected):
    after = report_values(seed=1)
    *way, last = path
    inner = after
    for step in way:
        inner = inner[step]
    inner[last] = value
    assert compared(report_values(), after).differences == (expected,)


def with_state(values):
    """As from a laptop, or a Jetson."""
    core = Core(0, 3000.0, "powersave", "performance")
    state = State(
        cpu=CpuState((core, core), 1800.0, True, True),
        counters={},
        temperatures={"cpu": 50.0},
        cooling={},
        device_clocks=(DeviceClock("gpu", 300.0, 306.0, 1020.0, "x"),),
        power_mode=PowerMode("25W", "balanced"),
        on_battery=False,
        gpus=None,
        unreadable=(),
    )
    values["sensors"] = {
        "before": msgspec.to_builtins(state),
        "after": None,
        "during": [],
    }
    return values


def with_nvml(values):
    """The state of a GPU, as NVML tells it."""
    fields = {field.name: None for field in dataclasses.fields(GpuState)}
    gpu = fields | {"index": 0, "application_sm_mhz": 1500, "power_limit_watts": 70.0}
    with_state(values)["sensors"]["before"]["gpus"] = [gpu]
    return values


BEFORE = ("sensors", "before")


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("seed",), 1, "seed"),
        (("device", "affinity", "allowed"), [0], "affinity allowed"),
        (("device", "affinity", "quota_cores"), 1.5, "affinity quota cores"),
        ((*BEFORE, "cpu", "boost"), False, "cpu boost"),
        ((*BEFORE, "cpu", "smt_active"), False, "cpu SMT"),
        ((*BEFORE, "cpu", "cores", 1, "limit_mhz"), 1e3, "clock limits of cores in MHz"),
        ((*BEFORE, "cpu", "cores", 0, "preference"), "power", "energy preferences of cores"),
        ((*BEFORE, "device_clocks", 0, "max_mhz"), 624, "clock of gpu: max_mhz"),
        ((*BEFORE, "device_clocks", 0, "governor"), "y", "clock of gpu: governor"),
        ((*BEFORE, "power_mode", "nvpmodel"), "15W", "power mode nvpmodel"),
        ((*BEFORE, "power_mode", "platform_profile"), "low-power", "power mode platform profile"),
        ((*BEFORE, "on_battery"), True, "on battery"),
        ((*BEFORE, "temperatures", "cpu"), 70.0, None),
        ((*BEFORE, "cpu", "mhz"), 900.0, None),
        ((*BEFORE, "device_clocks", 0, "now_mhz"), 900, None),
    ],
)
def test_settings_of_the_machine_that_differ_are_named_and_what_moves_is_not(
    compared, path, value, what
):
    after = with_state(report_values(seed=1))
    *way, last = path
    inner = after
    for step in way:
        inner = inner[step]
    inner[last] = value
    found = compared(with_state(report_values()), after).differences
    assert [difference.what for difference in found] == ([] if what is None else [what])


def test_what_nvidia_smi_tells_is_not_reported_twice(compared):
    before, after = with_nvml(report_values()), with_nvml(report_values(seed=1))
    state = after["sensors"]["before"]["gpus"][0]
    state["power_limit_watts"] = 60.0
    assert compared(before, after).differences == ()
    state["application_sm_mhz"] = 900
    assert [d.what for d in compared(before, after).differences] == ["GPU 0 application_sm_mhz"]


def psnr(value):
    return {"psnr_db": value, "identical": False, "images": 4, "note": "x"}


IDENTICAL = psnr(None) | {"identical": True}


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        (psnr(48.0), psnr(20.0), True),
        (psnr(48.0), psnr(49.0), True),
        (psnr(48.0), psnr(48.9), False),
        (psnr(48.0), psnr(None), True),
        (None, psnr(48.0), True),
        (IDENTICAL, psnr(48.0), True),
        (IDENTICAL, psnr(None), True),
        (IDENTICAL, psnr(70.0), False),  # finer than rounding to 8 bits
        (psnr(75.0), psnr(62.0), False),
        (IDENTICAL, IDENTICAL, False),
        (psnr(None), None, False),
    ],
)
def test_another_quality_is_another_thing_however_fast(compared, before, after, differs):
    sides = report_values(), report_values(seed=1, scale=0.5)
    for side, fidelity in zip(sides, (before, after), strict=True):
        side["runners"][0]["fidelity"] = fidelity
    for found in (compared(*sides), compared(*sides[::-1])):
        names = [d.what for d in found.differences]
        wanted = ["onnxruntime fp32: PSNR to float32 PyTorch in dB"] if differs else []
        assert (names, found.changes[0].quality_differs) == (wanted, differs)


def test_one_run_of_other_quality_among_several_is_enough(compared):
    before, after = ([report_values(seed=k + at) for k in range(3)] for at in (0, 9))
    for side in (*before, *after):
        side["runners"][0]["fidelity"] = psnr(48.0)
    after[2]["runners"][0]["fidelity"] = psnr(20.0)
    found = compared(before, after)
    assert found.changes[0].quality_differs
    assert any("runs differ in" in r and "PSNR" in r for r in found.remarks)


@pytest.mark.parametrize(
    "cores",
    [None, {"other_programs": 0.5, "stolen": 0.0}, {"other_programs": 0.0, "stolen": 0.5}],
)
def test_a_busy_machine_gets_more_allowance(compared, cores):
    after = report_values(seed=1)
    after["cores_busy_elsewhere"] = cores
    found = compared(report_values(), after)
    assert f"{BUSY_RUN_TO_RUN:.2%}" in found.changes[0].method
    assert "b0.json was measured on a busy machine" in found.remarks[0]
    given = compared(report_values(), after, run_to_run=0.002)
    assert "0.20%" in given.changes[0].method


def test_a_virtual_machine_without_a_yardstick_gets_the_most(compared):
    sides = report_values(), report_values(seed=1)
    for side in sides:
        side["device"]["cpu"]["virtual_machine"] = True
    assert f"{VIRTUAL_RUN_TO_RUN:.2%}" in compared(*sides).changes[0].method
    for side in sides:
        side["yardstick"] = {"work": "w", "numpy": "2", "blas": None}
        side["runners"][0]["yardstick_s"] = [0.002] * 200
    assert f"{RUN_TO_RUN:.2%}" in compared(*sides).changes[0].method


def test_yardsticks_of_two_kinds_are_not_compared(compared):
    before, after = report_values(), report_values(seed=1, scale=2)
    for side, unit in ((before, 0.002), (after, 0.004)):
        side["yardstick"] = {"work": "w", "numpy": "2", "blas": None}
        side["runners"][0]["yardstick_s"] = [unit] * 200
    assert compared(before, after).changes[0].verdict == "same"  # twice as slow a machine
    after["yardstick"]["numpy"] = "3"
    found = compared(before, after)
    assert found.changes[0].verdict == "slower"
    assert found.changes[0].method.startswith("tenth percentile")
    assert "yardstick numpy" in [d.what for d in found.differences]


def test_busy_runs_are_left_out_where_three_others_remain(compared):
    before = [report_values(seed=k) for k in range(4)]
    after = [report_values(seed=k + 9) for k in range(4)]
    before[1]["cores_busy_elsewhere"]["other_programs"] = 0.5
    found = compared(before, after)
    assert found.changes[0].runs == (3, 4)
    assert any("left out" in remark and "a1.json" in remark for remark in found.remarks)
    before[2]["cores_busy_elsewhere"]["other_programs"] = 0.5
    assert compared(before, after).changes[0].runs == (4, 4)


def test_runs_of_one_side_that_differ(compared):
    before = [report_values(seed=k) for k in range(3)]
    before[1]["threads"] = 1
    found = compared(before, [report_values(seed=k + 9) for k in range(3)])
    assert any("runs differ in threads" in r for r in found.remarks)


@pytest.mark.parametrize(("elsewhere", "overloaded"), [(0.2, False), (0.3, True)])
def test_an_overloaded_machine_gets_no_verdict(compared, elsewhere, overloaded):
    after = report_values(seed=1, scale=2)
    after["device"]["cpu"]["usable_cores"] = 2
    after["cores_busy_elsewhere"]["other_programs"] = elsewhere
    found = compared(report_values(), after)
    change = found.changes[0]
    assert change.verdict == ("unknown" if overloaded else "slower")
    assert (change.low is None) == overloaded
    assert ("no verdict" in found.remarks[0]) == overloaded
    assert compared(report_values(), after, run_to_run=0.05).changes[0].verdict == "slower"


def test_suspicious_files(compared):
    before = report_values() | {"complete": False}
    found = compared(before, copy.deepcopy(before))
    assert "a0.json was interrupted" in found.remarks[0]
    assert found.remarks[-1] == "both files contain the same measurement"


def test_nothing_in_common(compared):
    with pytest.raises(InputError, match=r"no runner in common: 'a' against 'b'"):
        compared(report_values(("a",)), report_values(("b",)))
