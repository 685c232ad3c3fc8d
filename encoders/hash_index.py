"""A hash index over the rows of a global element, for lookups in compiled and plain encoders."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.compilation.compile import compile_batch
from encoders.compilation.probe import find
from schemas.hashing import text_code


def lookup(table: Any, key: Any) -> int:
    """Give the row of a global element with a key, its first field; -1 if no row matches.

    table: a global element, such as `data.videos`
    key: an integer or a text

    A null text matches nothing. If several rows have the same key, the first one is returned.
    """
    if key is None:
        return -1
    return find(table, text_code(key) if isinstance(key, str) else key)


def fill_slots(keys: Any, starts: Any, slot_starts: Any, slots: Any, null: int, has_null: bool) -> None:
    """Index every version: the slots of version v are slots[slot_starts[v]:slot_starts[v + 1]], empty ones -1.

    keys: of all versions, one after another; starts: the start of each version's rows
    null: the key that represents null, if has_null
    """
    for version in range(len(slot_starts) - 1):
        base = slot_starts[version]
        last = slot_starts[version + 1] - base - 1
        for row in range(starts[version + 1] - starts[version]):
            key = keys[starts[version] + row]
            if has_null and key == null:
                continue
            mixed = (key & 0xFFFFFFFF) * 374761393 + ((key >> 32) & 0xFFFFFFFF) * 268435399
            at = (mixed ^ (mixed >> 29)) & last
            while slots[base + at] >= 0 and keys[starts[version] + slots[base + at]] != key:
                at = (at + 1) & last
            if slots[base + at] < 0:
                slots[base + at] = row


def slot_bounds(starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the start of each version's slots: a power of two of them, at least twice its rows."""
    sizes = [1 << int(2 * rows).bit_length() for rows in np.diff(starts)]
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)


def index_table(
    keys: NDArray[np.int64], starts: NDArray[np.int64], text: bool, folder: Path | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Build the slots of every version of a global element, and the start of each version's slots.

    keys: the versions' keys, one after another; starts: (versions + 1,)
    text: whether keys are codes of texts, where 0 is null
    """
    bounds = slot_bounds(starts)
    slots = np.full(int(bounds[-1]), -1, dtype=np.int64)
    source = "from __future__ import annotations\n\n" + inspect.getsource(fill_slots)
    read = "int64[r]"
    fill = compile_batch(source, [read, read, read, "int64[w]", "int64", "bool"], "fill_slots", folder)
    arrays = [np.ascontiguousarray(array, dtype=np.int64).view() for array in (keys, starts, bounds)]
    for array in arrays:
        array.flags.writeable = False
    fill(*arrays, slots, 0, text)
    slots.flags.writeable = False
    return slots, arrays[2]
