"""``run.json``: what a run was asked to do, and the learning rates it was done with.

Beside the options that must stay the same (:meth:`RunOptions.identity`), the entry
``learning_rates`` has for each stage that began a list of ``{"from_update": 0, "rates": [0.001]}``:
the rates of its optimizers, before the schedule's factor, and the update from which on they hold.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elir_deploy.atomic import write_text
from elir_deploy.errors import OutputError, UsageError
from elir_deploy.training.options import RunOptions

__all__ = ["learning_rates", "note_learning_rates", "open_folder"]

_FILE = "run.json"
_RATES = "learning_rates"
#: The settings that may be lowered when a run goes on: no sample depends on them.
_LOWERABLE = (
    ("settings", "learning_rate"),
    ("autoencoder_settings", "linear_learning_rate"),
    ("autoencoder_settings", "learning_rate"),
    ("autoencoder_settings", "bias_learning_rate"),
)


def open_folder(options: RunOptions, images: int) -> None:
    """Make the folder of a run, or check that the run in it is the one asked for.

    Args:
        options: what is asked for.
        images: files in the folder of photographs.

    Raises:
        UsageError: the folder holds another run. One with lower learning rates is the same.
        OutputError: it cannot be written.
    """
    wanted = json.loads(json.dumps(options.identity() | {"images": images}))
    folder = options.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
    if not (folder / _FILE).exists():
        _write(folder, wanted | {_RATES: {}})
        return
    record = _read(folder)
    rates = record.pop(_RATES)
    lowered = _lowered(record, wanted)
    if lowered != wanted:
        raise UsageError(
            f"{folder} holds a run with {_first_difference(lowered, wanted)}: choose another "
            "folder, or give the same options to go on with it (a learning rate may be lower)"
        )
    if lowered != record:
        _write(folder, wanted | {_RATES: rates})


def note_learning_rates(
    folder: Path, stage: str, update: int, rates: Sequence[float]
) -> list[float] | None:
    """Write down that a stage goes on with ``rates`` after ``update`` updates.

    Returns:
        The rates it had before, if they were others.
    """
    record = _read(folder)
    known = record[_RATES].get(stage, [])
    # What came after the update was lost with the process that did it.
    kept = [entry for entry in known if entry["from_update"] < update]
    before = kept[-1]["rates"] if kept else None
    if before != list(rates):
        kept.append({"from_update": update, "rates": list(rates)})
    if kept != known:
        record[_RATES][stage] = kept
        _write(folder, record)
    return before if before != list(rates) else None


def learning_rates(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Of each stage, its first optimizer's rate and the update from which on it held."""
    return {
        stage: [(entry["from_update"], entry["rates"][0]) for entry in entries]
        for stage, entries in _read(folder)[_RATES].items()
    }


def _read(folder: Path) -> dict[str, Any]:
    record = folder / _FILE
    try:
        found = json.loads(record.read_text())
    except OSError as error:
        raise OutputError(f"{record} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{record}: is damaged; choose another folder") from error
    if not isinstance(found, dict) or not isinstance(found.get(_RATES), dict):
        raise UsageError(f"{record}: is of another version; choose another folder")
    return found


def _write(folder: Path, record: dict[str, Any]) -> None:
    write_text(folder / _FILE, json.dumps(record, indent=1) + "\n")


def _lowered(record: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The record, with the learning rates that are wanted lower."""
    lowered = copy.deepcopy(record)
    for section, name in _LOWERABLE:
        ours, theirs = lowered.get(section), wanted[section]
        if isinstance(ours, dict) and isinstance(theirs, dict) and theirs[name] < ours[name]:
            ours[name] = theirs[name]
    return lowered


def _first_difference(found: Any, wanted: Any, place: str = "") -> str:
    """Such as ``settings.seed 0, not 1``."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            if found.get(key) != wanted.get(key):
                return _first_difference(
                    found.get(key), wanted.get(key), f"{place}.{key}" if place else key
                )
    return f"{place} {found!r}, not {wanted!r}"
