"""What every storage promises."""

from __future__ import annotations

import contextlib
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError, CorruptFileError, DataKeyError, MissingFileError, StorageError
from snapshotter.records import DataFile
from snapshotter.storage import Storage, open_storage, require_plain_name
from snapshotter.storage.parquet import (
    ParquetReader,
    UnrecordedParquet,
    read_parquet,
    write_parquet,
    write_parquet_if_any,
)

TIMES = pa.timestamp("us", "UTC")
HISTORY = pa.list_(
    pa.struct([("video_id", pa.int64()), ("minutes", pa.float32()), ("at", TIMES), ("genre", pa.string())])
)


def write(storage: Storage, path: str, data: bytes) -> None:
    with storage.open_output(path) as output:
        output.write(data)


def write_and_fail(storage: Storage, path: str) -> None:
    with storage.open_output(path) as output:
        output.write(b"x" * 100_000)
        raise ZeroDivisionError


def read(storage: Storage, path: str) -> bytes:
    with storage.open_input(path) as source:
        return bytes(source.read())


def paths(storage: Storage, prefix: str = "") -> list[str]:
    return [file.path for file in storage.list(prefix)]


def histories(rows: int) -> pa.Table:
    value = [
        None
        if i % 7 == 3
        else [{"video_id": i + j, "minutes": j / 3, "at": i, "genre": "abc"[j]} for j in range(i % 4)]
        for i in range(rows)
    ]
    return pa.table({"profile_id": pa.array(range(rows)), "value": pa.array(value, HISTORY)})


def test_a_file_is_read_as_it_was_written(storage: Storage) -> None:
    write(storage, "a/b/c.bin", b"one" * 1000)
    assert read(storage, "a/b/c.bin") == b"one" * 1000
    with storage.open_input("a/b/c.bin") as source:
        source.seek(2998)
        assert (source.read(), source.size()) == (b"ne", 3000)
    write(storage, "empty.bin", b"")
    assert read(storage, "empty.bin") == b""


def test_some_bytes_of_a_file_are_read(storage: Storage) -> None:
    write(storage, "a/file", bytes(range(250)))
    for start, size in ((0, 1), (7, 100), (249, 1), (0, 250)):
        assert bytes(storage.read_range("a/file", start, size)) == bytes(range(start, start + size))
    with pytest.raises(MissingFileError):
        storage.read_range("a/other", 0, 1)


def test_another_instance_of_the_same_uri_reads_it(storage: Storage) -> None:
    write(storage, "a.bin", b"one")
    assert read(open_storage(storage.uri), "a.bin") == b"one"


def test_a_file_is_not_there_under_its_name_until_it_is_whole(storage: Storage) -> None:
    with storage.open_output("a/b.bin") as output:
        output.write(b"x" * 100_000)
        with pytest.raises(MissingFileError):
            storage.open_input("a/b.bin")
        assert "a/b.bin" not in paths(storage)
    assert paths(storage) == ["a/b.bin"]


def test_a_write_that_fails_leaves_nothing(storage: Storage) -> None:
    with pytest.raises(ZeroDivisionError):
        write_and_fail(storage, "a/b.bin")
    assert paths(storage) == []
    write(storage, "a/b.bin", b"again")
    assert read(storage, "a/b.bin") == b"again"


def test_a_file_that_is_missing_is_named(storage: Storage) -> None:
    with pytest.raises(MissingFileError, match="'a/gone.bin' does not exist"):
        storage.open_input("a/gone.bin")


def test_a_small_file_is_created_once(storage: Storage) -> None:
    assert storage.create("m/one.json", b"first") is True
    assert storage.create("m/one.json", b"second") is False
    assert read(storage, "m/one.json") == b"first"
    assert paths(storage) == ["m/one.json"]


def test_of_many_creators_exactly_one_succeeds(storage: Storage) -> None:
    for number in range(10):
        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(lambda i, n=number: storage.create(f"m/{n}.json", f"{i}".encode() * 999), range(8)))
        assert made.count(True) == 1
        assert read(storage, f"m/{number}.json") == f"{made.index(True)}".encode() * 999


