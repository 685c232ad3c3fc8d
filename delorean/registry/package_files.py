"""Copies packages between folders and the storage. What arrives is verified before it gets its name."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from delorean.packaging.files import MANIFEST, digest_of, read_files
from delorean.registry.records import RegisteredFile, RegisteredVersion
from schemas.errors import ConfigError, CorruptFileError, RegistryError
from snapshotter.storage import Storage, is_inside
from snapshotter.storage.local import sync

_LARGEST_FILE = 1 << 30


def packaged_files(folder: Path) -> dict[str, bytes]:
    """Read a package's files and its manifest. Raises PackageError as `load_package` does."""
    files = read_files(folder)
    return {**files, MANIFEST: (folder / MANIFEST).read_bytes()}


def upload(storage: Storage, folder: str, files: Mapping[str, bytes]) -> dict[str, RegisteredFile]:
    """Write a package's files to a new folder of the storage, and return their checksums."""
    for name, data in files.items():
        with storage.open_output(f"{folder}/{name}") as output:
            output.write(data)
    return {name: RegisteredFile(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()}


def download(storage: Storage, version: RegisteredVersion, folder: Path) -> Path:
    """Write a registered package to a folder, which appears when all of it is verified.

    A folder that has the same package already is returned as it is.

    Raises CorruptFileError for files that differ from those registered, RegistryError for a folder of something else.
    """
    if folder.exists():
        return _same_package(folder, version)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:100]}."))
    except OSError as error:
        raise ConfigError.because(f"{folder.parent} cannot be written: {error.strerror}") from error
    try:
        for name, file in version.files.items():
            _write(temporary, name, _verified(storage, version, name, file))
        if digest_of(read_files(temporary)) != version.digest:
            raise CorruptFileError.because(f"the files of version '{version.name}' do not have its digest")
        temporary.chmod(0o755)
        try:
            os.rename(temporary, folder)
        except OSError:
            return _same_package(folder, version)  # another process was faster
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def has_package(folder: Path, digest: str) -> bool:
    """Whether a folder has the package with a digest, every byte of it. Raises PackageError for a broken package."""
    return digest_of(read_files(folder)) == digest


def _same_package(folder: Path, version: RegisteredVersion) -> Path:
    if not has_package(folder, version.digest):
        raise RegistryError.because(f"{folder} exists, and is not version '{version.name}'", "name another folder")
    return folder


def _verified(storage: Storage, version: RegisteredVersion, name: str, file: RegisteredFile) -> bytes:
    """Read a file of a version. Raises CorruptFileError if it differs from the one that was registered."""
    path = f"{version.folder}/{name}"
    if not is_inside(name) or not is_inside(version.folder):
        raise CorruptFileError.because(f"version '{version.name}' lists '{path}', which is outside of its folder")
    with storage.open_input(path) as source:
        data: bytes = source.read(_LARGEST_FILE + 1)
    if len(data) != file.bytes or hashlib.sha256(data).hexdigest() != file.sha256:
        raise CorruptFileError.because(
            f"'{path}' differs from what was registered: its checksum differs", "restore it, or register it again"
        )
    return data


def _write(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        sync(path)
    except OSError as error:
        raise ConfigError.because(f"{path} cannot be written: {error.strerror}") from error
