"""The registry: adds, finds, points at, fetches and removes versions of model packages."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from delorean.packaging.files import digest_of
from delorean.registry.package_files import download, has_package, packaged_files, upload
from delorean.registry.pointers import Pointers
from delorean.registry.records import (
    PACKAGES,
    REMOVED,
    PointerMove,
    RegisteredVersion,
    Removal,
    UnreadableFile,
    read_record,
    write_record,
)
from delorean.registry.versions import Versions
from delorean.users import current_user
from encoders.feature_model import LIBRARY
from schemas.errors import ConfigError, PackageError, RegistryError
from snapshotter.storage import Storage, require_plain_name

if TYPE_CHECKING:
    from delorean.packaging.package import ModelPackage

PREFIX = "registry:"


class Registry:
    """Model packages in a storage, under immutable versions, and pointers to them.

    storage: their files are below `registry/`
    modules: prefixes of the modules that encoders of packages may be imported from
    allow: fingerprints of encoders whose packaged source may be executed, see `load_package`
    cache: the folder for fetched packages; None: the user's ~/.cache/delorean/packages

    Example: `Registry(open_storage("s3://models")).load("production")`
    """

    def __init__(
        self,
        storage: Storage,
        modules: Sequence[str] = (LIBRARY,),
        allow: Collection[str] = (),
        cache: str | Path | None = None,
    ) -> None:
        self._storage, self._modules, self._allow = storage, tuple(modules), tuple(allow)
        self._cache = None if cache is None else Path(cache)
        self._pointers, self._versions = Pointers(storage), Versions(storage)

    def add(
        self, package: str | Path, name: str | None = None, *, note: str = "", by: str | None = None
    ) -> RegisteredVersion:
        """Add a package, and return its version. The same package again is not stored again.

        package: its folder. It is loaded and has to reproduce its golden rows
        name: of the version; None: the experiment's name and the next number
        by: who adds it; None: the current user

        The version is visible when all files are stored. Raises PackageError for a package that cannot be trusted,
        RegistryError for a name that another package has.
        """
        from delorean.packaging.package import load_package

        if name is not None:
            require_plain_name("version", name)
            if name in self._pointers.names():
                raise RegistryError.because(f"'{name}' is a pointer", "choose another name for the version")
        files = packaged_files(Path(package))
        digest = digest_of(files)
        existing = self._versions.of_digest(digest)
        if existing is not None:
            return _same_name(existing, name)
        loaded = load_package(package, modules=self._modules, allow=self._allow)
        loaded.check_golden_rows()
        folder = f"{PACKAGES}/{digest[:16]}-{uuid.uuid4().hex[:12]}"
        record = RegisteredVersion(
            name=name or "",
            digest=digest,
            folder=folder,
            files=upload(self._storage, folder, files),
            added_at=datetime.now(UTC),
            by=by or current_user(),
            note=note,
            model=loaded.report.model,
            features=loaded.features,
            metrics=msgspec.to_builtins(loaded.report.metrics.get("model", {})),
            lineage=loaded.lineage,
        )
        added = self._versions.publish(record)
        if added.folder != folder:  # another process added the same package meanwhile
            self._storage.delete(f"{folder}/{file}" for file in files)
        return _same_name(added, name)

    def version(self, name: str) -> RegisteredVersion:
        """Return a version, by its name or by a pointer's. Raises RegistryError where it does not exist."""
        plain = _plain(name)
        move = self._pointers.current(plain)
        version = plain if move is None else move.version
        self._versions.require_kept(version)
        record = self._versions.find(version)
        if record is None:
            existing = [*self._versions.names(), *self._pointers.names()]
            raise RegistryError.unknown("version or pointer of the registry", plain, existing)
        return record

    def versions(self, unreadable: list[UnreadableFile] | None = None) -> list[RegisteredVersion]:
        """Return all versions that were not removed, the latest first.

        unreadable: receives the records that cannot be read, which are logged and skipped
        """
        return self._versions.all(unreadable)

    def pointers(self) -> dict[str, PointerMove]:
        """Return the latest move of each pointer, by its name."""
        moves = {name: self._pointers.current(name) for name in self._pointers.names()}
        return {name: move for name, move in moves.items() if move is not None}

    def move(
        self, pointer: str, version: str, reason: str, *, expected: str | None = None, by: str | None = None
    ) -> PointerMove:
        """Point at a version, by one conditional write. A new pointer is created; one that points there stays.

        version: its name, or another pointer's, which means where that points now
        expected: the version that it must point at now; empty: the pointer must be new; None: any version. A move by
            another process meanwhile is an error in each case
        by: who moves it; None: the current user

        Raises PointerMovedError if another process has moved it, RegistryError for an unknown version.
        """
        target = self.version(version).name
        require_plain_name("pointer", pointer)
        if self._versions.find(pointer) is not None:
            raise RegistryError.because(f"'{pointer}' is a version", "choose another name for the pointer")
        move = self._pointers.move(pointer, target, reason, by, expected)
        if not self._versions.is_kept(target):  # a concurrent removal may not have seen this move
            if move.previous is not None:
                self._pointers.rollback(
                    pointer, f"'{target}' was removed at the same time", by, target, self._versions.is_kept
                )
            self._versions.require_kept(target)
        return move

    def rollback(self, pointer: str, reason: str, *, expected: str | None = None, by: str | None = None) -> PointerMove:
        """Point at the version before; again: at the one before that.

        expected, by: as in `move`

        Raises PointerMovedError as `move` does, RegistryError where there is no version before or it was removed.
        """
        return self._pointers.rollback(pointer, reason, by, expected, self._versions.is_kept)

    def history(self, pointer: str) -> list[PointerMove]:
        """Return all moves of a pointer, the latest first. Raises RegistryError for an unknown pointer."""
        return self._pointers.history(pointer)

    def remove(self, version: str, reason: str, *, by: str | None = None) -> Removal:
        """Remove a version and its files. Its name is never used again; who removed it, when and why is kept.

        Raises RegistryError for a version that a pointer points at, or that does not exist.
        """
        if not reason.strip():
            raise RegistryError.because(f"removing '{version}' has no reason", "say why: it is recorded")
        self._versions.require_kept(version)
        record = self._versions.find(version)
        if record is None:
            raise RegistryError.unknown("version of the registry", version, self._versions.names())
        self._refuse_pointed(version)
        path = f"{REMOVED}/{version}.json"
        write_record(self._storage, path, Removal(version, datetime.now(UTC), by or current_user(), reason))
        try:
            self._refuse_pointed(version)  # again: a move that does not see the removal is seen here
        except RegistryError:
            self._storage.delete([path])
            raise
        self._storage.delete(f"{record.folder}/{name}" for name in record.files)
        return read_record(self._storage, path, Removal)

    def fetch(self, name: str, folder: str | Path | None = None) -> Path:
        """Fetch a version, by its name or a pointer's, and return the folder that it is in. Every byte is verified.

        folder: a new one; None: the cache

        Raises CorruptFileError where stored files differ from those registered.
        """
        version = self.version(name)
        if folder is not None:
            return download(self._storage, version, Path(folder))
        cached = (self._cache or _default_cache()) / version.digest
        try:
            if cached.exists() and has_package(cached, version.digest):
                return cached
            broken = cached.exists()
        except PackageError:
            broken = True
        if broken:  # aside, not deleted: another process may be reading it
            cached.rename(cached.with_name(f".broken-{uuid.uuid4().hex[:12]}"))
        return download(self._storage, version, cached)

    def load(self, name: str) -> ModelPackage:
        """Fetch and load a version, by its name or a pointer's. Raises what `fetch` and `load_package` raise."""
        from delorean.packaging.package import load_package

        return load_package(self.fetch(name), modules=self._modules, allow=self._allow)

    def _refuse_pointed(self, version: str) -> None:
        pointing = self._pointers.pointing_at(version)
        if pointing:
            raise RegistryError.because(
                f"version '{version}' is in use: {', '.join(pointing)} points at it", "move the pointer first"
            )


def package_name(package: str | Path) -> str:
    """Return the name of a package for people: of a folder its last part.

    >>> package_name("packages/homepage-2"), package_name("registry:production")
    ('homepage-2', 'registry:production')
    """
    text = str(package)
    return text if text.startswith(PREFIX) else Path(text).name


def _plain(name: str) -> str:
    """Return a name without the prefix `registry:`. Raises ConfigError for one that no version can have."""
    plain = name.removeprefix(PREFIX)
    require_plain_name("version or pointer", plain)
    return plain


def _same_name(existing: RegisteredVersion, name: str | None) -> RegisteredVersion:
    if name not in (None, existing.name):
        raise RegistryError.because(
            f"the package is registered already, as version '{existing.name}'", "use that name, or point at it"
        )
    return existing


def _default_cache() -> Path:
    try:
        folder = Path.home() / ".cache" / "delorean" / "packages"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError) as error:
        raise ConfigError.because(
            f"there is no folder for fetched packages: {error}", "fetch into a folder that you name"
        ) from error
    return folder
