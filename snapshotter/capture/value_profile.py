"""Profiles of a service's values: a few numbers by which a change in the values shows.

Only sums of integers are kept, so that they are the same however rows are split into batches, files and tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from schemas.nulls import may_be_null

_BYTES = "mean_bytes"


@dataclass
class MeasureSums:
    """Measure → its sum, and the count that the sum is divided by."""

    of: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, other: MeasureSums) -> None:
        """Add the sums of another batch."""
        for name, (total, count) in other.of.items():
            before, counted = self.of.get(name, (0, 0))
            self.of[name] = (before + total, counted + count)

    def profile(self) -> dict[str, float]:
        """Return the mean of each measure."""
        return {name: total / count for name, (total, count) in sorted(self.of.items()) if count}


def sums_of(values: pa.Array) -> MeasureSums:
    """Measure the values of a service's element.

    mean_bytes: of all leaves of a value, without what Arrow adds
    mean_length(path), empty_share(path): of each list; null_share(path): of each leaf that may be null

    >>> sums_of(pa.array([[{"minutes": 1.5}, {"minutes": None}], []])).profile()
    {'empty_share(value[])': 0.5, 'mean_bytes': 4.0, 'mean_length(value[])': 1.0, 'null_share(value[].minutes)': 0.5}
    """
    sums = MeasureSums({_BYTES: (0, len(values))})
    for measured in _measures("value", values):
        sums.add(measured)
    return sums


def _measures(path: str, values: pa.Array) -> Iterator[MeasureSums]:
    if pa.types.is_list(values.type):
        lengths = pc.list_value_length(values)
        empty = pc.sum(pc.equal(lengths, 0)).as_py() or 0
        items = values.flatten()
        yield MeasureSums(
            {f"mean_length({path}[])": (len(items), len(values)), f"empty_share({path}[])": (empty, len(values))}
        )
        yield from _measures(f"{path}[]", items)
    elif pa.types.is_struct(values.type):
        for child, of in zip(values.type, values.flatten(), strict=True):
            yield from _measures(f"{path}.{child.name}", of)
    else:
        yield MeasureSums({_BYTES: (_bytes_of(values), 0)})
        if may_be_null(values.type):
            yield MeasureSums({f"null_share({path})": (values.null_count, len(values))})


def _bytes_of(leaf: pa.Array) -> int:
    if pa.types.is_string(leaf.type) or pa.types.is_large_string(leaf.type) or pa.types.is_binary(leaf.type):
        return int(pc.sum(pc.binary_length(leaf)).as_py() or 0)
    return int((len(leaf) - leaf.null_count) * max(1, leaf.type.bit_width // 8))
