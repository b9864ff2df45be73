"""The package on Windows' rules (see tests/windows.py), and the locks of POSIX."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elir_deploy.operating_system import close, file_identity, lock, open_to_lock
from elir_deploy.runtime import Restorer
from tests.bundles import make_bundle
from tests.windows import run_on_windows

RESTORE = """
import sys
from elir_deploy.cli.restore import main
main()
"""

IMPORT_ALL = """
import importlib, pkgutil, elir_deploy
for module in pkgutil.walk_packages(elir_deploy.__path__, "elir_deploy."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        assert not (error.name or "elir").startswith("elir"), error  # an extra
    print(module.name)
"""

RULES = """
import os, sys
from pathlib import Path
path = Path(sys.argv[1], "file")
with path.open("wb") as file:
    changes = path.unlink, lambda: path.rename("other"), lambda: path.parent.rename("other")
    for change in changes:
        try:
            change()
        except PermissionError:
            print("refused")
try:
    os.open(path.parent, os.O_RDONLY)
except PermissionError:
    print("refused")
path.unlink()
"""

CACHE = """
import sys
from pathlib import Path
from elir_deploy.runtime.cache import *
path = Path(sys.argv[1], "openvino", "2026", "0" * 64, "fused.blob")
write_sealed(path, b"compiled")
held = read_sealed(path)
print(held.tobytes().decode())
FolderInUse(path.parent)
removed, in_use = remove_compiled(Path(sys.argv[1]))
print(len(removed), len(in_use))
del held
write_sealed(path, b"compiled anew")
trim_compiled()
print(*(file.bytes for file in compiled_models(Path(sys.argv[1]))))
removed, in_use = remove_compiled(Path(sys.argv[1]))
print(len(removed), len(in_use))
"""

BUNDLE = """
import sys
from pathlib import Path
from elir_deploy.export.bundle import staged_bundle
for content in (b"one", b"two"):
    with staged_bundle(Path(sys.argv[1], "bundle"), overwrite=True) as bundle:
        bundle.add("bundle.json", content)
print(*(path.name for path in Path(sys.argv[1]).iterdir()))
print(Path(sys.argv[1], "bundle", "bundle.json").read_bytes().decode())
"""

DOWNLOAD = """
import functools, http.server, os, sys, threading
from pathlib import Path
from elir_deploy.checkpoints.released import fetch_released
from elir_deploy.errors import DownloadError

handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
handler.log_message = lambda *_: None
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["ELIR_RELEASES_URL"] = f"http://127.0.0.1:{server.server_port}"
for name in ("elir_bsr", "elir_sr"):
    try:
        print(Path(fetch_released(name)).stat().st_size)
    except DownloadError as error:
        print("a web page" if "it is a web page" in str(error) else error)
print(*sorted(path.name for path in Path(os.environ["ELIR_CACHE"]).iterdir()))
server.shutdown()
"""


def test_the_rules(tmp_path: Path) -> None:
    assert run_on_windows(RULES, tmp_path) == "refused\n" * 4


def test_every_module_can_be_imported() -> None:
    library = "torch" if importlib.util.find_spec("torch") else "numpy"
    names = run_on_windows(IMPORT_ALL, library=library).split()
    assert "elir_deploy.runtime.restorer" in names
    assert "elir_deploy.cli.restore" in names


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_restoring_a_picture(tmp_path: Path, backend: str) -> None:
    pytest.importorskip(backend)
    bundle = make_bundle(tmp_path / "bundle", gain=0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "input.png")
    arguments = [bundle, tmp_path / "input.png", "-o", tmp_path / "out", "--backend", backend]
    for more in ([], ["--existing", "overwrite"]):
        run_on_windows(RESTORE, *arguments, *more, ELIR_CACHE=str(tmp_path / "cache"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["input.png"]
    with Restorer(bundle, backend) as restore, Image.open(tmp_path / "out" / "input.png") as image:
        assert np.array_equal(np.asarray(image), restore(pixels))


def test_the_cache(tmp_path: Path) -> None:
    printed = run_on_windows(CACHE, tmp_path, ELIR_CACHE=str(tmp_path))
    assert printed.splitlines() == ["compiled", "0 1", "45", "1 0"]


def test_a_bundle_replaces_another(tmp_path: Path) -> None:
    assert run_on_windows(BUNDLE, tmp_path).split() == ["bundle", "two"]


def test_a_download(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    served, cache = tmp_path / "served", tmp_path / "cache"
    served.mkdir()
    torch.save({"weights": torch.zeros(3)}, served / "elir_bsr.pth")
    (served / "elir_sr.pth").write_text("<html>no such file</html>")
    printed = run_on_windows(DOWNLOAD, served, library="torch", ELIR_CACHE=str(cache)).splitlines()
    size = (served / "elir_bsr.pth").stat().st_size
    assert printed == [str(size), "a web page", "elir_bsr.pth elir_bsr.pth.json"]


def test_locks(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    first, second = open_to_lock(path), open_to_lock(path)
    assert lock(first, shared=True)
    assert lock(second, shared=True)
    with pytest.raises(BlockingIOError):
        lock(first)
    close(second)
    assert lock(first)
    close(first)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        open_to_lock(tmp_path / "link")


def test_file_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, link = (tmp_path / name for name in ("one", "other", "link"))
    one.touch()
    other.touch()
    link.symlink_to(one)
    assert file_identity(one) == file_identity(link) != file_identity(other)
    assert file_identity(tmp_path / "none") == tmp_path / "none"
    number = os.stat_result((*one.stat()[:1], 0, *one.stat()[2:]))
    monkeypatch.setattr(Path, "stat", lambda path, **_: number)
    assert file_identity(one) == file_identity(link) != file_identity(other)
