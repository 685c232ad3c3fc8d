"""One version of a Delta table, read file by file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from schemas.errors import CorruptFileError, MissingFileError, StorageError
from snapshotter.storage.delta import one_line
from snapshotter.storage.delta_location import require_reachable

_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class DeltaVersion:
    """The files of a version. Their sizes are in the log; their pages are verified by their own checksums.

    files: in the order of their paths
    """

    uri: str
    version: int
    schema: pa.Schema
    files: tuple[ds.ParquetFileFragment, ...]

    @classmethod
    def of(cls, table: DeltaTable, uri: str) -> Self:
        """List the files of an opened table. Raises StorageError for one with features that Arrow cannot read."""
        try:
            dataset = table.to_pyarrow_dataset()
        except DeltaError as error:
            raise StorageError.because(f"the Delta table at {uri} cannot be read: {one_line(error)}") from error
        files = sorted(dataset.get_fragments(), key=lambda file: file.path)
        return cls(uri, int(table.version()), dataset.schema, tuple(files))

    @property
    def rows(self) -> int:
        """Number of rows, from the files' footers. Raises what reading them raises."""
        return sum(self._count(file) for file in self.files)

    def read(
        self,
        file: ds.ParquetFileFragment,
        columns: Sequence[str] | None = None,
        *,
        rows: int = _BATCH_ROWS,
        ahead: bool = True,
    ) -> Iterator[pa.RecordBatch]:
        """Read columns (None: all) of a file, a few rows at a time.

        ahead: whether to read ahead in large pieces, which takes memory

        Raises MissingFileError for a missing file, CorruptFileError for one whose contents changed.
        """
        options = ds.ParquetFragmentScanOptions(pre_buffer=ahead, page_checksum_verification=True)
        with self._named(file):
            yield from file.to_batches(
                schema=self.schema,
                columns=None if columns is None else list(columns),
                batch_size=rows,
                batch_readahead=2,
                fragment_scan_options=options,
            )

    def batches(
        self, columns: Sequence[str] | None = None, *, rows: int = _BATCH_ROWS, ahead: bool = True
    ) -> Iterator[pa.RecordBatch]:
        """Read all files, each as `read` does."""
        for file in self.files:
            yield from self.read(file, columns, rows=rows, ahead=ahead)

    def to_arrow(self) -> pa.Table:
        """Read all of it. Raises what `read` raises."""
        return pa.Table.from_batches(self.batches(), self.schema)

    def _count(self, file: ds.ParquetFileFragment) -> int:
        with self._named(file):
            return int(file.count_rows())

    @contextmanager
    def _named(self, file: ds.ParquetFileFragment) -> Iterator[None]:
        where = f"file '{file.path}' of version {self.version} of {self.uri}"
        try:
            yield
        except FileNotFoundError as error:
            raise MissingFileError.because(
                f"{where} is gone", "a vacuum may have deleted it: restore it from a copy, or create the table again"
            ) from error
        except (DeltaError, OSError, pa.ArrowException, UnicodeDecodeError) as error:
            require_reachable(self.uri)
            raise CorruptFileError.because(
                f"{where} cannot be read: {one_line(error)}", "restore the file from a copy"
            ) from error
