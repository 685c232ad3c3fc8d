"""Label rows on their way into buckets: nothing is lost, and memory is bounded whatever the skew."""

import uuid

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delorean.labels import row_parts
from delorean.labels.bucket_rule import BucketRule
from delorean.labels.row_parts import write_parts
from delorean.labels.sorted_ranges import sorted_ranges
from schemas.errors import LabelError
from schemas.hashing import bucket_of
from snapshotter.storage import open_storage

KEYS = st.lists(st.tuples(st.integers(-50, 50), st.sampled_from(["", "a", "b"])), min_size=1, max_size=300)


def table(keys):
    return pa.table(
        {
            "id": pa.array([key for key, _ in keys], pa.int64()),
            "text": [text for _, text in keys],
            "number": range(len(keys)),
            "list": [[number] * (number % 3) for number in range(len(keys))],
        }
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=KEYS,
    buckets=st.sampled_from([1, 2, 8, 64, 8192]),
    piece_rows=st.sampled_from([1, 7, 1000]),
    part_bytes=st.sampled_from([1, 500, 10**9]),
)
def test_each_row_is_read_once_in_its_bucket_whatever_the_pieces(keys, buckets, piece_rows, part_bytes, tmp_path):
    rows, storage = table(keys), open_storage(f"file://{tmp_path / uuid.uuid4().hex}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_parts, "_PIECE_ROWS", piece_rows)
        patch.setattr(row_parts, "_PART_BYTES", part_bytes)
        written = list(
            write_parts(rows.to_batches(max_chunksize=40), lambda each: each, BucketRule("id"), storage, "rows.arrow")
        )
    assert pa.concat_tables([part_rows for _, part_rows in written]).equals(rows)
    numbers = []
    for bucket in range(buckets) if buckets < 100 else sorted(set(bucket_of(rows["id"], buckets).tolist())):
        for part, _ in written:
            for piece in part.read(bucket, buckets, BucketRule("id"), rows.schema, storage):
                assert set(bucket_of(piece["id"], buckets).tolist()) == {bucket}
                numbers += piece["number"].to_pylist()
                assert piece["list"].to_pylist() == [[number] * (number % 3) for number in piece["number"].to_pylist()]
    assert sorted(numbers) == list(range(len(keys)))


def test_a_query_that_fails_leaves_no_file(tmp_path):
    def fail(_):
        raise LabelError.because("no")

    storage = open_storage(f"file://{tmp_path}")
    with pytest.raises(LabelError):
        list(write_parts(table([(1, "")]).to_batches(), fail, BucketRule("id"), storage, "rows.arrow"))
    assert list(write_parts([], fail, BucketRule("id"), storage, "rows.arrow")) == []
    assert list(storage.list("")) == []


@settings(max_examples=80, deadline=None)
@given(KEYS, st.integers(1, 6_000), st.integers(1, 50))
def test_ranges_have_all_rows_in_order_and_never_separate_equal_keys(keys, most_bytes, batch_rows):
    rows = table(keys)
    tables = [pa.Table.from_batches([batch]) for batch in rows.to_batches(max_chunksize=batch_rows)]
    ranges = list(sorted_ranges(lambda: tables, ["id", "text"], most_bytes))
    assert all(part.num_rows for part in ranges)
    found = pa.concat_tables(
        [part.sort_by([("id", "ascending"), ("text", "ascending"), ("number", "ascending")]) for part in ranges]
    )
    assert found["number"].to_pylist() == sorted(range(len(keys)), key=lambda number: (keys[number], number))
    keys_of = [{(row["id"], row["text"]) for row in part.select(["id", "text"]).to_pylist()} for part in ranges]
    assert sum(map(len, keys_of)) == len(set(keys))


def test_a_skewed_bucket_is_read_in_parts_of_bounded_size():
    tables = [
        table([(number % 997, "a") for number in range(start, start + 1_000)]) for start in range(0, 40_000, 1_000)
    ]
    most = sum(each.nbytes for each in tables) // 8
    sizes = [part.nbytes for part in sorted_ranges(lambda: tables, ["id", "text"], most)]
    assert len(sizes) >= 8
    assert max(sizes) <= most
