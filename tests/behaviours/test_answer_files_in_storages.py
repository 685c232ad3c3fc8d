"""What a bucket of a snapshot asks of its storage: no more than its own files, each opened once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from counting_storage import CountingStorage

from schemas.data_keys import context_variable, service_element
from schemas.services import Service
from schemas.tables import snapshot_schema
from snapshotter.capture.answer_files import AnswerFiles
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet, write_parquet

SERVICE = Service("history", service_element("history", "list<int64>"), (context_variable("profile_id", "int64"),))
SCHEMA = snapshot_schema(SERVICE)
FOLDER = "snapshots/history/r1"


def rows_of(keys: list[int], length: int = 1) -> pa.RecordBatch:
    columns = [
        pa.array(keys),
        pa.array([1] * len(keys), SCHEMA.field("captured_at").type),
        pa.array([[key] * length for key in keys], SCHEMA.field("value").type),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def parts_in(storage: Storage, bucket: int, keys: range) -> AnswerFiles:
    return AnswerFiles(storage, FOLDER, SERVICE, bucket, pa.table({"profile_id": list(keys)}), 60.0)


def test_buckets_of_a_new_run_list_no_files_of_others(storage: Storage) -> None:
    counting = CountingStorage(storage)
    for bucket in range(20):
        parts = parts_in(counting, bucket, range(bucket, bucket + 3))
        missing = parts.recover()
        parts.add(missing, rows_of(parts.keys.take(missing)["profile_id"].to_pylist()))
        assert parts.finish() is not None
        parts.close()
    assert counting.listed == 0
    assert counting.opened == {}
    assert len(list(storage.list(FOLDER))) == 20


def test_a_bucket_that_goes_on_opens_each_part_once_however_many_row_groups_it_has(storage: Storage) -> None:
    batches = [rows_of(list(range(at, 12_000, 3)), length=1_000) for at in range(3)]
    paths = [f"{FOLDER}/00001-{at}.parquet" for at in range(3)]
    for path, batch in zip(paths, batches, strict=True):
        write_parquet(storage, path, [batch], SCHEMA)
    for bucket in (0, 2, 10, 100):
        write_parquet(storage, f"{FOLDER}/{bucket:05d}-a.parquet", [rows_of([1])], SCHEMA)
    counting = CountingStorage(storage)
    parts = parts_in(counting, 1, range(12_000))
    assert parts.recover().tolist() == []
    written = parts.finish()
    parts.close()
    assert written is not None
    assert read_parquet(storage, written.file)["profile_id"].to_pylist() == list(range(12_000))
    assert counting.listed == 3
    assert counting.opened == dict.fromkeys(paths, 1)
    assert all(file.closed for file in counting.inputs)


def test_a_slow_bucket_with_hundreds_of_parts_opens_each_once_and_few_at_a_time(storage: Storage) -> None:
    counting = CountingStorage(storage)
    parts = parts_in(counting, 0, range(200))
    for key in parts.recover().tolist():
        parts.add(np.array([key]), rows_of([key]))
        parts.flush()
    written = parts.finish()
    parts.close()
    assert written is not None
    assert read_parquet(storage, written.file)["profile_id"].to_pylist() == list(range(200))
    assert set(counting.opened.values()) == {1}
    assert counting.most_open <= 40
