"""Both runtimes accept and reject the same graphs."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import onnx
import pytest

from elir_deploy.errors import BundleError
from elir_deploy.runtime.graph_ends import End, GraphEnds
from elir_deploy.runtime.onnx_check import check_onnx
from tests.bundles import image_spec, stage_graph
from tests.emulation import EMULATOR
from tests.forged import FORGED, mutated

VERDICTS = Path(os.environ["ELIR_LIBRARY"]).parent / "tests" / "onnx_verdicts"
pytestmark = pytest.mark.skipif(not VERDICTS.exists(), reason="libelir was built without tests")

ENDS = End("image", "uint8", (1, 32, 32, 3)), End("restored", "uint8", (1, 32, 32, 3))
GOOD = stage_graph(image_spec("image", 32, "uint8"), image_spec("restored", 32, "uint8"), 0.5, 0.1)


def verdicts(contents: list[bytes]) -> list[str]:
    """The errors of the C++ runtime; empty for valid graphs."""
    stdin = b"".join(b"%d\n%b" % (len(content), content) for content in contents)
    process = subprocess.run(
        [*EMULATOR, VERDICTS], input=stdin, capture_output=True, timeout=300, check=True
    )
    return process.stdout.decode("ascii").splitlines()


def refusal(content: bytes) -> str:
    try:
        check_onnx(content, GraphEnds([ENDS[0]], [ENDS[1]]))
    except BundleError as error:
        return str(error)
    return ""


def test_valid_and_forged_graphs() -> None:
    contents = [GOOD]
    for forge, _ in FORGED.values():
        model = onnx.load_from_string(GOOD)
        forge(model)
        contents.append(model.SerializeToString())
    first, *others = verdicts(contents)
    assert first == ""
    for case, content, error in zip(FORGED, contents[1:], others, strict=True):
        assert FORGED[case][1] in error
        assert FORGED[case][1] in refusal(content)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_graphs(seed: int) -> None:
    chance = random.Random(seed)
    contents = []
    for _ in range(3000):
        content = mutated(GOOD, chance)
        contents.append(mutated(content, chance) if chance.random() < 0.3 else content)
    actual = verdicts(contents)
    expected = [refusal(content) for content in contents]
    assert [bool(reason) for reason in actual] == [bool(reason) for reason in expected]
    assert 200 < expected.count("") < 2000
