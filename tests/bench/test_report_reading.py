"""Files of elir-bench read back, whoever wrote them."""

from __future__ import annotations

import json
import os

import pytest

from elir_deploy.bench.report_reading import read_report, read_runs
from elir_deploy.errors import InputError
from tests.bench.reports import report_values, write_report


def with_sample(sample):
    values = report_values()
    values["runners"][0]["image"]["samples_s"][7] = sample
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
        (b'{"kind": "elir-bench"}', "schema_version None, wanted 2"),
        (b'{"kind": "elir-bench", "schema_version": true}', "schema_version True, wanted 2"),
        (b'{"kind": "elir-bench", "schema_version": 3}', "newer elir-deploy"),
        (b'{"kind": "elir-bench", "schema_version": 1}', "runners is None"),
        (b'{"kind": "elir-bench", "schema_version": 1, "runners": []}', "holds no samples"),
        (b'{"kind": "elir-bench", "schema_version": 1, "runners": [3]}', "label None"),
        (
            b'{"kind": "elir-bench", "schema_version": 1, "runners": [{"label": "x"}]}',
            "'x' has no image.samples_s",
        ),
        (with_sample(0).encode(), "the sample 0, wanted seconds above 0"),
        (with_sample(-1.0).encode(), "the sample -1.0"),
        (with_sample(True).encode(), "the sample True"),
        (with_sample("1").encode(), "the sample '1'"),
        (with_sample(None).encode(), "the sample None"),
        (with_sample([[1]]).encode(), r"the sample \[\[1\]\]"),
        (with_sample(10**4000).encode(), r"10+\.\.\. is out of range"),
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
    values["runners"][0]["image"] = None
    assert list(read_report(write_report(tmp_path / "r.json", values)).series) == ["b"]


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("protocol", ["throughput", "soak"])
def test_a_protocol_without_series_is_named_with_those_that_have_some(tmp_path, protocol, complete):
    values = report_values(("a", "b")) | {"complete": complete}
    values["protocol"]["name"] = protocol
    for row in values["runners"]:
        row["image"] = None
    message = f"is of protocol {protocol}, .* files of paper, latency, stages, steps"
    with pytest.raises(InputError, match=message):
        read_report(write_report(tmp_path / "r.json", values))


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


@pytest.mark.parametrize(
    ("yardstick", "message"),
    [
        ([0.002] * 199, "the yardstick of 'onnxruntime fp32' is not a list of 200 times"),
        ("x", "is not a list of 200 times"),
        ([0.002] * 199 + [0], "the sample 0, wanted seconds above 0"),
        ([0.002] * 199 + [None], "the sample None"),
    ],
)
def test_a_yardstick_that_is_none(tmp_path, yardstick, message):
    values = report_values()
    values["runners"][0]["yardstick_s"] = yardstick
    with pytest.raises(InputError, match=message):
        read_report(write_report(tmp_path / "r.json", values))


def test_a_folder_holds_runs_in_the_order_of_their_names(tmp_path):
    for name in ("2.json", "1.json", "notes.txt"):
        write_report(tmp_path / name, report_values())
    assert [run.path.name for run in read_runs(tmp_path)] == ["1.json", "2.json"]
    assert [run.path.name for run in read_runs(tmp_path / "2.json")] == ["2.json"]


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(InputError, match=r"is a folder without \*.json"):
        read_runs(tmp_path)
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(InputError, match=r"r.json is not a report"):
        read_runs(tmp_path)
