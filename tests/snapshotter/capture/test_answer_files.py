from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.data_keys import context_variable, service_element
from schemas.services import Service
from schemas.tables import snapshot_schema
from snapshotter.capture.answer_files import AnswerFiles
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import read_parquet, write_parquet

SERVICE = Service("history", service_element("history", "list<int64>"), (context_variable("query", "string"),))
SCHEMA = snapshot_schema(SERVICE)
FOLDER = "snapshots/history/r1"


def text(key: int) -> str:
    return f"q{key:05d}"


def rows_of(keys: list[int], says: int) -> pa.RecordBatch:
    """Answers for keys, each of which says who gave it."""
    columns = [
        pa.array([text(key) for key in keys]),
        pa.array([says] * len(keys), SCHEMA.field("captured_at").type),
        pa.array([[key, says] for key in keys], SCHEMA.field("value").type),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def parts_in(folder: str, keys: range, keep_seconds: float = 60.0, bucket: int = 0) -> AnswerFiles:
    table = pa.table({"query": [text(key) for key in keys]})
    return AnswerFiles(open_storage(f"file://{folder}"), FOLDER, SERVICE, bucket, table, keep_seconds)


def finished(parts: AnswerFiles) -> list[tuple[int, int]]:
    """Finish, and give for each row its key and who gave it."""
    written = parts.finish()
    if written is None:
        return []
    table = read_parquet(parts.storage, written.file)
    assert table.schema == SCHEMA
    assert table["query"].to_pylist() == [text(key) for key, _ in table["value"].to_pylist()]
    return [(key, says) for key, says in table["value"].to_pylist()]


KEYS = st.lists(st.integers(0, 40), max_size=40)


@settings(max_examples=40, deadline=None)
@given(st.lists(KEYS, max_size=4), st.booleans())
@example([[5, 5, 3], [3, 4], list(range(41))], True)
def test_whatever_was_left_each_key_comes_out_once_in_order(left: list[list[int]], keep_all: bool) -> None:
    keys = range(10, 30)
    with tempfile.TemporaryDirectory() as folder:
        for number, found in enumerate(left):
            path = f"{FOLDER}/00000-{number}.parquet"
            write_parquet(open_storage(f"file://{folder}"), path, [rows_of(found, number)], SCHEMA)
        parts = parts_in(folder, keys, 0.0 if keep_all else 60.0)
        missing = parts.recover()
        had = {key for found in left for key in found}
        assert [keys[i] for i in missing] == [key for key in keys if key not in had]
        for at in range(0, len(missing), 3):
            places = missing[at : at + 3]
            parts.add(places, rows_of([keys[i] for i in places], 99))
        rows = finished(parts)
        assert [key for key, _ in rows] == list(keys)
        for key, says in rows:
            assert says == 99 if key not in had else key in left[says]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5_000), unique=True, max_size=300), st.integers(1, 120))
def test_in_whatever_order_answers_come_the_file_is_sorted(order: list[int], page: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = parts_in(folder, range(5_001))
        for at in range(0, len(order), page):
            if at % 2:
                parts.flush()
            parts.add(np.array(order[at : at + page], np.int64), rows_of(order[at : at + page], 1))
        assert [key for key, _ in finished(parts)] == sorted(order)


def test_a_merge_of_many_row_groups_that_interleave_keeps_every_row(tmp_path: Path) -> None:
    parts = parts_in(str(tmp_path), range(10_000))
    for third in range(3):
        places = np.arange(third, 10_000, 3)
        for start in range(0, len(places), 500):
            parts.add(places[start : start + 500], rows_of(places[start : start + 500].tolist(), third))
        parts.flush()
    assert finished(parts) == [(key, key % 3) for key in range(10_000)]


def test_a_part_is_written_when_answers_have_waited_and_not_before(tmp_path: Path) -> None:
    parts = parts_in(str(tmp_path), range(10), keep_seconds=0.05)
    parts.add(np.array([0]), rows_of([0], 1))
    assert list(parts.storage.list(FOLDER)) == []
    time.sleep(0.06)
    parts.add(np.array([1]), rows_of([], 1))
    assert len(list(parts.storage.list(FOLDER))) == 1
    assert finished(parts) == [(0, 1)]
    assert len(list(parts.storage.list(FOLDER))) == 1


def test_a_part_is_written_when_memory_holds_as_much_as_it_may(tmp_path: Path) -> None:
    parts = parts_in(str(tmp_path), range(90))
    big = [list(range(200_000))]
    for key in range(90):
        values = pa.array(big, SCHEMA.field("value").type)
        columns = [pa.array([text(key)]), pa.array([1], SCHEMA.field("captured_at").type), values]
        parts.add(np.array([key]), pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
    assert len(list(parts.storage.list(FOLDER))) == 90 * 200_000 * 8 // (64 << 20)


@pytest.mark.parametrize(
    "name", ["00001-a.parquet", "00000-a.parquet.x.tmp", ".00000-a.parquet.x.tmp", "x/00000-a.parquet"]
)
def test_files_of_other_buckets_and_unfinished_ones_are_left_alone(tmp_path: Path, name: str) -> None:
    parts = parts_in(str(tmp_path), range(3))
    write_parquet(parts.storage, f"{FOLDER}/{name}", [rows_of([0, 1], 7)], SCHEMA)
    assert parts.recover().tolist() == [0, 1, 2]
    assert parts.notes == []
