"""Bundles whose model is small enough to be exported and compiled in a test."""

from __future__ import annotations

from pathlib import Path

from elir_deploy.bench import peers
from elir_deploy.runtime import Bundle
from elir_deploy.tasks import Architecture
from tests.bundles import make_bundle, read_manifest, write_manifest

SMALL = Architecture(
    autoencoder_width=8,
    autoencoder_blocks=1,
    latent_channels=4,
    estimator_blocks=1,
    estimator_growth=8,
    vector_field_width=32,
    time_frequencies=8,
    time_width=16,
)


def small_bundle(folder: Path, *, random: bool = True, steps: int = 1, **changes) -> Bundle:
    """A bundle of the small architecture; its graphs are others, only the numbers are right."""
    make_bundle(folder, random=random, **changes)
    manifest = read_manifest(folder)
    manifest["model"] |= {"architecture": SMALL.to_dict(), "steps": steps}
    write_manifest(folder, manifest)
    return Bundle.open(folder)


def eager_peer(bundle: Bundle, checkpoint=None, *, threads: int | None = None):
    """Eager PyTorch alone."""
    (peer,), missing = peers.open_peers(["torch"], bundle, checkpoint, threads)
    assert not missing
    return peer


def with_manifest(bundle: Bundle, folder: Path, **changes) -> Bundle:
    """The same files under a manifest with other entries, each ``section__key=value``."""
    folder.mkdir()
    for file in (entry.file for entry in bundle.manifest.files()):
        place = folder / file
        place.parent.mkdir(exist_ok=True)
        place.write_bytes((bundle.path / file).read_bytes())
    manifest = read_manifest(bundle.path)
    for name, value in changes.items():
        *sections, key = name.split("__")
        entry = manifest
        for section in sections:
            entry = entry[section]
        entry[key] = value
    write_manifest(folder, manifest)
    return Bundle.open(folder)