def test_files_are_listed_below_a_folder_sorted_by_path(storage: Storage) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    for path in ("b/2.bin", "a.bin", "b/1.bin", "b/c/3.bin", "b/c-d/5.bin", "bc/4.bin"):
        write(storage, path, path.encode())
    assert paths(storage) == ["a.bin", "b/1.bin", "b/2.bin", "b/c-d/5.bin", "b/c/3.bin", "bc/4.bin"]
    assert paths(storage, "b") == paths(storage, "b/") == ["b/1.bin", "b/2.bin", "b/c-d/5.bin", "b/c/3.bin"]
    assert paths(storage, "nothing/here") == []
    (found,) = storage.list("b/c")
    assert (found.path, found.bytes) == ("b/c/3.bin", 9)
    assert before < found.modified_at < datetime.now(UTC) + timedelta(minutes=1)


def test_files_are_listed_by_the_beginning_of_their_names(storage: Storage) -> None:
    for path in (
        "b/00001-a.bin",
        "b/00001-b.bin",
        "b/000010-c.bin",
        "b/c/00001-d.bin",
        "00001-e.bin",
        "b/00001-f/g.bin",
    ):
        write(storage, path, b"x")
    listed = [file.path for file in storage.list("b", "00001-")]
    assert listed == ["b/00001-a.bin", "b/00001-b.bin", "b/00001-f/g.bin"]
    assert [file.path for file in storage.list("", "00001-")] == ["00001-e.bin"]
    assert list(storage.list("nothing", "00001-")) == []


def test_deleting_what_is_gone_is_no_error(storage: Storage) -> None:
    write(storage, "a.bin", b"1")
    write(storage, "b.bin", b"2")
    storage.delete(["a.bin", "gone.bin", "a/b/c"])
    storage.delete(["a.bin"])
    assert paths(storage) == ["b.bin"]


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/./b", "", "a\0b", ".."])
def test_a_path_that_leads_outside_is_refused(storage: Storage, path: str) -> None:
    for use in (
        lambda: storage.open_input(path),
        lambda: write(storage, path, b"x"),
        lambda: storage.create(path, b"x"),
        lambda: storage.delete([path]),
    ):
        with pytest.raises(StorageError, match="is not inside"):
            use()


def test_parquet_is_read_as_it_was_written(storage: Storage) -> None:
    table = histories(5000)
    file = write_parquet(storage, "snapshots/a.parquet", table, table.schema, bucket=3)
    assert (file.path, file.rows, file.bucket) == ("snapshots/a.parquet", 5000, 3)
    assert file.bytes == next(storage.list("snapshots")).bytes
    found = read_parquet(storage, file)
    assert found.schema == table.schema
    assert found.equals(table)
    assert read_parquet(storage, file, ["profile_id"]).equals(table.select(["profile_id"]))
    assert DataFile.from_json(file.to_json()) == file


def test_parquet_is_read_in_row_groups(storage: Storage) -> None:
    table = pa.table({"key": pa.array(range(6_000_000))})
    file = write_parquet(storage, "a.parquet", table, table.schema)
    with ParquetReader(storage, file) as reader:
        assert reader.metadata.num_row_groups == 3
        found = reader.read(["key"], row_groups=[1])
        statistics = reader.metadata.row_group(1).column(0).statistics
    assert (found["key"][0].as_py(), found["key"][-1].as_py()) == (statistics.min, statistics.max)
    assert 0 < found.num_rows < 6_000_000


def test_small_batches_are_gathered_into_one_row_group(storage: Storage) -> None:
    table = histories(3000)
    file = write_parquet(storage, "a.parquet", iter(table.to_batches(max_chunksize=10)), table.schema)
    with ParquetReader(storage, file) as reader:
        assert reader.metadata.num_row_groups == 1
        assert reader.read().equals(table)


def test_numbers_and_times_have_no_dictionary(storage: Storage) -> None:
    file = write_parquet(storage, "a.parquet", histories(3000), histories(1).schema)
    with ParquetReader(storage, file) as reader:
        group = reader.metadata.row_group(0)
        columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    dictionaries = {path.split(".")[-1]: column.has_dictionary_page for path, column in columns.items()}
    assert dictionaries == {"profile_id": False, "video_id": False, "minutes": False, "at": False, "genre": True}
    assert {column.compression for column in columns.values()} == {"ZSTD"}


def test_parquet_without_rows_has_its_columns_or_is_not_written(storage: Storage) -> None:
    schema = histories(1).schema
    file = write_parquet(storage, "empty.parquet", schema.empty_table(), schema)
    assert read_parquet(storage, file).equals(schema.empty_table())
    assert write_parquet_if_any(storage, "none.parquet", iter([]), schema) is None
    assert write_parquet_if_any(storage, "none.parquet", iter(histories(0).to_batches()), schema) is None
    assert paths(storage) == ["empty.parquet"]


