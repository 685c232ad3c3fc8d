"""What a service's values look like in sum: few numbers that tell when they have changed.

Sums are of whole numbers, so that they are the same however rows are cut into batches, files and tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from schemas.nulls import may_be_null

_BYTES = "mean_bytes"


@dataclass
class Sums:
    """For each measure the sum over what it is of, and how many that were."""

    of: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, other: Sums) -> None:
        """Take another batch's sums in."""
        for name, (total, count) in other.of.items():
            before, counted = self.of.get(name, (0, 0))
            self.of[name] = (before + total, counted + count)

    def profile(self) -> dict[str, float]:
        """Give the mean of each measure."""
        return {name: total / count for name, (total, count) in sorted(self.of.items()) if count}

    def to_json(self) -> dict[str, list[int]]:
        """Write the sums as plain fields."""
        return {name: list(sums) for name, sums in self.of.items()}

    @classmethod
    def from_json(cls, fields: Mapping[str, list[int]]) -> Sums:
        """Read what `to_json` wrote."""
        return cls({name: (total, count) for name, (total, count) in fields.items()})


def sums_of(values: pa.Array) -> Sums:
    """Measure values of a service's element.

    mean_bytes: of all leaves of a value, without what Arrow adds
    mean_length(path), empty_share(path): of each list; null_share(path): of each leaf that may be null

    >>> sums_of(pa.array([[{"minutes": 1.5}, {"minutes": None}], []])).profile()
    {'empty_share(value[])': 0.5, 'mean_bytes': 4.0, 'mean_length(value[])': 1.0, 'null_share(value[].minutes)': 0.5}
    """
    sums = Sums({_BYTES: (0, len(values))})
    for measured in _measures("value", values):
        sums.add(measured)
    return sums


def _measures(path: str, values: pa.Array) -> Iterator[Sums]:
    if pa.types.is_list(values.type):
        lengths = pc.list_value_length(values)
        empty = pc.sum(pc.equal(lengths, 0)).as_py() or 0
        items = values.flatten()
        yield Sums(
            {f"mean_length({path}[])": (len(items), len(values)), f"empty_share({path}[])": (empty, len(values))}
        )
        yield from _measures(f"{path}[]", items)
    elif pa.types.is_struct(values.type):
        for child, of in zip(values.type, values.flatten(), strict=True):
            yield from _measures(f"{path}.{child.name}", of)
    else:
        yield Sums({_BYTES: (_bytes_of(values), 0)})
        if may_be_null(values.type):
            yield Sums({f"null_share({path})": (values.null_count, len(values))})


def _bytes_of(leaf: pa.Array) -> int:
    if pa.types.is_string(leaf.type) or pa.types.is_large_string(leaf.type) or pa.types.is_binary(leaf.type):
        return int(pc.sum(pc.binary_length(leaf)).as_py() or 0)
    return int((len(leaf) - leaf.null_count) * max(1, leaf.type.bit_width // 8))
