"""What ``elir-restore`` and its relatives restore with, by their options."""

from __future__ import annotations

import enum
import warnings
from contextlib import ExitStack
from typing import Any

from elir_deploy.cli.choices import device_of
from elir_deploy.cli.shell import tell
from elir_deploy.photo import PhotoRestorer
from elir_deploy.photo.choices import Choices, file_restorer, open_pictures
from elir_deploy.runtime import BACKENDS, Bundle, Restorer
from elir_deploy.runtime.file_restorer import FileRestorer

__all__ = ["choices_of", "open_and_tell", "open_restorer"]


def choices_of(bundle: str | Bundle, background: str | None, **options: Any) -> Choices:
    """Choices from the values of :mod:`elir_deploy.cli.options`; random weights are told.

    Raises:
        BundleError: a bundle cannot be opened.
        UsageError: ``device`` is neither a number nor a name.
    """
    values = {k: v.value if isinstance(v, enum.Enum) else v for k, v in options.items()}
    if "device" in values:
        values["device"] = device_of(values["device"])
    if values.get("scale") is not None:
        values["scale"] = int(values["scale"])
    choices = Choices.opened(bundle, background, **values)
    for each in filter(None, (choices.bundle, choices.background)):
        if each.manifest.source.random:
            tell(
                f"warning: {each.path} has random weights, which are for measuring speed: "
                "its results are meaningless"
            )
    return choices


def open_restorer(choices: Choices, stack: ExitStack) -> tuple[FileRestorer, Restorer]:
    """What restores files, and the restorer of it that runs the bundle, open until the stack ends.

    What runs, and warnings, are told.
    """
    opened = open_and_tell(choices, stack)
    runs = opened if isinstance(opened, Restorer) else opened.restorer
    return file_restorer(choices, opened), runs


def open_and_tell(choices: Choices, stack: ExitStack) -> Restorer | PhotoRestorer:
    """What restores pictures, open until the stack ends; what runs, and warnings, are told."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        opened = open_pictures(choices, stack)
    for warning in caught:
        tell(f"warning: {warning.message}")
    tell(str(opened))
    backend = (opened if isinstance(opened, Restorer) else opened.restorer).backend
    numbered = isinstance(choices.device, int) and choices.device
    if numbered and not BACKENDS[backend].on_gpu:
        tell(f"warning: --device {choices.device} has no effect: {backend} uses no GPU")
    return opened
