"""Optuna's journal in a file of JSON lines that survives a killed process, with bounds on what is read."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from schemas.errors import CorruptFileError

_LARGEST_FILE = 512 << 20
_LARGEST_LINE = 1 << 20
_OPERATIONS = range(11)  # of Optuna's journal


class JournalFile(BaseJournalBackend):
    """A journal that several processes append to. It is plain JSON: nothing that is read is executed.

    Optuna's own backend waits 30 seconds for the lock of a killed process, and cannot read a file in which a process
    was killed while it wrote a line. Here the kernel frees the lock, and an unfinished line, which nobody has read, is
    cut off before the next one is written.

    Raises CorruptFileError for a file that is too large or contains anything else than operations of a journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._offsets = [0]  # where each line that was read begins, and the next one

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the operations from a number on; an unfinished last line is not read."""
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > _LARGEST_FILE:
                raise self._corrupt(f"is larger than {_LARGEST_FILE >> 20} MB")
            number = min(log_number_from, len(self._offsets) - 1)
            file.seek(self._offsets[number])
            while (line := file.readline(_LARGEST_LINE + 1)).endswith(b"\n"):
                number += 1
                if number == len(self._offsets):
                    self._offsets.append(self._offsets[-1] + len(line))
                if number > log_number_from:
                    yield self._operation(line, number)
            if len(line) > _LARGEST_LINE:
                raise self._corrupt(f"has a line of more than {_LARGEST_LINE >> 20} MB after line {number}")

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations; they are on disk when this returns."""
        lines = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
        with self.path.open("r+b") as file, locked(file.fileno()):
            file.seek(_end_of_lines(file, os.fstat(file.fileno()).st_size))
            file.truncate()
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def _operation(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            operation = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._corrupt(f"is not JSON in line {number}") from error
        if not isinstance(operation, dict) or operation.get("op_code") not in _OPERATIONS:
            raise self._corrupt(f"has no operation of a study in line {number}")
        return operation

    def _corrupt(self, problem: str) -> CorruptFileError:
        return CorruptFileError.because(
            f"the study's journal {self.path} {problem}", "restore it from a copy, or begin another study"
        )


@contextmanager
def locked(descriptor: int) -> Iterator[None]:
    """Hold the lock of an open file; the kernel frees that of a process that dies."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _end_of_lines(file: Any, size: int) -> int:
    """Return where the last finished line ends."""
    position = size
    while position:
        start = max(0, position - _LARGEST_LINE)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return int(start + newline + 1)
        position = start
    return 0
