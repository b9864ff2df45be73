"""What is personal in text, and what only looks like it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from elir_deploy.bench import anonymous
from elir_deploy.bench.anonymous import Anonymizer

#: Of somebody whose names are no regular expressions, and have what paths seldom have.
HOME = "/home/J\u00f6rg O'Neil (x) [a-z]+$\\d"
USER = "j\u00f6rg.o+neil"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Anonymizer]:
    def of(**environment: str) -> Anonymizer:
        for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER", "HOSTNAME", "COMPUTERNAME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(anonymous.platform, "node", lambda: "lab-7.acme.example")
        values = {"HOME": HOME, "USER": USER, "ELIR_CACHE": "/mnt/big disk/cache"}
        for name, value in (values | environment).items():
            monkeypatch.setenv(name, value)
        return Anonymizer({"/data/my faces/bfr": "<bundle>"})

    return of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{HOME}/venv/lib/x.py, line 3", "<home>/x.py, line 3"),
        (f"{HOME}/secret folder/lib.so failed", "<home>/lib.so failed"),
        (f"[Errno 2] No such file: {HOME + '/x y'!r}", '[Errno 2] No such file: "<home>/x y"'),
        (json.dumps(f"{HOME}/x"), '"<home>/x"'),
        (f"{HOME + '/x'!a}", '"<home>/x"'),
        ("/data/my faces/bfr/fused.fp16.onnx is damaged", "<bundle>/fused.fp16.onnx is damaged"),
        ("/mnt/big disk/cache is full", "<path> is full"),
        ("'/mnt/other disk/a b/c.so' is missing", "'<path>/c.so' is missing"),
        ("in /mnt/other disk/c d/e.so: bad", "in <path>/e.so: bad"),
        ("/usr/lib/x.so, /mnt/a/b.so", "/usr/lib/x.so, <path>/b.so"),
        ("/usr/lib/x.so and /mnt/a b/c/d", "/usr/lib/x.so and <path>/d"),
        ("file:///mnt/a/b", "file:<path>/b"),
        ("~/faces/a.png", "<path>/a.png"),
        ("'C:\\Users\\Jane Doe\\x.dll'", "'<path>/x.dll'"),
        ("C:\\Users\\Jane\\x.dll", "<path>/x.dll"),
        (f"user {USER.upper()} on LAB-7", "user <user> on <host>"),
        ("lab-7.acme.example, lab-77", "<host>, lab-77"),
        ("GPU-1b2c3d4e-aaaa-bbbb-cccc-1234567890ab", "GPU-<id>"),
        ("eth0 0a:1b:2c:3d:4e:5f", "eth0 <id>"),
        # What is not personal stays.
        ("encoder/block.0/Conv, 120 / 250 W, N/A, 3/4", None),
        ("/usr/lib/aarch64-linux-gnu/libnvinfer.so.8.6.2", None),
        ("/proc/driver/nvidia/version", None),
        ("tensorrt 10.3.0.30, 2026-11-27T17:00:00+00:00", None),
    ],
)
def test_text(machine: Callable[..., Anonymizer], text: str, expected: str | None) -> None:
    assert machine().text(text) == (text if expected is None else expected)


@pytest.mark.parametrize("user", ["nvidia", "root", "tensorrt", "fp16", "latency", "a", ""])
def test_a_user_with_an_ordinary_name(machine: Callable[..., Anonymizer], user: str) -> None:
    """A report stays readable where the user is called what the report is about."""
    text = "tensorrt fp16 on an NVIDIA Orin, latency, a kernel of root"
    found = machine(USER=user, HOME=f"/home/{user}")
    assert found.text(text) == text
    if len(user) > 1:
        assert found.text(f"/home/{user}/x/y") == "<home>/y"


@pytest.mark.parametrize("home", ["/", "", "relative", "/home", "//", "/usr"])
def test_a_home_that_is_no_place_of_ones_own(machine: Callable[..., Anonymizer], home: str) -> None:
    text = "/usr/lib/x.so and 3 / 4"
    assert machine(HOME=home).text(text) == text


def test_values_keep_their_keys(machine: Callable[..., Anonymizer]) -> None:
    values = {"clocks.max": [f"{HOME}/x", 1.5, None, True], "lab-7": {"a": "max"}}
    expected = {"clocks.max": ["<home>/x", 1.5, None, True], "lab-7": {"a": "<user>"}}
    assert machine(USER="max").values(values) == expected


@pytest.mark.parametrize("piece", ["/", "/a", "/a b", "'/", "x ", "/ ", "\\", "~/", "'", "C:\\"])
def test_time_is_about_linear(machine: Callable[..., Anonymizer], piece: str) -> None:
    found, text = machine(), piece * 40_000
    began = time.process_time()
    found.text(text)
    assert time.process_time() - began < 5


def test_this_machine() -> None:
    """Without anything set: a traceback of this file shows nothing of where it is."""
    text = Anonymizer({}).text(f'File "{Path(__file__)}", line 1; {Path.home() / "a" / "b"}')
    assert re.fullmatch(r'File "<[a-z]+>/\S*test_anonymous.py", line 1; <home>/b', text), text
