"""The file: opened to read and write, or only to read where this process may do no more."""

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
_TRIES, _PAUSE = 300, 0.01  # to read what somebody else is just writing


class IndexFile:
    """A connection, whose statements take turns. Raises SnapshotIndexError, and nothing of the driver's.

    writable: False where the file or its folder is read-only for this process: then the file is opened for each
        query, so that what others publish meanwhile is seen
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
        elif not os.path.exists(self.path):  # of a folder that may not be read, too
            raise SnapshotIndexError.because(
                f"index {uri} does not exist, and this process may not make it: {self.path.parent} cannot be written",
                "correct the URI, or make the folder writable",
            )

    def set_up(self) -> None:
        """Make writes durable, and readers never wait for writers."""
        connection = self._open()
        with self.translated():
            self._use_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")

    def query(self, text: str, values: Sequence[Any] = ()) -> list[Any]:
        """Give all rows of a query."""
        with self._lock, self.translated():
            if self._closed:
                raise sqlite3.ProgrammingError("it is closed")
            if self._connection is not None:
                return self._connection.execute(text, values).fetchall()
            return self._query_read_only(text, values)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write alone, durably, all or nothing."""
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
        """Let driver's errors out as ours."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise SnapshotIndexError.because(f"index {self.uri}: {error}", _hint(error)) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise SnapshotIndexError.because(
                f"index {self.uri} is read-only for this process: it may not write {self.path} or its folder",
                "run this command as a user who may, or where both are writable",
            )
        return self._connection

    def _query_read_only(self, text: str, values: Sequence[Any]) -> list[Any]:
        """Query the file as it is at one moment, whatever others write meanwhile."""
        for _ in range(_TRIES):
            before = _state(self.path)
            try:
                if before.logged:
                    return _rows(self.path, "mode=ro", text, values)  # the log's own locks keep what is read in place
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
        raise sqlite3.OperationalError("it is being written all the time, and cannot be locked here")

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        """Switch to write-ahead logging. SQLite does not wait for other openers here, so we do."""
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
    """Tells whether a file was written. logged: what was written last is in the log beside it."""

    logged: bool
    file: tuple[int, int, int]
    log: tuple[int, int, int]


def _state(path: Path) -> _FileState:
    log = _stat(f"{path}-wal")
    return _FileState(log[1] > 0, _stat(path), log)


def _stat(path: str | Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _rows(path: Path, options: str, text: str, values: Sequence[Any]) -> list[Any]:
    with closing(sqlite3.connect(f"file:{quote(str(path))}?{options}", timeout=_BUSY_SECONDS, uri=True)) as connection:
        return connection.execute(text, values).fetchall()


def _rows_of_copy(path: Path, text: str, values: Sequence[Any]) -> list[Any]:
    """Query a copy with its log: SQLite reads no log without a file beside it that it may not make here."""
    with tempfile.TemporaryDirectory(prefix="delorean-index-") as folder:
        copy = Path(folder) / "index.db"
        shutil.copyfile(path, copy)
        shutil.copyfile(f"{path}-wal", f"{copy}-wal")
        return _rows(copy, "mode=rw", text, values)


def _may_write(path: Path) -> bool:
    """Tell whether this process may write a file, and others beside it, as SQLite does."""
    effective = os.access in os.supports_effective_ids
    try:
        folder = next(parent for parent in path.parents if parent.exists())
        return os.access(folder, os.W_OK | os.X_OK, effective_ids=effective) and (
            not path.exists() or os.access(path, os.W_OK, effective_ids=effective)
        )
    except PermissionError:
        return False


def _hint(error: Exception) -> str | None:
    """Say what to do where SQLite does not: on a full disk it cannot even be read, and calls that an I/O error."""
    name = getattr(error, "sqlite_errorname", "")
    return "see whether its disk is full or broken" if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")) else None
