from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from deltalake import CommitProperties, Schema
from deltalake.exceptions import DeltaError
from deltalake.transaction import create_table_with_add_actions
from faulty_proxy import FaultyProxy, Request, closed_port, faulty_proxy
from killed_writer import kill_a_writer
from s3_server import S3Server

from schemas.errors import ConfigError, CorruptFileError, MissingFileError, StorageError
from snapshotter.records import DataFile
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.delta import delta_table
from snapshotter.storage.delta_location import delta_location
from snapshotter.storage.parquet import ParquetReader, read_parquet, write_parquet
from snapshotter.storage.s3 import S3Storage
from snapshotter.storage.s3_location import S3Location
from snapshotter.storage.s3_location import S3Server as Server

MEGABYTE = 1 << 20
DOCS = Path(__file__).parents[3] / "docs"
FILL = """
import resource, sys
from schemas.errors import DeloreanError
from snapshotter.storage import open_storage
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
storage = open_storage(sys.argv[1])
try:
    with storage.open_output("a/b.bin") as output:
        output.write(b"x" * 300_000)
except DeloreanError as error:
    print(type(error).__name__, error)
try:
    storage.open_input("large.bin")
except DeloreanError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def storage(s3: S3Server, proxy: FaultyProxy) -> S3Storage:
    """A storage behind the proxy."""
    return S3Storage(s3.new_uri(proxy.url, attempts="3"))


def write(storage: Storage, path: str, data: bytes) -> None:
    with storage.open_output(path) as output:
        output.write(data)


def read(storage: Storage, path: str) -> bytes:
    with storage.open_input(path) as source:
        return bytes(source.read())


def some_bytes(count: int) -> bytes:
    return random.Random(0).randbytes(count)


def is_(method: str, of: str = "") -> Callable[[Request], bool]:
    return lambda request: request.method == method and of in request.path


def left_behind(s3: S3Server, storage: S3Storage) -> tuple[list[str], int]:
    """What is visible in the storage, and how many uploads are neither whole nor given up."""
    client = s3.client()
    uploads = client.list_multipart_uploads(Bucket=storage.location.bucket).get("Uploads", [])
    client.close()
    return [file.path for file in storage.list("")], len(uploads)


def test_a_large_file_is_sent_in_parts_and_fetched_once(storage: S3Storage, proxy: FaultyProxy) -> None:
    data = some_bytes(33 * MEGABYTE)
    write(storage, "large.bin", data)
    parts = [request for request in proxy.seen if is_("PUT", "partNumber=")(request)]
    assert len(parts) == 5
    assert read(storage, "large.bin") == data
    fetched = [request.headers["Range"] for request in proxy.seen if request.method == "GET"]
    assert fetched == [f"bytes=0-{32 * MEGABYTE - 1}", f"bytes={32 * MEGABYTE}-{33 * MEGABYTE - 1}"]


@pytest.fixture
def in_parts(storage: S3Storage, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> DataFile:
    """A file with ten row groups of about equal size, which are fetched one by one."""
    monkeypatch.setattr("snapshotter.storage.parquet._FEWEST_ROWS", 1000)
    monkeypatch.setattr("snapshotter.storage.parquet._ROW_GROUP_BYTES", 1)
    monkeypatch.setattr("snapshotter.storage.s3._SMALL_BYTES", 0)
    table = pa.table({"noise": [random.Random(i).randbytes(20) for i in range(10_000)]})
    file = write_parquet(storage, "a.parquet", table, table.schema)
    proxy.seen.clear()
    return file


def fetched(proxy: FaultyProxy) -> list[tuple[int, int]]:
    """The ranges that were requested: first and last byte."""
    ranges = [request.headers["Range"] for request in proxy.seen if request.method == "GET"]
    proxy.seen.clear()
    return [(int(first), int(last)) for first, last in (each.removeprefix("bytes=").split("-") for each in ranges)]


def test_only_the_row_groups_that_are_read_are_fetched(
    storage: S3Storage, proxy: FaultyProxy, in_parts: DataFile
) -> None:
    ends = list(itertools.accumulate((size for size, _ in in_parts.segments), initial=0))
    with ParquetReader(storage, in_parts) as reader:
        assert fetched(proxy) == [(ends[10], ends[11] - 1)]
        reader.read(row_groups=[7])
        assert fetched(proxy) == [(ends[7], ends[8] - 1)]
        reader.read(row_groups=[1, 2, 5, 7])
        assert sorted(fetched(proxy)) == [(ends[1], ends[3] - 1), (ends[5], ends[6] - 1)]
        reader.read(row_groups=[2, 5])
        assert fetched(proxy) == []
    with ParquetReader(storage, in_parts) as reader:
        fetched(proxy)
        reader.read(row_groups=range(6))
        assert fetched(proxy) == [(0, ends[10] - 1)]
        reader.read()
        assert fetched(proxy) == []
    read_parquet(storage, in_parts)
    assert fetched(proxy) == [(0, 32 * MEGABYTE - 1)]


def test_row_groups_between_which_little_lies_are_fetched_together(
    storage: S3Storage, proxy: FaultyProxy, in_parts: DataFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = list(itertools.accumulate((size for size, _ in in_parts.segments), initial=0))
    with ParquetReader(storage, in_parts) as reader:
        fetched(proxy)
        monkeypatch.setattr("snapshotter.storage.s3._SMALL_BYTES", 2 * ends[1])
        reader.read(row_groups=[1, 3])
        assert fetched(proxy) == [(ends[1], ends[4] - 1)]


def test_an_object_that_changes_while_it_is_read_is_an_error(storage: S3Storage, in_parts: DataFile) -> None:
    with ParquetReader(storage, in_parts) as reader:
        reader.read(row_groups=[7])
        storage.delete([in_parts.path])
        write(storage, in_parts.path, some_bytes(in_parts.bytes))
        with pytest.raises(CorruptFileError, match="'a.parquet' has changed since it was opened"):
            reader.read(row_groups=[2])
        storage.delete([in_parts.path])
        with pytest.raises(MissingFileError, match="'a.parquet' does not exist"):
            reader.read(row_groups=[2])


def test_a_range_is_requested_again_from_a_busy_server(
    storage: S3Storage, proxy: FaultyProxy, in_parts: DataFile
) -> None:
    with ParquetReader(storage, in_parts) as reader:
        proxy.refuse(503, "SlowDown", 1, is_("GET"))
        assert reader.read(row_groups=[4]).num_rows == 1000


def test_a_server_that_asks_to_slow_down_is_asked_again(storage: S3Storage, proxy: FaultyProxy) -> None:
    for method in ("PUT", "GET"):
        proxy.refuse(503, "SlowDown", 1, is_(method))
    assert storage.create("a.bin", b"one") is True
    assert read(storage, "a.bin") == b"one"
    assert [request.method for request in proxy.seen] == ["PUT", "PUT", "GET", "GET"]


def test_a_server_that_never_stops_asking_to_slow_down_is_one_clear_error(s3: S3Server, proxy: FaultyProxy) -> None:
    storage = S3Storage(s3.new_uri(proxy.url, attempts="2"))
    proxy.refuse(503, "SlowDown")
    with pytest.raises(StorageError) as raised:
        storage.create("a.bin", b"one")
    assert str(raised.value) == (
        f"could not write 'a.bin', key 'pre/fix/a.bin' of bucket '{storage.location.bucket}' at {proxy.url}: "
        "the server still limits the rate of requests after all attempts (SlowDown) → "
        "let fewer tasks read and write at a time, or run it again later"
    )
    assert len(proxy.seen) == 2


def test_an_upload_that_is_cut_is_sent_again(storage: S3Storage, proxy: FaultyProxy) -> None:
    proxy.misbehave("cut request", 1, is_("PUT", "small"))
    proxy.misbehave("cut request", 2, is_("PUT", "partNumber=2"))
    for name, data in (("small", some_bytes(MEGABYTE)), ("large", some_bytes(17 * MEGABYTE))):
        write(storage, name, data)
        assert read(storage, name) == data


def test_an_upload_that_is_always_cut_leaves_nothing(s3: S3Server, proxy: FaultyProxy) -> None:
    storage = S3Storage(s3.new_uri(proxy.url, attempts="2"))
    proxy.misbehave("cut request", meant=is_("PUT", "small"))
    proxy.misbehave("cut request", meant=is_("PUT", "partNumber=2"))
    for name, size in (("small", MEGABYTE), ("large", 17 * MEGABYTE)):
        with pytest.raises(
            StorageError, match=f"could not write '{name}', key 'pre/fix/{name}' .* connection was lost"
        ):
            write(storage, name, bytes(size))
    assert left_behind(s3, storage) == ([], 0)


def test_a_write_whose_answer_is_lost_is_known_again(storage: S3Storage, proxy: FaultyProxy) -> None:
    proxy.misbehave("lose answer", 1, is_("PUT", "small"))
    proxy.misbehave("lose answer", 1, is_("POST", "uploadId="))
    assert storage.create("small", b"one") is True
    assert storage.create("small", b"one") is False
    write(storage, "large", bytes(9 * MEGABYTE))
    with pytest.raises(StorageError, match="'large' exists already"):
        write(storage, "large", bytes(9 * MEGABYTE))
    assert read(storage, "large") == bytes(9 * MEGABYTE)


def test_a_write_that_meets_another_is_tried_again(storage: S3Storage, proxy: FaultyProxy) -> None:
    proxy.refuse(409, "ConditionalRequestConflict", 1)
    assert storage.create("a.bin", b"one") is True


def test_a_file_that_is_there_is_never_overwritten_and_leaves_no_parts(s3: S3Server, storage: S3Storage) -> None:
    write(storage, "a.bin", b"first")
    for size in (1, 9 * MEGABYTE):
        with pytest.raises(StorageError, match="'a.bin' exists already: files are never overwritten"):
            write(storage, "a.bin", bytes(size))
    assert read(storage, "a.bin") == b"first"
    assert left_behind(s3, storage) == (["a.bin"], 0)


def test_a_download_that_is_cut_goes_on_where_it_was(storage: S3Storage, proxy: FaultyProxy) -> None:
    data = some_bytes(4 * MEGABYTE)
    write(storage, "a.bin", data)
    proxy.misbehave("cut answer", 2, is_("GET"))
    assert read(storage, "a.bin") == data
    starts = [request.headers["Range"].partition("-")[0] for request in proxy.seen if request.method == "GET"]
    assert starts == ["bytes=0", f"bytes={2 * MEGABYTE}", f"bytes={3 * MEGABYTE}"]


def test_a_download_that_is_always_cut_is_one_clear_error(s3: S3Server, proxy: FaultyProxy) -> None:
    storage = S3Storage(s3.new_uri(proxy.url, attempts="2"))
    write(storage, "a.bin", bytes(MEGABYTE))
    proxy.misbehave("cut answer", meant=is_("GET"))
    with pytest.raises(StorageError, match="could not read 'a.bin', .*: the connection was lost in all attempts"):
        read(storage, "a.bin")
    assert [request.method for request in proxy.seen] == ["PUT", "GET", "GET"]


def test_a_server_that_hangs_is_one_clear_error(s3: S3Server, proxy: FaultyProxy) -> None:
    proxy.misbehave("hang")
    storage = S3Storage(s3.new_uri(proxy.url, attempts="2", timeout="0.2"))
    with pytest.raises(StorageError, match="could not read 'a.bin', .*: the server took too long in all attempts"):
        read(storage, "a.bin")
    assert len(proxy.seen) == 2


def test_a_server_that_is_not_there_is_one_clear_error(s3: S3Server) -> None:
    endpoint = f"http://127.0.0.1:{closed_port()}"
    storage = S3Storage(s3.new_uri(endpoint, attempts="2"))
    with pytest.raises(StorageError, match=f"bucket 'bucket-.*' at {endpoint}: no server answers → check the end"):
        storage.create("a.bin", b"")
    with pytest.raises(StorageError, match=f"bucket 'bucket-.*' at {endpoint}: no server answers → check the end"):
        delta_table(storage.uri_of("table"))


def test_a_bucket_that_is_missing_is_no_missing_file(s3: S3Server) -> None:
    storage = open_storage(f"s3://nowhere?endpoint={s3.endpoint}")
    uses: list[Callable[[], object]] = [
        lambda: read(storage, "a.bin"),
        lambda: write(storage, "a.bin", b""),
        lambda: storage.create("a.bin", b""),
        lambda: list(storage.list("")),
        lambda: storage.delete(["a.bin"]),
        lambda: delta_table(storage.uri_of("table")),
    ]
    for use in uses:
        with pytest.raises(
            StorageError, match=r"bucket 'nowhere' .*: the bucket does not exist \(NoSuchB.*create it"
        ) as raised:
            use()
        assert not isinstance(raised.value, MissingFileError)


def test_wrong_keys_are_one_clear_error_without_them(
    s3: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(s3.new_uri(proxy.url))
    for name, code in (("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"), ("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId")):
        with monkeypatch.context() as patched:
            patched.setenv(name, "wrong-but-secret")
            uses: list[Callable[[], object]] = [
                lambda: storage.create("a.bin", b""),
                lambda: read(storage, "a.bin"),
                lambda: list(storage.list("")),
                lambda: delta_table(storage.uri_of("table")),
            ]
            for use in uses:
                with pytest.raises(
                    StorageError, match=f"the credentials are not accepted .{code}. → check AWS_ACCESS"
                ) as raised:
                    use()
                assert "wrong-but-secret" not in str(raised.value)
    assert storage.create("a.bin", b"") is True  # the right keys are found as soon as they are there


def test_keys_that_are_nowhere_are_one_clear_error(
    s3: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = S3Storage(s3.new_uri(proxy.url))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StorageError, match="there are no credentials → check AWS_ACCESS_KEY_ID"):
        storage.create("a.bin", b"")
    with pytest.raises(StorageError, match="there are no credentials → check AWS_ACCESS_KEY_ID"):
        storage.delta_options()
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match="there are no credentials → check AWS_ACCESS_KEY_ID"):
        storage.create("a.bin", b"")


def test_a_profile_lets_files_and_tables_in(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secrets = tmp_path / "credentials"
    secrets.write_text(f"[work]\naws_access_key_id = {s3.key_id}\naws_secret_access_key = {s3.secret}\n")
    storage = open_storage(s3.new_uri(attempts="4"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(secrets))
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert storage.create("a.bin", b"") is True
    make_table(storage)
    assert delta_table(storage.uri_of("table")).version() == 0
    assert s3.secret not in repr(storage) + storage.uri + storage.uri_of("table")


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "ExpiredToken", r"the credentials have expired \(ExpiredToken\) → renew them"),
        (403, "AccessDenied", r"access is denied \(AccessDenied\) → allow these credentials s3:GetObject"),
        (403, "RequestTimeTooSkewed", "this machine's clock is wrong"),
        (400, "AuthorizationHeaderMalformed", "another region .* → set it in the storage URI"),
        (507, "XMinioStorageFull", "the store is full"),
        (418, "ShortAndStout", r"injected \(ShortAndStout\)"),
    ],
)
def test_what_a_server_refuses_says_what_to_do(
    s3: S3Server, proxy: FaultyProxy, status: int, code: str, message: str
) -> None:
    storage = open_storage(s3.new_uri(proxy.url, attempts="1"))
    proxy.refuse(status, code)
    with pytest.raises(StorageError, match=f"'pre/fix/a.bin' of bucket 'bucket-.*' at {proxy.url}: .*{message}"):
        storage.create("a.bin", b"")


def test_thousands_of_files_are_listed_and_deleted(s3: S3Server, storage: S3Storage, proxy: FaultyProxy) -> None:
    keys = s3.fill(storage.location.bucket, storage.location.prefix + "many/", 2_100)
    names = [key.removeprefix(storage.location.prefix) for key in keys]
    storage.create("other", b"")
    del proxy.seen[:]
    assert [file.path for file in storage.list("many")] == names
    assert [request.method for request in proxy.seen] == ["GET"] * 3
    storage.delete(iter([*names, "many/gone"]))
    assert [file.path for file in storage.list("")] == ["other"]


@pytest.mark.parametrize("name", ["a b+c%20d", "käse/ü", "what?#&=;", "a:b", "x" * 900, "<&>\"'", ".hidden"])
def test_names_may_have_odd_characters(storage: S3Storage, name: str) -> None:
    assert storage.create(name, b"odd") is True
    assert read(storage, name) == b"odd"
    assert [file.path for file in storage.list("")] == [name]
    storage.delete([name])
    assert list(storage.list("")) == []


def test_what_no_path_can_name_is_no_file_of_ours(s3: S3Server, storage: S3Storage) -> None:
    client = s3.client()
    for key in ("pre/fix/", "pre/fix/folder/", "pre/fix/a//b", "pre/fixed", "outside"):
        client.put_object(Bucket=storage.location.bucket, Key=key, Body=b"")
    client.close()
    storage.create("folder/a", b"")
    assert [file.path for file in storage.list("")] == ["folder/a"]


def test_a_disk_without_room_for_files_under_way_is_one_clear_error(s3: S3Server, tmp_path: Path) -> None:
    storage = open_storage(s3.new_uri())
    write(storage, "large.bin", bytes(300_000))
    command = [sys.executable, "-c", FILL, storage.uri]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    where = f"File too large in {tmp_path}, the folder for temporary files"
    hint = f"{where} → free some disk space there, or set TMPDIR to a folder"
    assert ran.stdout.splitlines() == [
        f"StorageError could not write 'a/b.bin': {hint} with more",
        f"StorageError could not read 'large.bin': {hint} with more",
    ], ran.stderr
    assert [file.path for file in storage.list("")] == ["large.bin"]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_nothing_anywhere(s3: S3Server, tmp_path: Path) -> None:
    storage = S3Storage(s3.new_uri())
    kill_a_writer(storage.uri, 20_000_000, TMPDIR=str(tmp_path))
    assert left_behind(s3, storage) == ([], 0)
    assert list(tmp_path.iterdir()) == []


def make_table(storage: Storage) -> None:
    plain, options = delta_location(storage.uri_of("table"))
    schema = Schema.from_arrow(pa.schema([("a", pa.int64())]))
    once = CommitProperties(max_commit_retries=0)
    create_table_with_add_actions(plain, schema, [], storage_options=options, commit_properties=once)


def test_of_many_who_commit_a_version_exactly_one_succeeds(
    s3: S3Server, storage: S3Storage, proxy: FaultyProxy
) -> None:
    def make(_: int) -> bool:
        try:
            make_table(storage)
        except (DeltaError, OSError):
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(make, range(4))).count(True) == 1
    commits = [request for request in proxy.seen if is_("PUT", "/_delta_log/0")(request)]
    assert {request.headers.get("if-none-match") for request in commits} == {"*"}
    assert json.loads(read(storage, "table/_delta_log/00000000000000000000.json").splitlines()[0])


def test_other_tools_open_tables_as_the_documentation_says(s3: S3Server) -> None:
    storage = open_storage(s3.new_uri())
    make_table(storage)
    code = (DOCS / "STORAGE.md").read_text().partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {"feature_set": SimpleNamespace(uri=storage.uri_of("table"))}
    exec(code, names)  # its own text
    assert names["frame"].columns == ["a"]


def test_every_parameter_is_documented() -> None:
    text = (DOCS / "STORAGE.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == [field.name for field in fields(Server)]


def test_a_uri_says_all_but_secrets() -> None:
    place = S3Location.of("s3://my-bucket/a%20b//c/?endpoint=https://host:9000&region=eu-west-1&timeout=3")
    assert (place.bucket, place.prefix, place.server.endpoint) == ("my-bucket", "a b/c/", "https://host:9000")
    assert (place.server.region, place.server.timeout, place.server.addressing) == ("eu-west-1", 3.0, "auto")
    assert (
        open_storage("s3://my-bucket/a?region=r").uri_of("feature_sets/f") == "s3://my-bucket/a/feature_sets/f?region=r"
    )
    assert S3Location.of("s3://my-bucket").prefix == ""


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://ab", "is not s3://bucket/prefix"),
        ("s3:///prefix", "is not s3://bucket/prefix"),
        ("s3://KEY:SECRET@bucket/prefix", "credentials come from the environment"),
        ("s3://bucket?secret_key=SECRET", "unknown parameter of an s3:// URI 'secret_key'"),
        ("s3://bucket?endpoint=http://KEY:SECRET@host", "endpoint is not http://host:port"),
        ("s3://bucket?endpoint=host:9000", "endpoint is not http://host:port"),
        ("s3://bucket?endpoint=", "endpoint is not http://host:port"),
        ("s3://bucket?addressing=dns", "unknown addressing of an s3:// URI 'dns'"),
        ("s3://bucket?attempts=0", "must be above 0"),
        ("s3://bucket?attempts=many", "must be numbers"),
        ("s3://bucket?timeout=nan", "must be above 0"),
        ("s3://bucket/a#b?endpoint=http://host:9000", "has a '#', after which everything is ignored → write %23"),
        ("s3://bucket/a?region=x#SECRET", "has a '#'"),
        ("s3://buc\nket/a", "control characters"),
        (" s3://bucket/a", "control characters"),
        ("s3://bucket/a%0Ab", "control character"),
        ("s3://bucket/a%2520b", "an escape like %20"),
        ("s3://bucket/a/../b", r"has . or .. in it"),
        ("s3://bucket/a%2F..%2Fb", r"has . or .. in it"),
        ("s3://bucket/%FF", "is not UTF-8"),
        ("s3://bucket?endpoint=http://a&endpoint=http://b", "a parameter twice"),
    ],
)
def test_a_uri_that_names_no_place_is_refused(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        open_storage(uri)
    assert "SECRET" not in str(raised.value)
