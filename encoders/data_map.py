"""Data maps: the input of encoders, for one context or, as columns, for many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ABSENT = -1


@dataclass(frozen=True)
class Element:
    """One data element for many contexts.

    values: distinct values of the data key's type; for a global element of struct type S, each value is one version of
        the whole table, a list<S>
    rows: for each context the position of its value, or ABSENT
    """

    values: pa.Array
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class DataMaps:
    """The data maps of many contexts, as columns. Generation builds them from files, serving from live answers.

    contexts: one row per context, with its variables and `time` (timestamp[us, UTC]), which encoders read as integer
        microseconds
    items: the items of all contexts, one after another, with one column per item variable
    item_offsets: (contexts + 1,) the start and end of each context's items
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
        """Give the data map of one context. Arrays of global elements stay the same, so that caches recognise them."""
        first, end = int(self.item_offsets[i]), int(self.item_offsets[i + 1])
        elements = {}
        for name, element in self.elements.items():
            row = int(element.rows[i])
            elements[name] = Element(element.values, np.array([row], dtype=np.int64))
        offsets = np.array([0, end - first], dtype=np.int64)
        return DataMaps(self.contexts.slice(i, 1), self.items.slice(first, end - first), offsets, elements)
