"""The zip file of a device report: written whole, and read without trusting it.

Nothing is ever extracted to disk: the few entries that a report has are read into memory, up to a
limit.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from elir_deploy.errors import InputError
from elir_deploy.output_files import replacing

__all__ = ["BEGINNING", "MEASUREMENTS", "read_archive", "write_archive"]

#: The first bytes of a zip file.
BEGINNING = b"PK\x03\x04"
#: Reports of elir-bench in the archive; the first that there is is compared.
MEASUREMENTS = ("latency.json", "paper.json")
_MAX_BYTES = 32 * 2**20
_MAX_ENTRIES = 200
#: Of one entry, unpacked: as of a report outside an archive.
_MAX_UNPACKED = 128 * 2**20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: What zipfile raises for damaged, encrypted and unsupported files.
_DAMAGED: tuple[type[Exception], ...] = (zipfile.BadZipFile, zlib.error, struct.error, EOFError)
_DAMAGED += (OSError, ValueError, RuntimeError, OverflowError)


def write_archive(path: Path, entries: Mapping[str, str]) -> None:
    """Write texts as a zip file that appears as a whole, and survives a power cut.

    Raises:
        OutputError: it cannot be written; what was there stays.
    """
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, text in entries.items():
            # Surrogates are what is left of bytes that are no UTF-8. The entry has no date.
            entry = zipfile.ZipInfo(name)
            data = text.encode("utf-8", "backslashreplace")
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)


def read_archive(path: Path, data: bytes) -> dict[str, bytes]:
    """The JSON entries of a device report's zip file, ``report.json`` among them.

    Raises:
        InputError: it is damaged, cut off, too large, or not such a file.
    """
    if len(data) > _MAX_BYTES:
        raise InputError(f"{path} is larger than {_MAX_BYTES // 2**20} MiB, so no device report")
    known = ("report.json", *MEASUREMENTS)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names, methods = archive.namelist(), {i.compress_type for i in archive.infolist()}
            if "report.json" not in names or len(names) > _MAX_ENTRIES or methods - {*_METHODS}:
                raise InputError(f"{path} is not a zip file of elir-bench --device-report")
            if len(set(names)) < len(names):
                raise InputError(f"{path} is damaged: it has the same entry twice")
            return {name: _unpacked(path, archive, name) for name in known if name in names}
    except _DAMAGED as error:
        raise InputError(f"{path} is damaged or cut off: {str(error)[:200]!a}") from None


def _unpacked(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as entry:
        content = entry.read(_MAX_UNPACKED + 1)  # whatever size it says it has
    if len(content) > _MAX_UNPACKED:
        raise InputError(f"{path} is damaged: {name} has more than {_MAX_UNPACKED // 2**20} MiB")
    return content
