"""``run.json``: the options of a run and the learning rates it was trained with.

Beside the options that must stay the same (:meth:`RunOptions.identity`), the entry
``learning_rates`` has for each phase a list of ``{"from_update": 0, "rates": [0.001]}``: the base
rates of its optimizers and the update from which they held.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elir_deploy.errors import OutputError, UsageError
from elir_deploy.output_files import write_text
from elir_deploy.training.options import RunOptions

__all__ = ["open_folder", "read_learning_rates", "record_learning_rates"]

_FILE = "run.json"
_RATES = "learning_rates"
#: Settings that may be lowered when a run continues: no sample depends on them.
_LOWERABLE = (
    ("settings", "learning_rate"),
    ("autoencoder_settings", "linear_learning_rate"),
    ("autoencoder_settings", "learning_rate"),
    ("autoencoder_settings", "bias_learning_rate"),
)


def open_folder(options: RunOptions, images: int) -> None:
    """Create the folder of a run, or check that the run in it has the same options.

    Args:
        options: options of the run.
        images: number of files in the folder of photographs.

    Raises:
        UsageError: the folder holds a run with other options; learning rates may be lower.
        OutputError: the folder cannot be written.
    """
    requested = json.loads(json.dumps(options.identity() | {"images": images}))
    folder = options.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
    if not (folder / _FILE).exists():
        _write(folder, requested | {_RATES: {}})
        return
    record = _read(folder)
    rates = record.pop(_RATES)
    lowered = _lower_rates(record, requested)
    if lowered != requested:
        raise UsageError(
            f"{folder} holds a run with {_first_difference(lowered, requested)}: choose another "
            "folder, or repeat its options to continue it (a learning rate may be lower)"
        )
    if lowered != record:
        _write(folder, requested | {_RATES: rates})


def record_learning_rates(
    folder: Path, phase: str, update: int, rates: Sequence[float]
) -> list[float] | None:
    """Record that a phase continues with ``rates`` after ``update`` updates.

    Returns:
        The previous rates, if they were different.
    """
    record = _read(folder)
    recorded = record[_RATES].get(phase, [])
    # Later entries are of updates that were lost when their process was killed.
    entries = [entry for entry in recorded if entry["from_update"] < update]
    previous = entries[-1]["rates"] if entries else None
    changed = previous != list(rates)
    if changed:
        entries.append({"from_update": update, "rates": list(rates)})
    if entries != recorded:
        record[_RATES][phase] = entries
        _write(folder, record)
    return previous if changed else None


def read_learning_rates(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """For each phase, its first optimizer's rates and the updates from which they held."""
    return {
        phase: [(entry["from_update"], entry["rates"][0]) for entry in entries]
        for phase, entries in _read(folder)[_RATES].items()
    }


def _read(folder: Path) -> dict[str, Any]:
    path = folder / _FILE
    try:
        record = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is damaged: choose another folder") from error
    if not isinstance(record, dict) or not isinstance(record.get(_RATES), dict):
        raise UsageError(f"{path} is of another version: choose another folder")
    return record


def _write(folder: Path, record: dict[str, Any]) -> None:
    write_text(folder / _FILE, json.dumps(record, indent=1) + "\n")


def _lower_rates(record: dict[str, Any], requested: dict[str, Any]) -> dict[str, Any]:
    """The record with those learning rates of ``requested`` that are lower."""
    lowered = copy.deepcopy(record)
    for section, name in _LOWERABLE:
        ours, theirs = lowered.get(section), requested[section]
        if isinstance(ours, dict) and isinstance(theirs, dict) and theirs[name] < ours[name]:
            ours[name] = theirs[name]
    return lowered


def _first_difference(recorded: Any, requested: Any, path: str = "") -> str:
    """Such as ``settings.seed 0, not 1``."""
    if isinstance(recorded, dict) and isinstance(requested, dict):
        for key in sorted(recorded.keys() | requested.keys()):
            if recorded.get(key) != requested.get(key):
                return _first_difference(
                    recorded.get(key), requested.get(key), f"{path}.{key}" if path else key
                )
    return f"{path} {recorded!r}, not {requested!r}"
