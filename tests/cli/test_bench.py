"""``elir-bench`` from its arguments to its exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from elir_deploy.bench import contenders as contenders_module
from elir_deploy.bench import peers, protocols, runs
from elir_deploy.cli import bench
from elir_deploy.errors import UnavailableError
from elir_deploy.runtime.backends import BACKENDS
from tests.bench.synthetic import FakeClock, SyntheticContender
from tests.bundles import make_bundle, read_manifest, write_manifest

QUICK = ["--images", "5", "--warmup", "1", "--threads", "1", "--no-cold"]


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "b", precisions=("fp32", "fp16"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command; gives exit code, stdout and stderr."""

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["elir-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            bench.main()
        code = ended.value.code
        shown = capsys.readouterr()
        return (code if isinstance(code, int) else int(code is not None)), shown.out, shown.err

    return call


def test_two_precisions_side_by_side(run, bundle, tmp_path):
    target, table = tmp_path / "r.json", tmp_path / "r.md"
    code, out, _ = run(
        bundle, "--backend", "onnxruntime", *QUICK, "--json", target, "--report", table
    )
    assert code == 0
    assert "onnxruntime fp32" in out
    report = json.loads(target.read_text(), parse_constant=pytest.fail)
    assert report["complete"] is True
    assert [row["label"] for row in report["contenders"]] == [
        "onnxruntime fp32",
        "onnxruntime fp16",
    ]
    for row in report["contenders"]:
        assert len(row["image"]["samples_s"]) == 5
        assert all(
            device <= image
            for device, image in zip(
                row["device"]["samples_s"], row["image"]["samples_s"], strict=True
            )
        )
        assert row["fidelity"]["identical"] is True
    assert report["threads"] == 1
    assert (report["protocol"]["warmup"], report["protocol"]["images"]) == (1, 5)
    assert table.read_text().startswith("# tiny, 32x32")


def test_a_missing_backend_is_listed_and_the_rest_measured(run, bundle):
    code, out, _ = run(bundle, "--backend", "onnxruntime-cuda", "--backend", "onnxruntime", *QUICK)
    assert code == 0
    assert "not measured: onnxruntime-cuda: " in out
    assert "onnxruntime fp16" in out


def test_bf16_is_a_run_of_the_float32_files(run, bundle, monkeypatch):
    code, out, err = run(bundle, "--backend", "onnxruntime", "--precision", "bf16", *QUICK)
    assert code == 4
    assert "nothing can be measured here: onnxruntime bf16: it does not run in bf16" in err
    lacking = BACKENDS["openvino"].available() or BACKENDS["openvino"].unsupported("bf16")
    code, out, err = run(bundle, "--backend", "openvino", "--precision", "bf16", *QUICK)
    assert code == (4 if lacking else 0)
    assert "openvino" in (err if lacking else out)
    manifest = read_manifest(bundle)
    manifest["precisions"] = ["fp16"]
    del manifest["stages"][0]["artifacts"][0]
    write_manifest(bundle, manifest)
    code, _, err = run(bundle, "--precision", "bf16", *QUICK)
    assert code == 2
    assert "holds no fp32 files: choose from fp16" in err


def test_nothing_that_can_run_is_exit_4(run, bundle):
    code, _, err = run(bundle, "--backend", "onnxruntime-cuda", *QUICK)
    assert code == 4
    assert "nothing can be measured here: onnxruntime-cuda" in err


def test_a_backend_that_fails_at_the_first_image_is_listed(run, bundle, monkeypatch):
    original = contenders_module.RestorerContender.fidelity

    def fidelity(self, of):
        if self.precision == "fp16":
            raise UnavailableError("out of memory")
        return original(self, of)

    monkeypatch.setattr(contenders_module.RestorerContender, "fidelity", fidelity)
    code, out, _ = run(bundle, "--backend", "onnxruntime", *QUICK)
    assert code == 0
    assert "not measured: onnxruntime fp16: out of memory" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "abacus"], "no backend 'abacus': choose from torch"),
        (["--task", "bfr"], "is for task tiny, not bfr"),
        (["--task", "deblur"], "no task 'deblur'"),
        (["--report", "r.pdf"], "wanted a name that ends in .html or .md"),
        (["--batch", "4"], "--batch goes with --protocol throughput, not paper"),
        (["--steps", "4"], "--steps goes with --protocol steps, not paper"),
        (["--protocol", "soak", "--images", "4"], "--images does not go with --protocol soak"),
        (["--protocol", "stages", "--backend", "onnxruntime"], "is one graph"),
        (["--protocol", "steps"], "give the checkpoint instead"),
        (["--json", "no/such/folder/r.json"], "there is no folder"),
        (["--images", "0"], "--images"),
        (["--precision", "fp8"], "--precision"),
        (["--precision", "int8"], "holds no int8 files: choose from fp32, fp16, bf16"),
    ],
)
def test_bad_usage_is_exit_2(run, bundle, arguments, message):
    code, _, err = run(bundle, *arguments)
    assert code == 2
    assert message in err


