"""Which runs and versions are read as another type than their own, and how many rows they serve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from delorean.state.matches import CaptureMatch
from schemas.data_keys import DataKey
from schemas.errors import DataKeyError


@dataclass(frozen=True)
class AdaptedType:
    """Rows of a feature set that were served by values of another type than the encoders'.

    type: of the stored values, as text
    defaulted: paths of the fields that this type lacks, so that encoders read their defaults
    rows: that such values served
    until: the last run or version of this type that served a row
    """

    element: str
    type: str
    defaulted: tuple[str, ...]
    rows: int
    until: str


def check_type(element: DataKey, stored: pa.DataType, source: str) -> None:
    """Raise DataKeyError where values of a type cannot be read as the element's. source: the run or version."""
    try:
        element.adapter(stored)
    except DataKeyError as error:
        raise DataKeyError(f"{source} serves rows, but {error}") from error


def types_that_differ(element: DataKey, types: Iterable[tuple[str, pa.DataType]]) -> dict[str, pa.DataType]:
    """Return the ids of runs or versions whose values are of another type than the element's, with these types."""
    return {source_id: stored for source_id, stored in types if stored != element.type}


def adapted_rows(match: CaptureMatch, source_ids: Sequence[str], differing: Mapping[str, object]) -> dict[str, int]:
    """Count the rows that each run or version of another type serves.

    source_ids: at each position that `match.file` may have; differing: those of another type
    """
    if not differing:
        return {}
    counts: dict[str, int] = {}
    positions, rows = np.unique(match.file[match.file >= 0], return_counts=True)
    for position, count in zip(positions.tolist(), rows.tolist(), strict=True):
        source_id = source_ids[position]
        if source_id in differing:
            counts[source_id] = counts.get(source_id, 0) + count
    return counts


def adapted_types(
    element: DataKey, differing: Mapping[str, pa.DataType], rows: Iterable[Mapping[str, int]]
) -> Iterator[AdaptedType]:
    """Add up the counts of bucket tasks for each type that served rows.

    differing: as `types_that_differ` returns it, the earliest run or version first; rows: of each task
    """
    total: dict[str, int] = {}
    for part in rows:
        for source_id, count in part.items():
            total[source_id] = total.get(source_id, 0) + count
    of_type: dict[pa.DataType, list[str]] = {}
    for source_id, stored in differing.items():
        if total.get(source_id):
            of_type.setdefault(stored, []).append(source_id)
    for stored, ids in of_type.items():
        defaulted = element.adapter(stored).defaulted
        yield AdaptedType(element.name, str(stored), defaulted, sum(total[each] for each in ids), ids[-1])


def added_up(parts: Iterable[Sequence[AdaptedType]]) -> tuple[AdaptedType, ...]:
    """Add up the counts of parts of a feature set. `until` is that of the last part that has the type."""
    total: dict[tuple[str, str], AdaptedType] = {}
    for each in (each for part in parts for each in part):
        before = total.get((each.element, each.type))
        total[each.element, each.type] = each if before is None else replace(each, rows=before.rows + each.rows)
    return tuple(total.values())


def default_counts(adapted: Sequence[AdaptedType]) -> dict[tuple[str, str], tuple[int, str]]:
    """Return for each element and field the rows that got its default, and the last run or version that lacks it."""
    counts: dict[tuple[str, str], tuple[int, str]] = {}
    for each in adapted:  # the types of an element in the order in which each first served
        for path in each.defaulted:
            rows = counts.get((each.element, path), (0, ""))[0]
            counts[each.element, path] = rows + each.rows, each.until
    return counts


def adaptation_notes(adapted: Sequence[AdaptedType], rows: int) -> tuple[str, ...]:
    """Return remarks for people: what was read as another type, and which fields got their defaults how often.

    rows: of the feature set
    """
    notes = [
        f"{each.element}: {each.rows:,} of {rows:,} rows are served by another type, {each.type}, until {each.until}"
        for each in adapted
    ]
    for (element, path), (count, until) in default_counts(adapted).items():
        notes.append(f"{element}.{path}: default in {count:,} of {rows:,} rows, until {until}")
    return tuple(notes)
