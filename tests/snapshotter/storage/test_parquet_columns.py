"""Files made of columns of other files: any reader reads them as if they had been written whole."""

from __future__ import annotations

from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import CorruptFileError
from snapshotter.records import DataFile
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.compact_thrift import Kind, read_struct, write_struct
from snapshotter.storage.parquet import ParquetReader, read_parquet, write_parquet
from snapshotter.storage.parquet_columns import ParquetColumns, write_with_columns

ROWS = 5000


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return open_storage(f"file://{tmp_path_factory.mktemp('columns')}/s tore")


def table(rows: int = ROWS) -> pa.Table:
    schema = pa.schema(
        [
            ("id", pa.int64()),
            ("text", pa.string()),
            ("lists", pa.list_(pa.float32())),
            ("nested", pa.list_(pa.struct([("x", pa.int64()), ("y", pa.string())]))),
        ]
    )
    return pa.table(
        {
            "id": range(rows),
            "text": [str(i % 7) if i % 3 else None for i in range(rows)],
            "lists": [[float(i)] * (i % 4) for i in range(rows)],
            "nested": [[{"x": i, "y": "é" * (i % 3)}] * (i % 2) for i in range(rows)],
        },
        schema=schema,
    )


def written(storage: Storage, rows: pa.Table, name: str) -> DataFile:
    return write_parquet(storage, f"{name}.parquet", rows, rows.schema)


def test_columns_of_both_are_read_by_every_reader(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapshotter.storage.parquet._ROW_GROUP_BYTES", 1 << 15)
    before = table()
    columns = ParquetColumns(storage, written(storage, before, "before"))
    assert len(columns.group_sizes) > 2
    new = pa.table({"new": pa.array(range(ROWS), pa.float32()), "words": before["text"]})
    expected = pa.table({"nested": before["nested"], **dict(zip(new.column_names, new.columns, strict=True))})
    expected = expected.append_column("text", before["text"])
    file = write_with_columns(storage, "after.parquet", expected.schema, columns, new, 3)
    assert (file.rows, file.bucket) == (ROWS, 3)
    assert read_parquet(storage, file).equals(expected)
    with ParquetReader(storage, file) as reader:  # verifies a row group with its own checksum
        start, second = columns.group_sizes[:2]
        assert len(file.segments) == len(columns.group_sizes) + 1
        assert reader.read(row_groups=[1]).equals(expected.slice(start, second))
    path = storage.uri_of("after.parquet").removeprefix("file://").replace("%20", " ")
    checked = pq.ParquetFile(path, page_checksum_verification=True)
    assert checked.read().equals(expected)
    assert checked.schema_arrow.equals(expected.schema)
    assert pl.read_parquet(path)["new"].sum() == sum(range(ROWS))
    assert duckdb.sql(f"SELECT count(text), sum(len(nested)) FROM '{path}' WHERE new >= 10").fetchall() == [
        (
            sum(i % 3 > 0 for i in range(10, ROWS)),
            sum(i % 2 for i in range(10, ROWS)),
        )
    ]


@pytest.mark.parametrize("rows", [0, 1, ROWS])
def test_copies_of_copies_equal_the_original(storage: Storage, rows: int) -> None:
    expected = table(rows)
    file = written(storage, expected, f"original-{rows}")
    for copy in range(3):
        columns = ParquetColumns(storage, file)
        new = expected.select(["id", "lists"]) if copy == 1 else pa.table({})
        file = write_with_columns(storage, f"copy-{rows}-{copy}.parquet", expected.schema, columns, new)
    assert read_parquet(storage, file).equals(expected)


def test_what_does_not_fit_is_an_error_and_leaves_no_file(storage: Storage) -> None:
    before = table(20)
    file = written(storage, before, "fits")
    columns = ParquetColumns(storage, file)
    new = pa.table({"new": pa.array(range(20))})
    other = pa.schema([("new", pa.int64()), ("id", pa.int32())])
    for schema, rows, problem in (
        (other, new, "'fits.parquet' has no column 'id' of type int32"),
        (new.schema.append(pa.field("gone", pa.int64())), new, "has no column 'gone'"),
        (new.schema, new.slice(1), "has 20 rows, expected 19"),
    ):
        with pytest.raises(CorruptFileError, match=problem):
            write_with_columns(storage, "unfit.parquet", schema, columns, rows)
    assert not [path for path in storage.list("") if "unfit" in path.path]
    with pytest.raises(CorruptFileError, match="'fits.parquet' is not the file that was published → restore"):
        ParquetColumns(storage, DataFile("fits.parquet", 20, file.bytes, "0" * 32))


integers = st.integers(-(2**63), 2**63 - 1)
values: st.SearchStrategy[tuple[int, Any]] = st.recursive(
    st.one_of(
        st.tuples(st.sampled_from([int(Kind.I16), int(Kind.I32), int(Kind.I64)]), integers),
        st.tuples(st.just(int(Kind.BINARY)), st.binary(max_size=300)),
        st.tuples(st.sampled_from([int(Kind.TRUE), int(Kind.FALSE)]), st.none()),
        st.tuples(st.just(int(Kind.DOUBLE)), st.binary(min_size=8, max_size=8)),
        st.tuples(st.just(int(Kind.LIST)), st.lists(integers, max_size=40).map(lambda v: (int(Kind.I64), v))),
    ),
    lambda inner: st.tuples(st.just(int(Kind.STRUCT)), st.dictionaries(st.integers(1, 3000), inner, max_size=5)),
)


@settings(max_examples=50)
@given(st.dictionaries(st.integers(1, 3000), values))
def test_any_struct_is_read_as_it_was_written(struct: dict[int, tuple[int, Any]]) -> None:
    assert read_struct(write_struct(struct)) == struct
