"""Digests of feature rows: equal digests mean that two feature sets hold the same bits, without reading either.

A row is hashed value by value, its key first; the hashes of all rows are added up. So a digest depends on every bit of
every value and on its row, but neither on the order of rows nor on how they are distributed over files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.labels import OUTCOME_COLUMN, TIME_COLUMN, LabelShape
from delorean.labels.row_hashes import absorb_column, absorb_lists, initial_states, sum_states
from schemas.errors import DataKeyError

_LANE = 16  # hexadecimal digits of one of the two sums
_NO_ROWS = "0" * 2 * _LANE


@dataclass(frozen=True)
class FeatureDigest:
    """A digest of a set of feature rows, in 128 bits for each feature.

    A change of one value always changes its digest; two other sets of rows share one by accident with a probability of
    about 2^-128. It is not a cryptographic hash: collisions can be constructed.

    rows, items: their numbers
    keys: of each row's context, time, items, labels, outcome, weights and columns that are carried along, 32
        hexadecimal digits
    features: feature → digest of its values, each with its row's context and time
    """

    rows: int
    items: int
    keys: str
    features: Mapping[str, str]

    @classmethod
    def empty(cls, features: Iterable[str]) -> Self:
        """Return the digest of no rows, to which others are added."""
        return cls(0, 0, _NO_ROWS, dict.fromkeys(features, _NO_ROWS))

    def __add__(self, other: FeatureDigest) -> FeatureDigest:
        """Return the digest of both sets of rows together. Raises DataKeyError if their features differ."""
        if set(self.features) != set(other.features):
            apart = sorted(set(self.features) ^ set(other.features))
            raise DataKeyError.because(f"only one of two digests has {', '.join(apart)}", "digest the same features")
        return FeatureDigest(
            self.rows + other.rows,
            self.items + other.items,
            _added(self.keys, other.keys),
            {name: _added(digest, other.features[name]) for name, digest in self.features.items()},
        )

    def moved(self, other: FeatureDigest) -> list[str]:
        """Return the features that both have, with different values."""
        return [name for name, digest in self.features.items() if other.features.get(name, digest) != digest]


def digest_rows(
    rows: pa.Table,
    context: Sequence[str],
    items: Sequence[str],
    features: Sequence[str],
    shape: LabelShape | None = None,
) -> FeatureDigest:
    """Return the digest of feature rows as bucket tasks write them.

    rows: the context's columns, `time`, `outcome_at`, `label`, and a list for each of the items' and features' columns
    context: columns of integers, floats, texts, booleans, dates, decimals or times; the same numbers in another type
        (int32 for int64) have another digest. Items likewise, in lists
    shape: of the label data; None: it has one label

    Raises DataKeyError for columns that are missing or nested deeper.

    >>> from datetime import UTC, datetime
    >>> from schemas.tables import TIME
    >>> day = pa.array([datetime(2026, 5, 1, tzinfo=UTC)] * 2, TIME)
    >>> lists = pa.array([[1.0, 2.0], []], pa.list_(pa.float32()))
    >>> columns = {"profile_id": [7, 8], "time": day, "outcome_at": day, "video_id": pa.array([[1, 2], []])}
    >>> rows = pa.table({**columns, "label": lists, "minutes": lists})
    >>> whole = digest_rows(rows, ["profile_id"], ["video_id"], ["minutes"])
    >>> parts = [digest_rows(rows[part:part + 1], ["profile_id"], ["video_id"], ["minutes"]) for part in (1, 0)]
    >>> parts[0] + parts[1] == whole
    True
    """
    starts = initial_states(rows.num_rows)
    for name in (*context, TIME_COLUMN):
        absorb_column(starts, name, rows)
    keys = starts.copy()
    shape = shape or LabelShape((), ())
    for name in (*([OUTCOME_COLUMN] if shape.labels else []), *(column.name for column in shape.kept)):
        absorb_column(keys, name, rows)
    for name in (*items, *shape.of_items):
        count = absorb_lists(keys, name, rows)
    digests = {}
    for name in features:
        states = starts.copy()
        absorb_lists(states, name, rows)
        digests[name] = _hex(sum_states(states))
    return FeatureDigest(rows.num_rows, count, _hex(sum_states(keys)), digests)


def _hex(lanes: NDArray[np.uint64]) -> str:
    return "".join(f"{int(lane):0{_LANE}x}" for lane in lanes)


def _added(one: str, other: str) -> str:
    """Add two digests lane by lane, modulo 2^64."""
    lanes = [int(one[at : at + _LANE], 16) + int(other[at : at + _LANE], 16) for at in (0, _LANE)]
    return "".join(f"{lane % 2**64:0{_LANE}x}" for lane in lanes)