def test_a_parquet_file_that_is_there_is_not_overwritten(storage: Storage) -> None:
    first = write_parquet(storage, "a.parquet", histories(10), histories(1).schema)
    with pytest.raises(StorageError, match="'a.parquet' exists already"):
        write_parquet(storage, "a.parquet", histories(20), histories(1).schema)
    assert read_parquet(storage, first).equals(histories(10))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "has .* bytes, .* were published"),
        (lambda data: b"", "has 0 bytes"),
        (lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], "has checksum"),
        (lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:], "has checksum"),
        (lambda data: b"x" * len(data), "has checksum"),
    ],
)
def test_a_parquet_file_that_changed_is_never_read_as_data(storage: Storage, damage: object, message: str) -> None:
    file = write_parquet(storage, "a/b.parquet", histories(1000), histories(1).schema)
    data = read(storage, file.path)
    storage.delete([file.path])
    write(storage, file.path, damage(data))  # type: ignore[operator]  # one of the above
    with pytest.raises(CorruptFileError, match=f"'a/b.parquet' {message}"):
        read_parquet(storage, file, ["profile_id"])


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of 50 rows, which S3 fetches one by one."""
    monkeypatch.setattr("snapshotter.storage.parquet._FEWEST_ROWS", 50)
    monkeypatch.setattr("snapshotter.storage.parquet._ROW_GROUP_BYTES", 1)
    monkeypatch.setattr("snapshotter.storage.s3._SMALL_BYTES", 0)


@pytest.mark.usefixtures("in_parts")
def test_segments_are_the_row_groups_and_the_footer(storage: Storage) -> None:
    file = write_parquet(storage, "a.parquet", histories(180), histories(1).schema)
    data = read(storage, "a.parquet")
    assert len(file.segments) == 5
    assert sum(size for size, _ in file.segments) == file.bytes == len(data)
    start = 0
    for size, checksum in file.segments:
        assert checksum == xxhash.xxh3_64_hexdigest(data[start : start + size])
        start += size
    with ParquetReader(storage, file) as reader:
        for group in range(4):
            assert reader.read(row_groups=[group]).equals(histories(180).slice(50 * group, 50))
        assert reader.read(["profile_id"], [3, 1])["profile_id"].to_pylist() == [*range(150, 180), *range(50, 100)]
        assert reader.read(row_groups=[]).num_rows == 0
        assert reader.read().equals(histories(180))
    assert DataFile.from_json(json.loads(json.dumps(file.to_json()))) == file


@pytest.mark.usefixtures("in_parts")
def test_nothing_that_changed_is_decoded_and_what_is_not_read_does_not_matter(storage: Storage) -> None:
    table = histories(150)
    file = write_parquet(storage, "a.parquet", table, table.schema)
    data = read(storage, "a.parquet")
    ends = list(itertools.accumulate(size for size, _ in file.segments))
    for segment, name in enumerate(["row group 0", "row group 1", "row group 2", "its footer"]):
        at = ends[segment] - 20
        storage.delete([file.path])
        write(storage, file.path, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(CorruptFileError, match=f"'a.parquet' has checksum .* in {name}, .* was published"):
            read_parquet(storage, file, ["profile_id"])
        with contextlib.ExitStack() as stack:
            if segment == 3:
                with pytest.raises(CorruptFileError, match="in its footer"):
                    ParquetReader(storage, file)
                continue
            reader = stack.enter_context(ParquetReader(storage, file))
            for group in range(3):
                if group != segment:
                    assert reader.read(row_groups=[group]).equals(table.slice(50 * group, 50))
            for _ in range(2):
                with pytest.raises(CorruptFileError, match=f"in {name}"):
                    reader.read(row_groups=[segment])


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("change", [-1, 1, -5_000])
def test_a_file_of_another_size_is_never_read_in_parts(storage: Storage, change: int) -> None:
    file = write_parquet(storage, "a.parquet", histories(150), histories(1).schema)
    data = read(storage, "a.parquet")
    storage.delete([file.path])
    write(storage, file.path, (data + b"x")[: len(data) + change])
    with pytest.raises(CorruptFileError, match=r"'a.parquet' (has .* bytes, .* were|is shorter than was) published"):
        ParquetReader(storage, file)


@pytest.mark.usefixtures("in_parts")
def test_a_record_of_an_earlier_release_is_verified_as_a_whole(storage: Storage) -> None:
    written = write_parquet(storage, "a.parquet", histories(150), histories(1).schema)
    record = {"path": "a.parquet", "rows": 150, "bytes": written.bytes, "checksum": written.checksum, "bucket": 0}
    file = DataFile.from_json(record)
    with ParquetReader(storage, file) as reader:
        assert reader.read(row_groups=[2]).equals(histories(150).slice(100))
    with pytest.raises(CorruptFileError, match="has checksum .*, 00 was published"):
        ParquetReader(storage, replace(file, checksum="00"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**9), st.integers(0, 7))
def test_a_file_of_which_no_record_was_made_is_read_right_or_not_at_all(storage: Storage, at: int, bit: int) -> None:
    table = histories(200)
    storage.delete(["a.parquet", "b.parquet"])
    write_parquet(storage, "a.parquet", table, table.schema)
    data = bytearray(read(storage, "a.parquet"))
    data[at % len(data)] ^= 1 << bit
    write(storage, "b.parquet", bytes(data))
    assert read_unrecorded(storage, "a.parquet", table.schema) == table
    with contextlib.suppress(CorruptFileError):
        assert read_unrecorded(storage, "b.parquet", table.schema) == table


def read_unrecorded(storage: Storage, path: str, schema: pa.Schema) -> pa.Table:
    with UnrecordedParquet(storage, path, schema) as file:
        return pa.concat_tables([file.read_group(group) for group in range(len(file.group_sizes))])


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "cannot be read"), (b"no parquet at all", "cannot be read"), (None, "another schema")]
)
def test_a_file_that_no_record_vouches_for_and_that_is_none_of_ours_is_named(
    storage: Storage, data: bytes | None, message: str
) -> None:
    if data is None:
        write_parquet(storage, "a.parquet", histories(3), histories(3).schema)
    else:
        write(storage, "a.parquet", data)
    with pytest.raises(CorruptFileError, match=f"'a.parquet' .*{message}"):
        read_unrecorded(storage, "a.parquet", pa.schema([("profile_id", pa.int32())]))
    with pytest.raises(MissingFileError, match="'none.parquet' does not exist"):
        read_unrecorded(storage, "none.parquet", histories(3).schema)


def test_a_published_file_that_was_no_parquet_is_named(storage: Storage) -> None:
    write(storage, "a.parquet", b"no parquet at all")
    file = DataFile("a.parquet", 1, 17, xxhash.xxh3_128_hexdigest(b"no parquet at all"))
    with pytest.raises(CorruptFileError, match=r"'a.parquet' cannot be read: .*Parquet"):
        read_parquet(storage, file)


def test_a_parquet_file_that_is_gone_is_named(storage: Storage) -> None:
    file = write_parquet(storage, "a.parquet", histories(1), histories(1).schema)
    storage.delete([file.path])
    with pytest.raises(MissingFileError, match="'a.parquet' does not exist"):
        read_parquet(storage, file)


def test_a_column_that_a_file_lacks_is_named(storage: Storage) -> None:
    file = write_parquet(storage, "a.parquet", histories(1), histories(1).schema)
    with pytest.raises(DataKeyError, match="unknown column in a.parquet 'profile' → did you mean 'profile_id'"):
        read_parquet(storage, file, ["profile"])


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown storage scheme 'fil' → did you mean 'file'"):
        open_storage("fil:///tmp")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "..",
            ".hidden",
            "-option",
            "_plans",
            "a/b",
            "a\\b",
            "/a",
            "a b",
            "a%20b",
            "a:b",
            "a\n",
            "a\0",
            "é",
            "\uff41",
        ),
        *("x" * 201, "a.", "con", "NUL", "aux.v1", "com1", "LPT9.csv"),
    ],
)
def test_names_that_cannot_name_a_folder_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="run id .* cannot name a folder"):
        require_plain_name("run id", name)


@pytest.mark.parametrize("name", ["a", "7", "A.b_c=d+e-f", "2026-01-05", "202601051200", "x" * 200, "console", "com10"])
def test_names_that_can_name_a_folder_do(storage: Storage, name: str) -> None:
    require_plain_name("run id", name)
    assert storage.create(f"{name}/{name}.json", b"1")
    assert [file.path for file in storage.list(name)] == [f"{name}/{name}.json"]
