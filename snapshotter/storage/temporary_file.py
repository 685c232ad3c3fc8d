"""Unnamed temporary files for what is sent to or fetched from another machine; they disappear when closed."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def temporary_file(path: str, doing: str) -> Iterator[int]:
    """Yield the descriptor of an unnamed file. Raises StorageError, also within the block, if the disk is full.

    path, doing: of the stored file, for the error
    """
    with full_disk_errors(path, doing), tempfile.TemporaryFile(buffering=0) as file:
        yield file.fileno()


@contextmanager
def full_disk_errors(path: str, doing: str) -> Iterator[None]:
    """Raise StorageError if the disk of temporary files is full. path, doing: of the stored file, for the error."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = tempfile.gettempdir()
        problem = f"could not {doing} '{path}': {os.strerror(error.errno)} in {where}, the folder for temporary files"
        raise StorageError.because(
            problem, "free some disk space there, or set TMPDIR to a folder with more"
        ) from error


def write_at(file: int, data: bytes, start: int) -> None:
    """Write all of the data at an offset of the file."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, start)
        view, start = view[written:], start + written
