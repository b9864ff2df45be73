from __future__ import annotations

from pathlib import Path

from elir_deploy.cli import triton as command
from tests.bundles import make_bundle
from tests.command import run_here


def test_a_repository_of_two_bundles(tmp_path: Path) -> None:
    make_bundle(tmp_path / "square")
    make_bundle(tmp_path / "any", stride=8, size=64)
    models = tmp_path / "models"
    done = run_here(command.main, tmp_path / "square", tmp_path / "any", "-o", models)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{models / 'square'}: onnxruntime backend, fp32",
        f"{models / 'any'}: python backend, automatic precision",
    ]
    assert sorted(path.parent.name for path in models.rglob("config.pbtxt")) == ["any", "square"]
    again = run_here(command.main, tmp_path / "any", "-o", models)
    assert again.returncode == 2
    assert "--overwrite replaces it" in again.stderr


def test_names_must_differ(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        make_bundle(tmp_path / folder / "bfr")
    bundles = (tmp_path / "one/bfr", tmp_path / "two/bfr")
    done = run_here(command.main, *bundles, "-o", tmp_path / "models")
    assert done.returncode == 2
    assert "two bundles have the same name" in done.stderr
    assert not (tmp_path / "models").exists()
