"""elir-restore: exit codes, what is printed, and interruptions."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elir_deploy.cli import restore as command
from elir_deploy.photo import choices as photo_choices
from elir_deploy.runtime import Restorer, blend
from elir_deploy.runtime.images import read_image, write_image
from tests.bundles import make_bundle
from tests.photo.pictures import face_bundle


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command in this process; gives the exit code."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["elir-restore", *map(str, arguments)])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as caught:
                command.main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        return int(caught.value.code or 0)

    return call


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def put(path: Path, height: int = 40, width: int = 50) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), "u1")
    Image.fromarray(pixels).save(path)
    return path


def test_files_and_a_folder(run, bundle: Path, tmp_path: Path, capsys) -> None:
    single = put(tmp_path / "single.png")
    put(tmp_path / "album" / "a.png", 1, 1)
    put(tmp_path / "album" / "deep" / "b.png")
    out = tmp_path / "out"
    arguments = (bundle, single, tmp_path / "album", "-o", out, "--recursive", "--threads", 1)
    arguments += ("--backend", "onnxruntime")
    assert run(*arguments) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("3 restored, ")
    assert printed.out.endswith(" s/image, backend onnxruntime fp32\n")
    assert "tiny: onnxruntime, fp32, 1 thread\n" in printed.err
    assert "restoring 3/3" in printed.err
    for name in ("single.png", "a.png", "deep/b.png"):
        source = single if name == "single.png" else tmp_path / "album" / name
        np.testing.assert_array_equal(read_image(out / name).pixels, read_image(source).pixels)
    assert run(*arguments) == 2
    assert "exists: use --existing skip" in capsys.readouterr().err
    assert run(*arguments, "--existing", "overwrite", "--compare", "--precision", "fp32") == 0
    assert read_image(out / "a.compare.png").pixels.shape == (1, 2, 3)


def test_what_was_left_out_and_renamed_is_told_at_the_end(run, bundle, tmp_path, capsys) -> None:
    album = tmp_path / "album"
    put(album / "a.png")
    put(album / "a.jpg")
    put(album / "deep" / "b.png")
    (album / "IMG_1.PSD").write_bytes(b"\0")
    assert run(bundle, album, "-o", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("2 restored, ")
    assert printed.err.splitlines()[-2:] == [
        "some inputs differ only in their suffix, so their results keep it: a.jpg.png, a.png.png",
        "not read: files of unsupported formats: "
        f"1 .psd (such as {album}/IMG_1.PSD); 1 folder (such as {album}/deep); "
        "--recursive reads folders that are not links",
    ]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.jpg.png", "a.png.png"]
    (tmp_path / "phone").mkdir()
    (album / "IMG_1.PSD").rename(tmp_path / "phone" / "IMG_1.PSD")
    assert run(bundle, tmp_path / "phone", "-o", tmp_path / "none") == 2
    assert "1 .psd (such as" in capsys.readouterr().err


def test_a_result_too_large_for_its_format_is_told_before_the_work(
    run, tmp_path: Path, capsys, monkeypatch
) -> None:
    path = make_bundle(tmp_path / "b", upscale=4, kernel="bicubic")
    monkeypatch.setattr(Restorer, "restore", lambda *_, **__: pytest.fail("restored"))
    for suffix, side, most in (("webp", 4096, 16383), ("jpg", 16384, 65500)):
        image = put(tmp_path / f"{suffix}.png", 2, side)
        assert run(path, image, "-o", tmp_path / "out", "--format", suffix) == 2
        error = capsys.readouterr().err
        assert f"cannot store {4 * side}x8 pixels, only {most} a side: write PNG" in error
    assert os.listdir(tmp_path / "out") == []


def test_several_concurrently(run, bundle: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("openvino")
    for index in range(5):
        put(tmp_path / "album" / f"{index}.png", 32, 32 + index)
    arguments = (bundle, tmp_path / "album", "-o", tmp_path / "out", "--mode", "throughput")
    assert run(*arguments, "--backend", "openvino", "--precision", "fp32") == 0
    printed = capsys.readouterr().out
    assert re.search(r"^5 restored, .*backend openvino fp32(, \d+ images at a time)?\n$", printed)
    for index in range(5):
        wanted = read_image(tmp_path / "album" / f"{index}.png").pixels
        made = read_image(tmp_path / "out" / f"{index}.png").pixels
        np.testing.assert_array_equal(made, wanted)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_formats(run, bundle: Path, tmp_path: Path, suffix: str) -> None:
    assert run(bundle, put(tmp_path / "a.png"), "-o", tmp_path / "out", "--format", suffix) == 0
    with Image.open(tmp_path / "out" / f"a.{suffix}") as image:
        assert image.format == {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())


def test_one_bad_file(run, bundle: Path, tmp_path: Path, capsys) -> None:
    album = tmp_path / "album"
    for name in ("a.png", "c.png"):
        put(album / name)
    whole = put(album / "b.jpg", 200, 200).read_bytes()
    (album / "b.jpg").write_bytes(whole[: len(whole) // 2])
    assert run(bundle, album, "-o", tmp_path / "out") == 2
    printed = capsys.readouterr()
    assert printed.out.startswith("2 restored, 1 failed, ")
    lines = printed.err.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("failed: "))
    assert f"{album}/b.jpg is cut off" in lines[first]
    assert "restoring 3/3" in lines[first + 1 :]  # told at once, not at the end
    assert lines[-2:] == ["failed images:", "  " + lines[first].removeprefix("failed: ")]
    assert "Traceback" not in printed.err
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "c.png"]


def test_all_bad(run, bundle: Path, tmp_path: Path, capsys) -> None:
    missing = tmp_path / "nothing.png"
    assert run(bundle, missing, "-o", tmp_path / "out", "--backend", "onnxruntime") == 2
    printed = capsys.readouterr()
    assert printed.out == "0 restored, 1 failed, backend onnxruntime fp32\n"
    assert "No such file" in printed.err


def test_terminal_controls_in_a_name_are_not_obeyed(run, bundle, tmp_path: Path, capsys) -> None:
    assert run(bundle, tmp_path / "a\x1b[31m\nb.png", "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert r"a\x1b[31m\nb.png" in error


def test_random_weights_are_warned_of(run, tmp_path: Path, capsys) -> None:
    path = make_bundle(tmp_path / "r", random=True)
    assert run(path, put(tmp_path / "a.png"), "-o", tmp_path / "out") == 0
    assert f"warning: {path} has random weights" in capsys.readouterr().err


def test_face_models(run, tmp_path: Path, capsys) -> None:
    path = make_bundle(tmp_path / "f", faces=True)
    image = put(tmp_path / "a.png")
    assert run(path, image, "-o", tmp_path / "out") == 0
    assert "a.png: 50x40 is not square" in capsys.readouterr().err
    assert run(path, image, "-o", tmp_path / "tiles", "--fit", "tile") == 2
    assert "--fit resize" in capsys.readouterr().err
    assert run(path, image, "-o", tmp_path / "tiles", "--fit", "tile", "--force") == 0


def test_noise_and_overlap_are_chosen(run, tmp_path: Path) -> None:
    path, image = make_bundle(tmp_path / "b", stride=8), put(tmp_path / "a.png")
    options = ["--seed", "5", "--sigma-s", "0.1", "--tile-overlap", "16"]
    assert run(path, image, "-o", tmp_path / "out", "--backend", "onnxruntime", *options) == 0
    with Restorer(path, "onnxruntime", seed=5, sigma_s=0.1, tile_overlap=16) as restore:
        expected = restore(read_image(image).pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.png").pixels, expected)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_strength(run, tmp_path: Path, suffix: str) -> None:
    """0 gives the input back, colours behind transparency included."""
    path = make_bundle(tmp_path / "b", gain=0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 4), "u1")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[:, :, :3]).save(tmp_path / "b.png")
    for name, last in (("a", 4), ("b", 3)):
        out = {}
        for strength in ("0", "0.25", "1"):
            target = tmp_path / f"{name}{strength}.{suffix}"
            options = ["--strength", strength, "--quality", "lossless"]
            assert run(path, tmp_path / f"{name}.png", "-o", target, *options) == 0
            out[strength] = np.asarray(Image.open(target))
        np.testing.assert_array_equal(out["0"], pixels[:, :, :last])
        mixed = blend(pixels[:, :, :3], out["1"][:, :, :3], 0.25)
        np.testing.assert_array_equal(out["0.25"][:, :, :3], mixed)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits(run, bundle: Path, tmp_path: Path, capsys, suffix: str) -> None:
    deep = make_bundle(tmp_path / "deep", io="float32")
    ramp = np.arange(7200, dtype=np.uint16).reshape(60, 40, 3) * np.uint16(9)
    source = tmp_path / f"a.{suffix}"
    write_image(source, ramp)
    assert run(deep, source, "-o", tmp_path / "same", "--format", "same") == 0
    assert "warning" not in capsys.readouterr().err
    restored = read_image(tmp_path / "same" / f"a.{suffix}", deep=True).pixels
    np.testing.assert_array_equal(restored, ramp)
    assert run(bundle, source, "-o", tmp_path / "reduced") == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warnings == [
        f"warning: {source}: reduced to 8 bits: a bundle exported with --io float32 keeps them"
    ]
    assert run(deep, put(tmp_path / "b.png"), "-o", tmp_path / "b16.png", "--bits", "16") == 0
    assert read_image(tmp_path / "b16.png", deep=True).pixels.dtype == np.uint16


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--seed", "1"], 2, "noise is baked into this bundle's graphs"),
        (["--sigma-s", "-1"], 2, "sigma-s"),
        (["--tile-overlap", "17"], 2, "tile_overlap is 17, expected 0 to 16"),
        (["--tile-overlap", "-1"], 2, "tile-overlap"),
        (["--strength", "-0.1"], 2, "--strength is -0.1, expected 0 to 1"),
        (["--strength", "1.1"], 2, "--strength is 1.1, expected 0 to 1"),
        (["--strength", "nan"], 2, "--strength is nan, expected 0 to 1"),
        (["--strength", "half"], 2, "--strength"),
        (["--bits", "16"], 2, "--bits is 16, but results have 8 here: a bundle exported"),
        (["--bits", "12"], 2, "--bits is 12, expected 8 or 16"),
        (["--backend", "tpu"], 2, "unknown backend 'tpu'"),
        (["--backend", "onnxruntime-tensorrt"], 4, "pip install 'elir-deploy[gpu]'"),
        (["--precision", "int8"], 2, "has no int8 files"),
        (["--precision", "fp8"], 2, "fp8"),
        (["--precision", "bf16", "--backend", "onnxruntime"], 2, "does not run in bf16"),
        (["--mode", "fast"], 2, "fast"),
        (["--fit", "stretch"], 2, "stretch"),
        (["--threads", "0"], 2, "threads"),
        (["--device", "-1"], 2, "device"),
        (["--existing", "append"], 2, "append"),
        (["--suffix", "a/b"], 2, "expected a part of a file name"),
        (["--events", "none/x.jsonl"], 2, "no such folder none"),
        (["--format", "bmp"], 2, "bmp"),
        (["--nonsense"], 2, "nonsense"),
    ],
)
def test_bad_usage(run, bundle: Path, tmp_path: Path, capsys, arguments, code, reason) -> None:
    image = put(tmp_path / "a.png")
    assert run(bundle, image, "-o", tmp_path / "out", *arguments) == code
    error = capsys.readouterr().err
    assert reason in error
    assert "Traceback" not in error


def test_bad_places(run, bundle: Path, tmp_path: Path, capsys) -> None:
    image = put(tmp_path / "a.png")
    (tmp_path / "file").write_text("x")
    for path, out, reason in (
        (tmp_path / "no bundle", "out", "no such folder"),
        (tmp_path, "out", "is not a bundle"),
        (bundle, "file", "cannot be created"),
        (bundle, ".", "would replace the input"),
    ):
        assert run(path, image, "-o", tmp_path / out) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert reason in error
        assert len(error.splitlines()) == 1
    (bundle / "fused.fp32.onnx").write_bytes(b"x" * (bundle / "fused.fp32.onnx").stat().st_size)
    assert run(bundle, image, "-o", tmp_path / "out") == 2
    assert "is damaged: its SHA-256 is" in capsys.readouterr().err


def test_help_teaches(run, capsys) -> None:
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert "elir-restore bfr portrait.jpg -o restored" in printed
    for option in ("--fit", "--existing", "--compare", "--recursive", "--backend"):
        assert option in printed


def events_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_events(run, tmp_path: Path, capsys) -> None:
    path = make_bundle(tmp_path / "f", faces=True)
    album, out = tmp_path / "album", tmp_path / "out"
    put(album / "a.png", 32, 32)
    put(album / "b.png")
    (album / "c.png").write_bytes(b"")
    put(album / "d.png", 32, 32)
    (album / "x.psd").write_bytes(b"\0")
    put(out / "a.png", 1, 1)
    arguments = (path, album, "-o", out, "--existing", "skip")
    assert run(*arguments, "--events", "-") == 2
    printed = capsys.readouterr()
    *images, summary = events_of(printed.out)
    keys = {"event", "input", "output", "status", "message", "seconds"}
    assert all(set(event) == keys and event["event"] == "image" for event in images)
    images = sorted(images, key=lambda event: event["input"])
    assert [event["input"] for event in images] == [str(album / f"{name}.png") for name in "abcd"]
    assert [event["status"] for event in images] == ["skipped", "restored", "failed", "restored"]
    results = [str(out / "a.png"), str(out / "b.png"), None, str(out / "d.png")]
    assert [event["output"] for event in images] == results
    for event, message in zip(images, ("exists", "not square", "is empty", ""), strict=True):
        assert message in (event["message"] or "")
    assert images[3]["message"] is None
    assert images[3]["seconds"] > 0
    assert summary == {
        "event": "summary",
        "restored": 2,
        "skipped": 1,
        "failed": 1,
        "ignored": {".psd": 1},
    }
    assert "2 restored, 1 skipped, 1 failed, " in printed.err  # not mixed with the events
    put(album / "c.png")
    file = tmp_path / "run.jsonl"
    assert run(*arguments, "--events", file) == 0  # the failure alone is tried again
    assert capsys.readouterr().out.startswith("1 restored, 3 skipped, ")
    assert events_of(file.read_text())[-1]["skipped"] == 3
    assert run(*arguments, "--events", file) == 0
    assert capsys.readouterr().out == "0 restored, 4 skipped\n"  # no model is loaded
    assert run(*arguments, "--events", album / "a.png") == 2
    assert "the events would replace" in capsys.readouterr().err


def test_what_is_taken_for_a_result_is_told(run, bundle: Path, tmp_path: Path, capsys) -> None:
    album = tmp_path / "album"
    put(album / "a.png")
    before = put(album / "a-x.png", 30).read_bytes()
    file = tmp_path / "run.jsonl"
    arguments = (bundle, album, "-o", album, "--suffix=-x", "--events", file, "--existing")
    assert run(*arguments, "skip") == 0
    error = capsys.readouterr().err
    assert (
        f"1 file presumed to be earlier results by their names (such as {album / 'a-x.png'})"
        in error
    )
    assert events_of(file.read_text())[-1]["ignored"] == {".png": 1}
    assert run(*arguments, "overwrite") == 2
    assert "would replace a picture of an input folder" in capsys.readouterr().err
    assert (album / "a-x.png").read_bytes() == before


@pytest.mark.parametrize("place", ["input", "output", "events"])
def test_an_empty_name_is_not_the_current_folder(
    run, bundle: Path, tmp_path: Path, monkeypatch, capsys, place: str
) -> None:
    put(tmp_path / "here" / "a.png")
    monkeypatch.chdir(tmp_path / "here")
    values = {"input": "a.png", "output": "o", "events": "e.jsonl", place: ""}
    arguments = (values["input"], "-o", values["output"], "--events", values["events"])
    assert run(bundle, *arguments) == 2
    assert "a name is empty" in capsys.readouterr().err
    assert os.listdir() == ["a.png"]


@pytest.mark.parametrize("option", ["--suffix=-restored", "--compare"])
def test_a_name_that_becomes_too_long_fails_alone(
    run, bundle: Path, tmp_path: Path, capsys, option: str
) -> None:
    for name in ("b", "a" * 250):
        put(tmp_path / "album" / f"{name}.png")
    arguments = (bundle, tmp_path / "album", "-o", tmp_path / "out", option)
    for counts in ("1 restored, 1 failed", "0 restored, 1 skipped, 1 failed"):
        assert run(*arguments, "--existing", "skip") == 2
        printed = capsys.readouterr()
        assert printed.out.startswith(counts)
        assert "cannot be written: File name too long" in printed.err
    assert not any(name.startswith("a") for name in os.listdir(tmp_path / "out"))


def test_a_subfolder_that_cannot_be_listed(
    run, bundle: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    put(tmp_path / "album" / "a.png")
    (tmp_path / "album" / "lost+found").mkdir()
    listing = Path.iterdir

    def refuse(self: Path):
        if self.name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return listing(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert run(bundle, tmp_path / "album", "-r", "-o", tmp_path / "out") == 2
    printed = capsys.readouterr()
    assert printed.out.startswith("1 restored, ")
    assert "lost+found: Permission denied" in printed.err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(bundle: Path, tmp_path: Path, closed: str) -> None:
    """As services may start programs: results are written, and nothing else into them."""
    source = put(tmp_path / "a.png")
    for number, arguments in enumerate(([source, "--events", "-"], [source], ["-"])):
        out = tmp_path / f"{number}.png"
        command = [sys.executable, "-m", "elir_deploy.cli.restore", bundle, *arguments, "-o", out]
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *map(str, command)],
            stdin=source.open("rb"),
            capture_output=True,
            text=True,
        )
        assert "bug" not in done.stderr
        empty = arguments == ["-"] and "<" in closed
        assert done.returncode == (2 if empty else 0), done.stderr
        if not empty:
            np.testing.assert_array_equal(read_image(out).pixels, read_image(source).pixels)


def test_a_result_for_a_closed_standard_output(bundle: Path, tmp_path: Path) -> None:
    source = put(tmp_path / "a.png")
    command = [sys.executable, "-m", "elir_deploy.cli.restore", bundle, source, "-o", "-"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *map(str, command)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "standard output is closed: give a file" in done.stderr


def test_a_full_disk_ends_the_run(run, bundle: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    for number in range(20):
        put(tmp_path / "album" / f"{number:02}.png")
    put(tmp_path / "out" / "00.png", 1, 1)
    sync, calls = os.fsync, []

    def full_after_two(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full_after_two)
    file = tmp_path / "run.jsonl"
    arguments = (bundle, tmp_path / "album", "-o", tmp_path / "out", "--existing", "skip")
    assert run(*arguments, "--events", file) == 2
    error = capsys.readouterr().err.splitlines()
    rest = "2 restored, 1 skipped, 1 failed, 16 left: --existing skip restores the rest"
    assert error[-2] == rest
    assert error[-1].endswith("No space left on device: free some space and run again")
    counts = events_of(file.read_text())[-1]
    assert [counts[key] for key in ("restored", "skipped", "failed")] == [2, 1, 1]
    assert sorted(os.listdir(tmp_path / "out")) == ["00.png", "01.png", "02.png"]


def test_bits_are_checked_before_anything_is_written(
    run, bundle: Path, tmp_path: Path, capsys
) -> None:
    source = put(tmp_path / "a.png")
    file = tmp_path / "run.jsonl"
    for bundle_bits, bits, name in (
        ("uint8", 12, "x.png"),
        ("uint8", 16, "x.png"),
        ("float32", 16, "x.jpg"),
    ):
        file.write_text("earlier")
        path = make_bundle(tmp_path / f"{bundle_bits}{bits}", io=bundle_bits)
        assert run(path, source, "-o", tmp_path / name, "--bits", bits, "--events", file) == 2
        (error,) = capsys.readouterr().err.splitlines()  # no line of a model that was loaded
        assert error.startswith(f"error: --bits is {bits}, ")
        assert file.read_text() == "earlier"


def test_a_result_older_than_its_input_is_told(run, bundle: Path, tmp_path: Path, capsys) -> None:
    for name in ("a", "b"):
        os.utime(put(tmp_path / "album" / f"{name}.png"), (1000, 1000))
        os.utime(put(tmp_path / "out" / f"{name}.png"), (2000, 2000))
    arguments = (bundle, tmp_path / "album", "-o", tmp_path / "out", "--existing", "skip")
    assert run(*arguments) == 0
    assert capsys.readouterr().err == ""
    os.utime(tmp_path / "album" / "b.png", (3000, 3000))
    assert run(*arguments) == 0
    out = tmp_path / "out" / "b.png"
    assert f"1 result is older than the input (such as {out})" in capsys.readouterr().err


def test_events_on_a_standard_error_that_others_write_to(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("earlier\n")
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)
    arguments = [str(bundle), str(picture), "-o", str(tmp_path / "out"), "--events", "/dev/stderr"]
    with log.open("a") as end:
        command = [sys.executable, "-m", "elir_deploy.cli.restore", *arguments]
        subprocess.run(command, stderr=end, check=True)
    lines = log.read_text().splitlines()
    assert lines[0] == "earlier"
    assert sum('"event": "summary"' in line for line in lines) == 1


def test_events_that_nobody_reads(bundle: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    arguments = [str(bundle), str(put(tmp_path / "a.png")), "-o", str(tmp_path), "--suffix", "-x"]
    done = subprocess.run(
        [sys.executable, "-m", "elir_deploy.cli.restore", *arguments, "--events", "-"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == ("error: the events cannot be written to -: Broken pipe")


def test_a_result_that_nobody_reads(bundle: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "elir_deploy.cli.restore", bundle, put(tmp_path / "a.png")]
    done = subprocess.run([*map(str, command), "-o", "-"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.returncode == 0
    assert b"failed" not in done.stderr
    assert b"Errno" not in done.stderr


def test_from_standard_input_to_standard_output(bundle: Path, tmp_path: Path) -> None:
    source = put(tmp_path / "a.png")

    def restored(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [sys.executable, "-m", "elir_deploy.cli.restore", str(bundle), *arguments],
            stdin=source.open("rb"),
            capture_output=True,
            cwd=tmp_path,
        )
        assert done.returncode == code, done.stderr
        return done

    done = restored("-", "-o", "-", "--format", "webp", "--quality", "lossless")
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert image.format == "WEBP"
        np.testing.assert_array_equal(np.asarray(image), read_image(source).pixels)
    assert b"1 restored, " in done.stderr
    assert restored("-", "-o", "x.png").stdout.startswith(b"1 restored, ")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png").pixels, read_image(source).pixels)
    (tmp_path / "-").write_bytes(source.read_bytes())
    restored("./-", "-o", "folder")
    assert os.listdir(tmp_path / "folder") == ["-.png"]
    source.write_bytes(b"")
    assert b"standard input is empty" in restored("-", "-o", "-", code=2).stderr
    error = restored("-", "-o", "-", "--events", "-", code=2).stderr
    assert b"-o and --events are both standard output" in error


def test_quality(run, bundle: Path, tmp_path: Path, capsys) -> None:
    source = put(tmp_path / "a.png", 200, 200)

    def size(name: str, *options: str) -> int:
        assert run(bundle, source, "-o", tmp_path / name, *options) == 0
        return (tmp_path / name).stat().st_size

    for suffix in ("jpg", "webp"):
        default = size(f"default.{suffix}")
        assert size(f"95.{suffix}", "--quality", "95") == default
        assert size(f"30.{suffix}", "--quality", "30") < default / 2
    size("lossless.webp", "--quality", "lossless")
    pixels = read_image(tmp_path / "lossless.webp").pixels
    np.testing.assert_array_equal(pixels, read_image(source).pixels)
    size("lossless.png", "--quality", "lossless")
    for name, quality, reason in (
        ("x.jpg", "lossless", "JPEG always loses some quality: write PNG or WebP"),
        ("x.png", "90", "--quality is 90, and PNG is always lossless: leave it out"),
        ("x.jpg", "0", "--quality is '0', expected 1 to 100, or lossless"),
        ("x.jpg", "best", "--quality is 'best', expected 1 to 100, or lossless"),
    ):
        assert run(bundle, source, "-o", tmp_path / name, "--quality", quality) == 2
        assert reason in capsys.readouterr().err


def test_the_device_is_the_named_one(
    run, bundle: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    opened = []

    class Recorded(Restorer):
        def __init__(self, *arguments: object, **options: object) -> None:
            opened.append(options["device"])
            super().__init__(*arguments, **options)

    monkeypatch.setattr(photo_choices, "Restorer", Recorded)
    image = put(tmp_path / "a.png")
    assert run(bundle, image, "-o", tmp_path / "x.png", "--device", "3") == 0
    assert "warning: --device 3 has no effect: " in capsys.readouterr().err
    assert run(bundle, image, "-o", tmp_path / "y.png") == 0
    assert "--device" not in capsys.readouterr().err
    assert opened == [3, 0]


@pytest.mark.parametrize(
    ("number", "code", "photographs"),
    [(signal.SIGINT, 130, False), (signal.SIGTERM, 143, False), (signal.SIGINT, 130, True)],
)
def test_interruption(tmp_path: Path, number: int, code: int, photographs: bool) -> None:
    """Finished results stay and are whole; nothing else is left."""
    bundle = (face_bundle if photographs else make_bundle)(tmp_path / "bundle")
    album, out = tmp_path / "album", tmp_path / "out"
    first = put(album / "000.png", 300, 300)
    for i in range(1, 400):
        os.link(first, album / f"{i:03}.png")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "elir_deploy.cli.restore", str(bundle), str(album)),
            *("-o", str(out), "--events", str(tmp_path / "run.jsonl")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not (out.is_dir() and len(os.listdir(out)) > 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    printed, error = process.communicate(timeout=30)
    assert process.returncode == code, error
    assert printed == ""
    assert "Traceback" not in error
    if number == signal.SIGINT:
        assert error.splitlines()[-1] == "error: interrupted"
    left = sorted(os.listdir(out))
    rest = f"{len(left)} restored, {400 - len(left)} left: --existing skip restores the rest"
    assert rest in error.splitlines()[-2:]
    assert 3 < len(left) < 400
    *images, summary = events_of((tmp_path / "run.jsonl").read_text())
    assert sorted(Path(event["output"]).name for event in images) == left
    assert (summary["event"], summary["restored"]) == ("summary", len(left))
    wanted = read_image(first).pixels
    for name in left:
        np.testing.assert_array_equal(read_image(out / name).pixels, wanted)
