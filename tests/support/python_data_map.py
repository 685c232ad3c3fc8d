"""The data map of one context as Python objects."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from encoders.data_map import ABSENT, DataMaps
from schemas.tables import python_rows


def python_data_map(maps: DataMaps, i: int) -> dict[str, Any]:
    """Return the data map of one context: data key → data, None if absent."""
    values: dict[str, Any] = dict(python_rows(maps.contexts.slice(i, 1))[0])
    first, end = int(maps.item_offsets[i]), int(maps.item_offsets[i + 1])
    rows = python_rows(maps.items.slice(first, end - first))
    values.update({name: [row[name] for row in rows] for name in maps.items.column_names})
    for name, element in maps.elements.items():
        row = int(element.rows[i])
        value = pa.table({name: element.values.slice(max(row, 0), int(row != ABSENT))})
        values[name] = None if row == ABSENT else python_rows(value)[0][name]
    return values
