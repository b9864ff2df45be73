"""Reports as tables: every one that there is data for, and what the cells say."""

from __future__ import annotations

import dataclasses
import math

import pytest
from msgspec.structs import replace

from elir_deploy.bench.cold import ColdStart
from elir_deploy.bench.measurement import Measurement
from elir_deploy.bench.peers.paper import Comparison, Rival
from elir_deploy.bench.protocols import PROTOCOLS, BenchProtocol
from elir_deploy.bench.report import Results, build_report
from elir_deploy.bench.report_text import digits, heading, markdown, remarks, tables, text
from elir_deploy.bench.report_types import Artifact, EulerRow
from elir_deploy.bench.runners import Fidelity, Preparation, Unavailable
from elir_deploy.bench.soak import Soak
from elir_deploy.bench.throughput import Load
from elir_deploy.bench.watch import EnergySource
from elir_deploy.runtime import Bundle
from tests.bench.reports import conditions
from tests.bench.rich_report import without
from tests.bench.schema import checked
from tests.bench.synthetic import FakeClock, SyntheticMeter, SyntheticRunner
from tests.bundles import make_bundle

TITLES = [
    *("Speed", "Latency in ms"),
    *(
        "Models of the paper",
        "Relative to the paper's rivals",
        "Rivals that are not measured",
    ),
    *("Throughput", "Stages", "Euler steps", "Soak", "Cold start", "Energy"),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return Bundle.open(make_bundle(tmp_path_factory.mktemp("text") / "b", random=True))


@pytest.fixture(scope="module")
def everything(bundle):
    """A report that has something for every table."""
    clock = FakeClock()
    eager = SyntheticRunner("eager", clock, 0.4)
    fast = SyntheticRunner("fast", clock, 0.1, parts={"encoder": 0.25, "decoder": 0.75})
    eager.backend = "torch"
    fast.arithmetic = {"int8": 30, "float32": 2}
    fast.artifacts = (Artifact("f.onnx", "int8", 9, "ab" * 32),)
    protocol = BenchProtocol("paper", "a title", 0, 20)
    meter = SyntheticMeter(clock, 12.0)
    measurement = Measurement([eager, fast], protocol, (8, 8, 3), clock=clock, joules=meter.read)
    measurement.run()
    memory = iter(range(2**28, 2**30, 2**20))
    soak = Soak(
        *(fast, (8, 8, 3), 600.0),
        clock=clock,
        rss=lambda: next(memory),
        heat=lambda: (50.0 + len(soak.windows), 2000.0),
    )
    soak.run()
    results = Results(
        protocol,
        [eager, fast],
        complete=True,
        fidelities={
            "eager": Fidelity.unknown("the reference itself"),
            "fast": Fidelity.of(41.234, 2, "x"),
        },
        unavailable=[Unavailable("onnxruntime-cuda", "no driver")],
        measurement=measurement,
        colds={"fast": ColdStart(0.51234, 1.0, 2.0, 300 * 2**20, 700 * 2**20)},
        loads=[
            dataclasses.replace(
                Load.of_pass(2, 2, 0.4, [0.1, 0.3]), label="fast", fps_by_pass=(4.0, 6.0)
            ),
            dataclasses.replace(Load.of_pass(1, 8, 2.0), label="fast", way="files"),
        ],
        steps=[
            EulerRow("fast", 3, Fidelity.of(30.126, 2, "x"), Fidelity.of(math.inf, 2, "x")),
            EulerRow("eager", 2, Fidelity.unknown("y"), Fidelity.of(30.0, 2, "x")),
        ],
        soaks=[soak],
        rivals=[
            Comparison(Rival("ELIR", 18e6, 52.2), "eager", 19_061_000),
            Comparison(Rival("Fast", 9e6, 26.1, ("m", "c", {}), "free"), "fast", 9_000_000),
            Comparison(Rival("Absent", 2e9, 0.07), reason="nobody has it"),
        ],
    )
    under = conditions(
        energy=EnergySource("a meter", "the whole board", (), ()),
        unreadable=("clocks", "temperatures"),
        throttling=("the clock fell",),
    )
    report = build_report(results, bundle, under)
    checked(report)
    return report


def rows_of(report, title):
    (table,) = [table for table in tables(report) if table.title == title]
    return [list(row) for row in table.rows]


def test_every_table_appears_where_there_is_data(everything):
    assert [table.title for table in tables(everything)] == TITLES
    for shown in (text(everything), markdown(everything)):
        places = [shown.index(f"\n{title}") for title in TITLES]
        assert places == sorted(places)
    for table in tables(everything):
        assert table.rows
        assert all(len(row) == len(table.header) for row in table.rows)
        assert all(cell for row in table.rows for cell in row)


@pytest.mark.parametrize(
    ("missing", "title"),
    [
        ("stages", "Stages"),
        ("throughput", "Throughput"),
        ("steps", "Euler steps"),
        ("soak", "Soak"),
        ("paper_table", "Models of the paper"),
        ("paper_table", "Relative to the paper's rivals"),
    ],
)
def test_a_table_without_data_is_left_out(everything, missing, title):
    report = without(everything, missing)
    assert title not in [table.title for table in tables(report)]
    assert f"\n{title}\n" not in text(report)


def test_the_papers_models_are_listed_whether_they_are_measured_or_not(everything):
    assert rows_of(everything, TITLES[2]) == [
        ["ELIR", "-", "19.1", "18", "2.50", "52.2", "-"],
        ["Fast", "free", "9.0", "9", "10.0", "26.1", "-"],
        ["Absent", "-", "-", "2000", "-", "0.07", "-"],
    ]
    assert rows_of(everything, TITLES[4]) == [["Absent", "nobody has it"]]
    [[runner, rival, here, paper]] = rows_of(everything, TITLES[3])
    assert (runner, rival, paper) == ("eager", "Fast", "-")  # the bundle is not the paper's model
    assert here.startswith("0.250 [")


def test_rows_that_a_runner_has_nothing_for_are_left_out(everything):
    bare = {"image": None, "device": None, "stages": [], "cold": None, "energy": None}
    report = replace(everything, runners=[replace(row, **bare) for row in everything.runners])
    assert [table.title for table in tables(report)] == [*TITLES[2:5], "Throughput", "Soak"]


def test_speeds(everything):
    eager, fast = rows_of(everything, "Speed")
    assert eager == ["eager", "2.500", "1", "-", "360.0", "40.00"]
    assert fast == ["fast", "10.00", "4.00 [4.00, 4.00]", "41.2", "90.00", "10.00"]


def test_identical_pictures_and_too_few_images(bundle):
    clock = FakeClock()
    runners = [SyntheticRunner(name, clock, 0.1) for name in "ab"]
    protocol = BenchProtocol("paper", "", 0, 5)
    measurement = Measurement(runners, protocol, (8, 8, 3), clock=clock)
    measurement.run()
    results = Results(
        *(protocol, runners, True, {"b": Fidelity.of(math.inf, 1, "x")}), measurement=measurement
    )
    report = build_report(results, bundle, conditions())
    assert rows_of(report, "Speed")[1][2:4] == ["1.00 [too few images]", "identical"]


def test_an_unknown_device_time(everything):
    row = replace(everything.runners[1], device=None)
    assert rows_of(replace(everything, runners=[row]), "Speed")[0][-2:] == ["-", "-"]


def test_latencies(everything):
    eager, _ = rows_of(everything, "Latency in ms")
    assert eager == ["eager", "20", "400.0", "0", "0.0", *["400.0"] * 6]


def test_cold_starts(everything):
    (table,) = [table for table in tables(everything) if table.title == "Cold start"]
    assert table.header == ("runner", "start s", "load s", "first image s", "peak MiB", "GPU MiB")
    assert [list(row) for row in table.rows] == [["fast", "0.512", "1.00", "2.00", "300", "700"]]
    row = everything.runners[1]
    cold = dataclasses.replace(row.cold, peak_rss_bytes=None, device_bytes=None)
    report = replace(everything, runners=[replace(row, cold=cold)])
    assert rows_of(report, "Cold start")[0][-2:] == ["-", "-"]


def test_energies(everything):
    assert rows_of(everything, "Energy") == [["eager", "4.80", "12.0"], ["fast", "1.20", "12.0"]]
    assert "energy: measured by a meter, of the whole board" in remarks(everything)


def test_stages(everything):
    assert rows_of(everything, "Stages") == [
        ["fast", "encoder", "22.50", "22.5", "[22.5, 22.5]"],
        ["fast", "decoder", "67.50", "67.5", "[67.5, 67.5]"],
        ["fast", "runtime", "10.00", "10.0", "[10.0, 10.0]"],
    ]


def test_loads(everything):
    assert rows_of(everything, "Throughput") == [
        ["fast", "callers", "2", "5.000", "4.00 / 6.00", "41.2", "200.0", "298.0", "2"],
        ["fast", "files", "1", "4.000", "4.00", "41.2", "-", "-", "8"],
    ]


def test_steps(everything):
    assert rows_of(everything, "Euler steps") == [
        ["synthetic fp32", "3", "10.00", "100.0", "30.13", "identical"],
        ["torch fp32", "2", "2.500", "400.0", "-", "30.00"],
    ]


def test_soaks(everything):
    ((*measured, drift, growth, hottest),) = rows_of(everything, "Soak")
    assert measured == ["fast", "600", "6000", "41.2", "100.0", "100.0"]
    assert drift in ("+0.0 [0.0, 0.0]", "+0.0 [-0.0, 0.0]", "-0.0 [-0.0, 0.0]")
    assert growth == "+360.0 [360.0, 360.0]"  # a mebibyte in every window of ten seconds
    assert hottest == "109"


def test_a_soak_that_was_too_short_for_a_trend(bundle):
    clock = FakeClock()
    soak = Soak(SyntheticRunner("a", clock, 0.5), (8, 8, 3), 3.0, clock=clock)
    soak.run()
    empty = Soak(SyntheticRunner("b", clock, 0.5), (8, 8, 3), 3.0, clock=clock)
    results = Results(PROTOCOLS["soak"], [], True, soaks=[soak, empty])
    report = build_report(results, bundle, conditions())
    assert rows_of(report, "Soak") == [["a", "3.00", "6", "-", "500.0", "500.0", "-", "-", "-"]]


def test_remarks(everything):
    found = remarks(everything)
    for line in (
        "no PSNR of eager: the reference itself",
        "weights of eager: none",
        "convolutions of fast: 30 in int8, 2 in float32",
        "not measured: onnxruntime-cuda: no driver",
        "cannot be monitored here: clocks; temperatures",
    ):
        assert line in found
    assert not any("PSNR of fast" in line for line in found)
    for shown in (text(everything), markdown(everything)):
        assert "warning: results are unreliable: during the run the clock fell" in shown


@pytest.mark.parametrize(
    ("gpus", "on_cpu", "lines"),
    [
        # A reader of a GPU's figures would take PyTorch's to be the GPU's, too.
        (
            [{"name": "a GPU"}],
            (True, True, False),
            [
                "on the CPU, not the GPU: eager, plain",
                "speedups are relative to eager on the CPU",
            ],
        ),
        ([{"name": "a GPU"}], (True, True, True), ["on the CPU, not the GPU: eager, plain, c"]),
        ([], (False, True, False), ["on the CPU, not the GPU: plain"]),
        ([], (True, True, True), []),
        ([{"name": "a GPU"}], (False, False, False), []),
    ],
)
def test_what_ran_on_the_cpu_is_told_where_there_is_a_gpu(bundle, gpus, on_cpu, lines):
    clock = FakeClock()
    runners = [SyntheticRunner(name, clock, 0.1) for name in ("eager", "plain", "c")]
    for runner, own in zip(runners, on_cpu, strict=True):
        runner.on_cpu = own
    protocol = BenchProtocol("paper", "", 0, 20)
    measurement = Measurement(runners, protocol, (8, 8, 3), clock=clock)
    measurement.run()
    results = Results(protocol, runners, True, measurement=measurement)
    report = build_report(results, bundle, conditions())
    report = replace(report, device=dataclasses.replace(report.device, gpus=gpus))
    assert [line for line in remarks(report) if "CPU" in line] == lines


def test_what_had_to_be_done_first_is_told(bundle):
    runner = SyntheticRunner("torch-compile fp32", FakeClock(), 0.1)
    runner.preparation = Preparation("to compile", 92.345)
    results = Results(PROTOCOLS["paper"], [runner])
    report = build_report(results, bundle, conditions())
    assert "torch-compile fp32: 92 s to compile" in remarks(report)


def test_the_heading_says_what_was_measured_on_what_and_how(everything):
    first, *rest = heading(everything)
    assert first == "tiny, 32x32, M = 3, 0.0 M parameters, from random"
    assert rest[0] == "random weights: valid for speed only"
    assert ", 2 threads" in rest[1]
    assert rest[-1] == (
        "protocol paper: batch 1, random images, 0 warm-up images, 20 measured; FPS is 1 / mean "
        "latency from 8-bit image to 8-bit image"
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (
            "latency",
            "warm-up until latencies settle, measured until every median is known to 1.5%; FPS",
        ),
        ("stages", "known to 1.5%"),
        ("throughput", "protocol throughput: many images: "),
        ("soak", "protocol soak: each runner under long load"),
    ],
)
def test_the_heading_of_the_other_protocols(bundle, name, shown):
    protocol = dataclasses.replace(PROTOCOLS[name], tolerance=0.015)
    report = build_report(Results(protocol, []), bundle, conditions())
    assert shown in heading(report)[-1]
    assert ("FPS is 1 / mean latency" in heading(report)[-1]) == (
        name not in ("throughput", "soak")
    )


def test_markdown_is_a_heading_tables_and_lists(everything):
    shown = markdown(everything)
    lines = shown.splitlines()
    assert lines[0] == "# tiny, 32x32, M = 3, 0.0 M parameters, from random"
    table: list[str] = []
    for line in [*lines, ""]:
        if line.startswith("|"):
            table.append(line)
        elif table:
            assert {row.count("|") for row in table} == {table[0].count("|")}
            assert set(table[1]) <= set("|-: ")
            table = []
        else:
            assert not line or line[0] in "#-" or line.endswith(":")
    assert f"- fast: `f.onnx`, SHA-256 `{'ab' * 32}`" in lines
    assert shown.endswith("\n")


def test_no_table_is_wider_than_a_terminal(everything):
    table_lines = [line for line in text(everything).splitlines() if "  " in line]
    assert len(table_lines) > 15
    assert all(len(line) <= 110 for line in table_lines)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (6e-14, "0"),
        (0.0123456, "0.01235"),
        (1, "1.000"),
        (999.96, "1000.0"),
        (12345.6, "12346"),
        (-2.5, "-2.500"),
        (1e-7, "0.0000001000"),
    ],
)
def test_digits(value, shown):
    assert digits(value) == shown
