"""From a model and options to runners and results, with stand-ins for what takes long."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from elir_deploy.bench import peers, protocols, runs
from elir_deploy.bench.cold import ColdStart
from elir_deploy.bench.protocols import PROTOCOLS
from elir_deploy.bench.report import build_report
from elir_deploy.bench.runners import Fidelity, Unavailable
from elir_deploy.bench.runs import BenchOptions, Run, open_model, with_numbers
from elir_deploy.errors import (
    MissingDependencyError,
    UnavailableError,
    UsageError,
)
from elir_deploy.pixels import psnr_db
from elir_deploy.progress import no_progress
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.backends import BACKENDS
from tests.bench.schema import checked
from tests.bench.synthetic import FakeClock, SyntheticRunner
from tests.bundles import make_bundle, read_manifest, write_manifest


def options(protocol="paper", **changes) -> BenchOptions:
    numbers = {} if protocol in ("throughput", "soak") else {"images": 5, "warmup": 1}
    plan = with_numbers(PROTOCOLS[protocol], **numbers)
    return BenchOptions(
        plan, **({"backends": ["onnxruntime"], "peers": (), "threads": 1} | changes)
    )


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    return Bundle.open(make_bundle(tmp_path / "b", precisions=("fp32", "fp16")))


@pytest.fixture
def no_yardstick(monkeypatch):
    """It, and settling beside it, would take a tenth of a second of every turn."""
    monkeypatch.setattr(runs, "Yardstick", lambda: SimpleNamespace(measure=lambda: 10**6))
    monkeypatch.setattr(protocols, "SETTLE_NS", 0)


def measured(run: Run) -> dict:
    """The run, and its report, checked."""
    run.measure(no_progress)
    return checked(build_report(run.results, run.bundle, run.conditions))


# The model ------------------------------------------------------------------------------------


class Exports:
    """Stand-ins for loading and exporting; notes what was asked for."""

    def __init__(self, monkeypatch, bundle) -> None:
        self.loaded: list = []
        self.exported: list = []
        self._bundle = bundle
        monkeypatch.setattr(peers, "load", self._load)
        monkeypatch.setattr(peers, "checkpoint_of", lambda of, source, say: f"of {source}")
        monkeypatch.setattr(peers, "export_to_bundle", self._export)

    def _load(self, source, task, say):
        self.loaded.append((source, task))
        return f"loaded {source}"

    def _export(self, checkpoint, folder, precisions, say, **how):
        self.exported.append((checkpoint, precisions, how))
        assert folder.parent.is_dir()
        assert not folder.exists()
        shutil.copytree(self._bundle.path, folder)
        if how.get("steps"):
            manifest = read_manifest(folder)
            manifest["model"]["steps"] = how["steps"]
            write_manifest(folder, manifest)
        return Bundle.open(folder)


@pytest.fixture
def exports(monkeypatch, bundle) -> Exports:
    return Exports(monkeypatch, bundle)


def opened(model, wished, **how):
    with ExitStack() as stack:
        return open_model(str(model), wished, stack, say=no_progress, **how)


@pytest.mark.parametrize("protocol", ["paper", "latency", "throughput", "stages", "soak"])
def test_a_folder_is_a_bundle(bundle, exports, protocol):
    found, checkpoint = opened(bundle.path, options(protocol))
    assert (found.path, checkpoint) == (bundle.path, None)
    assert not exports.loaded
    assert opened(bundle.path, options(protocol), checkpoint="c.pth")[1] == "of c.pth"


@pytest.mark.parametrize(
    ("protocol", "stages"),
    [("paper", "fused"), ("throughput", "fused"), ("steps", "fused"), ("stages", "split")],
)
def test_anything_else_is_a_checkpoint_and_exported_for_as_long_as_it_takes(
    exports, protocol, stages
):
    with ExitStack() as stack:
        wished = options(protocol, precisions=["fp32"])
        found, checkpoint = open_model("random", wished, stack, task="bfr", say=no_progress)
        assert found.path.is_dir()
        assert checkpoint == "loaded random"
    assert not found.path.exists()
    assert exports.loaded == [("random", "bfr")]
    assert exports.exported == [("loaded random", ["fp32"], {"stages": stages})]


@pytest.mark.parametrize(
    ("protocol", "is_bundle"),
    [("paper", True), ("soak", True), ("steps", False), ("stages", False)],
)
def test_tiny_is_the_packaged_bundle_or_the_packaged_checkpoint(
    exports, protocol, is_bundle, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    found, checkpoint = opened("tiny", options(protocol))
    assert (found.path == Bundle.open("tiny").path) == is_bundle
    assert (checkpoint is None) == is_bundle
    assert exports.loaded == ([] if is_bundle else [("tiny", None)])


@pytest.mark.parametrize("protocol", ["paper", "stages"])
def test_a_folder_of_that_name_comes_first(bundle, exports, protocol, monkeypatch, tmp_path):
    shutil.copytree(bundle.path, tmp_path / "here" / "tiny")
    monkeypatch.chdir(tmp_path / "here")
    found, _ = opened("tiny", options(protocol))
    assert found.path.resolve() == tmp_path / "here" / "tiny"
    assert not exports.loaded


def test_what_does_not_go_together(bundle, exports, monkeypatch):
    with pytest.raises(UsageError, match="is for task tiny, not bfr: leave out --task"):
        opened(bundle.path, options(), task="bfr")
    with pytest.raises(UsageError, match="holds no int8 files: choose from fp32, fp16, bf16"):
        opened(bundle.path, options(precisions=["fp32", "int8"]))
    with pytest.raises(UsageError, match=r"has M = 3 in its graphs: .*--checkpoint"):
        opened(bundle.path, options("steps"))
    with pytest.raises(UsageError, match="--checkpoint goes with a bundle"):
        opened("mine.pth", options(), checkpoint="other.pth")
    assert not exports.exported

    def missing(source, task, say):
        raise MissingDependencyError("torch", "export", "measure a checkpoint")

    monkeypatch.setattr(peers, "load", missing)
    with pytest.raises(UnavailableError, match=r"budnle is no bundle's folder; .*needs torch: pip"):
        opened("budnle", options())


def test_numbers_take_the_place_of_the_protocols_own():
    plan = with_numbers(PROTOCOLS["paper"], images=7, warmup=None, seconds=None)
    assert plan == replace(PROTOCOLS["paper"], images=7)
    assert with_numbers(PROTOCOLS["latency"], warmup=0).warmup == 0


# Runners -----------------------------------------------------------------------------------


class Opened:
    """A stand-in for ``open_restorers`` that notes what it is asked for."""

    def __init__(self, monkeypatch) -> None:
        self.asked: list = []
        self.made: list[SyntheticRunner] = []
        self.missing: list[Unavailable] = []
        monkeypatch.setattr(runs, "open_restorers", self)

    def __call__(self, bundle, backends, precisions, *, threads, variant=""):
        self.asked.append((backends, precisions, variant))
        clock = FakeClock()
        label = f"{'+'.join(backends or ['any'])} {'+'.join(precisions or ['any'])}{variant}"
        made = SyntheticRunner(label, clock, 0.1)
        self.made.append(made)
        return [made], list(self.missing)


@pytest.fixture
def runners(monkeypatch, no_yardstick) -> Opened:
    return Opened(monkeypatch)


def test_peers_come_first_and_are_what_the_others_are_compared_with(bundle, runners, monkeypatch):
    def open_peers(names, of, checkpoint, threads, say):
        assert (names, of, checkpoint, threads) == (("torch",), bundle, "c", 1)
        return [SyntheticRunner("torch", FakeClock(), 0.2)], [Unavailable("other", "why")]

    monkeypatch.setattr(peers, "open_peers", open_peers)
    run = Run(bundle, "c", options(peers=("torch",), cold=False))
    report = measured(run)
    assert [row["label"] for row in report["runners"]] == ["torch", "onnxruntime any"]
    assert {row["speedup"]["over"] for row in report["runners"]} == {"torch"}
    assert report["unavailable"] == [{"label": "other", "reason": "why"}]


@pytest.mark.parametrize("error", [KeyboardInterrupt, UnavailableError, RuntimeError])
def test_runners_are_closed_however_it_ends(bundle, runners, error, monkeypatch):
    run = Run(bundle, None, options(cold=False))
    measured(run)
    assert [one.closed for one in runners.made] == [True]

    def fail(self, image):
        raise error

    monkeypatch.setattr(SyntheticRunner, "restore", fail)
    with pytest.raises(error):
        Run(bundle, None, options(cold=False)).measure(no_progress)
    assert [one.closed for one in runners.made] == [True, True]


def test_who_cannot_restore_the_references_is_left_out(bundle, runners, monkeypatch):
    def fidelity(self, of):
        raise UnavailableError("out of memory")

    monkeypatch.setattr(SyntheticRunner, "fidelity", fidelity)
    run = Run(bundle, None, options())
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
        Run(bundle, None, options()).measure(no_progress)


def test_stages_are_cut_for_every_precision_that_somebody_holds(tiny_split, runners, monkeypatch):
    cuts = []

    def by_step(bundle, precision, folder):
        cuts.append(precision)
        if precision == "fp16":
            raise UnavailableError("engines are not cut")
        return bundle

    monkeypatch.setattr(runs, "by_step", by_step)
    runners.missing = [Unavailable("someone", "is not there")]
    run = Run(Bundle.open(tiny_split), None, options("stages"))
    report = measured(run)
    assert cuts == ["fp32", "fp16", "int8"]  # bf16 is not onnxruntime's
    assert runners.asked == [
        (["onnxruntime"], ["fp32"], ""),
        (["onnxruntime"], ["int8"], ""),
    ]
    assert report["unavailable"] == [
        {"label": "fp16", "reason": "engines are not cut"},
        {"label": "someone", "reason": "is not there"},  # said once
    ]


def test_stages_of_whatever_this_machine_has(tiny_split, runners, monkeypatch):
    monkeypatch.setattr(runs, "by_step", lambda bundle, precision, folder: bundle)
    Run(Bundle.open(tiny_split), None, options("stages", backends=None)).measure(no_progress)
    holding = {
        precision: [
            b.name
            for b in BACKENDS.values()
            if b.automatic and precision in b.held_precisions(Bundle.open(tiny_split))
        ]
        for precision in ("fp32", "fp16", "bf16", "int8")
    }
    assert "onnxruntime" not in holding["bf16"]
    assert runners.asked == [(names, [p], "") for p, names in holding.items() if names]


def test_a_precision_that_is_asked_for_is_asked_of_all(tiny_split, runners, monkeypatch):
    monkeypatch.setattr(runs, "by_step", lambda bundle, precision, folder: bundle)
    wished = options("stages", backends=["openvino", "onnxruntime"], precisions=["bf16"])
    Run(Bundle.open(tiny_split), None, wished).measure(no_progress)
    assert runners.asked == [(["openvino", "onnxruntime"], ["bf16"], "")]


@pytest.mark.parametrize(
    ("changes", "listed"),
    [
        ({"backends": None, "peers": ("torch",)}, []),  # nobody asked for it
        ({"backends": [], "peers": ("torch",)}, ["torch"]),
        ({"backends": None, "peers": ("torch", "torch-compile")}, ["torch", "torch-compile"]),
    ],
)
def test_peers_have_no_stages_and_one_that_was_asked_for_is_listed(
    tiny_split, runners, monkeypatch, changes, listed
):
    monkeypatch.setattr(runs, "by_step", lambda bundle, precision, folder: bundle)
    run = Run(Bundle.open(tiny_split), None, options("stages", **changes))
    if changes["backends"] == []:
        with pytest.raises(UnavailableError, match="torch: it is measured as a whole"):
            run.measure(no_progress)
    else:
        run.measure(no_progress)
    assert [item.label for item in run.results.unavailable] == listed


def test_every_m_is_exported_in_the_bundles_size(bundle, exports, runners):
    run = Run(bundle, "a checkpoint", options("steps", steps=(1, 4)))
    report = measured(run)
    assert exports.exported == [
        (
            "a checkpoint",
            ["fp32"],
            {"steps": steps, "image_size": 32, "sigma_s": 0.025, "seed": 0},
        )
        for steps in (1, 4)
    ]
    assert runners.asked == [
        (["onnxruntime"], ["fp32"], ", M = 1"),
        (["onnxruntime"], ["fp32"], ", M = 4"),
    ]
    assert [row["label"] for row in report["runners"]] == [
        "onnxruntime fp32, M = 1",
        "onnxruntime fp32, M = 4",
    ]


# Results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("random", [False, True])
def test_steps_have_speed_and_quality_where_there_are_pictures(
    tmp_path, monkeypatch, no_yardstick, random
):
    bundle = Bundle.open(make_bundle(tmp_path / "b", random=random))
    worse = Bundle.open(make_bundle(tmp_path / "w", bias=10 / 255, random=random, exact=False))
    Exports(monkeypatch, worse)
    ((_, low, full),) = bundle.reference_images()
    truth = np.clip(full.astype(int) + 3, 0, 255).astype(np.uint8)
    monkeypatch.setattr(runs, "sample_photos", lambda side, faces: iter([("noise", truth)]))
    run = Run(bundle, "a checkpoint", options("steps", steps=(2,)))
    report = measured(run)
    (row,) = report["steps"]
    assert (row["steps"], row["label"]) == (2, "onnxruntime fp32")
    mean = report["runners"][0]["image"]["statistics"]["mean"]
    assert row["mean_s"] == pytest.approx(mean, rel=1e-5)
    assert row["fps"] == pytest.approx(1 / mean, rel=1e-5)
    if random:
        assert (row["psnr_db"], row["psnr_to_full_db"]) == (None, None)
        assert report["runners"][0]["fidelity"]["note"].startswith("random weights: ")
    else:
        made = np.rint(np.clip(low / 255 + 10 / 255, 0, 1) * 255).astype(np.uint8)
        assert row["psnr_db"] == pytest.approx(psnr_db(made, truth), abs=0.05)
        assert row["psnr_to_full_db"] == pytest.approx(psnr_db(made, full), abs=0.05)


def test_ctrl_c_keeps_the_rows_of_every_m(bundle, exports, monkeypatch, no_yardstick):
    monkeypatch.setattr(runs, "sample_photos", lambda side, faces: iter([]))
    original, restored = runs.BundleRunner.restore, []

    def restore(self, image):
        restored.append(self)
        if len(restored) == 25:
            raise KeyboardInterrupt
        return original(self, image)

    monkeypatch.setattr(runs.BundleRunner, "restore", restore)
    plan = with_numbers(PROTOCOLS["steps"], images=500, warmup=1)
    run = Run(bundle, "a checkpoint", replace(options("steps", steps=(1, 3)), protocol=plan))
    with pytest.raises(KeyboardInterrupt):
        run.measure(no_progress)
    report = checked(build_report(run.results, bundle, run.conditions))
    assert report["complete"] is False
    assert [row["steps"] for row in report["steps"]] == [1, 3]


def test_the_bundles_own_m_is_not_exported_again(bundle, exports, runners):
    Run(bundle, "a checkpoint", options("steps", steps=(3, 4))).measure(no_progress)
    assert [how["steps"] for _, _, how in exports.exported] == [4]
    assert [variant for _, _, variant in runners.asked] == [", M = 3", ", M = 4"]


def test_a_yardstick_for_the_processor_alone(bundle, runners, monkeypatch):
    made = []
    monkeypatch.setattr(runs, "Yardstick", lambda: made.append(1) or SimpleNamespace())
    monkeypatch.setattr(protocols, "SETTLE_NS", 0)
    monkeypatch.setattr(SyntheticRunner, "on_cpu", False, raising=False)
    report = measured(Run(bundle, None, options(cold=False)))
    assert (made, report["yardstick"]) == ([], None)


def test_the_default_m_is_identical_to_itself(tmp_path, monkeypatch, no_yardstick, bundle):
    Exports(monkeypatch, bundle)
    monkeypatch.setattr(runs, "sample_photos", lambda side, faces: iter([]))
    run = Run(bundle, "a checkpoint", options("steps", steps=(3,)))
    (row,) = measured(run)["steps"]
    assert (row["psnr_db"], row["psnr_to_full_db"]) == (None, None)  # infinite is not JSON


@pytest.mark.parametrize(
    ("count", "random", "taken"), [(0, False, 0), (1, False, 1), (2, False, 1), (2, True, 0)]
)
def test_pictures_for_the_page(tmp_path, no_yardstick, count, random, taken):
    bundle = Bundle.open(make_bundle(tmp_path / "b", bias=0.1, random=random, exact=False))
    run = Run(bundle, None, options(pictures=count, cold=False))
    run.measure(no_progress)
    assert len(run.results.pictures) == taken
    for picture in run.results.pictures:
        assert picture.name == "noise"
        assert list(picture.after) == ["onnxruntime fp32", "float32 PyTorch (reference)"]
        assert picture.after["onnxruntime fp32"].mean() > picture.before.mean() + 5


def test_a_first_start_that_fails_is_listed_and_the_rest_goes_on(bundle, monkeypatch, no_yardstick):
    started, kept = [], []

    def start_cold(folder, backend, precision, *, threads, temporary):
        started.append((folder, backend, precision, threads))
        kept.append(not temporary)
        if precision == "fp16":
            raise UnavailableError("killed")
        return ColdStart(1.0, 2.0, 3.0, 4, 5)

    monkeypatch.setattr(runs, "start_cold", start_cold)
    report = measured(Run(bundle, None, options()))
    assert started == [(bundle.path, "onnxruntime", p, 1) for p in ("fp32", "fp16")]
    assert [row["cold"] is None for row in report["runners"]] == [False, True]
    assert report["unavailable"] == [{"label": "onnxruntime fp16, first start", "reason": "killed"}]
    measured(Run(Bundle.open(bundle.path, temporary=True), None, options()))
    assert kept == [True, True, False, False]


@pytest.mark.parametrize("protocol", ["stages", "steps"])
def test_variants_are_not_started_anew(bundle, exports, runners, monkeypatch, protocol):
    monkeypatch.setattr(runs, "start_cold", lambda *a, **k: pytest.fail("started"))
    monkeypatch.setattr(runs, "by_step", lambda bundle, precision, folder: bundle)
    Run(bundle, "a checkpoint", options(protocol)).measure(no_progress)


class Meter:
    source, scope = "a meter", "the board"

    def __init__(self) -> None:
        self.joules = 0.0

    def read(self) -> float:
        self.joules += 0.25
        return self.joules

    def problems(self) -> tuple[str, ...]:
        return ("it went back",)

    def close(self) -> None:
        pass


def test_energy_comes_from_the_meter_with_its_problems(bundle, runners, monkeypatch):
    monkeypatch.setattr(runs.Watch, "__init__", with_meter(runs.Watch.__init__))
    report = measured(Run(bundle, None, options(cold=False)))
    assert report["energy"] == {
        "source": "a meter",
        "scope": "the board",
        "problems": ["it went back"],
        "missing": report["energy"]["missing"],
    }
    assert report["runners"][0]["energy"]["joules_per_image"] == pytest.approx(0.05)
    assert "energy figures are invalid: it went back" in report["warnings"]


def with_meter(original):
    def init(self):
        original(self)
        self.meter = Meter()

    return init


def test_a_soak_that_fails_at_once_measured_nothing(bundle, runners, monkeypatch):
    def fail(self, image):
        raise UnavailableError("the device is gone")

    monkeypatch.setattr(SyntheticRunner, "restore", fail)
    for protocol in ("soak", "throughput"):
        run = Run(bundle, None, options(protocol, cold=False))
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
    run = Run(bundle, None, options(cold=False))
    with pytest.raises(KeyboardInterrupt):
        run.measure(no_progress)
    report = checked(build_report(run.results, bundle, run.conditions))
    assert report["complete"] is False
    assert report["runners"][0]["image"]["statistics"]["count"] == 3
    assert report["device"]["sensors"]["after"] is not None


def test_the_conditions_say_what_it_was_made_under(bundle, runners):
    runners.missing = [Unavailable("someone", "is not there")]
    told = []
    run = Run(bundle, None, options(cold=False, seed=3))
    assert run.conditions is None
    run.measure(lambda *arguments: told.append(arguments[0]))
    report = checked(build_report(run.results, bundle, run.conditions))
    assert report["complete"] is True
    assert (report["threads"], report["protocol"]["seed"]) == (1, 3)
    assert report["device"]["affinity"]["allowed"]
    assert report["device"]["sensors"]["after"] is not None
    assert report["yardstick"]["work"].startswith("float32 matrix product")
    assert report["runners"][0]["yardstick_s"] == [0.001] * 5
    assert report["runners"][0]["fidelity"]["psnr_db"] == 50.0
    assert isinstance(run.results.fidelities["onnxruntime any"], Fidelity)
    assert told[:2] == ["loading", "comparing with PyTorch's results"]
