"""Files of records, of which one may be broken without hiding the others."""

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
_LARGEST = 64 << 20  # bytes of a record: a run of many files names each of them
_LOG = logging.getLogger(__name__)
_Record = TypeVar("_Record")


@dataclass(frozen=True)
class BrokenRecord:
    """A run's record, or another record at rest, that cannot be read. problem: why not, and what to do."""

    path: str
    problem: str

    @property
    def run_id(self) -> str:
        """The id of the run that it is of."""
        return PurePosixPath(self.path).stem


def record_paths(storage: Storage) -> list[str]:
    """Name the files of all records."""
    return [file.path for file in storage.list(FOLDER) if file.path.endswith(".json")]


def readable_records(storage: Storage, type: type[_Record], broken: list[BrokenRecord]) -> Iterator[_Record]:  # noqa: A002  # the field's own name
    """Read all records that can be read. The others are logged, and added to `broken`."""
    for path in record_paths(storage):
        try:
            yield read_record(path, storage, type)
        except MissingFileError:  # it was forgotten meanwhile
            continue
        except (ReplayError, StorageError) as error:
            _LOG.warning("%s", error)
            broken.append(BrokenRecord(path, str(error)))


def read_record(path: str, storage: Storage, type: type[_Record]) -> _Record:  # noqa: A002
    """Read one record. Raises ReplayError that says what to do with one that is broken."""
    with storage.open_input(path) as file:
        content = file.read(_LARGEST + 1)
    try:
        if len(content) > _LARGEST:
            raise ValueError(f"is larger than {_LARGEST} bytes")
        return msgspec.json.decode(content, type=type)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        forget = f"delorean experiment forget {PurePosixPath(path).stem}"
        raise ReplayError.because(
            f"record {path} cannot be read: {error}", f"restore it from a copy, or give it up: {forget}"
        ) from error
