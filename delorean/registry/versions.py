"""The versions of a registry at rest: their records, the way from a package's digest to them, and removals."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import PurePosixPath

from delorean.registry.records import (
    DIGESTS,
    REMOVED,
    VERSIONS,
    RegisteredVersion,
    Removal,
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
        return [PurePosixPath(path).stem for path in self._paths()]

    def find(self, name: str) -> RegisteredVersion | None:
        """Read a version's record, also of one that was removed; None: it never existed."""
        try:
            return read_record(self._storage, f"{VERSIONS}/{name}.json", RegisteredVersion)
        except MissingFileError:
            return None

    def all(self, unreadable: list[UnreadableFile] | None = None) -> list[RegisteredVersion]:
        """Read all versions that were not removed, the latest first.

        unreadable: receives the records that cannot be read, which are logged and skipped
        """
        readable = []
        for path in self._paths():
            try:
                readable.append(read_record(self._storage, path, RegisteredVersion))
            except MissingFileError:
                continue  # deleted since it was listed
            except RegistryError as error:
                _LOG.warning("%s", error)
                if unreadable is not None:
                    unreadable.append(UnreadableFile(path, str(error)))
        return sorted(readable, key=lambda version: version.added_at, reverse=True)

    def of_digest(self, digest: str) -> RegisteredVersion | None:
        """Read the version that has the package with a digest; None: no version has it."""
        for path in record_names(self._storage, f"{DIGESTS}/{digest}"):
            name = PurePosixPath(path).stem
            version = self.find(name) if self.is_kept(name) else None
            if version is not None and version.digest == digest:
                return version
        return None

    def publish(self, version: RegisteredVersion) -> RegisteredVersion:
        """Make a version visible under its name, or the next number, and return what has the package's name then.

        Raises RegistryError for a name that another package has.
        """
        for name in [version.name] if version.name else self._free_names(version):
            # First the way from the digest to the name: whoever adds the same package must find the version.
            self._storage.create(f"{DIGESTS}/{version.digest}/{name}.json", b"{}")
            named = replace(version, name=name)
            if write_record(self._storage, f"{VERSIONS}/{name}.json", named):
                return named
            other = self.find(name)
            if other is not None and other.digest == version.digest and self.is_kept(name):
                return other
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

    def _paths(self) -> list[str]:
        removed = {PurePosixPath(path).name for path in record_names(self._storage, REMOVED)}
        return [path for path in record_names(self._storage, VERSIONS) if PurePosixPath(path).name not in removed]

    def _free_names(self, version: RegisteredVersion) -> Iterator[str]:
        """Yield the experiment's name with the next number, and the numbers after it."""
        name = str((version.lineage.get("spec") or {}).get("name") or "model")
        base = re.sub(r"[^A-Za-z0-9._=+-]", "-", name)[:150].lstrip("._=+-") or "model"
        pattern = re.compile(re.escape(base) + r"-(\d+)")
        numbers = [pattern.fullmatch(PurePosixPath(path).stem) for path in record_names(self._storage, VERSIONS)]
        first = 1 + max((int(match[1]) for match in numbers if match), default=0)
        return (f"{base}-{number}" for number in count(first))
