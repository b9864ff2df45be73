"""elir-inspect --cost: what a bundle costs on devices, predicted."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from elir_deploy.cli import inspect as command
from elir_deploy.cost.devices import DEVICES, Device
from tests.bundles import make_bundle, read_manifest, write_manifest

CPU = Device("cpu", "a CPU", {"fp32": 1e11}, 1e10, 0.0, "invented")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command in this process; gives the exit code."""
    monkeypatch.setattr(command, "measure_cpu", lambda cores, model: CPU)

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["elir-inspect", *map(str, arguments)])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as caught:
                command.main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        return int(caught.value.code or 0)

    return call


def test_tables(run, capsys) -> None:
    assert run("tiny", "--cost", "rtx2080ti", "--cost", "cpu", "--cost", "rtx2080ti") == 0
    text = capsys.readouterr().out
    head, _, cost = text.partition("predicted, not measured")
    assert "files: all" in head
    for precision in ("fp32", "fp16", "int8", "w8"):
        assert f"\n{precision} graph " in cost
        assert f"\ncostliest on rtx2080ti, {precision} " in cost
    assert "costliest on cpu" not in cost
    lines = [line.split() for line in cost.splitlines()]
    parts = [line[0] for line in lines if line[:1] and line[0] in ("encoder", "flow", "all")]
    assert parts == ["encoder", "flow", "all"] * 4
    first = next(i for i, line in enumerate(lines) if line[:3] == ["costliest", "on", "rtx2080ti,"])
    ranked = [float(line[3]) for line in lines[first + 1 : first + 11]]
    assert ranked == sorted(ranked, reverse=True)
    rows = [line for line in lines if line[:1] in (["rtx2080ti"], ["cpu"])]
    assert [row[:2] for row in rows] == [
        *(["rtx2080ti", precision] for precision in ("fp32", "fp16", "int8", "w8")),
        *(["cpu", precision] for precision in ("fp32", "w8")),
    ]
    for row in rows:
        assert float(row[3]) == pytest.approx(1e3 / float(row[2]), rel=0.01)
    assert "not predicted: fp16 on cpu: the fp16 rate is unknown" in cost
    assert cost.count("int8 on rtx2080ti is what TensorRT can reach: TensorRT-RTX computes") == 1


def test_json(run, capsys) -> None:
    assert run("tiny", "--json", "--cost", "all") == 0
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert cost["note"].startswith("predicted, not measured")
    assert list(cost["precisions"]) == ["fp32", "fp16", "int8", "w8"]
    assert {entry["device"] for entry in cost["predictions"]} == set(DEVICES)
    for entry in cost["predictions"]:
        assert entry["predicted_fps"] == pytest.approx(1 / entry["predicted_s"])
        spent = ("compute_bound_s", "memory_bound_s", "waiting_for_launches_s")
        assert sum(entry[key] for key in spent) == pytest.approx(entry["predicted_s"])
        assert len(entry["costliest"]) == 10
    (remark,) = cost["remarks"]  # Orins have TensorRT, which has INT8 convolutions
    assert "rtx2080ti" in remark
    held = cost["precisions"]["int8"]
    assert sum(part["macs"] for part in held["parts"].values()) == sum(
        layer["macs"] for layer in held["layers"]
    )
    assert run("tiny", "--json") == 0
    assert "cost" not in json.loads(capsys.readouterr().out)


def test_the_rates_of_this_cpu_are_measured(run, capsys, monkeypatch) -> None:
    monkeypatch.undo()
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["elir-inspect", "tiny", "--json", "--cost", "cpu"])
    try:
        command.main()
    except SystemExit as ended:
        assert not ended.code  # noqa: PT017
    finally:
        signal.signal(signal.SIGTERM, handler)
    fp32, w8 = json.loads(capsys.readouterr().out)["cost"]["predictions"]
    assert fp32["peak_flops_per_s"]["fp32"] > 1e9
    assert " cores" in fp32["title"]
    assert w8["device"] == "cpu"


def test_a_device_that_is_none(run, capsys) -> None:
    assert run("tiny", "--cost", "rtx2081") == 2
    printed = capsys.readouterr()
    assert "unknown device 'rtx2081': choose from rtx2080ti, rtx3090, orin-nano-4gb" in printed.err
    assert printed.out == ""


def test_a_bundle_of_engines_only(run, tmp_path: Path, capsys) -> None:
    path = make_bundle(tmp_path / "b")
    manifest = read_manifest(path)
    manifest["stages"][0]["artifacts"][0] |= {"kind": "tensorrt", "target": "sm75"}
    write_manifest(path, manifest)
    assert run(path, "--cost", "rtx2080ti") == 2
    assert "has no ONNX graphs" in capsys.readouterr().err


def test_a_damaged_bundle_is_told_as_without_cost(run, tmp_path: Path, capsys) -> None:
    path = make_bundle(tmp_path / "b")
    file = path / "fused.fp32.onnx"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    assert run(path, "--cost", "rtx2080ti") == 2
    printed = capsys.readouterr()
    assert "DAMAGED: fused.fp32.onnx" in printed.out
    assert "predicted" not in printed.out


def test_without_onnx(run, tmp_path: Path, capsys, monkeypatch) -> None:
    path = make_bundle(tmp_path / "b")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert run(path, "--cost", "rtx2080ti") == 4
    assert "pip install 'elir-deploy[export]'" in capsys.readouterr().err
