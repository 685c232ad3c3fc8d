"""Data maps of several parts, one after another."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from encoders.data_map import ABSENT, DataMaps, Element, concatenated

ROWS = st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(0, 9)), max_size=4)
PARTS = st.lists(ROWS, min_size=1, max_size=4)
CATALOGUE = pa.array([[1, 2, 3]])


def part(rows: list[tuple[int, int | None]]) -> DataMaps:
    """A part with (items, state) of each context; all parts have one catalogue."""
    present = [state for _, state in rows if state is not None]
    places = np.cumsum([state is not None for _, state in rows]) - 1
    own = np.where([state is not None for _, state in rows], places, ABSENT).astype(np.int64)
    lengths = [count for count, _ in rows]
    return DataMaps(
        pa.table({"profile_id": pa.array(range(len(rows)), pa.int64())}),
        pa.table({"video_id": pa.array(range(sum(lengths)), pa.int64())}),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        {
            "state": Element(pa.array(present, pa.int64()), own),
            "catalogue": Element(CATALOGUE, np.zeros(len(rows), np.int64)),
        },
    )


@given(PARTS)
def test_each_context_keeps_its_data_and_a_catalogue_is_kept_once(parts: list[list[tuple[int, int | None]]]) -> None:
    maps = [part(rows) for rows in parts]
    joined = concatenated(maps)
    expected = [each.data_map(i) for each in maps for i in range(len(each))]
    assert [joined.data_map(i) for i in range(len(joined))] == expected
    assert len(joined.elements["catalogue"].values) == 1
