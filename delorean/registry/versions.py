"""The versions of a registry at rest.

A version's record is named by the package's digest, so of several adders of one package at once exactly one publishes
it. Its name is reserved before, for this package; a name whose package was never published is not a version.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import PurePosixPath

from delorean.registry.records import (
    NAMES,
    REMOVED,
    VERSIONS,
    RegisteredVersion,
    Removal,
    ReservedName,
    UnreadableFile,
    read_record,
    record_names,
    write_record,
)
from schemas.errors import MissingFileError, RegistryError
from snapshotter.storage import Storage

_LOG = logging.getLogger(__name__)


class Versions:
    """The versions in a storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def names(self) -> list[str]:
        """Return the names of all versions that were not removed."""
        return [version.name for version in self.all()]

    def find(self, name: str) -> RegisteredVersion | None:
        """Read a version's record, also of one that was removed; None: it never existed."""
        try:
            reserved = read_record(self._storage, f"{NAMES}/{name}.json", ReservedName)
            version = read_record(self._storage, f"{VERSIONS}/{reserved.record}.json", RegisteredVersion)
        except MissingFileError:
            return None
        return version if version.name == name else None

    def all(self, unreadable: list[UnreadableFile] | None = None) -> list[RegisteredVersion]:
        """Read all versions that were not removed, the latest first.

        unreadable: receives the records that cannot be read, which are logged and skipped
        """
        readable = []
        removed = {PurePosixPath(path).stem for path in record_names(self._storage, REMOVED)}
        for path in record_names(self._storage, VERSIONS):
            try:
                readable.append(read_record(self._storage, path, RegisteredVersion))
            except MissingFileError:
                continue  # deleted since it was listed
            except RegistryError as error:
                _LOG.warning("%s", error)
                if unreadable is not None:
                    unreadable.append(UnreadableFile(path, str(error)))
        kept = (version for version in readable if version.name not in removed)
        return sorted(kept, key=lambda version: version.added_at, reverse=True)

    def of_digest(self, digest: str) -> RegisteredVersion | None:
        """Read the version that has the package with a digest; None: no version has it."""
        versions = self._of_digest(digest)
        return versions[-1] if versions and self.is_kept(versions[-1].name) else None

    def publish(self, version: RegisteredVersion) -> RegisteredVersion:
        """Make a version visible under its name, or the next number; or return the one that has the package already.

        Raises RegistryError for a name that another package has.
        """
        earlier = self._of_digest(version.digest)
        if earlier and self.is_kept(earlier[-1].name):
            return earlier[-1]
        record = f"{version.digest}.{len(earlier):04d}"  # a package that was removed and is added again gets a new one
        for name in [version.name] if version.name else self._free_names(version):
            if not self._reserve(name, record):
                continue
            named = replace(version, name=name)
            if write_record(self._storage, f"{VERSIONS}/{record}.json", named):
                return named
            return read_record(self._storage, f"{VERSIONS}/{record}.json", RegisteredVersion)
        raise RegistryError.because(
            f"version '{version.name}' exists, with another package", "versions never change: choose another name"
        )

    def is_kept(self, name: str) -> bool:
        """Whether a version was not removed."""
        return all(PurePosixPath(path).stem != name for path in record_names(self._storage, REMOVED, name))

    def require_kept(self, name: str) -> None:
        """Raise RegistryError, saying who removed it and why, if a version was removed."""
        if not self.is_kept(name):
            removal = read_record(self._storage, f"{REMOVED}/{name}.json", Removal)
            raise RegistryError.because(
                f"version '{name}' was removed by {removal.by} at {removal.at:%Y-%m-%d %H:%M} UTC: {removal.reason}",
                "use another version: delorean registry list",
            )

    def _reserve(self, name: str, record: str) -> bool:
        """Reserve a name for a record; False where it belongs to another one."""
        path = f"{NAMES}/{name}.json"
        if write_record(self._storage, path, ReservedName(record)):
            return True
        return read_record(self._storage, path, ReservedName).record == record

    def _of_digest(self, digest: str) -> list[RegisteredVersion]:
        """Read all versions that have or had a package: each but the last was removed."""
        paths = record_names(self._storage, VERSIONS, f"{digest}.")
        return [read_record(self._storage, path, RegisteredVersion) for path in paths]

    def _free_names(self, version: RegisteredVersion) -> Iterator[str]:
        """Yield the experiment's name with the next number, and the numbers after it."""
        name = str((version.lineage.get("spec") or {}).get("name") or "model")
        base = re.sub(r"[^A-Za-z0-9._=+-]", "-", name)[:150].lstrip("._=+-") or "model"
        pattern = re.compile(re.escape(base) + r"-(\d+)")
        numbers = [pattern.fullmatch(PurePosixPath(path).stem) for path in record_names(self._storage, NAMES)]
        first = 1 + max((int(match[1]) for match in numbers if match), default=0)
        return (f"{base}-{number}" for number in count(first))
