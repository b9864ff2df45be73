"""Tests of another architecture under QEMU, as ``make arm64`` runs them."""

from __future__ import annotations

import os
import shlex

import pytest

#: The command that starts a program of that architecture; empty where the machine does.
EMULATOR = shlex.split(os.environ.get("ELIR_EMULATOR", ""))

restores_squares = pytest.mark.skipif(
    bool(EMULATOR), reason="each square takes a minute or more under QEMU"
)
