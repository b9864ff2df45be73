"""The packaged model as a bundle of 64x64, made once, and a place for temporary folders."""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from elir_deploy.runtime import Bundle
from tests.bundles import file_entry, make_bundle, read_manifest, write_manifest

TINY = Path(str(resources.files("elir_deploy") / "data" / "tiny.safetensors"))


@pytest.fixture(scope="session")
def tiny64(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of one step; its graphs are others, but its references are the packaged model's."""
    pytest.importorskip("torch")
    from elir_deploy.checkpoints import load_checkpoint
    from elir_deploy.export.references import compute_references
    from elir_deploy.static_graph import fixed_noise, latent_shape

    tiny = load_checkpoint(TINY)
    sigma_s, size = tiny.task.sigma_s, 64
    noise = fixed_noise(0, sigma_s, latent_shape(tiny.model, size))
    folder = make_bundle(tmp_path_factory.mktemp("tiny64") / "b", size=size, references=False)
    manifest = read_manifest(folder)
    manifest["source"] = {"name": tiny.name, "sha256": tiny.sha256, "random": False}
    manifest["model"] |= {
        "architecture": tiny.model.arch.to_dict(),
        "steps": 1,
        "sigma_s": sigma_s,
    }
    manifest["noise"]["sha256"] = noise.sha256
    for reference in compute_references(
        tiny.model, tiny.task, image_size=size, steps=1, noise=noise
    ):
        entry: dict[str, Any] = {"name": reference.name}
        for end, pixels in (("input", reference.image), ("output", reference.restored)):
            file = f"{reference.name}.{end}.png"
            Image.fromarray(pixels).save(folder / file)
            entry[end] = file_entry(folder, file)
        manifest["references"].append(entry)
    write_manifest(folder, manifest)
    return Bundle.open(folder)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process makes its temporary folders during the test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
