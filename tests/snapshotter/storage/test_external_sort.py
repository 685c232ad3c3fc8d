"""Rows are sorted in runs and merged: whatever their order and the size of the runs, as sorting them at once would."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from snapshotter.storage.external_sort import SortedRows

KEYS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): st.integers(-5, 5),
    pa.float64(): st.floats(width=16) | st.just(math.nan),
    pa.string(): st.text("ab", max_size=3),
    pa.decimal128(4, 1): st.integers(-20, 20).map(lambda tenths: Decimal(tenths) / 10),
}


@given(data=st.data(), key=st.sampled_from(list(KEYS)), run_rows=st.integers(1, 9), batch_rows=st.integers(1, 5))
@settings(max_examples=60)
def test_rows_are_sorted_in_any_number_of_runs(
    data: st.DataObject, key: pa.DataType, run_rows: int, batch_rows: int
) -> None:
    keys = data.draw(st.lists(KEYS[key], max_size=40))
    table = pa.table({"key": pa.array(keys, key), "row": list(range(len(keys)))})
    batches = [pa.Table.from_batches([batch]) for batch in table.to_batches(batch_rows)]
    run_bytes = max(1, table.nbytes * run_rows // max(1, table.num_rows))
    with SortedRows(batches, "key", run_bytes) as rows:
        read = [pa.concat_tables([table.slice(0, 0), *rows.read()]) for _ in range(2)]
        assert rows.rows == len(keys)
    assert repr(read[0]["key"].to_pylist()) == repr(table.sort_by("key")["key"].to_pylist())
    assert read[0]["row"].equals(read[1]["row"])
    assert all(repr(keys[row["row"]]) == repr(row["key"]) for row in read[0].to_pylist() if key != pa.decimal128(4, 1))
    assert sorted(read[0]["row"].to_pylist()) == list(range(len(keys)))
