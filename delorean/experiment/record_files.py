"""Reads the files of run records; one that is broken does not hide the others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

import msgspec

from schemas.errors import MissingFileError, ReplayError, StorageError
from snapshotter.storage import Storage

FOLDER = "experiments"
_MAX_BYTES = 64 << 20  # of a record: one of a run with many files names each of them
_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class BrokenRecord:
    """A record at rest that cannot be read. problem: the reason, and what to do."""

    path: str
    problem: str

    @property
    def run_id(self) -> str:
        """The id of its run."""
        return PurePosixPath(self.path).stem


def record_paths(storage: Storage) -> list[str]:
    """Return the paths of all records, the last written first."""
    files = sorted(storage.list(FOLDER), key=lambda file: (file.modified_at, file.path), reverse=True)
    return [file.path for file in files if file.path.endswith(".json")]


def readable_records(storage: Storage, kind: type[_T], broken: list[BrokenRecord]) -> Iterator[_T]:
    """Read all records that can be read, the last written first. The others are logged, and added to `broken`."""
    for path in record_paths(storage):
        try:
            yield read_record(path, storage, kind)
        except MissingFileError:  # it has been forgotten since it was listed
            continue
        except (ReplayError, StorageError) as error:
            _LOG.warning("%s", error)
            broken.append(BrokenRecord(path, str(error)))


def read_record(path: str, storage: Storage, kind: type[_T]) -> _T:
    """Read one record. Raises ReplayError that says what to do if it is broken."""
    with storage.open_input(path) as file:
        content = file.read(_MAX_BYTES + 1)
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError(f"is larger than {_MAX_BYTES} bytes")
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        forget = f"delorean experiment forget {PurePosixPath(path).stem}"
        raise ReplayError.because(
            f"record {path} cannot be read: {error}", f"restore it from a copy, or delete it: {forget}"
        ) from error
