"""Storage in a folder, local or on a file system that all machines mount."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from schemas.errors import ConfigError, MissingFileError, StorageError
from schemas.file_uri import file_uri, path_of
from snapshotter.storage import Storage, StoredFile, require_inside

_HINTS = {
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some disk space or raise the quota",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EACCES: "give this user access to the folder",
    errno.EROFS: "choose a folder that can be written",
}
_UNUSABLE = re.compile(r"%[0-9A-Fa-f]{2}|[\\\x00-\x1f\x7f\ud800-\udfff]")  # deltalake decodes paths twice


class LocalStorage(Storage):
    """A folder. Files get their names only when they are complete and on disk.

    uri: `file:///path/to/folder`; the first write creates the folder
    """

    def __init__(self, uri: str) -> None:
        folder = path_of(uri)
        self.uri = file_uri(folder)
        self.root = Path(os.path.realpath(folder))
        unusable = _UNUSABLE.search(str(self.root))
        if unusable:
            raise ConfigError.because(
                f"folder {str(self.root)!r} has {unusable.group()!r} in its name: Delta tables cannot be read there",
                "rename it, or set `storage` to another folder",
            )

    def open_input(self, path: str) -> pa.NativeFile:
        """Map the file into memory, so that only the column chunks that are read are loaded."""
        where = self._resolve(path)
        with _translated(path, "read"):
            if where.stat().st_size == 0:
                return pa.BufferReader(b"")  # an empty file cannot be mapped
            return pa.memory_map(str(where))

    @contextmanager
    def open_output(self, path: str) -> Iterator[pa.NativeFile]:
        """Write under a temporary name, sync, then link the file to its name if it is free."""
        where = self._resolve(path)
        with ExitStack() as stack:
            with _translated(path, "write"):
                temporary = stack.enter_context(self._temporary(where))
                sink = stack.enter_context(pa.OSFile(str(temporary), "wb"))
            with _translated(path, "write", only=_HINTS):  # other errors are the caller's own
                yield sink
            with _translated(path, "write"):
                sink.close()
                sync(temporary)
                os.link(temporary, where)
                sync(where.parent)

    def create(self, path: str, data: bytes) -> bool:
        """Write and sync a temporary file, then link it: linking is atomic, and fails if the name is taken."""
        where = self._resolve(path)
        with _translated(path, "write"), self._temporary(where) as temporary:
            temporary.write_bytes(data)
            sync(temporary)
            try:
                os.link(temporary, where)
            except FileExistsError:
                return False
            sync(where.parent)
            return True

    def list(self, prefix: str, name_prefix: str = "") -> Iterator[StoredFile]:
        """List the files below a folder, also temporary ones of killed writers (their names end in .tmp)."""
        folder = self._resolve(prefix) if prefix.strip("/") else self.root
        with _translated(prefix, "list"):
            files = [(Path(name).relative_to(self.root).as_posix(), name) for name in _files_in(folder, name_prefix)]
        for path, name in sorted(files):
            try:
                with _translated(path, "list"):
                    status = os.stat(name)
            except MissingFileError:
                continue  # deleted, or renamed by its writer, after the folder was read
            yield StoredFile(path, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files, but not folders."""
        for path in paths:
            with _translated(path, "delete"):
                self._resolve(path).unlink(missing_ok=True)

    def _resolve(self, path: str) -> Path:
        """Return a path below the root. Raises StorageError if `..`, a leading / or a symbolic link leads out of it."""
        require_inside(path, self.uri)
        where = self.root / path
        if not _inside(where, self.root):
            raise StorageError.because(
                f"path '{path}' is not inside {self.uri}", "remove the link that leads out of it"
            )
        return where

    @contextmanager
    def _temporary(self, where: Path) -> Iterator[Path]:
        """Yield the path of a temporary file in the same folder, and delete it at the end."""
        self._make_folder(where.parent)
        handle, name = tempfile.mkstemp(".tmp", f".{where.name[:100]}.", where.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            temporary.chmod(0o644)  # mkstemp's 0600 would hide the data from other users
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        """Create a folder and sync its parents, so that a power cut does not lose the path to the file."""
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync(folder.parent)


def _files_in(folder: Path, name_prefix: str) -> Iterator[str]:
    """Yield the files below a folder. Raises OSError for a folder that cannot be read, which `os.walk` would skip."""
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                listed = [entry for entry in entries if entry.name.startswith(name_prefix)]
        except (FileNotFoundError, NotADirectoryError):
            continue  # it does not exist, or was deleted after its parent was read
        name_prefix = ""
        waiting += [entry.path for entry in listed if entry.is_dir(follow_symlinks=False)]
        yield from (entry.path for entry in listed if entry.is_file())


def _inside(where: Path, root: Path) -> bool:
    real = os.path.realpath(where)
    return real == str(root) or real.startswith(str(root).rstrip("/") + "/")


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _translated(path: str, doing: str, only: Container[int] | None = None) -> Iterator[None]:
    """Raise the system's errors as ours. only: those with these numbers."""
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        raise _storage_error(path, doing, error) from error


def _storage_error(path: str, doing: str, error: OSError) -> StorageError:
    if isinstance(error, FileNotFoundError):
        return MissingFileError.because(f"'{path}' does not exist")
    if isinstance(error, FileExistsError):
        return StorageError.because(f"'{path}' exists already: files are never overwritten")
    number = error.errno or 0
    reason = os.strerror(number) if number else str(error)
    return StorageError.because(f"could not {doing} '{path}': {reason}", _HINTS.get(number))
