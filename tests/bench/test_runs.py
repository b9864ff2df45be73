"""From bundles and options to runners and results, with stand-ins for what takes long."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from elir_deploy.bench import html_report, measurement, peers, protocols, runs
from elir_deploy.bench import runners as runners_module
from elir_deploy.bench.cold import ColdStart
from elir_deploy.bench.protocols import PROTOCOLS
from elir_deploy.bench.report import build_report
from elir_deploy.bench.report_text import text
from elir_deploy.bench.runners import Fidelity, Unavailable
from elir_deploy.bench.runs import BenchOptions, Run, open_bundles
from elir_deploy.errors import BundleError, UnavailableError, UsageError
from elir_deploy.photo.steps import PHOTO_STEPS
from elir_deploy.pixels import psnr_db
from elir_deploy.progress import no_progress
from elir_deploy.runtime import Bundle
from tests.bench.schema import checked
from tests.bench.synthetic import FakeClock, SyntheticRunner
from tests.bundles import make_bundle, read_manifest, write_manifest
from tests.photo.pictures import face_bundle, spots


def options(protocol="paper", **changes) -> BenchOptions:
    numbers = {} if protocol in ("throughput", "soak") else {"images": 5, "warmup": 1}
    plan = replace(PROTOCOLS[protocol], **numbers)
    return BenchOptions(
        plan, **({"backends": ["onnxruntime"], "peers": (), "threads": 1} | changes)
    )


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    return Bundle.open(make_bundle(tmp_path / "b", precisions=("fp32", "fp16")))


@pytest.fixture
def no_yardstick(monkeypatch):
    """It, and settling beside it, would take a tenth of a second of every turn."""
    monkeypatch.setattr(protocols, "Yardstick", lambda: SimpleNamespace(measure=lambda: 10**6))
    monkeypatch.setattr(measurement, "SETTLE_NS", 0)


def measured(run: Run) -> dict:
    """The run, and its report, checked."""
    run.measure(no_progress)
    return checked(build_report(run.results, run.bundle, run.conditions))


# Bundles --------------------------------------------------------------------------------------


def of_steps(folder, *steps, **how) -> list[Bundle]:
    """Bundles of one model that differ in M."""
    bundles = []
    for number in steps:
        manifest = read_manifest(make_bundle(folder / f"m{number}", **how))
        manifest["model"]["steps"] = number
        write_manifest(folder / f"m{number}", manifest)
        bundles.append(Bundle.open(folder / f"m{number}"))
    return bundles


def test_folders_and_the_packaged_bundle_are_opened(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [str(bundle.path), str(bundle.path)]
    assert [b.path for b in open_bundles(names, options())] == [bundle.path]
    assert open_bundles(["tiny"], options())[0].path == Bundle.open("tiny").path
    shutil.copytree(bundle.path, tmp_path / "tiny")  # a folder of that name comes first
    assert open_bundles(["tiny"], options())[0].path.resolve() == tmp_path / "tiny"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("mine.pth", "elir-export mine.pth -o DIR, then elir-bench DIR"),
        ("elir_bfr", "elir-export elir_bfr -o DIR, then elir-bench DIR"),
        ("bfr", "elir-export CHECKPOINT -o bfr, then elir-bench bfr"),
        ("random", "elir-export random -o DIR --task TASK, then elir-bench DIR"),
    ],
)
def test_a_checkpoint_is_refused_with_the_command_that_exports_it(name, command):
    with pytest.raises(UsageError, match=f"{name} is not the folder of a bundle; .*: {command}"):
        open_bundles([name], options())


def test_a_precision_that_no_file_has_is_refused(bundle):
    with pytest.raises(UsageError, match="has no int8 files: choose from fp32, fp16, bf16"):
        open_bundles([str(bundle.path)], options(precisions=["fp32", "int8"]))


def test_bundles_of_different_image_sizes_are_not_measured_together(bundle, tmp_path):
    large = make_bundle(tmp_path / "large", size=64)
    with pytest.raises(UsageError, match=r"takes 32x32 pixels and .*large 64x64"):
        open_bundles([str(bundle.path), str(large)], options())


def test_one_graph_has_no_stages_to_time(bundle):
    with pytest.raises(UsageError, match=r"is one graph, .*elir-export --stages split"):
        open_bundles([str(bundle.path)], options("stages"))


def test_steps_are_of_bundles_that_differ_in_them_alone(bundle, tmp_path):
    one, other = of_steps(tmp_path, 1, 5)
    open_bundles([str(one.path), str(other.path)], options("steps"))
    with pytest.raises(UsageError, match="compares bundles of different M: export one for each"):
        open_bundles([str(one.path)], options("steps"))
    three = make_bundle(tmp_path / "three")
    with pytest.raises(UsageError, match="both have M = 3"):
        open_bundles([str(bundle.path), str(three)], options("steps"))
    manifest = read_manifest(other.path)
    manifest["model"]["sigma_s"] = 0.5
    write_manifest(other.path, manifest)
    with pytest.raises(UsageError, match=r"differ in M alone, but .*, sigma_s"):
        open_bundles([str(one.path), str(other.path)], options("steps"))


def test_several_bundles_are_told_apart_by_their_names(runners, tmp_path):
    old, new = (Bundle.open(make_bundle(tmp_path / name)) for name in ("old", "new"))
    Run([old, new], options()).measure(no_progress)
    assert [suffix for _, _, suffix in runners.requests] == [", old", ", new"]
    again = Bundle.open(make_bundle(tmp_path / "x" / "old"))
    runners.requests.clear()
    Run([old, again], options()).measure(no_progress)
    assert [suffix for _, _, suffix in runners.requests] == [f", {old.path}", f", {again.path}"]


# Runners -----------------------------------------------------------------------------------


class Opened:
    """A stand-in for ``open_restorers`` that notes its arguments."""

    def __init__(self, monkeypatch) -> None:
        self.requests: list = []
        self.opened: list[SyntheticRunner] = []
        self.missing: list[Unavailable] = []
        self.parts: dict[str, float] | None = None
        monkeypatch.setattr(runs, "open_restorers", self)

    def __call__(self, bundle, backends, precisions, *, threads, device, suffix="", runner=None):
        self.requests.append((backends, precisions, suffix))
        clock = FakeClock()
        label = f"{'+'.join(backends or ['any'])} {'+'.join(precisions or ['any'])}{suffix}"
        runner = SyntheticRunner(label, clock, 0.1, parts=self.parts)
        self.opened.append(runner)
        return [runner], list(self.missing)


@pytest.fixture
def runners(monkeypatch, no_yardstick) -> Opened:
    return Opened(monkeypatch)


def test_peers_come_first_and_are_what_the_others_are_compared_with(bundle, runners, monkeypatch):
    def open_peers(names, of, checkpoint, threads, progress, *, device):
        assert (names, of, checkpoint, threads) == (("torch",), bundle, "c", 1)
        return [SyntheticRunner("torch", FakeClock(), 0.2)], [Unavailable("other", "why")]

    monkeypatch.setattr(peers, "open_peers", open_peers)
    run = Run([bundle], options(peers=("torch",), cold=False), "c")
    report = measured(run)
    assert [row["label"] for row in report["runners"]] == ["torch", "onnxruntime any"]
    assert [row["speedup"] is None for row in report["runners"]] == [True, False]
    assert report["unavailable"] == [{"label": "other", "reason": "why"}]


@pytest.mark.parametrize("error", [KeyboardInterrupt, UnavailableError, RuntimeError])
def test_runners_are_closed_however_it_ends(bundle, runners, error, monkeypatch):
    run = Run([bundle], options(cold=False))
    measured(run)
    assert [one.closed for one in runners.opened] == [True]

    def fail(self, image):
        raise error

    monkeypatch.setattr(SyntheticRunner, "restore", fail)
    with pytest.raises(error):
        Run([bundle], options(cold=False)).measure(no_progress)
    assert [one.closed for one in runners.opened] == [True, True]


def test_who_cannot_restore_the_references_is_left_out(bundle, runners, monkeypatch):
    def fidelity(self, of):
        raise UnavailableError("out of memory")

    monkeypatch.setattr(SyntheticRunner, "fidelity", fidelity)
    run = Run([bundle], options())
    with pytest.raises(
        UnavailableError, match="nothing can be measured here: onnxruntime any: out"
    ):
        run.measure(no_progress)
    assert run.conditions is None
    assert not run.begun


def test_nobody_is_left(bundle, monkeypatch, runners):
    monkeypatch.setattr(
        runs,
        "open_restorers",
        lambda *a, **k: ([], [Unavailable("x", "no"), Unavailable("y", "n")]),
    )
    with pytest.raises(UnavailableError, match="nothing can be measured here: x: no; y: n"):
        Run([bundle], options()).measure(no_progress)


def test_a_runner_that_runs_its_stages_in_one_call_has_none(tiny_split, runners):
    split = Bundle.open(tiny_split)
    runners.parts = {"encoder": 0.4, "estimator": 0.1, "flow": 0.3, "decoder": 0.2}
    report = measured(Run([split], options("stages")))
    (row,) = report["runners"]
    assert [part["name"] for part in row["stages"]] == [*runners.parts, "runtime"]
    runners.parts = None
    run = Run([split], options("stages"))
    with pytest.raises(UnavailableError, match="any: its stages cannot be timed one by one"):
        run.measure(no_progress)
    assert run.conditions is None


@pytest.mark.parametrize(
    ("changes", "listed"),
    [
        ({"backends": None, "peers": ("torch",)}, []),  # nobody asked for it
        ({"backends": [], "peers": ("torch",)}, ["torch"]),
        ({"backends": None, "peers": ("torch", "torch-compile")}, ["torch", "torch-compile"]),
    ],
)
def test_peers_have_no_stages_and_are_listed_where_they_were_named(
    tiny_split, runners, changes, listed
):
    runners.parts = {"encoder": 1.0}
    run = Run([Bundle.open(tiny_split)], options("stages", **changes))
    run.measure(no_progress)
    assert [item.label for item in run.results.unavailable] == listed


def test_the_reference_of_steps_is_the_bundle_of_the_tasks_own_m(tmp_path):
    one, three, five = of_steps(tmp_path, 1, 3, 5)
    assert Run([one, three, five], options("steps")).bundle is three
    assert Run([five, one], options("steps")).bundle is five


# Photographs ----------------------------------------------------------------------------------


def test_the_steps_of_a_photograph(tmp_path, monkeypatch, no_yardstick):
    picture = spots(300, 400, (100, 100), (300, 160))
    monkeypatch.setattr(protocols, "large_photograph", lambda: picture)
    bundle = face_bundle(tmp_path / "b", gain=0.5)
    run = Run(open_bundles([str(bundle)], options("photo")), options("photo"))
    run.measure(no_progress)
    report = build_report(run.results, run.bundle, run.conditions)
    (row,) = checked(report)["runners"]
    assert [part["name"] for part in row["stages"]] == [*PHOTO_STEPS, "runtime"]
    assert all(part["mean_s"] > 0 for part in row["stages"])
    assert sum(part["share"]["value"] for part in row["stages"]) == pytest.approx(1, abs=1e-4)
    # Two faces, one after the other; the session is what of "run" the library needs.
    stages = {part["name"]: part["mean_s"] for part in row["stages"]}
    assert row["device"]["statistics"]["mean"] < stages["run"]
    shown = text(report)
    assert "protocol photo: a photograph, 1 warm-up image, 5 measured" in shown
    for page in (shown, html_report.html(report)):
        assert all(step in page for step in PHOTO_STEPS)
    assert report.paper_fps is None


def test_a_photograph_needs_a_detector_that_finds_its_face(bundle, tmp_path, monkeypatch):
    with pytest.raises(BundleError, match="has no face detector"):
        open_bundles([str(bundle.path)], options("photo"))
    monkeypatch.setattr(protocols, "large_photograph", lambda: spots(60, 60))
    run = Run([Bundle.open(face_bundle(tmp_path / "f"))], options("photo"))
    with pytest.raises(UnavailableError, match="finds no face in the measured photograph"):
        run.measure(no_progress)


# Results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("random", [False, True])
def test_steps_have_speed_and_quality_where_there_are_pictures(
    tmp_path, monkeypatch, no_yardstick, random
):
    (reference,) = of_steps(tmp_path / "a", 3, random=random)
    (worse,) = of_steps(tmp_path / "b", 2, bias=10 / 255, random=random)
    ((_, low, full),) = reference.reference_images()
    truth = np.clip(full.astype(int) + 3, 0, 255).astype(np.uint8)
    monkeypatch.setattr(
        runners_module, "sample_photos", lambda side, faces: iter([("noise", truth)])
    )
    report = measured(Run([worse, reference], options("steps")))
    row, own = report["steps"]
    labels = ["onnxruntime fp32, M = 2", "onnxruntime fp32, M = 3"]
    assert [runner["label"] for runner in report["runners"]] == labels
    assert [one["label"] for one in report["steps"]] == labels
    assert [one["steps"] for one in report["steps"]] == [2, 3]
    # Identical is not the same as unknown.
    assert (own["to_full"]["psnr_db"], own["to_full"]["identical"]) == (None, not random)
    if random:
        figures = [one[name] for one in (row, own) for name in ("to_truth", "to_full")]
        assert {(one["psnr_db"], one["identical"]) for one in figures} == {(None, False)}
        assert report["runners"][0]["fidelity"]["note"].startswith("random weights: ")
    else:
        output = np.rint(np.clip(low / 255 + 10 / 255, 0, 1) * 255).astype(np.uint8)
        assert row["to_truth"]["psnr_db"] == pytest.approx(psnr_db(output, truth), abs=0.05)
        assert row["to_full"]["psnr_db"] == pytest.approx(psnr_db(output, full), abs=0.05)
        assert own["to_truth"]["psnr_db"] == pytest.approx(psnr_db(full, truth), abs=0.05)


def test_ctrl_c_keeps_the_rows_of_every_m(tmp_path, monkeypatch, no_yardstick):
    monkeypatch.setattr(runners_module, "sample_photos", lambda side, faces: iter([]))
    original, restored = runs.BundleRunner.restore, []

    def restore(self, image):
        restored.append(self)
        if len(restored) == 25:
            raise KeyboardInterrupt
        return original(self, image)

    monkeypatch.setattr(runs.BundleRunner, "restore", restore)
    plan = replace(PROTOCOLS["steps"], images=500, warmup=1)
    run = Run(of_steps(tmp_path, 1, 3), replace(options("steps"), protocol=plan))
    with pytest.raises(KeyboardInterrupt):
        run.measure(no_progress)
    report = checked(build_report(run.results, run.bundle, run.conditions))
    assert report["complete"] is False
    assert [row["steps"] for row in report["steps"]] == [1, 3]


def test_a_yardstick_for_the_processor_alone(bundle, runners, monkeypatch):
    created = []
    monkeypatch.setattr(protocols, "Yardstick", lambda: created.append(1) or SimpleNamespace())
    monkeypatch.setattr(measurement, "SETTLE_NS", 0)
    monkeypatch.setattr(SyntheticRunner, "on_cpu", False, raising=False)
    report = measured(Run([bundle], options(cold=False)))
    assert (created, report["yardstick"]) == ([], None)


@pytest.mark.parametrize(
    ("count", "random", "taken"), [(0, False, 0), (1, False, 1), (2, False, 1), (2, True, 0)]
)
def test_pictures_for_the_page(tmp_path, no_yardstick, count, random, taken):
    bundle = Bundle.open(make_bundle(tmp_path / "b", bias=0.1, random=random, exact=False))
    run = Run([bundle], options(pictures=count, cold=False))
    run.measure(no_progress)
    assert len(run.results.pictures) == taken
    for picture in run.results.pictures:
        assert picture.name == "noise"
        assert list(picture.after) == ["onnxruntime fp32", "float32 PyTorch (reference)"]
        assert picture.after["onnxruntime fp32"].mean() > picture.before.mean() + 5


def test_a_first_start_that_fails_is_listed_and_the_rest_goes_on(bundle, monkeypatch, no_yardstick):
    started = []

    def start_cold(folder, backend, precision, *, threads, device):
        started.append((folder, backend, precision, threads))
        if precision == "fp16":
            raise UnavailableError("killed")
        return ColdStart(1.0, 2.0, 3.0, 4, 5)

    monkeypatch.setattr(runs, "start_cold", start_cold)
    report = measured(Run([bundle], options()))
    assert started == [(bundle.path, "onnxruntime", p, 1) for p in ("fp32", "fp16")]
    assert [row["cold"] is None for row in report["runners"]] == [False, True]
    assert report["unavailable"] == [{"label": "onnxruntime fp16, first start", "reason": "killed"}]


def test_stages_and_steps_are_not_started_in_new_processes(
    tmp_path, tiny_split, no_yardstick, monkeypatch
):
    monkeypatch.setattr(runs, "start_cold", lambda *a, **k: pytest.fail("started"))
    Run([Bundle.open(tiny_split)], options("stages", precisions=["fp32"])).measure(no_progress)
    Run(of_steps(tmp_path, 1, 2), options("steps")).measure(no_progress)


class Meter:
    source, scope = "a meter", "the board"

    def __init__(self) -> None:
        self.joules = 0.0

    def read(self) -> float:
        self.joules += 0.25
        return self.joules

    def problems(self) -> tuple[str, ...]:
        return ("it decreased",)

    def close(self) -> None:
        pass


def test_energy_comes_from_the_meter_with_its_problems(bundle, runners, monkeypatch):
    monkeypatch.setattr(runs.Watch, "__init__", with_meter(runs.Watch.__init__))
    report = measured(Run([bundle], options(cold=False)))
    assert report["energy"] == {
        "source": "a meter",
        "scope": "the board",
        "problems": ["it decreased"],
        "missing": report["energy"]["missing"],
    }
    assert report["runners"][0]["energy"]["joules_per_image"] == pytest.approx(0.05)
    assert "energy figures are invalid: it decreased" in report["warnings"]


def with_meter(original):
    def init(self):
        original(self)
        self.meter = Meter()

    return init


def test_a_soak_that_fails_immediately_measures_nothing(bundle, runners, monkeypatch):
    def fail(self, image):
        raise UnavailableError("the device is gone")

    monkeypatch.setattr(SyntheticRunner, "restore", fail)
    for protocol in ("soak", "throughput"):
        run = Run([bundle], options(protocol, cold=False))
        with pytest.raises(UnavailableError, match=r"nothing can be .*: the device is gone"):
            run.measure(no_progress)
        assert not run.begun
        assert not run.results.complete


def test_an_interruption_keeps_what_there_is(bundle, runners, monkeypatch):
    restore = SyntheticRunner.restore

    def interrupted(self, image):
        if len(self.images) == 5:  # one to warm up, one to settle, three that count
            raise KeyboardInterrupt
        return restore(self, image)

    monkeypatch.setattr(SyntheticRunner, "restore", interrupted)
    run = Run([bundle], options(cold=False))
    with pytest.raises(KeyboardInterrupt):
        run.measure(no_progress)
    report = checked(build_report(run.results, bundle, run.conditions))
    assert report["complete"] is False
    assert report["runners"][0]["image"]["statistics"]["count"] == 3
    assert report["sensors"]["after"] is not None


def test_the_conditions_say_what_it_was_made_under(bundle, runners):
    runners.missing = [Unavailable("someone", "is not there")]
    told = []
    run = Run([bundle], options(cold=False, seed=3))
    assert run.conditions is None
    run.measure(lambda *arguments: told.append(arguments[0]))
    report = checked(build_report(run.results, bundle, run.conditions))
    assert report["complete"] is True
    assert (report["threads"], report["seed"]) == (1, 3)
    assert report["device"]["affinity"]["allowed"]
    assert report["sensors"]["after"] is not None
    assert report["yardstick"]["work"].startswith("float32 matrix product")
    assert report["runners"][0]["yardstick_s"] == [0.001] * 5
    assert report["runners"][0]["fidelity"]["psnr_db"] == 50.0
    assert isinstance(run.results.fidelities["onnxruntime any"], Fidelity)
    assert told[:2] == ["loading", "comparing with PyTorch's results"]
