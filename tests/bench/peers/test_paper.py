"""The paper's rivals beside its own model, with small networks in their place."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from elir_deploy.bench import peers
from elir_deploy.bench.peers import paper
from elir_deploy.bench.peers.paper import RIVALS, Rival, open_rivals
from elir_deploy.bench.report_text import tables
from elir_deploy.bench.runners import BundleRunner
from elir_deploy.cli import bench as command
from elir_deploy.errors import UnavailableError, UsageError
from elir_deploy.tasks import TASKS
from tests.bench.peers.bundles import small_bundle
from tests.bench.schema import checked, typed
from tests.command import run_here

torch = pytest.importorskip("torch")

BSR = {"task": "bsr", "size": 256, "upscale": 4, "kernel": "bicubic"}
NETWORKS = "tests.bench.peers.networks"


def stand_in(**arguments) -> tuple:
    return NETWORKS, "Enlarging", arguments


@pytest.fixture
def rivals(monkeypatch):
    """Small networks in place of those of both tables."""

    def small(rival):
        if rival.network is None:
            return rival
        bfr = rival in RIVALS["bfr"]
        return replace(rival, network=stand_in(face=True) if bfr else stand_in(scale=4))

    table = {task: tuple(map(small, rows)) for task, rows in RIVALS.items()}
    monkeypatch.setattr(paper, "RIVALS", table)
    return table


@pytest.fixture
def bsr(tmp_path):
    return small_bundle(tmp_path / "bsr", **BSR)


def test_the_first_row_is_the_papers_own_model():
    for task, (own, *others) in RIVALS.items():
        assert (own.name, own.fps, own.network) == ("ELIR", TASKS[task].paper_fps, None)
        assert all((rival.network is None) == (rival.licence is None) for rival in others)
        assert any(rival.network for rival in others)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (["paper"], (["torch"], ["paper"])),
        (["paper,codeformer"], (["torch"], ["paper", "codeformer"])),
        (["codeformer", "torch-compile"], (["torch", "torch-compile"], ["codeformer"])),
        (["all"], (list(peers.PEERS), [])),
        ([], ([], [])),
    ],
)
def test_names_of_peers(named, expected):
    assert peers.named_peers(named) == expected


def test_unknown_names(tmp_path):
    with pytest.raises(UsageError, match=r"unknown peer 'vqfr': choose from all, torch, .*, paper"):
        peers.named_peers(["paper,vqfr"])


def test_only_codeformers_licence_must_be_asked_for(tmp_path, rivals):
    bundle = small_bundle(tmp_path / "bfr", task="bfr", size=512)
    for names, measured in (
        (["paper"], ["GFPGAN"]),
        (["paper", "codeformer"], ["GFPGAN", "CodeFormer"]),
        (["codeformer"], ["CodeFormer"]),
    ):
        runners, compared = open_rivals(names, bundle, 1, "cpu", None)
        assert [each.rival.name for each in compared if each.label] == measured
        assert [runner.label for runner in runners] == [f"{n} eager fp32" for n in measured]
        reasons = {each.rival.name: each.reason for each in compared}
        assert [each.rival for each in compared] == list(rivals["bfr"])
        assert reasons["VQFRv2"].startswith("in neither spandrel nor spandrel_extra_arches")
        if "CodeFormer" not in measured:
            assert reasons["CodeFormer"] == (
                "its licence is non-commercial, so only if you ask for it: --peers paper,codeformer"
            )


def test_a_rival_enlarges_what_the_model_takes_enlarged(bsr, rivals):
    assert open_rivals([], bsr, 1, "cpu", None) == ([], [])
    (enlarging, other), _ = open_rivals(["paper"], bsr, 1, "cpu", None)
    image = np.random.default_rng(0).integers(0, 256, (*bsr.manifest.input_size, 3), np.uint8)
    assert image.shape == (64, 64, 3)
    np.testing.assert_array_equal(enlarging.restore(image), image.repeat(4, 0).repeat(4, 1))
    assert enlarging.device_ns > 0
    assert enlarging.parameters == 9
    fidelity = other.fidelity(bsr)
    assert (fidelity.psnr_db, fidelity.images) == (None, 0)


def test_a_factor_of_16_would_not_go_unnoticed(bsr, monkeypatch):
    table = (RIVALS["bsr"][0], Rival("same", 1.0, 1.0, stand_in(scale=1), "free"))
    monkeypatch.setattr(paper, "RIVALS", {"bsr": table})
    [runner], _ = open_rivals(["paper"], bsr, 1, "cpu", None)
    with pytest.raises(UnavailableError, match=r"\(64, 64, 3\) to \(64, 64, 3\), expected \(256"):
        runner.restore(np.zeros((64, 64, 3), np.uint8))


def test_weights_are_the_same_each_time_and_results_are_pixels(bsr, monkeypatch):
    table = (RIVALS["bsr"][0], Rival("random", 1.0, 1.0, (NETWORKS, "Random", {}), "free"))
    monkeypatch.setattr(paper, "RIVALS", {"bsr": table})
    before = torch.random.get_rng_state()
    runners = [open_rivals(["paper"], bsr, 1, "cpu", None)[0][0] for _ in range(2)]
    weights = [runner._model.body.weight for runner in runners]
    assert torch.equal(*weights)
    assert torch.equal(before, torch.random.get_rng_state())
    restored, _ = paper.run_eagerly(runners[0]._restored, np.full((4, 4, 3), 200, np.uint8), "cpu")
    assert set(np.unique(restored)) <= {0, 255}


def test_what_is_missing_is_told_in_the_table(bsr, rivals, monkeypatch):
    monkeypatch.setattr(paper, "find_spec", lambda name: None if name == "tests" else 1)
    runners, compared = open_rivals(["paper"], bsr, 1, "cpu", SimpleNamespace(label="eager"))
    assert not runners
    assert (compared[0].label, compared[0].reason) == ("eager", None)
    assert compared[1].reason == (
        "tests is needed to measure the paper's rivals and is not installed: "
        "pip install 'elir-deploy[paper]'"
    )
    monkeypatch.setattr(paper, "find_spec", lambda name: 1)
    table = (RIVALS["bsr"][0], Rival("broken", 1.0, 1.0, (NETWORKS, "raising", {}), "free"))
    monkeypatch.setattr(paper, "RIVALS", {"bsr": table})
    [_, broken] = open_rivals(["paper"], bsr, 1, "cpu", None)[1]
    assert broken.reason == "broken cannot be opened: operator torchvision::nms does not exist"


def test_a_torchvision_of_another_pytorch(bsr, rivals, monkeypatch):
    def refuse(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(paper.importlib, "import_module", refuse)
    _, compared = open_rivals(["paper"], bsr, 1, "cpu", None)
    assert compared[1].reason == (
        "spandrel cannot be imported (operator torchvision::nms does not exist): install "
        "torchvision from where torch is from"
    )


@pytest.mark.parametrize(
    ("bundle", "options", "message"),
    [
        ({}, [], "the paper compares speeds for bfr and bsr, not for tiny"),
        (
            {"task": "bfr", "size": 64},
            [],
            "measured bfr at 512x512, and .* is for 64x64: export it with --image-size 512",
        ),
        (BSR, ["--protocol", "soak"], "cannot be used with --protocol soak, only with paper, lat"),
    ],
)
def test_what_the_paper_does_not_compare(tmp_path, bundle, options, message):
    path = small_bundle(tmp_path / "b", **bundle).path
    done = run_here(command.main, path, "--peers", "paper", "--backend", "onnxruntime", *options)
    assert done.returncode == 2
    assert re.search(message, done.stderr), done.stderr


def test_the_table_in_every_form(bsr, rivals, tmp_path, monkeypatch):
    """ELIR in eager PyTorch, the rivals, and the bundle: our ratio beside the paper's."""
    monkeypatch.setattr("elir_deploy.bench.report._paper_fps", lambda bundle: 52.2)
    json_file, markdown, page = (tmp_path / f"r.{end}" for end in ("json", "md", "html"))
    done = run_here(
        command.main,
        *(bsr.path, "--peers", "paper", "--backend", "onnxruntime", "--threads", 1, "--no-cold"),
        *("--images", 20, "--warmup", 1),
        *("--json", json_file, "--report", markdown, "--report", page),
    )
    assert done.returncode == 0, done.stderr
    values = checked(json.loads(json_file.read_text("utf-8")))
    labels = [row["label"] for row in values["runners"]]
    assert labels == [
        "torch eager fp32",
        "BSRGAN, RealESRGAN eager fp32",
        "SwinIR-GAN eager fp32",
        "onnxruntime fp32",
    ]
    own, first, *rest = values["paper_table"]
    assert own["label"] == "torch eager fp32"
    assert own["parameters"] == bsr.manifest.model.parameters
    assert (own["paper_parameters"], own["paper_fps"]) == (18e6, 52.2)
    assert (first["label"], first["reason"], first["parameters"]) == (labels[1], None, 9)
    assert first["paper_ratio"] == pytest.approx(52.2 / 45.85, rel=1e-5)
    means = {row["label"]: row["image"]["statistics"]["mean"] for row in values["runners"]}
    assert [speed["label"] for speed in first["speeds"]] == [labels[0], labels[3]]
    for speed in first["speeds"]:
        ratio = speed["ratio"]
        assert ratio["value"] == pytest.approx(means[labels[1]] / means[speed["label"]], rel=1e-4)
        assert ratio["low"] < ratio["value"] < ratio["high"]
    assert [bool(row["label"]) == (row["reason"] is None) for row in rest] == [True] * 5
    relative = {t.title: t for t in tables(typed(values))}["Relative to the paper's rivals"]
    assert [row[:2] for row in relative.rows] == [
        (label, row["name"]) for row in (first, rest[0]) for label in (labels[0], labels[3])
    ]
    for shown in (done.stdout, markdown.read_text("utf-8"), page.read_text("utf-8")):
        for word in ("Apache-2.0, BSD-3-Clause", "SwinIR-GAN", "1.14", "in neither spandrel nor"):
            assert word in shown
    assert "another model than the bundle" in done.stdout


