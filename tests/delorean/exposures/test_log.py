"""The exposure log: what is written is read, whatever the storage does, and ranking never waits for it."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exposure_rows import CONTEXT, ITEMS, NOON, exposure, write_exposures
from s3_server import S3Server

from delorean.exposures import ExposureLimits, ExposureLog, read_exposures
from delorean.exposures.table_format import dropped_before
from prana_proxy import supervised
from schemas.errors import AbTestError, ConfigError, CorruptFileError, NaiveTimeError, StorageError
from schemas.times import to_micros
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.local import LocalStorage

QUICK = ExposureLimits(file_seconds=0.0)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(f"file://{tmp_path}/storage")


def until(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def ids(storage: Storage, test: str | None = "homepage", *span: datetime | None) -> list[str]:
    return read_exposures(storage, test, *span, columns=["request_id"]).read_all()["request_id"].to_pylist()


def test_what_is_written_is_read_with_types_and_nulls_in_the_order_of_time(storage: Storage) -> None:
    write_exposures(storage, [2, 0, 1])
    table = read_exposures(storage, "homepage").read_all()
    table.validate(full=True)
    assert table["request_id"].to_pylist() == ["request-0", "request-1", "request-2"]
    assert table["time"].to_pylist() == [NOON + timedelta(microseconds=n) for n in range(3)]
    assert table["context"].to_pylist() == [
        {"profile_id": 0, "cell": None},
        {"profile_id": 1, "cell": "US"},
        {"profile_id": 2, "cell": None},
    ]
    assert table["items"].to_pylist() == [{"video_id": [0]}, {"video_id": [1, 2]}, {"video_id": [2, 3, 4]}]
    assert table["positions"].to_pylist() == [[0], [1, 0], [2, 1, 0]]
    assert table["scores"].to_pylist()[1:] == [[1.0, 0.0], [1.0, 0.5, 0.0]]
    assert table["propensities"].to_pylist() == [None, [0.25, 0.25], None]
    assert table["team"].to_pylist() == [None, [0, 0], None]
    assert table["seed"].to_pylist() == [None, 1, None]
    assert table["cell"].to_pylist() == ["control", "candidate", "control"]
    assert table["task_type"].null_count == 3


def test_tests_and_what_is_outside_them_are_apart_and_days_are_in_folders_of_their_own(storage: Storage) -> None:
    write_exposures(
        storage, [0, exposure(1, test=None, cell=None), exposure(2, time=to_micros(NOON + timedelta(hours=12)))]
    )
    assert ids(storage) == ["request-0", "request-2"]
    assert ids(storage, None) == ["request-1"]
    folders = sorted(file.path.rsplit("/", 1)[0] for file in storage.list("exposures"))
    assert folders == [
        "exposures/_default/2026-01-05",
        "exposures/homepage/2026-01-05",
        "exposures/homepage/2026-01-06",
    ]


def test_only_files_of_the_days_asked_for_are_opened(storage: Storage, tmp_path: Path) -> None:
    day = timedelta(days=1)
    write_exposures(storage, [exposure(n, time=to_micros(NOON + n * day)) for n in range(4)])
    for path in (tmp_path / "storage/exposures/homepage").glob("2026-01-0[58]/*"):
        path.write_bytes(b"not Parquet")
    assert ids(storage, "homepage", NOON + day, NOON + 2 * day) == ["request-1"]  # `until` is excluded
    assert ids(storage, "homepage", NOON + day + timedelta(seconds=1), NOON + 2.5 * day) == ["request-2"]
    assert ids(storage, "homepage", NOON + 0.5 * day, NOON + 2.5 * day) == ["request-1", "request-2"]
    with pytest.raises(CorruptFileError, match="2026-01-05"):
        ids(storage)
    with pytest.raises(CorruptFileError, match="2026-01-08"):
        ids(storage, "homepage", NOON + 0.5 * day)


def test_a_request_that_is_in_the_log_several_times_is_read_once_at_its_first_time(storage: Storage) -> None:
    again = to_micros(NOON) + 1_000_000
    write_exposures(storage, [0, 1, 2, exposure(1, time=again + 1, cell="late")])
    write_exposures(storage, [3, exposure(0, time=again, cell="late"), exposure(1, time=again, cell="late")])
    write_exposures(storage, [4, 4, 4])
    rows = read_exposures(storage, "homepage", columns=["cell", "request_id"]).read_all().to_pylist()
    assert sorted(row["request_id"] for row in rows) == [f"request-{n}" for n in range(5)]
    assert "late" not in {row["cell"] for row in rows}


def test_files_of_other_formats_are_read_as_one(storage: Storage) -> None:
    """Fewer columns, fewer variables, narrower ones, and a column that this release does not know."""
    write_exposures(storage, [5])
    narrow = {"profile_id": pa.int32(), "device": pa.string()}
    table = pa.table(
        {
            "request_id": ["old"],
            "time": pa.array([to_micros(NOON)], pa.int64()).cast(pa.timestamp("us", "UTC")),
            "context": pa.array([{"profile_id": 7, "device": "tv"}], pa.struct(narrow)),
            "items": [{"video_id": [9]}],
            "unknown": [1],
        }
    )
    with storage.open_output("exposures/homepage/2026-01-05/000000-other-000001.0.parquet") as sink:
        pq.write_table(table, sink)
    rows = read_exposures(storage, "homepage").read_all().to_pylist()
    assert [row["context"] for row in rows] == [
        {"profile_id": 7, "cell": None, "device": "tv"},
        {"profile_id": 5, "cell": "US", "device": None},
    ]
    assert (rows[0]["scores"], rows[0]["team"], rows[0]["items"]) == (None, None, {"video_id": [9]})
    assert "unknown" not in rows[0]
    text = table.set_column(2, "context", pa.array([{"profile_id": "seven"}]))
    with storage.open_output("exposures/homepage/2026-01-05/000000-other-000002.1.parquet") as sink:
        pq.write_table(text, sink)
    with pytest.raises(StorageError, match="types cannot be read as one"):
        read_exposures(storage, "homepage")


def test_a_file_of_a_later_release_is_refused_by_name(storage: Storage) -> None:
    schema = pa.schema([("request_id", pa.string())]).with_metadata({"delorean.exposures": "2"})
    with storage.open_output("exposures/homepage/2026-01-05/000000-other-000001.0.parquet") as sink:
        pq.write_table(schema.empty_table(), sink)
    with pytest.raises(StorageError, match="format 2 of exposures, expected at most 1 → install the release"):
        read_exposures(storage, "homepage")


def test_wrong_arguments_are_one_clear_error_each(storage: Storage) -> None:
    with pytest.raises(AbTestError, match="no exposures of test 'homepage' → serve it"):
        read_exposures(storage, "homepage")
    with pytest.raises(AbTestError, match="no exposures outside tests since 2026-01-05 12:00:00 → "):
        read_exposures(storage, None, NOON)
    write_exposures(storage, [0])
    with pytest.raises(ConfigError, match="test '../secret' cannot name a folder"):
        read_exposures(storage, "../secret")
    with pytest.raises(ConfigError, match="unknown column of exposures 'score' → did you mean 'scores'"):
        read_exposures(storage, "homepage", columns=["score"])
    with pytest.raises(ConfigError, match="not before until"):
        read_exposures(storage, "homepage", NOON, NOON)
    with pytest.raises(NaiveTimeError):
        read_exposures(storage, "homepage", NOON.replace(tzinfo=None))


def test_files_appear_by_age_and_by_rows_and_the_rest_when_it_stops(storage: Storage) -> None:
    def files() -> int:
        return len(list(storage.list("exposures")))

    with ExposureLog(storage, CONTEXT, ITEMS, ExposureLimits(file_seconds=0.0)) as log:
        log.append(exposure(0))
        until(lambda: log.written == 1)
        assert (files(), ids(storage)) == (1, ["request-0"])
    assert files() == 1
    with ExposureLog(storage, CONTEXT, ITEMS, ExposureLimits(file_rows=10)) as log:
        for number in range(1, 16):
            log.append(exposure(number))
        until(lambda: log.written == 10)
        assert files() == 2
    assert (files(), len(ids(storage)), log.health()) == (3, 16, {"written": 15, "waiting": 0, "dropped": 0})


def test_many_writers_append_side_by_side(storage: Storage) -> None:
    with ExitStack() as opened:
        logs = [opened.enter_context(ExposureLog(storage, CONTEXT, ITEMS, QUICK)) for _ in range(3)]

        def fill(log: ExposureLog, first: int) -> None:
            for number in range(first, first + 200):
                log.append(exposure(number))

        threads = [threading.Thread(target=fill, args=(logs[n % 3], 200 * n)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(ids(storage)) == sorted(f"request-{n}" for n in range(1_200))


class FaultyStorage(LocalStorage):
    """Fails, or hangs, on request. After `lost` it creates the file and then fails, as with a lost response."""

    failing = lost = False
    hang: threading.Event | None = None

    def open_output(self, path: str) -> Any:
        if self.hang is not None:
            self.hang.wait(60)
        if self.failing:
            raise StorageError("the storage is full")
        if self.lost:
            self.lost = False
            return _Lost(super().open_output(path))
        return super().open_output(path)


class _Lost:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __enter__(self) -> Any:
        return self._inner.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._inner.__exit__(*error)
        raise StorageError("no response")


@pytest.fixture
def faulty(tmp_path: Path) -> FaultyStorage:
    return FaultyStorage(f"file://{tmp_path}/storage")


def test_a_storage_that_fails_costs_only_rows_beyond_the_queue_and_they_are_counted(
    faulty: FaultyStorage, caplog: pytest.LogCaptureFixture
) -> None:
    faulty.failing = True
    with ExposureLog(faulty, CONTEXT, ITEMS, ExposureLimits(rows=20, file_rows=10)) as log:
        for number in range(10):
            log.append(exposure(number))
        until(lambda: supervised.problems())
        assert "exposure log: the storage is full, since" in supervised.problems()[0]
        for number in range(10, 40):
            log.append(exposure(number))
        assert log.health() == {"written": 0, "waiting": 30, "dropped": 10}
        faulty.failing = False
        until(lambda: log.written == 30)
        until(lambda: not supervised.problems())
    assert ids(faulty) == [f"request-{n}" for n in range(30)]
    dropped = [dropped_before(f.path, pq.read_schema(faulty.open_input(f.path))) for f in faulty.list("exposures")]
    assert sum(dropped) == 10
    lines = [record.getMessage() for record in caplog.records if "exposures_dropped" in record.getMessage()]
    assert lines == ["exposures_dropped rows=1"]  # and the others at most once a minute
    assert not any("request-" in record.getMessage() for record in caplog.records)


def test_a_storage_that_hangs_never_delays_a_ranking_or_the_end(faulty: FaultyStorage) -> None:
    faulty.hang = threading.Event()
    log = ExposureLog(faulty, CONTEXT, ITEMS, ExposureLimits(rows=5, file_seconds=0.0, closing_seconds=0.5))
    try:
        log.append(exposure(0))
        until(lambda: log._step_began is not None and log._tables)
        for number in range(1, 11):
            log.append(exposure(number))
        assert log.health() == {"written": 0, "waiting": 6, "dropped": 5}
        assert log.problem is None
        log._step_began -= 100  # type: ignore[operator]
        assert log.problem is not None
        assert "waits for its storage for 100 s" in log.problem
        closing = threading.Thread(target=log.close)
        closing.start()
        closing.join(20)
        assert not closing.is_alive()
        assert log.dropped == 11  # nothing is lost uncounted
    finally:
        faulty.hang.set()


def test_a_write_whose_response_is_lost_is_repeated_and_its_rows_are_read_once(faulty: FaultyStorage) -> None:
    faulty.lost = True
    write_exposures(faulty, range(5))
    assert len(list(faulty.list("exposures"))) == 2
    assert ids(faulty) == [f"request-{n}" for n in range(5)]


def test_a_row_that_does_not_fit_is_dropped_and_counted_and_costs_no_other(storage: Storage) -> None:
    with ExposureLog(storage, CONTEXT, ITEMS) as log:
        log.append(exposure(0, test="other", context=pa.table({"profile_id": ["x"], "cell": ["y"]})))
        until(lambda: log.dropped == 1)
        log.append(exposure(1))
    assert (log.written, log.dropped) == (1, 1)
    assert ids(storage) == ["request-1"]


def test_many_shown_items_are_bounded_and_a_closed_log_counts_rows_as_dropped(storage: Storage) -> None:
    log = ExposureLog(storage, CONTEXT, ITEMS, ExposureLimits(items=4))
    with log._writing:  # the queue is not read meanwhile
        log.append(exposure(2))
        log.append(exposure(5))
        assert (log.waiting, log.dropped) == (1, 1)
    log.close()
    log.append(exposure(0))
    assert (log.written, log.dropped) == (1, 2)


def test_batches_are_bounded_however_large_the_log_is(storage: Storage) -> None:
    write_exposures(storage, range(20_000))
    with read_exposures(storage, "homepage", columns=["request_id"]) as reader:
        sizes = [len(batch) for batch in reader]
    assert sum(sizes) == 20_000
    assert max(sizes) <= 8_192


def test_values_never_reach_the_process_s_log(faulty: FaultyStorage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with ExposureLog(faulty, CONTEXT, ITEMS, QUICK) as log:
        log.append(exposure(0, context=pa.table({"profile_id": ["Marty"], "cell": ["y"]})))
        until(lambda: log.dropped == 1)
    assert "exposures do not fit the variables" in caplog.text
    assert "Marty" not in caplog.text


def test_the_log_is_the_same_in_s3(s3: S3Server) -> None:
    storage = open_storage(s3.new_uri())
    write_exposures(storage, range(20))
    write_exposures(storage, range(10, 30))
    assert sorted(ids(storage)) == sorted(f"request-{n}" for n in range(30))
