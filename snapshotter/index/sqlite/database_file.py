"""The SQLite file of an index, opened for writing, or only for reading if this process may not write."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from schemas.errors import SnapshotIndexError
from schemas.file_uri import path_of

_BUSY_SECONDS = 30.0
_TRIES, _PAUSE = 300, 0.01  # to read a file that another process is writing


class IndexFile:
    """A connection that executes one statement at a time. Raises SnapshotIndexError, never an error of the driver.

    writable: False if the file or its folder is read-only for this process: then each query opens the file, so that
        it sees what others have published meanwhile
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.path = path_of(uri, "sqlite")
        self.writable = _may_write(self.path)
        self._lock = threading.RLock()
        self._closed = False
        self._connection: sqlite3.Connection | None = None
        if self.writable:
            with self.translated():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._connection = sqlite3.connect(
                    self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
                )
        elif not os.path.exists(self.path):  # also in a folder that may not be read
            raise SnapshotIndexError.because(
                f"index {uri} does not exist, and this process may not create it: {self.path.parent} cannot be written",
                "correct the URI, or make the folder writable",
            )

    def set_up(self) -> None:
        """Make writes durable, and let readers not wait for writers."""
        connection = self._open()
        with self.translated():
            self._use_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")

    def query(self, text: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a query."""
        with self._lock, self.translated():
            if self._closed:
                raise sqlite3.ProgrammingError("the index is closed")
            if self._connection is not None:
                return self._connection.execute(text, values).fetchall()
            return self._query_read_only(text, values)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write exclusively, durably and atomically."""
        connection = self._open()
        with self._lock, self.translated():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:  # an interrupt or a full disk must not leave the transaction open
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise the driver's errors as ours."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise SnapshotIndexError.because(f"index {self.uri}: {error}", _hint(error)) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise SnapshotIndexError.because(
                f"index {self.uri} is read-only for this process: it may not write {self.path} or its folder",
                "run this command as a user who may write them",
            )
        return self._connection

    def _query_read_only(self, text: str, values: Sequence[Any]) -> list[Any]:
        """Query one consistent state of the file, whatever others write meanwhile."""
        for _ in range(_TRIES):
            before = _state(self.path)
            try:
                if before.logged:
                    return _rows(self.path, "mode=ro", text, values)  # the log's own locks protect the read
                rows = _rows(self.path, "mode=ro&immutable=1", text, values)
            except sqlite3.DatabaseError:
                after = _state(self.path)
                if after == before and not before.logged:
                    raise
                rows = _rows_of_copy(self.path, text, values) if after == before else []
            else:
                after = _state(self.path)
            if after == before == _state(self.path):
                return rows
            time.sleep(_PAUSE)
        raise sqlite3.OperationalError("the file changed during every try, and cannot be locked here")

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        """Switch to write-ahead logging, waiting for others that open the file, which SQLite does not do here."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return


class _FileState(NamedTuple):
    """A file's state, by which a change shows. logged: whether the last writes are in the log beside it."""

    logged: bool
    file: tuple[int, int, int]
    log: tuple[int, int, int]


def _state(path: Path) -> _FileState:
    log = _stat(f"{path}-wal")
    return _FileState(log[1] > 0, _stat(path), log)


def _stat(path: str | Path) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return (0, 0, 0)
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _rows(path: Path, options: str, text: str, values: Sequence[Any]) -> list[Any]:
    with closing(sqlite3.connect(f"file:{quote(str(path))}?{options}", timeout=_BUSY_SECONDS, uri=True)) as connection:
        return connection.execute(text, values).fetchall()


def _rows_of_copy(path: Path, text: str, values: Sequence[Any]) -> list[Any]:
    """Query a copy of the file and its log: to read a log, SQLite creates a file beside it, which is forbidden here."""
    with tempfile.TemporaryDirectory(prefix="delorean-index-") as folder:
        copy = Path(folder) / "index.db"
        shutil.copyfile(path, copy)
        shutil.copyfile(f"{path}-wal", f"{copy}-wal")
        return _rows(copy, "mode=rw", text, values)


def _may_write(path: Path) -> bool:
    """Whether this process may write a file, and others beside it, as SQLite does."""
    effective = os.access in os.supports_effective_ids
    try:
        folder = next(parent for parent in path.parents if parent.exists())
        return os.access(folder, os.W_OK | os.X_OK, effective_ids=effective) and (
            not path.exists() or os.access(path, os.W_OK, effective_ids=effective)
        )
    except PermissionError:
        return False


def _hint(error: Exception) -> str | None:
    """Return what to do about a full disk, on which SQLite cannot even read, and reports an I/O error."""
    name = getattr(error, "sqlite_errorname", "")
    return "check whether its disk is full or broken" if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")) else None
