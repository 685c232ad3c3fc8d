"""Data maps: the input of encoders, for one context or, as columns, for many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import python_rows

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

    def where(self, kept: NDArray[np.bool_]) -> DataMaps:
        """Give the data maps of some contexts. kept: (contexts,). Arrays of elements' values stay the same."""
        lengths = np.diff(self.item_offsets)
        items = self.items.filter(pa.array(np.repeat(kept, lengths)))
        elements = {name: Element(each.values, each.rows[kept]) for name, each in self.elements.items()}
        offsets = np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int64)
        return DataMaps(self.contexts.filter(pa.array(kept)), items, offsets, elements)

    def data_map(self, i: int) -> dict[str, Any]:
        """Return the data map of one context as Python objects: data key → data, None if absent."""
        values: dict[str, Any] = dict(python_rows(self.contexts.slice(i, 1))[0])
        first, end = int(self.item_offsets[i]), int(self.item_offsets[i + 1])
        rows = python_rows(self.items.slice(first, end - first))
        values.update({name: [row[name] for row in rows] for name in self.items.column_names})
        for name, element in self.elements.items():
            row = int(element.rows[i])
            value = pa.table({name: element.values.slice(max(row, 0), int(row != ABSENT))})
            values[name] = None if row == ABSENT else python_rows(value)[0][name]
        return values


def concatenated(parts: Sequence[DataMaps]) -> DataMaps:
    """Return the data maps of several parts' contexts, one after another; values that parts share are kept once."""
    lengths = np.concatenate([np.diff(part.item_offsets) for part in parts])
    return DataMaps(
        pa.concat_tables([part.contexts for part in parts]).combine_chunks(),
        pa.concat_tables([part.items for part in parts]).combine_chunks(),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        {name: _joined([part.elements[name] for part in parts]) for name in parts[0].elements},
    )


def _joined(elements: Sequence[Element]) -> Element:
    """Join the values of parts. Each part has the same catalogue of a global element: it is kept once."""
    values: list[pa.Array] = []
    rows = []
    for element in elements:
        same = [i for i, earlier in enumerate(values) if earlier.equals(element.values)]
        start = sum(len(earlier) for earlier in values[: same[0]]) if same else sum(map(len, values))
        rows.append(np.where(element.rows == ABSENT, ABSENT, element.rows + start))
        if not same:
            values.append(element.values)
    return Element(values[0] if len(values) == 1 else pa.concat_arrays(values), np.concatenate(rows).astype(np.int64))
