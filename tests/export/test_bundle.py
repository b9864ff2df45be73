from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from elir_deploy.errors import BundleError, OutputError
from elir_deploy.export.bundle import BundleWriter, staged_bundle
from elir_deploy.runtime.manifest_file import decode_manifest
from tests.bundles import make_bundle


def write_something(writer: BundleWriter) -> None:
    (writer.folder / "bundle.json").write_text("{}")


def test_the_folder_appears_whole_at_the_end(tmp_path: Path) -> None:
    destination = tmp_path / "deep" / "bundle"
    with staged_bundle(destination, overwrite=False) as writer:
        write_something(writer)
        assert not destination.exists()
    assert [path.name for path in destination.iterdir()] == ["bundle.json"]
    assert list(destination.parent.iterdir()) == [destination]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_nothing_is_left_when_it_fails(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with staged_bundle(tmp_path / "bundle", overwrite=False) as writer:
            write_something(writer)
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failing_replacement_keeps_the_old_bundle(tmp_path: Path) -> None:
    destination = tmp_path / "bundle"
    with staged_bundle(destination, overwrite=False) as writer:
        write_something(writer)

    def fail() -> None:
        with staged_bundle(destination, overwrite=True) as writer:
            (writer.folder / "bundle.json").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (destination / "bundle.json").read_text() == "{}"
    with staged_bundle(destination, overwrite=True) as writer:
        (writer.folder / "bundle.json").write_text("new")
    assert (destination / "bundle.json").read_text() == "new"
    assert list(tmp_path.iterdir()) == [destination]


def test_places_that_are_taken(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    with staged_bundle(bundle, overwrite=False) as writer:
        write_something(writer)
    with pytest.raises(OutputError, match="--overwrite"), staged_bundle(bundle, overwrite=False):
        pass
    other = tmp_path / "pictures"
    other.mkdir()
    (other / "holiday.jpg").write_text("precious")
    for overwrite in (True, False):
        with (
            pytest.raises(OutputError, match="holds other files"),
            staged_bundle(other, overwrite=overwrite),
        ):
            pass
    assert (other / "holiday.jpg").read_text() == "precious"
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(OutputError, match="not a folder"), staged_bundle(file, overwrite=True):
        pass


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    with staged_bundle(tmp_path, overwrite=False) as writer:
        write_something(writer)
    assert (tmp_path / "bundle.json").exists()


def test_a_link_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to("v2")
    (tmp_path / "loop").symlink_to("loop")
    for overwrite in (False, True):
        with staged_bundle(link, overwrite=overwrite) as writer:
            write_something(writer)
        assert link.is_symlink()
        assert (tmp_path / "v2" / "bundle.json").exists()
    with pytest.raises(OutputError, match="--overwrite"), staged_bundle(link, overwrite=False):
        pass
    with (
        pytest.raises(OutputError, match="not a folder"),
        staged_bundle(tmp_path / "loop", overwrite=True),
    ):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "loop", "v2"]


def test_brackets_in_a_name_are_no_pattern(tmp_path: Path) -> None:
    abandoned = tmp_path / ".bundle[1].partial-0123456789ab"
    abandoned.mkdir()
    with staged_bundle(tmp_path / "bundle[1]", overwrite=False) as writer:
        write_something(writer)
    assert not abandoned.exists()


def test_a_file_in_the_way_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(OutputError, match="cannot write"),
        staged_bundle(tmp_path / "file" / "bundle", overwrite=False),
    ):
        pass


def test_a_full_disk_is_no_traceback_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill() -> None:
        with staged_bundle(tmp_path / "bundle", overwrite=False) as writer:
            monkeypatch.setattr(Path, "write_bytes", full)
            writer.add("fused.fp32.onnx", b"abc")

    with pytest.raises(OutputError, match="No space left"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_staging_of_a_killed_export_is_removed_and_of_a_living_one_kept(tmp_path: Path) -> None:
    abandoned = tmp_path / ".bundle.partial-0123456789ab"
    abandoned.mkdir()
    with staged_bundle(tmp_path / "bundle", overwrite=False) as first:
        write_something(first)
        assert not abandoned.exists()
        # A second export to the same place, while the first is at work.
        second = staged_bundle(tmp_path / "bundle", overwrite=False)
        folder = second.__enter__().folder
        assert folder != first.folder
        assert folder.exists()
        assert first.folder.exists()
        assert not second.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert not folder.exists()
        assert first.folder.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_whose_replacement_was_killed_comes_back(tmp_path: Path) -> None:
    kept = tmp_path / ".bundle.partial-0123456789ab-replaced"
    kept.mkdir()
    (kept / "bundle.json").write_text("old")
    with (
        pytest.raises(OutputError, match="--overwrite"),
        staged_bundle(tmp_path / "bundle", overwrite=False),
    ):
        pass
    assert (tmp_path / "bundle" / "bundle.json").read_text() == "old"


def test_a_failing_last_step_puts_the_old_bundle_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = tmp_path / "bundle"
    with staged_bundle(destination, overwrite=False) as writer:
        write_something(writer)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.count("partial") and not self.name.endswith("-replaced"):
            if not target.exists():
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)

    def replace() -> None:
        with staged_bundle(destination, overwrite=True) as writer:
            (writer.folder / "bundle.json").write_text("new")

    with pytest.raises(OutputError, match="Input/output error"):
        replace()
    assert (destination / "bundle.json").read_text() == "{}"
    assert list(tmp_path.iterdir()) == [destination]


def test_the_current_folder_is_a_place_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with staged_bundle(Path("."), overwrite=False) as writer:
        write_something(writer)
    assert (tmp_path / "here" / "bundle.json").exists()


def test_a_manifest_that_would_not_be_read_is_never_written(tmp_path: Path) -> None:
    manifest = decode_manifest((make_bundle(tmp_path / "b") / "bundle.json").read_bytes())
    writer = BundleWriter(tmp_path, tmp_path)
    with pytest.raises(BundleError, match="two entries name"):
        writer.write_manifest(replace(manifest, references=manifest.references * 2))
    assert not (tmp_path / "bundle.json").exists()


def test_files_are_described_by_their_bytes(tmp_path: Path) -> None:
    entry = BundleWriter(tmp_path, tmp_path).add("reference/x.png", b"abc")
    assert (entry.file, entry.bytes) == ("reference/x.png", 3)
    assert entry.sha256.startswith("ba7816bf")
    assert (tmp_path / "reference" / "x.png").read_bytes() == b"abc"
