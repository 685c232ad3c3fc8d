"""Data maps: what encoders read, for one context or, column by column, for many at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ABSENT = -1


@dataclass(frozen=True)
class Element:
    """One data element for many contexts.

    values: distinct values, of the data key's type; for a global element of struct type S, each value is one version
        of the whole table, a list<S>
    rows: for each context the position of its value, or ABSENT
    """

    values: pa.Array
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class DataMaps:
    """The data maps of many contexts, as columns: what a bucket task builds from files and serving from live answers.

    contexts: one row for each context: its variables and `time` (timestamp[us, UTC]), which encoders read as integer
        microseconds
    items: the items of all contexts end to end, one column for each item variable
    item_offsets: (contexts + 1,) where each context's items start and end
    elements: data key's name → element
    """

    contexts: pa.Table
    items: pa.Table
    item_offsets: NDArray[np.int64]
    elements: Mapping[str, Element]

    def __len__(self) -> int:
        """Number of contexts."""
        return int(self.contexts.num_rows)

    def only(self, i: int) -> DataMaps:
        """Give the data map of one context. Versions of global elements stay together, so that caches know them."""
        first, end = int(self.item_offsets[i]), int(self.item_offsets[i + 1])
        elements = {}
        for name, element in self.elements.items():
            row = int(element.rows[i])
            elements[name] = Element(element.values, np.array([row], dtype=np.int64))
        offsets = np.array([0, end - first], dtype=np.int64)
        return DataMaps(self.contexts.slice(i, 1), self.items.slice(first, end - first), offsets, elements)

    def data_map(self, i: int) -> dict[str, Any]:
        """Show the data map of one context: data key → data as Python objects, None where it is absent."""
        shown: dict[str, Any] = dict(self.contexts.slice(i, 1).to_pylist()[0])
        first, end = int(self.item_offsets[i]), int(self.item_offsets[i + 1])
        shown.update(self.items.slice(first, end - first).to_pydict())
        for name, element in self.elements.items():
            row = int(element.rows[i])
            shown[name] = None if row == ABSENT else element.values[row].as_py()
        return shown
