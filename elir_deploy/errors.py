"""Every error this package raises on purpose, in one tree.

::

    ElirError                      exit 1
    ├── InputError                 exit 2   something the user gave cannot be used
    │   ├── UsageError                      arguments that do not fit together
    │   ├── CheckpointError                 a weights file: damaged, incomplete, of another task
    │   ├── DownloadError                   released weights that could not be downloaded
    │   ├── BundleError                     a bundle: damaged, incomplete, of another version
    │   ├── ImageError                      an image that cannot be read or is refused
    │   ├── FilmError                       a film that cannot be read, or is refused
    │   └── OutputError                     an output that cannot be written
    │       └── DiskFullError               no space is left for it
    ├── QualityError               exit 3   a floor or a budget was missed, a training diverged
    └── UnavailableError           exit 4   a backend or device is missing
        └── MissingDependencyError          an optional package; the message names the extra

A message says what is wrong, with the actual and the expected value, and what to do, in one or two
lines, which the command line prints unchanged.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "CheckpointError",
    "DeviceLostError",
    "DiskFullError",
    "DownloadError",
    "ElirError",
    "FilmError",
    "ImageError",
    "InputError",
    "MissingDependencyError",
    "OutputError",
    "QualityError",
    "UnavailableError",
    "UsageError",
]


class ElirError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is the exit code of commands."""

    exit_code: int = 1


class InputError(ElirError):
    exit_code = 2


class UsageError(InputError):
    pass


class CheckpointError(InputError):
    pass


class DownloadError(InputError):
    pass


class BundleError(InputError):
    pass


class ImageError(InputError):
    pass


class FilmError(InputError):
    pass


class OutputError(InputError):
    pass


class DiskFullError(OutputError):
    pass


class QualityError(ElirError):
    exit_code = 3


class UnavailableError(ElirError):
    exit_code = 4


class DeviceLostError(UnavailableError):
    """The device no longer responds: nothing runs on it in this process any more."""


class MissingDependencyError(UnavailableError):
    """An optional package is not installed.

    Args:
        package: the missing package, such as ``onnxruntime``.
        extra: the extra of this project that installs it, such as ``cpu``.
        purpose: completes "... is needed to ...".
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{package} is needed to {purpose} and is not installed: "
            f"pip install 'elir-deploy[{extra}]'"
        )
        self.package = package
        self.extra = extra
