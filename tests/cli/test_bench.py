"""``elir-bench`` from its arguments to its exit code."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from elir_deploy.bench import measurement, peers, protocols, runs, soak
from elir_deploy.bench import runners as runners_module
from elir_deploy.cli import bench
from elir_deploy.errors import OutputError, UnavailableError
from elir_deploy.runtime.backends import BACKENDS
from elir_deploy.text import printable
from tests.bench.schema import checked
from tests.bench.synthetic import FakeClock, SyntheticRunner
from tests.bundles import make_bundle, read_manifest, write_manifest
from tests.cost.split_bundle import split_tiny
from tests.shown import HOSTILE_NAME, Shown

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
    code, out, err = run(
        bundle, "--backend", "onnxruntime", *QUICK, "--json", target, "--report", table
    )
    assert code == 0
    lines = [line for line in err.splitlines() if line.startswith("tiny: ")]
    assert lines == [f"tiny: onnxruntime, {p}, 1 thread" for p in ("fp32", "fp16")]
    assert "onnxruntime fp32" in out
    report = json.loads(target.read_text(), parse_constant=pytest.fail)
    assert report["complete"] is True
    assert [row["label"] for row in report["runners"]] == [
        "onnxruntime fp32",
        "onnxruntime fp16",
    ]
    for row in report["runners"]:
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
    assert "has no fp32 files: choose from fp16" in err


def test_nothing_that_can_run_is_exit_4(run, bundle):
    code, _, err = run(bundle, "--backend", "onnxruntime-cuda", *QUICK)
    assert code == 4
    assert "nothing can be measured here: onnxruntime-cuda" in err


def test_a_backend_that_fails_at_the_first_image_is_listed(run, bundle, monkeypatch):
    original = runners_module.BundleRunner.fidelity

    def fidelity(self, of):
        if self.precision == "fp16":
            raise UnavailableError("out of memory")
        return original(self, of)

    monkeypatch.setattr(runners_module.BundleRunner, "fidelity", fidelity)
    code, out, _ = run(bundle, "--backend", "onnxruntime", *QUICK)
    assert code == 0
    assert "not measured: onnxruntime fp16: out of memory" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "abacus"], "unknown backend 'abacus': choose from torch"),
        (["--report", "r.pdf"], "expected a name ending in .html or .md"),
        (["--batch", "4"], "--batch cannot be used with --protocol paper, only with throughput"),
        (
            ["--callers", "4"],
            "--callers cannot be used with --protocol paper, only with throughput",
        ),
        (["--seconds", "4"], "--seconds cannot be used with a fixed number of images (200)"),
        (
            ["--protocol", "latency", "--images", "9", "--at-most", "4"],
            "--at-most cannot be used with a fixed number of images (9)",
        ),
        (
            ["--protocol", "throughput", "--tolerance", "4"],
            "--tolerance cannot be used with --protocol throughput, only with paper, latency,",
        ),
        (["--protocol", "soak", "--warmup", "4"], "--warmup cannot be used with --protocol soak"),
        (
            ["--protocol", "latency", "--seconds", "60", "--at-most", "30"],
            "--at-most 30 ends the run before --seconds 60",
        ),
        (["--protocol", "steps", "--checkpoint", "c.pth"], "--checkpoint is for peers, which do"),
        (["--protocol", "soak", "--images", "4"], "--images cannot be used with --protocol soak"),
        (["--protocol", "stages", "--backend", "onnxruntime"], "is one graph"),
        (["--protocol", "steps"], "--protocol steps compares bundles of different M"),
        (
            ["--protocol", "throughput", "--batch", "2", "--batch", "4"],
            "takes, which is 1: export it with elir-export --batch 4",
        ),
        (["--json", "no/such/folder/r.json"], "no such folder"),
        (["--images", "0"], "--images"),
        (["--precision", "fp8"], "--precision"),
        (["--precision", "int8"], "has no int8 files: choose from fp32, fp16, bf16"),
    ],
)
def test_bad_usage_is_exit_2(run, bundle, arguments, message):
    code, _, err = run(bundle, *arguments)
    assert code == 2
    assert message in err


def test_bad_places_are_told_before_anything_is_opened(run, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "open_bundles", lambda *a, **k: pytest.fail("opened"))
    for option, place in (
        ("--json", tmp_path / "none" / "r.json"),
        ("--report", tmp_path / "none" / "r.md"),
        ("--report", tmp_path / "r.txt"),
        ("--json", tmp_path),
    ):
        code, out, err = run("tiny", option, place)
        assert (code, out) == (2, "")
        assert str(place) in err


def test_a_checkpoint_is_refused_with_the_command_that_exports_it(run):
    code, _, err = run("mine.pth", *QUICK)
    assert code == 2
    assert "mine.pth is not the folder of a bundle" in err
    assert "elir-export mine.pth -o DIR" in err


def test_an_interruption_saves_what_there_is(run, bundle, tmp_path, monkeypatch):
    clock = FakeClock()

    class Interrupted(SyntheticRunner):
        def restore(self, image):
            if len(self.images) == 5:  # one to warm up, one to settle, three that count
                raise KeyboardInterrupt
            return super().restore(image)

    runner = Interrupted("synthetic fp32", clock, 0.01)
    monkeypatch.setattr(measurement, "SETTLE_NS", 0)
    monkeypatch.setattr(runs, "open_restorers", lambda *a, **k: ([runner], []))
    target = tmp_path / "r.json"
    code, out, err = run(bundle, "--backend", "onnxruntime", *QUICK, "--json", target)
    assert code == 130
    assert "interrupted after 3 of 5 images" in out
    assert "interrupted" in err
    report = json.loads(target.read_text())
    assert report["complete"] is False
    assert len(report["runners"][0]["image"]["samples_s"]) == 3
    assert runner.closed


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
    assert report["runners"][0]["image"]["statistics"]["count"] > 0


def test_the_checkpoint_of_a_bundle_is_for_its_peers(run, bundle, monkeypatch):
    def open_peers(names, of, checkpoint, threads, progress, *, device):
        assert (list(names), checkpoint, threads) == (["torch"], "of c.pth", 1)
        return [SyntheticRunner("torch eager fp32", FakeClock(), 0.1)], []

    monkeypatch.setattr(peers, "load_checkpoint_of", lambda of, source, show: f"of {source}")
    monkeypatch.setattr(peers, "open_peers", open_peers)
    code, out, _ = run(bundle, "--precision", "fp32", "--checkpoint", "c.pth", *QUICK)
    assert code == 0
    assert out.index("torch eager fp32") < out.index("onnxruntime fp32")


def test_without_torch_the_rest_is_measured(run, bundle, monkeypatch):
    monkeypatch.setattr(peers, "torch_missing", lambda: "torch is not installed")
    code, out, _ = run(bundle, "--precision", "fp32", *QUICK)
    assert code == 0
    assert "not measured: torch: torch is not installed" in out


def test_an_interruption_before_the_first_sample_replaces_nothing(
    run, bundle, tmp_path, monkeypatch
):
    class Interrupted(SyntheticRunner):
        def restore(self, image):
            raise KeyboardInterrupt

    runner = Interrupted("synthetic fp32", FakeClock(), 0.01)
    monkeypatch.setattr(runs, "open_restorers", lambda *a, **k: ([runner], []))
    target = tmp_path / "r.json"
    target.write_text("an older result")
    code, _, err = run(bundle, "--backend", "onnxruntime", *QUICK, "--json", target)
    assert code == 130
    assert "interrupted" in err
    assert target.read_text() == "an older result"


def test_a_manifest_steers_no_terminal_and_adds_nothing_to_what_is_pasted(run, bundle, tmp_path):
    manifest = read_manifest(bundle)
    manifest["source"]["name"] = "\x1b[31mred\nfake" + HOSTILE_NAME
    write_manifest(bundle, manifest)
    table = tmp_path / "r.md"
    code, out, _ = run(bundle, "--backend", "onnxruntime", *QUICK, "--report", table)
    assert code == 0
    assert "\x1b" not in out
    assert r"\x1b[31mred\nfake" in out
    shown = Shown(table.read_text())
    assert shown.of("h1")[0].endswith(r"\x1b[31mred\nfake" + printable(HOSTILE_NAME))
    assert shown.tags.count("table") == 2  # speeds and latencies
    assert shown.tags.count("tr") == 2 * 3
    assert {"img", "a", "b", "em"}.isdisjoint(shown.tags)


def test_a_report_as_a_page(run, bundle, tmp_path):
    pytest.importorskip("jinja2")
    target, page = tmp_path / "r.json", tmp_path / "x.html"
    code, out, _ = run(
        *(bundle, "--backend", "onnxruntime", "--precision", "fp32", *QUICK),
        *("--report", page, "--json", target),
    )
    assert code == 0
    assert "onnxruntime fp32" in out
    shown = page.read_text("utf-8")
    packed = shown.partition('id="report">')[2].partition("</script>")[0]
    report = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert report == json.loads(target.read_text())
    pictures = json.loads(shown.partition('id="pictures-data">')[2].partition("</script>")[0])
    assert [name for name, _ in pictures[0]["after"]] == [
        "onnxruntime fp32",
        "float32 PyTorch (reference)",
    ]


# Outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["r.json", "r.md"])
def test_what_cannot_be_written_is_printed_and_the_others_are_written(
    run, bundle, tmp_path, monkeypatch, broken
):
    original = bench.write_text

    def write(path, content):
        if path.name == broken:
            raise OutputError(f"{path} cannot be written: no space left: free some space")
        original(path, content)

    monkeypatch.setattr(bench, "write_text", write)
    files = [tmp_path / "r.json", tmp_path / "r.md"]
    arguments = (bundle, "--backend", "onnxruntime", "--precision", "fp32", *QUICK)
    code, out, err = run(*arguments, "--json", files[0], "--report", files[1])
    assert code == 2
    assert f"{broken} cannot be written" in err
    assert "onnxruntime fp32" in out
    assert [file.name for file in files if file.exists()] == [
        file.name for file in files if file.name != broken
    ]


@pytest.mark.parametrize(
    ("pressed", "number", "ended"),
    [("build_report", signal.SIGINT, 130), ("markdown", signal.SIGTERM, 143)],
)
def test_a_signal_after_the_last_image_waits_for_the_files(
    run, bundle, tmp_path, monkeypatch, pressed, number, ended
):
    original = getattr(bench, pressed)

    def interrupted(*arguments):
        signal.raise_signal(number)
        return original(*arguments)

    handlers = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(bench, pressed, interrupted)
    monkeypatch.setattr(measurement, "SETTLE_NS", 0)
    runner = SyntheticRunner("synthetic fp32", FakeClock(), 0.01)
    monkeypatch.setattr(runs, "open_restorers", lambda *a, **k: ([runner], []))
    target, table = tmp_path / "r.json", tmp_path / "r.md"
    code, out, _ = run(
        *(bundle, "--backend", "onnxruntime", *QUICK), *("--json", target, "--report", table)
    )
    assert code == ended
    assert json.loads(target.read_text())["complete"] is True
    for shown in (out, table.read_text()):
        assert "synthetic fp32" in shown
    assert signal.getsignal(signal.SIGINT) is handlers


def test_a_second_signal_does_not_wait(run, bundle, monkeypatch):
    def hang(*arguments):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("still here")

    monkeypatch.setattr(bench, "build_report", hang)
    code, out, _ = run(bundle, "--backend", "onnxruntime", "--precision", "fp32", *QUICK)
    assert (code, out) == (130, "")


def test_two_outputs_of_one_name_are_refused_before_the_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "open_bundles", lambda *a, **k: pytest.fail("opened"))
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for one, other in (("r.md", "r.md"), ("r.md", "./link/r.md")):
        for place in (other, tmp_path / other):
            code, out, err = run("tiny", "--json", one, "--report", place)
            assert (code, out) == (2, "")
            assert f"{tmp_path / 'r.md'} is named for two outputs" in err
    (tmp_path / "s.md").symlink_to("r.md")  # which is not there yet
    for one, other in (("r.html", "link/r.html"), ("r.md", "s.md")):
        code, _, err = run("tiny", "--report", one, "--report", other)
        assert code == 2
        assert "is named for two outputs" in err


def test_json_to_standard_output_and_to_a_pipe(bundle, tmp_path):
    """The text is then out of the way; what is no regular file stays what it is."""
    os.mkfifo(tmp_path / "pipe")
    for place in ("-", "/dev/stdout", tmp_path / "pipe"):
        options = [*QUICK, "--backend", "onnxruntime", "--json", str(place)]
        process = subprocess.Popen(
            [sys.executable, "-m", "elir_deploy.cli.bench", str(bundle), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        piped = (tmp_path / "pipe").read_text() if place == tmp_path / "pipe" else None
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        report = json.loads(out if piped is None else piped)
        assert report["complete"] is True
        assert "onnxruntime fp32" in (err if piped is None else out)
    assert (tmp_path / "pipe").is_fifo()
    assert os.path.islink("/dev/stdout")


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
    for row in report["runners"]:
        assert len(row["yardstick_s"]) == 5
        assert row["cold"]["first_result_s"] > 0
        assert row["cold"]["peak_rss_bytes"] > 2**20
    assert set(report["sensors"]) == {"before", "after", "during"}
    assert len(report["bundle"]["sha256"]) == 64


def test_latency_ends_when_the_medians_are_known_or_the_time_is_over(run, bundle, tmp_path):
    target = tmp_path / "r.json"
    code, _, _ = run(
        *(bundle, "--protocol", "latency", "--backend", "onnxruntime", "--precision", "fp32"),
        *("--seconds", "0.1", "--at-most", "3", "--no-cold", "--threads", "1", "--json", target),
    )
    assert code == 0
    (row,) = json.loads(target.read_text())["runners"]
    assert row["warmup"]["images"] >= 5
    assert row["image"]["statistics"]["count"] >= 5
    assert row["stable"] in (True, False)


def test_throughput_of_callers_files_and_batches(run, tmp_path):
    shapes = [{"batch": 4, "height": 32, "width": 32}]
    bundle = make_bundle(tmp_path / "b", shapes=shapes)
    target = tmp_path / "r.json"
    code, out, _ = run(
        *(bundle, "--protocol", "throughput", "--backend", "onnxruntime", "--precision", "fp32"),
        *("--seconds", "0.1", "--callers", "2", "--batch", "3", "--no-cold", "--json", target),
    )
    assert code == 0
    loads = json.loads(target.read_text())["throughput"]
    assert [(load["way"], load["concurrency"]) for load in loads] == [
        ("callers", 2),
        ("files", 1),
        ("batch", 3),
    ]
    assert all(load["fps"] > 0 and len(load["fps_by_pass"]) == 2 for load in loads)
    assert "Throughput" in out


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


# Every protocol -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    pytest.importorskip("onnx")
    return split_tiny(tmp_path_factory.mktemp("split") / "tiny", ("fp32",))


def written(path) -> dict:
    """The report, which must be of the schema."""
    return checked(json.loads(path.read_text()))


def test_stages_of_a_split_bundle(run, split, tmp_path):
    target, table = tmp_path / "r.json", tmp_path / "r.md"
    code, out, _ = run(
        *(split, "--protocol", "stages", "--backend", "onnxruntime", *QUICK),
        *("--json", target, "--report", table),
    )
    assert code == 0
    report = written(target)
    (row,) = report["runners"]
    parts = ["encoder", "estimator", "flow", "decoder", "runtime"]
    assert [part["name"] for part in row["stages"]] == parts
    assert sum(part["share"]["value"] for part in row["stages"]) == pytest.approx(1, abs=1e-4)
    assert row["fidelity"]["psnr_db"] > 50
    assert len(row["artifacts"]) == 4
    for shown in (out, table.read_text()):
        assert "Stages" in shown
        assert "estimator" in shown


def test_stages_of_peers_alone_are_nothing(run, split):
    code, _, err = run(split, "--protocol", "stages", "--backend", "torch", *QUICK)
    assert code == 4
    assert "torch: peers do not take part in --protocol stages" in err


def of_steps(folder, *steps, random=False):
    """Bundles whose quality rises with M."""
    for number in steps:
        bundle = make_bundle(folder / f"m{number}", bias=0.05 / number, random=random, exact=False)
        manifest = read_manifest(bundle)
        manifest["model"]["steps"] = number
        write_manifest(bundle, manifest)
        yield bundle


STEPS = ("--protocol", "steps", "--backend", "onnxruntime")


def test_steps_of_bundles_that_differ_in_m(run, tmp_path):
    target = tmp_path / "r.json"
    code, out, _ = run(*of_steps(tmp_path, 1, 5), *STEPS, *QUICK, "--json", target)
    assert code == 0
    one, five = written(target)["steps"]
    assert (one["steps"], five["steps"]) == (1, 5)
    assert one["to_full"]["psnr_db"] + 10 < five["to_full"]["psnr_db"]
    assert "Euler steps" in out
    assert "onnxruntime fp32, M = 5" in out


def test_random_weights_have_speed_and_no_quality(run, tmp_path):
    target = tmp_path / "r.json"
    code, out, _ = run(*of_steps(tmp_path, 1, 5, random=True), *STEPS, *QUICK, "--json", target)
    assert code == 0
    report = written(target)
    figures = [row[name] for row in report["steps"] for name in ("to_truth", "to_full")]
    assert {(one["psnr_db"], one["identical"]) for one in figures} == {(None, False)}
    assert {row["fidelity"]["psnr_db"] for row in report["runners"]} == {None}
    reason = "random weights: valid for speed only; the pictures mean nothing"
    assert re.search(f"no PSNR of .*onnxruntime fp32, M = 1.*: {reason}", out)
    assert "random weights: valid for speed only" in out


def test_two_bundles_side_by_side(run, tmp_path):
    target = tmp_path / "r.json"
    old, new = (make_bundle(tmp_path / name) for name in ("old", "new"))
    code, out, _ = run(old, new, "--backend", "onnxruntime", *QUICK, "--json", target)
    assert code == 0
    labels = [row["label"] for row in written(target)["runners"]]
    assert labels == ["onnxruntime fp32, old", "onnxruntime fp32, new"]
    assert all(label in out for label in labels)


@pytest.mark.parametrize("protocol", ["paper", "latency", "throughput", "stages", "soak"])
def test_every_protocol_with_a_backend_that_is_missing(run, split, bundle, tmp_path, protocol):
    """The rest is measured, the missing one listed, and the files are of the schema."""
    target, table = tmp_path / "r.json", tmp_path / "r.md"
    how = {
        "paper": QUICK,
        "latency": ["--seconds", "0.1", "--at-most", "1", "--warmup", "1", "--no-cold"],
        "throughput": ["--seconds", "0.1", "--callers", "1", "--no-cold"],
        "stages": QUICK,
        "soak": ["--seconds", "1", "--no-cold"],
    }[protocol]
    code, out, _ = run(
        *(split if protocol == "stages" else bundle, "--protocol", protocol, *how),
        *("--backend", "onnxruntime-cuda", "--backend", "onnxruntime", "--precision", "fp32"),
        *("--json", target, "--report", table),
    )
    assert code == 0
    report = written(target)
    assert report["complete"] is True
    assert report["protocol"]["name"] == protocol
    assert [row["label"] for row in report["runners"]] == ["onnxruntime fp32"]
    missing = [item for item in report["unavailable"] if item["label"] == "onnxruntime-cuda"]
    assert len(missing) == 1
    for shown in (out, table.read_text()):
        assert f"not measured: onnxruntime-cuda: {missing[0]['reason']}" in shown


@pytest.fixture
def interrupted(monkeypatch):
    """Let Ctrl-C be pressed once, while an image is restored."""
    original = runners_module.BundleRunner.restore

    def at(pressed) -> None:
        restored = 0

        def restore(runner, pixels):
            nonlocal restored
            restored += 1
            if restored >= 0 and pressed(restored):
                restored = -(10**9)
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            return original(runner, pixels)

        monkeypatch.setattr(runners_module.BundleRunner, "restore", restore)

    return at


def second_caller(image: int) -> bool:
    return threading.current_thread().name.endswith("caller_1")


@pytest.mark.parametrize(
    ("protocol", "pressed", "how"),
    [
        ("latency", lambda image: image == 300, ["--warmup", "1"]),
        ("stages", lambda image: image == 60, ["--warmup", "1", "--images", "10000"]),
        # When one alone has been measured.
        ("throughput", second_caller, ["--seconds", "0.1"]),
        ("soak", lambda image: image == 50, ["--seconds", "600"]),
    ],
)
def test_ctrl_c_keeps_what_was_measured(
    run, bundle, tmp_path, monkeypatch, interrupted, protocol, pressed, how
):
    if protocol == "stages":
        bundle = make_bundle(tmp_path / "s", stages="split")
    interrupted(pressed)
    monkeypatch.setattr(soak, "_SHORTEST_S", 0)
    monkeypatch.setattr(soak, "_WINDOWS", 10**12)  # each as long as an image
    monkeypatch.setattr(measurement, "SETTLE_NS", 0)
    monkeypatch.setattr(protocols, "Yardstick", lambda: SimpleNamespace(measure=lambda: 10**6))
    target = tmp_path / "r.json"
    code, out, err = run(
        *(bundle, "--protocol", protocol, "--backend", "onnxruntime", "--precision", "fp32"),
        *("--no-cold", "--threads", "1", *how, "--json", target),
    )
    assert code == 130
    assert "error: interrupted" in err
    report = written(target)
    assert report["complete"] is False
    assert any(warning.startswith("interrupted after ") for warning in report["warnings"])
    assert "warning: interrupted after " in out
    (row,) = report["runners"]
    if protocol in ("latency", "stages"):
        # A round is one image to settle and five that count, after one to warm up.
        image = 300 if protocol == "latency" else 60
        assert image * 5 // 6 - 10 <= row["image"]["statistics"]["count"] <= image - 2
        assert (row["stages"] != []) == (protocol == "stages")
    elif protocol == "throughput":
        (load,) = report["throughput"]
        assert (load["way"], load["concurrency"]) == ("callers", 1)
        assert load["images"] > 0
    else:
        (soaked,) = report["soak"]
        assert soaked["complete"] is False
        assert len(soaked["windows"]) == 49
