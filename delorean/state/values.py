"""Reads the values that rows are served with, while their files are open."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.state.matched import CaptureFile, FoundCaptures
from encoders.data_map import ABSENT, Element
from schemas.data_keys import DataKey
from schemas.errors import DataKeyError
from snapshotter.records import ServiceSnapshot
from snapshotter.storage.parquet import ParquetReader

VALUE_COLUMN = "value"
_KEEP_WHOLE = 0.6  # above this share of rows used, copying nested values costs more than the unused ones do


class Values:
    """Collects the values that rows are served with, file by file.

    A file whose values are of another type is not read; `element` raises if a row is served by it in the end.
    """

    def __init__(self, element: DataKey, rows: int) -> None:
        self._element = element
        self._parts: list[pa.Array] = []
        self._count = 0
        self._positions = np.full(rows, ABSENT, dtype=np.int64)

    def take(
        self,
        rows: NDArray[np.int64],
        found: NDArray[np.int64],
        ends: NDArray[np.int64],
        files: Sequence[tuple[CaptureFile, ParquetReader]],
    ) -> None:
        """Read what rows were served with. found: positions among the captures of files, which end at `ends`."""
        used = np.zeros(int(ends[-1]), dtype=bool)
        used[found] = True
        position = np.zeros(len(used), dtype=np.int64)
        start = 0
        for (of, reader), end in zip(files, ends.tolist(), strict=True):
            wanted = used[start:end]
            share = wanted.mean() if len(wanted) else 0.0
            if share and of.snapshot.service.element.type == self._element.type:
                column = reader.read([VALUE_COLUMN])[VALUE_COLUMN]
                kept = np.ones(len(wanted), dtype=bool) if share >= _KEEP_WHOLE else wanted
                column = column if share >= _KEEP_WHOLE else column.filter(pa.array(wanted))
                position[start:end] = self._count + np.cumsum(kept) - 1
                self._parts += column.chunks
                self._count += len(column)
            start = end
        self._positions[rows] = position[found]

    def element(self, found: FoundCaptures, files: Sequence[CaptureFile]) -> Element:
        """Give the element of each row. Raises DataKeyError where a run of another type serves one."""
        for i in np.unique(found.file[found.file >= 0]):
            refuse_other_type(self._element, files[i].snapshot)
        values = pa.concat_arrays(self._parts) if self._parts else pa.array([], self._element.type)
        return Element(values, self._positions)


def refuse_other_type(element: DataKey, snapshot: ServiceSnapshot) -> None:
    """Raise DataKeyError for a snapshot that holds values of another type than the element's."""
    if snapshot.service.element.type != element.type:
        raise DataKeyError.because(
            f"element '{element.name}': snapshots have {snapshot.service.element.type}, encoders declare "
            f"{element.type}: run '{snapshot.run_id}' serves rows",
            "declare the type that the service answered with, or take rows that see runs of one type",
        )
