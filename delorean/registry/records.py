"""The records of a registry: versions, moves of pointers, and removals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, TypeVar

import msgspec

from schemas.errors import RegistryError
from schemas.plain_text import plain_text
from snapshotter.storage import Storage

FOLDER = "registry"
VERSIONS, NAMES, REMOVED = f"{FOLDER}/versions", f"{FOLDER}/names", f"{FOLDER}/removed"
POINTERS, PACKAGES = f"{FOLDER}/pointers", f"{FOLDER}/packages"
_MOST_BYTES = 64 << 20
_T = TypeVar("_T")


class RegisteredFile(msgspec.Struct, frozen=True):
    """A file of a registered package. sha256: of its bytes, in hex."""

    sha256: str
    bytes: int


@dataclass(frozen=True, repr=False)
class RegisteredVersion:
    """A model package in the registry. It never changes.

    name: `<experiment>-<number>`, ascending, or the name that was chosen for it
    digest: SHA-256 of the checksums of the package's files: equal packages have equal digests
    folder: of its files in the storage
    features: the model's, in order; model: its kind; metrics: of the model, by part of the split
    lineage: what the package says about its origin
    """

    name: str
    digest: str
    folder: str
    files: Mapping[str, RegisteredFile]
    added_at: datetime
    by: str
    note: str
    model: str
    features: tuple[str, ...]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files.values())

    def __repr__(self) -> str:
        """One line for people."""
        added = f"added {self.added_at:%Y-%m-%d %H:%M} UTC by {self.by}"
        return plain_text(f"registered version {self.name}: {self.model}, {len(self.features)} features, {added}")


class ReservedName(msgspec.Struct, frozen=True):
    """A name that belongs to a package. record: of its version, in the folder of versions, once it is published."""

    record: str


@dataclass(frozen=True)
class PointerMove:
    """One move of a pointer.

    number: 1, 2, … in the pointer's history
    version: where it points from then on; previous: before, None: it did not exist
    rollback: whether it undoes the latest move that is not undone yet
    """

    pointer: str
    number: int
    version: str
    previous: str | None
    rollback: bool
    at: datetime
    by: str
    reason: str


@dataclass(frozen=True)
class Removal:
    """Who removed a version, when and why. Its name is never used again."""

    version: str
    at: datetime
    by: str
    reason: str


@dataclass(frozen=True)
class UnreadableFile:
    """A record of the registry that cannot be read. problem: why, and what to do."""

    path: str
    problem: str


def record_names(storage: Storage, folder: str, name_prefix: str = "") -> list[str]:
    """Return the paths of the records below a folder, in order; temporary files of killed writers are not records."""
    return [file.path for file in storage.list(folder, name_prefix) if is_record(file.path)]


def is_record(path: str) -> bool:
    """Whether a file is a complete record."""
    name = PurePosixPath(path).name
    return name.endswith(".json") and not name.startswith(".")


def write_record(storage: Storage, path: str, record: object) -> bool:
    """Write a record under a free name, atomically. Returns False, changing nothing, where the name is taken."""
    return storage.create(path, msgspec.json.format(msgspec.json.encode(record), indent=1))


def read_record(storage: Storage, path: str, kind: type[_T]) -> _T:
    """Read a record. Raises MissingFileError, RegistryError for one that cannot be read."""
    with storage.open_input(path) as file:
        content = file.read(_MOST_BYTES + 1)
    try:
        if len(content) > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise RegistryError.because(f"{path} cannot be read: {error}", "restore it from a copy") from error
