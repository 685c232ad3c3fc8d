"""A stored file of which parts are fetched when they are needed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import pyarrow as pa

from schemas.closeable import Closeable

Range = tuple[int, int]
"""First byte, and the byte after the last."""


class PartialInput(Closeable):
    """An open file. file: of the whole size; its bytes are undefined before they are loaded."""

    file: pa.NativeFile

    @abstractmethod
    def load(self, ranges: Iterable[Range]) -> None:
        """Make ranges readable. Raises what opening the file raises, and CorruptFileError if it has changed since."""

    def forget(self) -> None:
        """Free what was loaded, if it takes space: it is fetched again when it is needed, in the same state.

        Buffers of the file must not be in use any more.
        """


class WholeInput(PartialInput):
    """A file whose bytes are all readable."""

    def __init__(self, file: pa.NativeFile) -> None:
        self.file = file

    def load(self, ranges: Iterable[Range]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def missing_ranges(requested: Iterable[Range], loaded: Sequence[Range], smallest_gap: int) -> list[Range]:
    """Return what to fetch: the parts of ranges that are not loaded; those with small gaps between them as one.

    >>> missing_ranges([(0, 10), (12, 20), (50, 60)], [(5, 8)], 3)
    [(0, 20), (50, 60)]
    >>> missing_ranges([(0, 10)], [(0, 4), (4, 12)], 0)
    []
    """
    parts = []
    for start, end in sorted(requested):
        for first, last in sorted(loaded):
            if first <= start < last:
                start = last  # the rest of the range
            elif start < first < end:
                parts.append((start, first))
                start = last
        if start < end:
            parts.append((start, end))
    merged: list[Range] = []
    for start, end in sorted(parts):
        if merged and start - merged[-1][1] <= smallest_gap:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
