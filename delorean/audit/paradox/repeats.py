"""Repeated rows: a context and time that occurs twice, in any number of files, without all keys in memory."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.audit.paradox.report import FindingCounts
from delorean.audit.paradox.row_batch import RowBatch
from delorean.audit.paradox.stored_feature_set import StoredFeatureSet
from delorean.labels import TIME_COLUMN
from delorean.labels.row_hashes import row_hashes
from schemas.closeable import Closeable
from schemas.errors import StorageError

ONE_ROW = "no context and time has two rows"
_HASHES_AT_ONCE = 16_000_000  # 128 MB, and as much again to sort them
_BUFFER = 1 << 16  # bytes for each temporary file


class RepeatSearch(Closeable):
    """Finds rows with the context and time of another row. Use it as a context manager.

    at_once: hashes sorted in memory at a time. Those of a feature set with more rows are kept in temporary files, eight
        bytes for each row; keys are read again only where hashes are equal
    """

    def __init__(self, stored: StoredFeatureSet, at_once: int = _HASHES_AT_ONCE) -> None:
        self._stored = stored
        self._columns = [*stored.context, TIME_COLUMN]
        self._part_count = max(1, -(-stored.rows // at_once))
        self._in_memory: list[NDArray[np.uint64]] = []
        self._opened = ExitStack()
        count = self._part_count if self._part_count > 1 else 0
        open_file = tempfile.TemporaryFile
        self._files = [self._opened.enter_context(open_file(buffering=_BUFFER)) for _ in range(count)]

    def close(self) -> None:
        """Delete the temporary files."""
        self._opened.close()

    def add(self, rows: pa.Table) -> None:
        """Add rows of the feature set. Raises StorageError when the temporary files' disk is full."""
        hashes = row_hashes(rows, self._columns)
        if not self._files:
            self._in_memory.append(hashes)
            return
        part_of = hashes % np.uint64(self._part_count)
        try:
            for part, file in enumerate(self._files):
                file.write(hashes[part_of == part].tobytes())
        except OSError as error:
            raise StorageError.because(
                f"keys of {self._stored.data.uri} cannot be kept in {tempfile.gettempdir()}: {error}",
                "set TMPDIR to a larger disk",
            ) from error

    def report(self, findings: FindingCounts) -> None:
        """Count the repeated rows, once all rows are added. Rows with equal hashes are compared by value."""
        repeated = np.concatenate([self._repeated(part) for part in range(self._part_count)])
        if len(repeated):
            suspects = [
                rows.filter(pa.array(np.isin(row_hashes(rows, self._columns), repeated)))
                for rows in self._stored.batches(self._columns)
            ]
            _count(self._stored, pa.concat_tables(suspects), findings)

    def _repeated(self, part: int) -> NDArray[np.uint64]:
        """Return the hashes of a part that occur more than once."""
        hashes = self._read(part)
        hashes.sort()
        repeated: NDArray[np.uint64] = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
        return repeated

    def _read(self, part: int) -> NDArray[np.uint64]:
        if not self._files:
            return np.concatenate([np.zeros(0, dtype=np.uint64), *self._in_memory])
        self._files[part].seek(0)
        content: Any = bytearray(self._files[part].read())  # writable, to be sorted in place
        return np.frombuffer(content, dtype=np.uint64)


def _count(stored: StoredFeatureSet, suspects: pa.Table, findings: FindingCounts) -> None:
    groups = suspects.group_by(suspects.column_names).aggregate([([], "count_all")])
    repeated = groups.filter(pc.greater(groups["count_all"], 1))
    if repeated.num_rows:
        extra = pc.sum(repeated["count_all"]).as_py() - repeated.num_rows
        first = RowBatch(stored, repeated.sort_by(TIME_COLUMN).slice(0, 1))
        example = f"{first.name(0)}: {first.value('count_all', 0)} rows"
        findings.count(ONE_ROW, "rows repeat the context and time of another", extra, example)
