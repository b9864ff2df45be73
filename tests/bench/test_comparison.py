"""Comparing two measurements: recorded runs of the same thing, known changes, hostile files."""

from __future__ import annotations

import copy
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from elir_deploy.bench.comparison import (
    BUSY_RUN_TO_RUN,
    FEWEST_SAMPLES,
    IDLE_RUN_TO_RUN,
    Difference,
    compare_reports,
    compare_series,
    read_report,
)
from elir_deploy.errors import InputError, UsageError

RECORDED = Path(__file__).parents[1] / "data" / "latencies" / "tiny64.npz"


def report_values(rows=("onnxruntime fp32",), *, seed=0, scale=1.0, count=200):
    """As elir-bench writes them, from an idle machine; only what a comparison reads."""
    rng = np.random.default_rng(seed)
    return {
        "schema_version": 1,
        "kind": "elir-bench",
        "complete": True,
        "protocol": {"name": "paper", "images": count, "warmup": 10, "block": 5, "batch": 1},
        "threads": 2,
        "model": {"task": "tiny", "image_size": 64, "versions": {"onnx": "1.20"}},
        "device": {
            "cpu": {"model": "a processor", "governor": "performance"},
            "gpus": [{"name": "a GPU", "driver_version": "550.1", "pstate": f"P{seed}"}],
            "libraries": {"onnxruntime": "1.19"},
            "cores_busy_elsewhere": {"other_programs": 0.01, "stolen": 0.0},
        },
        "contenders": [
            {
                "label": label,
                "library": "onnxruntime 1.19",
                "artifacts": [{"file": "fused.fp32.onnx", "sha256": "aa"}],
                "image": {"samples_s": (scale * rng.normal(0.02, 2e-4, count)).tolist()},
            }
            for label in rows
        ],
    }


def write_report(path, values):
    path.write_text(json.dumps(values))
    return path


@pytest.fixture
def compared(tmp_path):
    def call(before, after, **options):
        paths = (tmp_path / "a.json", tmp_path / "b.json")
        files = [write_report(p, v) for p, v in zip(paths, (before, after), strict=True)]
        return compare_reports(*map(read_report, files), **options)

    return call


# Rates ----------------------------------------------------------------------------------------


def recorded_pairs(prefix=""):
    """Every two different runs of the same thing, in either order."""
    recorded = np.load(RECORDED)
    rng = np.random.default_rng(0)
    found = []
    for name in ("onnxruntime_fp32", "openvino_fp32", "openvino_bf16"):
        for one, other in itertools.combinations(recorded[prefix + name] / 1e6, 2):
            found.append((one, other) if rng.random() < 0.5 else (other, one))
    return found


@pytest.fixture(scope="module")
def pairs():
    return recorded_pairs()


def share(pairs, verdicts, *, slower=1.0, run_to_run):
    found = [compare_series("x", a, b * slower, run_to_run=run_to_run).verdict for a, b in pairs]
    return sum(verdict in verdicts for verdict in found) / len(found)


def test_recorded_runs_of_the_same_thing_are_seldom_called_different(pairs):
    assert len(pairs) >= 400
    assert np.load(RECORDED)["busy_cores"].min() > 0.1  # so this is the allowance they get
    assert share(pairs, {"faster", "slower"}, run_to_run=BUSY_RUN_TO_RUN) <= 0.06


def test_what_is_found_on_the_recorded_busy_machine(pairs):
    # 5 % is beyond it: the same program differs by more from run to run.
    assert share(pairs, {"slower"}, slower=1.25, run_to_run=BUSY_RUN_TO_RUN) >= 0.9
    assert share(pairs, {"slower"}, slower=1.05, run_to_run=BUSY_RUN_TO_RUN) <= 0.15


def test_without_an_allowance_the_same_thing_is_called_different(pairs):
    assert share(pairs, {"faster", "slower"}, run_to_run=0) > 0.3


def test_why_an_overloaded_machine_gets_no_verdict():
    # Two cores and one thread; the last run was not overloaded any more.
    assert (np.load(RECORDED)["overloaded_busy_cores"][:-1] > 1.25).all()
    pairs = recorded_pairs("overloaded_")
    assert share(pairs, {"faster", "slower"}, run_to_run=BUSY_RUN_TO_RUN) > 0.3


def steady_run(rng, count=200):
    """A made-up idle machine: 1.5 % of correlated noise, rare hiccups, 0.5 % from run to run."""
    noise = np.convolve(rng.normal(0, 1, count + 4), np.full(5, 5**-0.5), "valid")
    hiccups = (rng.random(count) < 0.03) * rng.exponential(0.3, count)
    return 0.01 * np.exp(0.005 * rng.normal()) * (1 + 0.015 * noise + hiccups)


