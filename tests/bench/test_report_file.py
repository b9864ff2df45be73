"""Files of elir-bench read back, whoever wrote them."""

from __future__ import annotations

import copy
import json
import os
from importlib import resources

import fastjsonschema
import msgspec
import pytest

from elir_deploy.bench.device_archive import write_archive
from elir_deploy.bench.report_file import read_report, read_runs, report_schema, to_json
from elir_deploy.errors import InputError
from tests.bench.reports import report_values, write_report
from tests.bench.schema import check_schema, typed


def with_sample(sample):
    values = report_values()
    values["runners"][0]["image"]["samples_s"][7] = sample
    return json.dumps(values)


def changed(entry, value):
    return json.dumps(report_values() | {entry: value}).encode()


GOOD = json.dumps(report_values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON, or cut off"),
        (GOOD[: len(GOOD) // 2].encode(), "is not valid JSON, or cut off"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b"[" * 200_000, "nested too deeply"),
        (b"[]", 'it has no "kind": "elir-bench"'),
        (b'{"kind": "elir-eval"}', 'it has no "kind": "elir-bench"'),
        (b'{"kind": "elir-bench", "kind": 1}', "same entry twice"),
        (b'{"kind": "elir-bench"}', "no valid schema_version, expected 6"),
        (b'{"kind": "elir-bench", "schema_version": true}', "no valid schema_version"),
        (
            b'{"kind": "elir-bench", "schema_version": 7}',
            "a newer elir-deploy: schema_version is 7, expected 6: upgrade elir-deploy",
        ),
        (
            b'{"kind": "elir-bench", "schema_version": 5}',
            "an older elir-deploy: schema_version is 5, expected 6: measure again",
        ),
        (b'{"kind": "elir-bench", "schema_version": 6}', "missing required field `complete`"),
        (with_sample(0).encode(), r"samples_s\[7\]: Expected `float` >= 1e-12, seen 0"),
        (with_sample(-1.0).encode(), "seen -1.0"),
        (with_sample(True).encode(), "Expected `float`, got `bool`, seen True"),
        (with_sample("1").encode(), "seen '1'"),
        (with_sample(None).encode(), "seen None"),
        (with_sample([[1]]).encode(), r"seen \[\[1\]\]"),
        (with_sample(10**4000).encode(), r"10+\.\.\. is out of range"),
        (with_sample(float("nan")).encode(), "NaN is not JSON"),
        (GOOD.replace("0.01,", "1e999,", 1).encode(), "1e999 is out of range"),
        (with_sample(5e-324).encode(), "seen 5e-324"),
        (with_sample("\x1b" * 999).encode(), r"seen '\\x1b"),
        (changed("threads", "two"), "threads: Expected `int | null`, got `str`, seen 'two'"),
        (changed("forgotten", 1), "unknown field `forgotten`"),
        (changed("device", None), "device: Expected `object`, got `null`"),
    ],
)
def test_files_that_are_no_reports(tmp_path, content, message):
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_report(path)
    assert str(raised.value).startswith(str(path))
    assert len(str(raised.value)) < len(str(path)) + 320


def test_a_row_twice(tmp_path):
    with pytest.raises(InputError, match="two runners have the same label"):
        read_report(write_report(tmp_path / "r.json", report_values(("a", "a"))))


def test_an_interrupted_row_without_samples_is_left_out(tmp_path):
    values = report_values(("a", "b"))
    values["runners"][0]["image"] = None
    assert list(read_report(write_report(tmp_path / "r.json", values)).rows) == ["b"]


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("protocol", ["throughput", "soak"])
def test_a_protocol_without_turns_cannot_be_compared(tmp_path, protocol, complete):
    values = report_values(("a", "b")) | {"complete": complete}
    values["protocol"] |= {"name": protocol, "block": None}
    for row in values["runners"]:
        row["image"] = None
    with pytest.raises(InputError, match=f"is of protocol '{protocol}', .* cannot be compared"):
        read_report(write_report(tmp_path / "r.json", values))


def test_a_run_interrupted_before_its_first_image(tmp_path):
    values = report_values(("a",))
    values["runners"][0]["image"] = None
    with pytest.raises(InputError, match="holds no samples"):
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
        ([0.002] * 199, "'onnxruntime fp32' has 199 yardstick times, expected 200"),
        ("x", "yardstick_s: Expected"),
        ([0.002] * 199 + [0], "seen 0"),
        ([0.002] * 199 + [None], "seen None"),
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


def test_a_folder_of_device_reports(tmp_path):
    entry = write_report(tmp_path / "3.json", report_values()).read_text()
    for name in ("2.zip", "1.zip"):
        write_archive(tmp_path / name, {"report.json": "{}", "latency.json": entry})
    assert [run.path.name for run in read_runs(tmp_path)] == ["1.zip", "2.zip", "3.json"]


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(InputError, match=r"has no \*.json and no \*.zip files"):
        read_runs(tmp_path)
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(InputError, match=r"r.json is not a report"):
        read_runs(tmp_path)


def test_a_written_report_is_read_back_as_it_was(tmp_path):
    path = write_report(tmp_path / "r.json", report_values(("a", "b")))
    run = read_report(path)
    (tmp_path / "again.json").write_text(to_json(run.report))
    assert read_report(tmp_path / "again.json").report == run.report


def test_json_has_no_number_that_is_not_finite():
    report = typed(report_values())
    broken = msgspec.structs.replace(report, threads=float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(broken)


# The schema -----------------------------------------------------------------------------------


def test_the_schema_is_current():
    text = (resources.files("elir_deploy.bench") / "report.schema.json").read_text("utf-8")
    assert text == report_schema()  # make schema


def objects(values):
    """Every object of plain values, with the way to it; of a list, the first entry."""
    waiting = [((), values)]
    while waiting:
        way, value = waiting.pop()
        if isinstance(value, dict):
            yield way, value
            waiting += [((*way, key), inner) for key, inner in value.items()]
        elif isinstance(value, list) and value:
            waiting.append(((*way, 0), value[0]))


FREE = {"versions", "libraries", "environment", "architecture", "gpus"}


def test_a_field_too_many_or_too_few_is_refused_by_schema_and_reader():
    values = report_values()
    ways = [(way, set(value)) for way, value in objects(values) if not FREE & set(way)]
    assert len(ways) > 12
    for way, names in ways:
        for name in ("forgotten", *names):
            broken = copy.deepcopy(values)
            place = broken
            for key in way:
                place = place[key]
            if name == "forgotten":
                place[name] = 1
            else:
                del place[name]
            with pytest.raises(fastjsonschema.JsonSchemaException):
                check_schema(broken)
            # Of what the benchmark itself holds in dataclasses, unknown entries are ignored.
            if name != "forgotten" or not DATACLASSES & set(way):
                with pytest.raises(msgspec.ValidationError):
                    typed(broken)


DATACLASSES = {"statistics", "device", "cores_busy_elsewhere", "energy"}
