"""What the runtime needs to be installed, what it imports, and how long that takes."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import elir_deploy
from tests.bundles import make_bundle
from tests.photo.pictures import face_bundle, spots

#: What pip would bring for the runtime with the extra ``cpu``; typer and rich are for commands.
NEEDED = ("numpy", "pillow", "msgspec", "onnxruntime")
UNWANTED = ("torch", "onnx", "onnxscript", "safetensors", "typer", "rich", "scipy", "click", "cv2")


def run(python: str | Path, code: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(python), "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def with_requirements(names: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop().lower()
        # Some are for other systems or versions of Python, hence not installed.
        if name not in found and any(importlib.metadata.distributions(name=name)):
            found.add(name)
            needs = importlib.metadata.requires(name) or []
            left += [re.split(r"[^\w.-]", n)[0] for n in needs if "extra ==" not in n]
    assert found >= set(names)
    return found


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("bare"), NEEDED)


def environment(folder: Path, needed: tuple[str, ...]) -> Path:
    """Python with these packages alone: their files of this one, so no network."""
    venv.create(folder, with_pip=False, symlinks=True)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "elir_deploy").symlink_to(Path(elir_deploy.__file__).parent)
    for name in with_requirements(needed):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    return folder / "bin" / "python"


def test_nothing_else_needs_to_be_installed(bare_python: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys\n"
        "import numpy as np\n"
        "from elir_deploy.runtime import Restorer, read_image, write_image\n"
        "from elir_deploy.photo import PhotoRestorer\n"
        "import elir_deploy.runtime.files\n"
        f"for name in {UNWANTED}:\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
        "image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)\n"
        "write_image(sys.argv[2], image)\n"
        "with Restorer(sys.argv[1]) as restore:\n"
        "    assert (restore(read_image(sys.argv[2]).pixels) == image).all()\n"
        "    print(restore.backend)\n"
        "with PhotoRestorer(sys.argv[3]) as restore:\n"
        "    photo = restore(np.full((40, 50, 3), 255, np.uint8), 'all')\n"
        "    print(len(photo.faces) > 0, (photo.pixels == 255).all())\n"
    )
    bundle, faces = make_bundle(tmp_path / "b"), face_bundle(tmp_path / "f")
    printed = run(bare_python, code, str(bundle), str(tmp_path / "x.png"), str(faces))
    assert printed == "onnxruntime\nTrue True\n"


def test_photographs_are_restored_by_the_command(tmp_path: Path) -> None:
    """With what pip brings for commands, and nothing else."""
    python = environment(tmp_path / "bare", (*NEEDED, "typer", "rich"))
    absent = set(UNWANTED) - {"typer", "rich", "click"}
    code = (
        "import importlib.util, sys\n"
        f"assert not any(map(importlib.util.find_spec, {absent}))\n"
        "from elir_deploy.cli.restore import main\n"
        "main()\n"
    )
    picture = spots(300, 400, (100, 100), (300, 160), (120, 260))
    Image.fromarray(picture).save(tmp_path / "group.jpg", quality=100, subsampling=0)
    bundle = face_bundle(tmp_path / "b", gain=0.5)
    arguments = [str(bundle), str(tmp_path / "group.jpg"), "-o", str(tmp_path / "out")]
    assert run(python, code, *arguments).startswith("1 restored, 3 faces, ")
    with Image.open(tmp_path / "out" / "group.png") as restored:
        changed = (np.abs(np.asarray(restored).astype(int) - picture) > 10).any(axis=2)
    assert changed[80:120, 80:120].mean() > 0.3
    assert not changed[:20].any()


def test_without_a_backend_the_extra_is_named(bare_python: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['onnxruntime'] = None\n"
        "from elir_deploy.errors import UnavailableError\n"
        "from elir_deploy.runtime import Restorer\n"
        "try:\n"
        "    Restorer(sys.argv[1])\n"
        "except UnavailableError as error:\n"
        "    print(error)\n"
    )
    printed = run(bare_python, code, str(make_bundle(tmp_path / "b")))
    assert "pip install 'elir-deploy[cpu]'" in printed
    assert "pip install 'elir-deploy[gpu]'" in printed
    assert "pip install 'elir-deploy[openvino]'" in printed


def test_what_is_imported() -> None:
    loaded = run(sys.executable, "import sys, elir_deploy.runtime; print(*sys.modules)").split()
    heavy = {*UNWANTED, "onnxruntime", "openvino", "tensorrt", "PIL.PngImagePlugin", "PIL.ImageCms"}
    assert not heavy & set(loaded)