def test_on_a_steady_machine_five_percent_are_found():
    rng = np.random.default_rng(1)
    steady = [(steady_run(rng), steady_run(rng)) for _ in range(400)]
    assert share(steady, {"faster", "slower"}, run_to_run=IDLE_RUN_TO_RUN) <= 0.06
    assert share(steady, {"slower"}, slower=1.05, run_to_run=IDLE_RUN_TO_RUN) >= 0.9
    assert share(steady, {"faster"}, slower=1 / 1.05, run_to_run=IDLE_RUN_TO_RUN) >= 0.9


# One pair -------------------------------------------------------------------------------------


def test_a_constant_series_leaves_the_allowance():
    change = compare_series("x", [0.2] * 100, [0.1] * 100, run_to_run=0.01)
    assert (change.verdict, change.ratio) == ("faster", pytest.approx(2))
    assert change.low == pytest.approx(2 * np.exp(-1.96 * 2**0.5 * 0.01), rel=1e-4)
    exact = compare_series("x", [0.1] * 100, [0.1] * 100, run_to_run=0)
    assert (exact.verdict, exact.low, exact.high, exact.within) == ("same", 1, 1, 0)


def test_the_other_way_round_is_the_reciprocal():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 0.01, 200), rng.normal(1.2, 0.01, 150)
    there, back = (compare_series("x", *p, run_to_run=0.01) for p in ((a, b), (b, a)))
    assert (there.verdict, back.verdict) == ("slower", "faster")
    assert there.ratio * back.ratio == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)


def test_drift_within_a_run_widens_the_interval():
    rng = np.random.default_rng(0)
    drift = rng.normal(1, 0.001, 200) * np.linspace(1, 1.2, 200)
    drifting = compare_series("x", drift, drift[::-1], run_to_run=0)
    shuffled = compare_series("x", rng.permutation(drift), rng.permutation(drift), run_to_run=0)
    assert drifting.verdict == "same"
    assert drifting.within > 2 * shuffled.within


def test_too_few_samples_have_no_verdict():
    few = compare_series("x", [1.0] * (FEWEST_SAMPLES - 1), [2.0] * 200, run_to_run=0)
    assert (few.verdict, few.low, few.high, few.within) == ("unknown", None, None, None)
    assert few.ratio == pytest.approx(0.5)


@pytest.mark.parametrize("run_to_run", [-0.1, float("nan"), float("inf")])
def test_an_allowance_that_is_none(run_to_run):
    with pytest.raises(UsageError, match="wanted 0 or more"):
        compare_series("x", [1.0], [1.0], run_to_run=run_to_run)


def test_no_samples():
    with pytest.raises(UsageError, match="no samples"):
        compare_series("x", [], [1.0], run_to_run=0)


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
    assert [d.what for d in found.differences] == ["rows measured together"]
    assert (found.run_to_run, found.remarks) == (IDLE_RUN_TO_RUN, ())


