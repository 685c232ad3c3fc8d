"""The probe of a global element's hash index, shared by plain and compiled lookups."""

from __future__ import annotations

from typing import Any


def find(table: Any, key: Any) -> int:
    """Give the row of a key in a table with slots, -1 if it has none."""
    slots = table.slots
    last = len(slots) - 1
    if last < 0:
        return -1
    # 32-bit halves times 29-bit primes stay below 2^63, so that Python and machine integers agree.
    mixed = (key & 0xFFFFFFFF) * 374761393 + ((key >> 32) & 0xFFFFFFFF) * 268435399
    at = (mixed ^ (mixed >> 29)) & last
    row: int = slots[at]
    while row >= 0 and table.values[row] != key:
        at = (at + 1) & last
        row = slots[at]
    return row