def test_random_weights_need_a_task(run):
    pytest.importorskip("torch")
    code, _, err = run("random", *QUICK)
    assert code == 2
    assert "--task" in err


def test_an_interruption_saves_what_there_is(run, bundle, tmp_path, monkeypatch):
    clock = FakeClock()

    class Interrupted(SyntheticContender):
        def restore(self, image):
            if len(self.images) == 5:  # one to warm up, one to settle, three that count
                raise KeyboardInterrupt
            return super().restore(image)

    contender = Interrupted("synthetic fp32", clock, 0.01)
    monkeypatch.setattr(protocols, "SETTLE_NS", 0)
    monkeypatch.setattr(runs, "open_restorers", lambda *a, **k: ([contender], []))
    target = tmp_path / "r.json"
    code, out, err = run(bundle, "--backend", "onnxruntime", *QUICK, "--json", target)
    assert code == 130
    assert "interrupted after 3 of 5 images" in out
    assert "interrupted" in err
    report = json.loads(target.read_text())
    assert report["complete"] is False
    assert len(report["contenders"][0]["image"]["samples_s"]) == 3
    assert contender.closed


def test_ctrl_c_for_real(bundle, tmp_path):
    target = tmp_path / "r.json"
    command = [sys.executable, "-m", "elir_deploy.cli.bench", str(bundle), "--threads", "1"]
    command += ["--backend", "onnxruntime", "--images", "400", "--json", str(target)]
    command += ["--no-cold"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("measuring") and not line.startswith("measuring 0/"):
                break
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(timeout=20) == 130
    report = json.loads(target.read_text())
    assert report["complete"] is False
    assert report["contenders"][0]["image"]["count"] > 0


def test_a_checkpoint_is_exported_first_and_its_bundle_is_gone_afterwards(
    run, bundle, monkeypatch, tmp_path
):
    from elir_deploy.runtime import Bundle

    folders = []
    clock = FakeClock()

    def export(checkpoint, folder, precisions, say, **options):
        folders.append(folder)
        assert checkpoint == "checkpoint"
        assert precisions == ["fp32"]
        assert options == {"stages": "fused"}
        folder.mkdir()
        return Bundle.open(bundle)

    def open_peers(names, of, checkpoint, threads, say):
        assert (list(names), checkpoint, threads) == (["torch"], "checkpoint", 1)
        return [SyntheticContender("torch eager fp32", clock, 0.1)], []

    monkeypatch.setattr(peers, "load", lambda source, task, say: "checkpoint")
    monkeypatch.setattr(peers, "export_to_bundle", export)
    monkeypatch.setattr(peers, "open_peers", open_peers)
    code, out, _ = run("mine.pth", "--precision", "fp32", *QUICK)
    assert code == 0
    assert out.index("torch eager fp32") < out.index("onnxruntime fp32")
    assert not folders[0].exists()


def test_without_torch_the_rest_is_measured(run, bundle, monkeypatch):
    monkeypatch.setattr(peers, "torch_missing", lambda: "torch is not installed")
    code, out, _ = run(bundle, "--precision", "fp32", *QUICK)
    assert code == 0
    assert "not measured: torch: torch is not installed" in out


def test_a_mistyped_bundle_without_torch(run, monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    code, _, err = run("budnle", *QUICK)
    assert code == 4
    assert "budnle is no bundle's folder; taken as a checkpoint it needs torch: pip" in err


def test_an_interruption_before_the_first_sample_replaces_nothing(
    run, bundle, tmp_path, monkeypatch
):
    class Interrupted(SyntheticContender):
        def restore(self, image):
            raise KeyboardInterrupt

    contender = Interrupted("synthetic fp32", FakeClock(), 0.01)
    monkeypatch.setattr(runs, "open_restorers", lambda *a, **k: ([contender], []))
    target = tmp_path / "r.json"
    target.write_text("an older result")
    code, _, err = run(bundle, "--backend", "onnxruntime", *QUICK, "--json", target)
    assert code == 130
    assert "interrupted" in err
    assert target.read_text() == "an older result"


def test_a_manifest_does_not_steer_the_terminal(run, bundle):
    manifest = read_manifest(bundle)
    manifest["source"]["name"] = "\x1b[31mred\nfake"
    write_manifest(bundle, manifest)
    code, out, _ = run(bundle, "--backend", "onnxruntime", *QUICK)
    assert code == 0
    assert "\x1b" not in out
    assert r"\x1b[31mred\nfake" in out


def test_help_teaches_the_use(run):
    code, out, _ = run("--help")
    assert code == 0
    for word in ("--protocol", "--json", "Ctrl-C", "elir-bench bfr"):
        assert word in out


def test_the_machine_is_described(run, bundle, tmp_path):
    target = tmp_path / "r.json"
    code, _, _ = run(bundle, "--backend", "onnxruntime", *QUICK[:-1], "--json", target)
    assert code == 0
    report = json.loads(target.read_text())
    assert report["yardstick"]["work"].startswith("float32 matrix product")
    for row in report["contenders"]:
        assert len(row["yardstick_s"]) == 5
        assert row["cold"]["first_result_s"] > 0
        assert row["cold"]["peak_rss_bytes"] > 2**20
    assert set(report["device"]["sensors"]) == {"before", "after", "during"}
    assert len(report["model"]["bundle_sha256"]) == 64


def test_latency_ends_when_the_medians_are_known_or_the_time_is_over(run, bundle, tmp_path):
    target = tmp_path / "r.json"
    code, _, _ = run(
        *(bundle, "--protocol", "latency", "--backend", "onnxruntime", "--precision", "fp32"),
        *("--seconds", "0.1", "--at-most", "3", "--no-cold", "--threads", "1", "--json", target),
    )
    assert code == 0
    (row,) = json.loads(target.read_text())["contenders"]
    assert row["warmup"]["images"] >= 5
    assert row["image"]["count"] >= 5
    assert row["stable"] in (True, False)


def test_throughput_of_callers_files_and_batches(run, bundle, tmp_path):
    pytest.importorskip("onnx")
    target = tmp_path / "r.json"
    code, out, _ = run(
        *(bundle, "--protocol", "throughput", "--backend", "onnxruntime", "--precision", "fp32"),
        *("--seconds", "0.1", "--callers", "2", "--batch", "3", "--no-cold", "--json", target),
    )
    assert code == 0
    loads = json.loads(target.read_text())["throughput"]
    assert [(load["way"], load["at_once"]) for load in loads] == [
        ("callers", 2),
        ("files", 1),
        ("batch", 3),
    ]
    assert all(load["fps"] > 0 and len(load["fps_by_pass"]) == 2 for load in loads)
    assert "Many images" in out


def test_a_soak_has_windows(run, bundle, tmp_path):
    target = tmp_path / "r.json"
    code, out, _ = run(
        *(bundle, "--protocol", "soak", "--backend", "onnxruntime", "--precision", "fp32"),
        *("--seconds", "1.5", "--no-cold", "--json", target),
    )
    assert code == 0
    (soak,) = json.loads(target.read_text())["soak"]
    assert soak["complete"] is True
    assert len(soak["windows"]) == 2
    assert "Soak" in out
