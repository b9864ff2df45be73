"""Zip files of device reports, whoever wrote them."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path

import msgspec
import pytest

from elir_deploy.bench import device_archive
from elir_deploy.bench.device_archive import read_archive, write_archive
from elir_deploy.bench.device_report import DeviceReport, Step, read_device_report
from elir_deploy.bench.report_file import read_report
from elir_deploy.cli import compare, inspect
from elir_deploy.errors import InputError
from tests.bench.reports import report_values
from tests.command import run_here

REPORT = DeviceReport(
    schema_version=1,
    kind="elir-device-report",
    created="2026-11-27",
    complete=True,
    bundle="tiny, 256x256",
    machine=None,
    checks=[],
    steps=[Step("machine \x1b[31m", "failed", 1.0, "\x1b]0;title\x07", "Traceback", "logs/00.txt")],
)


def zipped(entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def report_json(**changes: object) -> bytes:
    return json.dumps(msgspec.to_builtins(REPORT) | changes).encode()


GOOD = zipped(
    [("report.json", report_json()), ("latency.json", json.dumps(report_values()).encode())]
)


def flipped() -> bytes:
    """A byte of the first entry is another one."""
    data = bytearray(GOOD)
    data[200] ^= 0xFF
    return bytes(data)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_archive, "_MAX_UNPACKED", 2**20)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or cut off"),
        (b"PK\x03\x04", "damaged or cut off"),
        (GOOD[:-30], "damaged or cut off"),
        (GOOD[: len(GOOD) // 2], "damaged or cut off"),
        (flipped(), "damaged or cut off"),
        (zipped([("report.json", b" " * 2**21)]), "report.json has more than 1 MiB"),
        (zipped([("report.json", b"x")], zipfile.ZIP_LZMA), "is not a zip file of elir-bench"),
        (zipped([("x", b"")]), "is not a zip file of elir-bench --device-report"),
        (zipped([("../report.json", report_json())]), "is not a zip file of"),
        (zipped([(f"{k}", b"") for k in range(300)] + [("report.json", b"")]), "is not a zip file"),
        (zipped([("report.json", report_json())] * 2), "has the same entry twice"),
        (zipped([("report.json", b"[" * 100_000)]), "nested too deeply"),
        (zipped([("report.json", b"{}")]), '"kind": "elir-device-report"'),
        (zipped([("report.json", report_json(schema_version=2))]), "a newer elir-deploy"),
        (zipped([("report.json", report_json(steps=[{"name": 1}]))]), "steps[0].name: Expected"),
        (zipped([("report.json", report_json(more=1))]), "unknown field `more`"),
    ],
)
def test_a_hostile_file(tmp_path: Path, content: bytes, message: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "out.zip"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_device_report(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    done = run_here(inspect.main, path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert list(folder.iterdir()) == [path], "nothing is extracted"
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}", 'it has no "kind": "elir-bench"'),
        (b"", "is not valid JSON, or cut off"),
        (json.dumps(report_values() | {"schema_version": 1}).encode(), "an older elir-deploy"),
    ],
)
def test_a_measurement_that_cannot_be_read(tmp_path: Path, content: bytes, reason: str) -> None:
    """The rest is shown, with a line for it."""
    path = tmp_path / "out.zip"
    good = ("paper.json", json.dumps(report_values()).encode())
    path.write_bytes(zipped([("report.json", report_json()), ("latency.json", content), good]))
    done = run_here(inspect.main, path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if reason in line]
    assert line.startswith(f"{path}/latency.json ")
    assert "device report of tiny, 256x256" in done.stdout
    assert "\npaper.json\n" in done.stdout
    assert list(json.loads(run_here(inspect.main, path, "--json").stdout)["unreadable"]) == [
        "latency.json"
    ]


def test_every_beginning_of_a_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out.zip"
    for length in range(0, len(GOOD), 97):
        with pytest.raises(InputError):
            read_archive(path, GOOD[:length])


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "out.zip"
    with path.open("wb") as file:
        file.write(GOOD)
        file.truncate(33 * 2**20)
    with pytest.raises(InputError, match="is larger than 32 MiB, so no device report"):
        read_device_report(path)


def test_encrypted(tmp_path: Path) -> None:
    data = bytearray(GOOD)
    data[6] |= 1  # the flag, in the entry and in the list of entries
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(InputError, match="damaged or cut off"):
        read_archive(tmp_path / "out.zip", bytes(data))


def test_no_text_in_it_steers_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "out.zip"
    path.write_bytes(GOOD)
    done = run_here(inspect.main, path)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "machine \\x1b[31m: \\x1b]0;title\\x07" in done.stdout
    assert run_here(inspect.main, path, "--cost", "cpu").returncode == 2


def test_what_is_compared(tmp_path: Path) -> None:
    """The first measurement that there is; a device report without one says so."""
    path, other = tmp_path / "a.zip", tmp_path / "b.zip"
    path.write_bytes(GOOD)
    assert read_report(path).rows
    other.write_bytes(zipped([("report.json", report_json())]))
    done = run_here(compare.main, path, other)
    assert done.returncode == 2
    assert f"{other} has nothing to compare: elir-inspect {other} shows why" in done.stderr


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "out.zip"
    write_archive(path, {"report.json": report_json().decode(), "logs/00.txt": "\udcff\u00e4"})
    assert read_device_report(path).report == REPORT
    with zipfile.ZipFile(path) as archive:
        assert archive.read("logs/00.txt").decode() == "\\udcff\u00e4"
        assert archive.testzip() is None