def test_on_a_gpu_they_run_beside_the_model_there(bsr, rivals, monkeypatch):
    """Without one, what PyTorch says of it becomes the reason."""
    if torch.cuda.is_available():
        pytest.skip("it would run")
    assert peers.torch_device(["paper"]) == "cpu"
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    try:
        assert peers.torch_device([]) == "cpu"
        assert peers.torch_device(["paper"]) == "cuda"
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept
    _, missing = peers.open_peers(["torch"], bsr, None, 1, device="cuda")
    _, compared = open_rivals(["paper"], bsr, 1, "cuda", None)
    assert "CUDA" in missing[0].reason.upper()
    assert "CUDA" in compared[1].reason.upper()
    (eager,), _ = peers.open_peers(["torch"], bsr, None, 1)
    assert eager.on_cpu
    assert not isinstance(eager, BundleRunner)


@pytest.mark.parametrize("task", RIVALS)
def test_the_networks_have_the_papers_parameters(task):
    pytest.importorskip("spandrel")
    pytest.importorskip("spandrel_extra_arches")
    for rival in RIVALS[task]:
        if rival.network is not None:
            count = sum(parameter.numel() for parameter in paper._network(rival).parameters())
            assert count == pytest.approx(rival.parameters, rel=0.006), rival.name
