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
        ("/home/otto, /Users/otto; '/media/otto'", "<path>, <path>; '<path>'"),
        ("C:\\Users\\Otto: no", "<path>: no"),
        ("/mnt/c/Users/Otto is full", "<path> is full"),
        ("lab-7.other.example.com, on lab-7.", "<host>, on <host>."),
        ("http://otto:pw@proxy.acme.com:80/x", "http:<address>:80/x"),
        ("otto.x@mail.acme.com.", "<address>."),
        ("192.168.1.17 is down", "<address> is down"),
        ("10.0.0.5:8080, inet 10.0.0.6, 10.0.0.0/8", "<address>:8080, inet <address>, <address>/8"),
        ("fe80::1ff:fe23:4567:890a, 2001:db8:1:2:3:4:5:6", "<address>, <address>"),
        ("0A-1B-2C-3D-4E-5F", "<id>"),
        ("/usr/local/otto/x.so, /dev/disk/by-label/OTTO", "<path>/x.so, <path>"),
        # What is not personal stays.
        ("version 40.1.2.3, TensorRT 1.7.1.116, libnvinfer10 10.3.0.30-1+cuda12.5", None),
        ("10.13.3.9", None),
        ("12:30:45, 2026:11:27, std::string, face::add, memcpy@GLIBC_2.34", None),
        ("/usr/local/cuda-12.6/lib64/libcudart.so, /usr/local/lib/python3.10/x.py", None),
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


@pytest.mark.parametrize(
    "piece",
    ["/", "/a", "/a b", "'/", "x ", "/ ", "\\", "~/", "'", "C:\\", "x@", "a.", "1.", "a:", "//a"],
)
def test_time_is_about_linear(machine: Callable[..., Anonymizer], piece: str) -> None:
    found, text = machine(), piece * 40_000
    began = time.process_time()
    found.text(text)
    assert time.process_time() - began < 5


def test_files_of_this_project_in_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(anonymous.__file__)
    monkeypatch.chdir(file.parents[2])
    found = Anonymizer({str(file.parents[2]): "<out>"})
    assert found.text(f'File "{file}", line 1') == (
        'File "<packages>/elir_deploy/bench/anonymous.py", line 1'
    )


def test_this_machine() -> None:
    """Without anything set: a traceback of this file shows nothing of where it is."""
    text = Anonymizer({}).text(f'File "{Path(__file__)}", line 1; {Path.home() / "a" / "b"}')
    assert re.fullmatch(r'File "<[a-z]+>/\S*test_anonymous.py", line 1; <home>/b', text), text
