"""What matching gives: for each row the capture or version that serves it, and the value."""

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
    """A file of captures and the snapshot that it is part of."""

    snapshot: ServiceSnapshot
    file: DataFile


@dataclass(frozen=True)
class Matched:
    """An element for each row.

    captured_at: (rows,) microseconds of its capture, 0 where it is absent
    file: (rows,) which of the files given it came from, −1 where it is absent
    """

    element: Element
    captured_at: NDArray[np.int64]
    file: NDArray[np.int64]

    @property
    def absent(self) -> NDArray[np.bool_]:
        """Which rows have no such element."""
        absent: NDArray[np.bool_] = self.element.rows == ABSENT
        return absent

    def where(self, kept: NDArray[np.bool_]) -> Matched:
        """Leave rows out."""
        return Matched(Element(self.element.values, self.element.rows[kept]), self.captured_at[kept], self.file[kept])

    def without(self, rows: NDArray[np.bool_]) -> Matched:
        """Make the element absent from rows."""
        return Matched(
            Element(self.element.values, np.where(rows, ABSENT, self.element.rows)),
            np.where(rows, 0, self.captured_at),
            np.where(rows, -1, self.file),
        )

    def captured_times(self) -> pa.Array:
        """`captured_at` as Arrow times, null where the element is absent."""
        return pa.array(self.captured_at, mask=self.absent).cast(TIME)


@dataclass(frozen=True)
class FoundCaptures:
    """Which capture serves each row. captured_at, file: as in `Matched`."""

    captured_at: NDArray[np.int64]
    file: NDArray[np.int64]
