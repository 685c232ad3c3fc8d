"""Reads the values of matched captures while their files are open."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.state.adaptations import check_type
from delorean.state.matches import CaptureFile, CaptureMatch
from delorean.state.row_groups import RowGroups
from encoders.data_map import ABSENT, Element
from schemas.data_keys import DataKey

VALUE_COLUMN = "value"
_KEEP_WHOLE = 0.6  # above this share of rows used, copying nested values costs more than the unused ones do


class CaptureValues:
    """Collects the values that serve rows, file by file.

    Values of another type are converted to the element's. A file whose values cannot be is not read; `element` raises
    if such a file serves a row in the end.
    """

    def __init__(self, element: DataKey, rows: int) -> None:
        self._element = element
        self._chunks: list[pa.Array] = []
        self._count = 0
        self._positions = np.full(rows, ABSENT, dtype=np.int64)

    def take(
        self,
        rows: NDArray[np.int64],
        captures: NDArray[np.int64],
        ends: NDArray[np.int64],
        files: Sequence[tuple[CaptureFile, RowGroups]],
    ) -> None:
        """Read the values that serve rows.

        captures: each row's position among the captures of all files, which end at `ends`
        """
        used = np.zeros(int(ends[-1]), dtype=bool)
        used[captures] = True
        position = np.zeros(len(used), dtype=np.int64)
        start = 0
        for (file, parts), end in zip(files, ends.tolist(), strict=True):
            used_here = used[start:end]
            stored = file.snapshot.service.element.type
            if used_here.any() and self._element.reads(stored):
                needed, kept = parts.holding(used_here)
                column = needed.read([VALUE_COLUMN])[VALUE_COLUMN]
                if used_here[kept].mean() < _KEEP_WHOLE:
                    column, kept = column.filter(pa.array(used_here[kept])), used_here
                position[start:end] = self._count + np.cumsum(kept) - 1
                self._chunks += map(self._element.adapter(stored), column.chunks)
                self._count += len(column)
            start = end
        self._positions[rows] = position[captures]

    def element(self, match: CaptureMatch, files: Sequence[CaptureFile]) -> Element:
        """Return the element of each row. Raises DataKeyError where a run serves one whose type cannot be read."""
        for i in np.unique(match.file[match.file >= 0]):
            snapshot = files[i].snapshot
            check_type(self._element, snapshot.service.element.type, f"run '{snapshot.run_id}'")
        values = pa.concat_arrays(self._chunks) if self._chunks else pa.array([], self._element.type)
        return Element(values, self._positions)
