"""The result of matching: for each row the capture or version that serves it, and the value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from encoders.data_map import ABSENT, Element
from schemas.tables import TIME
from snapshotter.records import DataFile, ServiceSnapshot


class CaptureFile(NamedTuple):
    """A file of captures and the snapshot that it belongs to."""

    snapshot: ServiceSnapshot
    file: DataFile


@dataclass(frozen=True)
class CaptureMatch:
    """Which capture serves each row.

    captured_at: (rows,) microseconds of the capture, 0 where the element is absent
    file: (rows,) position of the matched file or version in the sequence that was searched, −1 where absent
    """

    captured_at: NDArray[np.int64]
    file: NDArray[np.int64]


@dataclass(frozen=True)
class ElementMatch(CaptureMatch):
    """Which capture or version serves each row, and the element's values."""

    element: Element

    @property
    def absent(self) -> NDArray[np.bool_]:
        """Mask of the rows without the element."""
        absent: NDArray[np.bool_] = self.element.rows == ABSENT
        return absent

    def where(self, kept: NDArray[np.bool_]) -> ElementMatch:
        """Keep only some rows."""
        return ElementMatch(
            self.captured_at[kept], self.file[kept], Element(self.element.values, self.element.rows[kept])
        )

    def without(self, rows: NDArray[np.bool_]) -> ElementMatch:
        """Make the element absent from some rows."""
        return ElementMatch(
            np.where(rows, 0, self.captured_at),
            np.where(rows, -1, self.file),
            Element(self.element.values, np.where(rows, ABSENT, self.element.rows)),
        )

    def captured_times(self) -> pa.Array:
        """Return `captured_at` as Arrow times, null where the element is absent."""
        return pa.array(self.captured_at, mask=self.absent).cast(TIME)
