"""Files of other programs are read in slices: each row once, and only where it is certain how Spark reads it."""

import uuid
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.tables import TIME
from snapshotter.storage.parquet_scan import Condition, ParquetScan, UnclearFileError

START = datetime(2026, 5, 1, tzinfo=UTC)
TYPES = {"id": pa.int64(), "name": pa.string(), "at": TIME, "tags": pa.list_(pa.string())}
number, name, minute = st.integers(-2, 2), st.sampled_from(["", "a", "é", "z"]), st.integers(0, 3)
OPERATORS = ("=", "<", "<=", ">", ">=", "is not null")
condition = st.one_of(
    st.tuples(st.just("id"), st.sampled_from(OPERATORS), number),
    st.tuples(st.just("name"), st.sampled_from(OPERATORS), name),
    st.tuples(st.just("at"), st.sampled_from(OPERATORS), minute.map(lambda m: START + timedelta(minutes=m))),
)


def table(rows):
    return pa.table(
        {
            "id": pa.array([id_ for id_, _, _ in rows], pa.int64()),
            "name": pa.array([text for _, text, _ in rows], pa.string()),
            "at": pa.array([None if m is None else START + timedelta(minutes=m) for *_, m in rows], TIME),
            "tags": pa.array([[str(row)] * (row % 3) for row in range(len(rows))], pa.list_(pa.string())),
        }
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.lists(st.tuples(*map(st.none().__or__, (number, name, minute))), max_size=30), max_size=4),
    conditions=st.lists(condition, max_size=3),
    tasks=st.integers(1, 9),
    group_rows=st.integers(1, 40),
)
def test_each_row_that_meets_the_conditions_is_in_one_slice(files, conditions, tasks, group_rows, tmp_path):
    folder = tmp_path / uuid.uuid4().hex
    folder.mkdir()
    paths = [str(folder / f"{position}.parquet") for position in range(len(files))]
    for path, rows in zip(paths, files, strict=True):
        pq.write_table(table(rows), path, row_group_size=group_rows)
    required = tuple(
        Condition(column, operator, None if operator == "is not null" else pa.scalar(value, TYPES[column]))
        for column, operator, value in conditions
    )
    scan = ParquetScan(tuple(paths), {"t": "tags", "n": "name", "i": "id", "a": "at"}, TYPES, required)
    slices = scan.slices(tasks)
    assert len(slices) <= tasks
    batches = [batch for part in slices for each in part for batch in scan.read(each)]
    everything = pa.concat_tables([table(rows) for rows in files]) if files else table([])
    where = " AND ".join(f'"{c}" {o}' if o == "is not null" else f'"{c}" {o} ?' for c, o, _ in conditions) or "true"
    values = [value for _, operator, value in conditions if operator != "is not null"]
    with duckdb.connect() as engine:
        engine.register("everything", everything)
        engine.execute("SET TimeZone = 'UTC'")
        expected = engine.sql(f'SELECT tags t, name n, id i, "at" a FROM everything WHERE {where}', params=values)
        expected = sorted(map(repr, expected.to_arrow_table().cast(scanned_schema()).to_pylist()))
    assert sorted(repr(row) for batch in batches for row in batch.to_pylist()) == expected


def scanned_schema():
    return pa.schema([("t", TYPES["tags"]), ("n", TYPES["name"]), ("i", TYPES["id"]), ("a", TYPES["at"])])


def test_row_groups_without_matching_rows_are_not_read(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(table([(id_, "a", 0) for id_ in range(1_000)]), path, row_group_size=500, compression="none")
    first = pq.read_metadata(path).row_group(0).column(0)
    data = bytearray(path.read_bytes())
    start = first.dictionary_page_offset or first.data_page_offset
    data[start : start + first.total_compressed_size] = bytes(first.total_compressed_size)
    path.write_bytes(data)

    def rows(least):
        scan = ParquetScan((str(path),), {"id": "id"}, TYPES, (Condition("id", ">=", pa.scalar(least)),))
        return sum(batch.num_rows for part in scan.slices(1)[0] for batch in scan.read(part))

    assert rows(700) == 300
    with pytest.raises(UnclearFileError):
        rows(300)


@pytest.mark.parametrize(
    ("stored", "clear"),
    [
        (pa.large_string(), True),
        (pa.dictionary(pa.int32(), pa.string()), True),
        (pa.string_view(), True),
        (pa.binary(), False),
        (pa.timestamp("ms", "Europe/Berlin"), True),
        (pa.timestamp("ns", "UTC"), False),
        (pa.timestamp("us"), False),
        (pa.int32(), False),
        (pa.uint64(), False),
        (pa.large_list(pa.large_string()), True),
        (pa.list_(pa.binary()), False),
        (None, False),
    ],
    ids=str,
)
def test_a_file_with_other_types_than_spark_gives_it_is_unclear(stored, clear, tmp_path):
    path = str(tmp_path / "rows.parquet")
    of_times = stored is not None and pa.types.is_timestamp(stored)
    of_lists = stored is not None and (pa.types.is_list(stored) or pa.types.is_large_list(stored))
    type_ = TIME if of_times else TYPES["tags"] if of_lists else pa.string() if clear else pa.int64()
    pq.write_table(pa.table({"id": pa.nulls(2, stored)} if stored is not None else {"other": [1]}), path)
    scan = ParquetScan((path,), {"id": "id"}, {"id": type_})
    if clear:
        assert [batch.num_rows for batch in scan.read(scan.slices(1)[0][0])] == [2]
    else:
        with pytest.raises(UnclearFileError, match="column 'id' is missing or of another type"):
            list(scan.read(scan.slices(1)[0][0]))