def test_like_conditions_are_not_warned_of(compared):
    found = compared(report_values(), report_values(seed=1))
    assert (found.differences, found.remarks) == ((), ())


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("threads",), 1, Difference("threads", 2, 1)),
        (("model", "image_size"), 256, Difference("image size", 64, 256)),
        (("device", "cpu", "model"), "other", Difference("CPU", "a processor", "other")),
        (("device", "cpu", "governor"), None, Difference("governor", "performance", None)),
        (
            ("device", "gpus", 0, "driver_version"),
            "560",
            Difference("GPU 0 driver_version", "550.1", "560"),
        ),
        (("device", "gpus"), [], Difference("GPUs", 1, 0)),
        (
            ("device", "libraries", "onnxruntime"),
            "1.20",
            Difference("library onnxruntime", "1.19", "1.20"),
        ),
        (
            ("contenders", 0, "artifacts", 0, "sha256"),
            "bb",
            Difference("onnxruntime fp32: SHA-256 of fused.fp32.onnx", "aa", "bb"),
        ),
        (
            ("contenders", 0, "library"),
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


@pytest.mark.parametrize(
    "cores",
    [None, {}, {"other_programs": 0.5, "stolen": 0}, {"other_programs": 0, "stolen": "x"}, [1]],
)
def test_a_busy_machine_gets_more_allowance(compared, cores):
    after = report_values(seed=1)
    after["device"]["cores_busy_elsewhere"] = cores
    found = compared(report_values(), after)
    assert found.run_to_run == BUSY_RUN_TO_RUN
    assert "b.json was measured while others kept the machine busy" in found.remarks[0]
    assert compared(report_values(), after, run_to_run=0.002).run_to_run == 0.002


@pytest.mark.parametrize(("elsewhere", "overloaded"), [(0.2, False), (0.3, True)])
def test_an_overloaded_machine_gets_no_verdict(compared, elsewhere, overloaded):
    after = report_values(seed=1, scale=2)
    after["device"]["cpu"]["usable_cores"] = 2
    after["device"]["cores_busy_elsewhere"]["other_programs"] = elsewhere
    found = compared(report_values(), after)
    change = found.changes[0]
    assert change.verdict == ("unknown" if overloaded else "slower")
    assert (change.low is None) == overloaded
    assert ("no verdict" in found.remarks[0]) == overloaded
    assert compared(report_values(), after, run_to_run=0.05).changes[0].verdict == "slower"


def test_doubtful_files(compared):
    before = report_values() | {"complete": False}
    found = compared(before, copy.deepcopy(before))
    assert "a.json was interrupted" in found.remarks[0]
    assert found.remarks[-1] == "both files hold the same measurement"


def test_nothing_in_common(compared):
    with pytest.raises(InputError, match=r"no row in common: 'a' against 'b'"):
        compared(report_values(("a",)), report_values(("b",)))


# Files ----------------------------------------------------------------------------------------


def with_sample(sample):
    values = report_values()
    values["contenders"][0]["image"]["samples_s"][7] = sample
    return json.dumps(values)


GOOD = json.dumps(report_values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON or cut off"),
        (GOOD[: len(GOOD) // 2].encode(), "is no JSON or cut off"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b"[" * 200_000, "nested too deeply"),
        (b"[]", "kind is no object"),
        (b'{"kind": "elir-eval"}', "kind is 'elir-eval', wanted 'elir-bench'"),
        (b'{"kind": "elir-bench", "kind": 1}', "same entry twice"),
        (b'{"kind": "elir-bench"}', "schema_version None, wanted 1"),
        (b'{"kind": "elir-bench", "schema_version": true}', "schema_version True, wanted 1"),
        (b'{"kind": "elir-bench", "schema_version": 2}', "newer elir-deploy"),
        (b'{"kind": "elir-bench", "schema_version": 1}', "contenders is None"),
        (b'{"kind": "elir-bench", "schema_version": 1, "contenders": []}', "holds no samples"),
        (b'{"kind": "elir-bench", "schema_version": 1, "contenders": [3]}', "label None"),
        (
            b'{"kind": "elir-bench", "schema_version": 1, "contenders": [{"label": "x"}]}',
            "'x' has no image.samples_s",
        ),
        (with_sample(0).encode(), "the sample 0, wanted seconds above 0"),
        (with_sample(-1.0).encode(), "the sample -1.0"),
        (with_sample(True).encode(), "the sample True"),
        (with_sample("1").encode(), "the sample '1'"),
        (with_sample(None).encode(), "the sample None"),
        (with_sample([[1]]).encode(), r"the sample \[\[1\]\]"),
        (with_sample(10**4000).encode(), "the sample a huge number"),
        (with_sample(float("nan")).encode(), "NaN is not JSON"),
        (GOOD.replace("0.01,", "1e999,", 1).encode(), "1e999 is out of range"),
        (with_sample(5e-324).encode(), "the sample 5e-324"),
        (with_sample("\x1b" * 999).encode(), r"\.\.\., wanted"),
    ],
)
def test_files_that_are_no_reports(tmp_path, content, message):
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_report(path)
    assert str(raised.value).startswith(str(path))
    assert len(str(raised.value)) < len(str(path)) + 200


def test_a_row_twice(tmp_path):
    with pytest.raises(InputError, match="'a' is there twice"):
        read_report(write_report(tmp_path / "r.json", report_values(("a", "a"))))


def test_an_interrupted_row_without_samples_is_left_out(tmp_path):
    values = report_values(("a", "b"))
    values["contenders"][0]["image"] = None
    assert list(read_report(write_report(tmp_path / "r.json", values)).series) == ["b"]


def test_places_that_hold_no_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_report(tmp_path / "none.json")
    with pytest.raises(InputError, match="is not a file"):
        read_report(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a file"):
        read_report(tmp_path / "pipe")
    with pytest.raises(InputError, match="cannot be read"):
        read_report("a\0b")


@pytest.mark.parametrize("value", [None, [], 3, "x", {"cpu": 1, "gpus": [1, {}]}])
def test_odd_descriptions_are_differences_not_crashes(compared, value):
    after = report_values(seed=1) | {"device": value, "model": value, "protocol": value}
    after["contenders"][0]["artifacts"] = value
    found = compared(report_values(), after)
    assert found.changes[0].verdict == "same"
    assert "CPU" in [d.what for d in found.differences]
