"""``elir-compare`` from its arguments to its exit code."""

from __future__ import annotations

import json
import sys

import pytest

from elir_deploy.cli import bench, compare
from tests.bench.reports import report_values, write_report
from tests.bundles import make_bundle


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command; gives exit code, stdout and stderr."""

    def call(*arguments, main=compare.main) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["elir", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        shown = capsys.readouterr()
        return (code if isinstance(code, int) else int(code is not None)), shown.out, shown.err

    return call


@pytest.fixture
def files(tmp_path):
    before = write_report(tmp_path / "a.json", report_values(("x fp32", "y fp16")))
    slower = report_values(("x fp32", "y fp16"), seed=1, scale=1.2)
    return before, write_report(tmp_path / "b.json", slower | {"threads": 1})


def test_a_slowdown(run, files):
    code, out, err = run(*files)
    assert (code, err) == (0, "")
    row = next(line for line in out.splitlines() if line.startswith("x fp32"))
    assert row.split()[2:4] == ["slower", "0.833"]
    assert row.endswith("200 / 200")
    assert "warning: threads differs: 2 -> 1" in out
    assert "interval allows 1.00% from run to run" in out
    assert run(*reversed(files))[1].count("faster") == 3  # the heading, and both rows


def test_the_same(run, files, tmp_path):
    again = write_report(tmp_path / "c.json", report_values(("x fp32",), seed=2))
    code, out, _ = run(files[0], again, "--run-to-run", "0.5")
    assert code == 0
    assert "same within 1." in out
    assert f"only in {files[0]}: y fp16" in out
    assert "interval allows 0.50% from run to run" in out


def test_a_fast_row_of_other_quality_is_said_beside_the_verdict(run, files, tmp_path):
    paths = []
    for name, decibels in (("good", 48.0), ("bad", 20.0)):
        values = report_values(("x fp32",), scale=1.0 if name == "good" else 0.5)
        values["runners"][0]["fidelity"] = {
            "psnr_db": decibels,
            "identical": False,
            "images": 1,
            "note": "x",
        }
        paths.append(write_report(tmp_path / f"{name}.json", values))
    code, out, _ = run(*paths)
    assert code == 0
    assert "faster, quality differs" in out
    assert "warning: x fp32: PSNR to float32 PyTorch in dB differs: 48.0 -> 20.0" in out
    assert json.loads(run(*paths, "--json")[1])["changes"][0]["quality_differs"] is True
    assert "quality" not in run(*files)[1]


def test_too_few_images(run, files, tmp_path):
    short = write_report(tmp_path / "c.json", report_values(("x fp32",), count=20))
    code, out, _ = run(files[0], short)
    assert code == 0
    assert "unknown: a verdict needs 60 images in both files" in out


def test_json(run, files):
    code, out, _ = run(*files, "--json")
    assert code == 0
    told = json.loads(out, parse_constant=pytest.fail)
    assert (told["kind"], told["schema_version"]) == ("elir-compare", 2)
    first = told["changes"][0]
    assert (first["label"], first["verdict"]) == ("x fp32", "slower")
    assert first["low"] < first["ratio"] < first["high"] < 1
    assert first["within"] == pytest.approx(1 - first["low"])
    assert told["differences"] == [{"what": "threads", "before": 2, "after": 1}]


def test_what_elir_bench_writes_is_read(run, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path in paths:
        arguments = ["--backend", "onnxruntime", "--images", "60", "--warmup", "1"]
        code, _, _ = run(bundle, *arguments, "--threads", "1", "--json", path, main=bench.main)
        assert code == 0
    code, out, err = run(*paths)
    assert (code, err) == (0, "")
    assert "onnxruntime fp32" in out
    assert "60 / 60" in out
    assert "differs" not in out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON, or cut off"),
        ('{"kind": "other"}', 'it has no "kind": "elir-bench"'),
        (json.dumps(report_values(("z",))), "no runner in common"),
    ],
)
def test_bad_input_is_exit_2(run, files, tmp_path, content, message):
    bad = tmp_path / "bad.json"
    bad.write_text(content)
    code, out, err = run(files[0], bad)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_bad_usage_is_exit_2(run, files):
    assert run(files[0])[0] == 2
    assert run(*files, "--run-to-run", "-1")[0] == 2
    code, _, err = run(*files, "--run-to-run", "nan")
    assert (code, "Traceback" in err) == (2, False)
    assert run(files[0], "none.json")[0] == 2


def test_a_file_does_not_steer_the_terminal(run, tmp_path):
    label = "\x1b[31mred\nfake"
    before, after = report_values((label,)), report_values((label,), seed=1)
    after["runners"][0]["library"] = "\x1b[2J" * 99
    files = [
        write_report(tmp_path / name, v) for name, v in (("a.json", before), ("b.json", after))
    ]
    code, out, _ = run(*files)
    assert code == 0
    assert "\x1b" not in out
    assert r"\x1b[31mred\nfake" in out


def test_help_teaches_the_use(run):
    code, out, _ = run("--help")
    assert code == 0
    for word in (
        "elir-compare before.json after.json",
        "--run-to-run",
        "same within",
        "exit code",
        ".zip",
    ):
        assert word in out
