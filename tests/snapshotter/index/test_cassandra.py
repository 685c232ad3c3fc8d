"""What an index in Cassandra promises beyond what every index does."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from cassandra_server import new_index
from cutting_proxy import CuttingProxy, Lost

from schemas.data_keys import context_variable, global_element, service_element
from schemas.errors import SnapshotIndexError, UnreadableRecordError
from schemas.services import Service, Status
from snapshotter.index import init_index, open_index
from snapshotter.index.cassandra import CassandraIndex
from snapshotter.records import (
    ContextSet,
    DataFile,
    GlobalVersion,
    ServiceSnapshot,
    SnapshotRun,
    from_micros,
    to_micros,
)

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
DAY = timedelta(days=1)
HISTORY = Service("history", service_element("history", "int64"), (context_variable("profile_id", "int64"),))
MARKER = b"marked-context-set"  # in what makes a run visible, and nowhere else


def run(run_id: str, by: str = "a", at: datetime = NOON, services: int = 2) -> SnapshotRun:
    def taken(number: int) -> ServiceSnapshot:
        service = replace(HISTORY, name="history" if number == 0 else f"service_{number}")
        files = (DataFile(f"snapshots/{service.name}/{run_id}/00000-{by}.parquet", 9, 99, "0f" * 16),)
        return ServiceSnapshot(run_id, service, None, 1, {Status.OK: 9}, at, at, files, {}, {"rows": 9.0})

    return SnapshotRun(run_id, MARKER.decode(), NOON, tuple(taken(number) for number in range(services)))


def opened(uri: str) -> CassandraIndex:
    index = open_index(uri)
    assert isinstance(index, CassandraIndex)
    return index


def execute(index: CassandraIndex, text: str, *values: object) -> list[Any]:
    """Do to the tables what nobody should."""
    keyspace = index._session.address.keyspace
    return list(index._session._driver.execute(text.replace("KEYSPACE", keyspace), values))


@pytest.fixture
def index(cassandra_uri: str) -> Iterator[CassandraIndex]:
    with opened(cassandra_uri) as index:
        yield index


def test_what_died_before_it_was_visible_is_never_mixed_with_what_was_published(index: CassandraIndex) -> None:
    def die_in_mid_publish(by: str, services: int) -> None:
        attempt = uuid.uuid4()
        for position, snapshot in enumerate(run("r1", by, services=services).services):
            index._session.execute_all(list(index._snapshots.writes(attempt, position, snapshot)))

    die_in_mid_publish("dead", services=3)
    assert index.snapshots("history", NOON, NOON) == index.last_snapshots("history", 9) == index.runs() == []
    assert index.publish_run(run("r1", "alive")) is True
    die_in_mid_publish("late", services=5)  # which had seen no run r1 before
    expected = run("r1", "alive").services
    assert index.run("r1").services == expected
    assert index.snapshots("history", NOON, NOON) == index.last_snapshots("history", 9) == [expected[0]]
    assert index.snapshots("service_2", NOON, NOON) == []


def test_of_two_that_race_for_a_run_id_exactly_one_wins_and_only_its_files_are_seen(cassandra_uri: str) -> None:
    with opened(cassandra_uri) as one, opened(cassandra_uri) as two, ThreadPoolExecutor(2) as threads:
        start = threading.Barrier(2)

        def publish(index: CassandraIndex, by: str, number: int) -> bool:
            start.wait()
            return index.publish_run(run(f"r{number}", by))

        for number in range(100):
            racing = [threads.submit(publish, index, by, number) for index, by in ((one, "one"), (two, "two"))]
            won = [racer.result() for racer in racing]
            assert sorted(won) == [False, True]
            assert two.run(f"r{number}").services == run(f"r{number}", "one" if won[0] else "two").services
        assert len(one.snapshots("history", NOON, NOON)) == 100


def test_runs_become_visible_in_the_order_of_their_times_of_publication(cassandra_uri: str) -> None:
    with ExitStack() as stack:
        indexes = [stack.enter_context(opened(cassandra_uri)) for _ in range(3)]
        reader, *publishers = indexes

        def publish(publisher: int) -> None:
            for number in range(40):
                index = publishers[publisher]
                if number % 4:
                    assert index.publish_run(run(f"r{publisher}-{number}", services=1))
                else:
                    assert index.publish_global(version(f"v{publisher}-{number}"))

        with ThreadPoolExecutor(2) as threads:
            working = [threads.submit(publish, publisher) for publisher in range(2)]
            seen: list[int] = []
            while not all(done.done() for done in working):
                now = sorted(entry.published_at for entry in reader._runs.entries())
                assert now[: len(seen)] == seen  # nothing comes in between later
                seen = now
            for done in working:
                done.result()
        times = [to_micros(found.published_at) for found in reader.runs() if found.published_at]
        times += [to_micros(v.published_at) for v in reader.global_versions("videos", NOON) if v.published_at]
        assert len(set(times)) == 80


def version(version_id: str) -> GlobalVersion:
    element = global_element("videos", "struct<video_id: int64, title: string>")
    return GlobalVersion(element, version_id, NOON, (DataFile("globals/videos/a.parquet", 10, 100, "ab" * 16),))


def test_a_clock_that_is_ahead_of_this_machines_still_only_moves_on(index: CassandraIndex) -> None:
    ahead = to_micros(datetime.now(UTC) + 365 * DAY)
    move = "UPDATE KEYSPACE.published SET clock = %s WHERE index_name = %s IF clock < %s"
    assert execute(index, move, ahead, index._session.address.index, ahead)[0].applied
    index.publish_run(run("r1"))
    index.publish_global(version("v1"))
    index.publish_run(run("r2"))
    assert [found.published_at for found in index.runs()] == [from_micros(ahead + 3), from_micros(ahead + 1)]


@contextmanager
def cut_off(uri: str, lost: Lost, cuts: int, options: str = "") -> Iterator[tuple[CuttingProxy, CassandraIndex]]:
    """Open an index through a proxy that cuts it off whenever it makes a run visible."""
    parts = urlsplit(uri)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = CuttingProxy((parts.hostname, parts.port), MARKER, lost, cuts)
    with proxy.running(), opened(uri.replace(parts.netloc, f"127.0.0.1:{proxy.port}") + options) as index:
        yield proxy, index


@pytest.mark.parametrize("lost", ["request", "answer", "only the answer"])
def test_a_publisher_that_is_cut_off_in_mid_publish_finds_out_what_came_of_it(
    cassandra_uri: str, index: CassandraIndex, lost: Lost
) -> None:
    with cut_off(cassandra_uri, lost, 1, "&timeout_seconds=1") as (proxy, cut):
        assert cut.publish_run(run("r1")) is True
        assert proxy.cuts_left == 0
        assert cut.publish_run(run("r1", "again")) is False
    assert index.run("r1").services == run("r1").services
    assert len(index.runs()) == 1


def test_a_publisher_that_is_cut_off_while_another_publishes_says_that_it_lost(
    cassandra_uri: str, index: CassandraIndex
) -> None:
    with cut_off(cassandra_uri, "request", 1) as (proxy, cut):
        won: list[bool] = []
        proxy.before_cut = lambda: won.append(index.publish_run(run("r1", "other")))
        assert cut.publish_run(run("r1")) is False
        assert won == [True]
    assert index.run("r1").services == run("r1", "other").services


def test_what_cannot_be_found_out_is_never_said(cassandra_uri: str, index: CassandraIndex) -> None:
    with cut_off(cassandra_uri, "request", 999, "&patience_seconds=0.1") as (_, cut):
        unknown = r"whether run 'r1' is published is unknown: index cassandra://.* → .*run the same id again"
        with pytest.raises(SnapshotIndexError, match=unknown):
            cut.publish_run(run("r1", "cut"))
    assert index.runs() == []
    assert index.publish_run(run("r1", "again")) is True
    assert index.run("r1").services == run("r1", "again").services


def test_a_look_up_reads_the_months_of_its_time_range_and_no_others(index: CassandraIndex) -> None:
    for number, at in enumerate([NOON, NOON + 31 * DAY, NOON + 62 * DAY]):
        index.publish_run(run(f"r{number}", at=at))
    spoil = (
        "UPDATE KEYSPACE.snapshots SET record = '{' WHERE index_name = %s AND service = 'history' AND month = 202602"
    )
    [row] = [row for row in execute(index, "SELECT * FROM KEYSPACE.snapshots") if _is_in(index, row, 202602)]
    keys = " AND captured_to = %s AND captured_from = %s AND attempt = %s AND position = 0"
    execute(index, spoil + keys, row.index_name, row.captured_to, row.captured_from, row.attempt)
    for at in (NOON, NOON + 62 * DAY):
        assert len(index.snapshots("history", at - DAY, at + DAY)) == 1
    far = (to_micros(NOON + 55 * DAY), to_micros(NOON + 300 * DAY))
    assert index._snapshots._months("history", *far) == [202603]  # of many months only those that are there
    assert len(index._snapshots.within("history", *far)) == 1
    assert len(index.last_snapshots("history", 1)) == 1
    with pytest.raises(SnapshotIndexError, match="has a record that cannot be read"):
        index.snapshots("history", NOON, NOON + 62 * DAY)


def _is_in(index: CassandraIndex, row: Any, month: int) -> bool:
    return (row.index_name, row.service, row.month) == (index._session.address.index, "history", month)


def test_answers_of_many_pages_are_read_to_the_end(index: CassandraIndex) -> None:
    for number in range(7):
        index.publish_run(run(f"r{number}", at=NOON + number * 10 * DAY, services=5))
        index.publish_global(version(f"v{number}"))
        index.publish_context_set(ContextSet.of_one_key(f"c{number}", date(2026, 1, 1 + number), ("e",), (), (), ()))

    def everything() -> list[Any]:
        found = [index.runs(), index.context_sets(date.max), index.global_versions("videos", NOON)]
        return [*found, index.snapshots("history", NOON, NOON + 99 * DAY), index.last_snapshots("history", 6)]

    whole = everything()
    assert [len(found) for found in whole] == [7, 7, 7, 7, 6]
    index._session._driver.default_fetch_size = 2
    assert everything() == whole


def test_a_record_that_is_lost_is_an_error_never_a_smaller_run(index: CassandraIndex) -> None:
    index.publish_run(run("r1", services=3))
    [entry] = index._runs.entries()
    execute(index, "DELETE FROM KEYSPACE.records WHERE attempt = %s AND position = 1", entry.attempt)
    with pytest.raises(SnapshotIndexError, match=f"has 2 of 3 records of attempt {entry.attempt} → repair the cluster"):
        index.run("r1")


def test_indexes_that_share_a_keyspace_do_not_see_each_other(cassandra_keyspace: str, index: CassandraIndex) -> None:
    index.publish_run(run("r1"))
    with opened(new_index(cassandra_keyspace)) as other:
        assert other.runs() == other.snapshots("history", NOON, NOON) == []
        assert other.publish_run(run("r1", "other")) is True
        assert index.run("r1").services == run("r1").services


def test_a_closed_index_says_so(cassandra_uri: str) -> None:
    index = open_index(cassandra_uri)
    index.close()
    with pytest.raises(SnapshotIndexError, match="is closed"):
        index.runs()


def test_preparing_again_changes_nothing(cassandra_uri: str, index: CassandraIndex) -> None:
    index.publish_run(run("r1"))
    assert init_index(cassandra_uri) is False
    assert json.dumps([found.run_id for found in index.runs()]) == '["r1"]'


def test_an_index_that_nobody_prepared_is_an_error_that_says_how(cassandra_keyspace: str, cassandra_uri: str) -> None:
    with pytest.raises(
        SnapshotIndexError, match=r"/tests_\w+\?index=typo does not exist → correct the URI, or prepare"
    ):
        open_index(f"{cassandra_keyspace}?index=typo")
    nowhere = cassandra_keyspace.replace("/tests_", "/no_tests_")
    with pytest.raises(SnapshotIndexError, match=r"does not exist → .*index init \(there is no keyspace 'no_tests_"):
        open_index(nowhere)
    with pytest.raises(SnapshotIndexError, match="there is no keyspace 'no_tests_.* → set its number of copies"):
        init_index(nowhere)
    with pytest.raises(SnapshotIndexError, match="rejects a request: .*nowhere"):
        init_index(nowhere, {"nowhere": 1})


def test_a_schema_is_made_migrated_and_refused_by_its_version(cassandra_keyspace: str) -> None:
    """In a keyspace of its own, that four make at once."""
    uri = f"{cassandra_keyspace}_versions"

    def prepare(_: int) -> bool:
        return init_index(uri, {"": 1})

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(prepare, range(4))) == 1
        with opened(uri) as index:
            assert index.publish_run(run("r1")) is True
            set_version = "UPDATE KEYSPACE.schema_version SET version = %s WHERE what = 'tables' IF version = %s"
            execute(index, set_version, 0, 3)
            with pytest.raises(SnapshotIndexError, match="version 0, expected 3 → migrate it: delorean index init"):
                open_index(uri)
            assert sum(threads.map(prepare, range(4))) == 0
            assert opened_once(uri) == ["r1"]
            execute(index, set_version, 99, 3)
    for use in (open_index, init_index):
        with pytest.raises(SnapshotIndexError, match="schema version 99, expected 3 → use the release that wrote it"):
            use(uri)


def opened_once(uri: str) -> list[str]:
    with opened(uri) as index:
        return [found.run_id for found in index.runs()]


def test_an_index_of_an_earlier_release_goes_on_once_it_is_migrated(cassandra_keyspace: str) -> None:
    """In a keyspace of its own, as schema version 1 left it: with nothing written beside a run."""
    uri = f"{cassandra_keyspace}_migrated"
    init_index(uri, {"": 1})
    init_index(f"{uri}?index=other")
    with opened(uri) as index, opened(f"{uri}?index=other") as other:
        for number in range(3):
            index.publish_run(run(f"r{number}", services=number + 1))
        other.publish_run(run("elsewhere"))
        index.publish_global(version("v1"))
        before = [index.runs(), index.elements(), other.runs(), other.elements()]
        _forget_what_is_beside(index)
        _forget_what_is_beside(other)
        assert index.runs() == index.elements() == []
        execute(index, "UPDATE KEYSPACE.schema_version SET version = 1 WHERE what = 'tables' IF version = 3")
        with pytest.raises(SnapshotIndexError, match="has schema version 1, expected 3 → migrate it: delorean index"):
            open_index(uri)
        assert init_index(uri) is False
        assert [index.runs(), index.elements(), other.runs(), other.elements()] == before
        assert index.withdraw_run("r2", "wrong", "ann")
        assert [found.run_id for found in index.runs(1)] == ["r1"]
        assert [service.name for service in index.elements()] == ["service_1", "history"]
        _forget_what_is_beside(index)  # as an earlier release does that still publishes
        init_index(uri)
        assert [found.run_id for found in index.runs()] == ["r1", "r0"]
        assert [service.name for service in index.elements()] == ["service_1", "history"]


def _forget_what_is_beside(index: CassandraIndex) -> None:
    name = index._session.address.index
    for entry in index._runs.entries():
        header = {key: value for key, value in json.loads(entry.header).items() if key != "declarations"}
        where = "WHERE index_name = %s AND kind = 'run' AND subject = '' AND id = %s IF attempt = %s"
        execute(
            index,
            f"UPDATE KEYSPACE.published SET header = %s {where}",
            json.dumps(header),
            name,
            entry.id,
            entry.attempt,
        )
    for kind in ("run by time", "declaration"):
        for row in execute(
            index, "SELECT subject, id FROM KEYSPACE.published WHERE index_name = %s AND kind = %s", name, kind
        ):
            where = "WHERE index_name = %s AND kind = %s AND subject = %s AND id = %s IF EXISTS"
            execute(index, f"DELETE FROM KEYSPACE.published {where}", name, kind, row.subject, row.id)


def test_what_cannot_be_read_hides_nothing_else_and_can_be_withdrawn(index: CassandraIndex) -> None:
    for number in range(3):
        index.publish_run(run(f"r{number}", at=NOON + number * DAY))
        index.publish_global(replace(version(f"v{number}"), valid_from=NOON + number * DAY))
        index.publish_context_set(ContextSet.of_one_key(f"c{number}", date(2026, 1, 1 + number), ("e",), (), (), ()))
    for published, subject, broken in (
        (index._runs, "", "r1"),
        (index._versions, "videos", "v1"),
        (index._context_sets, "", "2026-01-02"),
    ):
        entry = published.entry(broken, subject)
        assert entry is not None
        execute(
            index,
            "UPDATE KEYSPACE.records SET record = '{' WHERE attempt = %s AND position = 0 AND piece = 0",
            entry.attempt,
        )
    for table in ("snapshots", "global_versions"):
        for row in execute(index, f"SELECT * FROM KEYSPACE.{table}"):
            if row.index_name == index._session.address.index and (
                getattr(row, "run_id", "") == "r1" or getattr(row, "version_id", "") == "v1"
            ):
                _spoil_copy(index, table, row)
    assert [found.run_id for found in index.runs()] == ["r2", "r0"]
    assert [found.run_id for found in index.runs(1, index.run("r2").published_at)] == ["r0"]
    assert [found.context_set_id for found in index.context_sets(date.max)] == ["c2", "c0"]
    assert [found.version_id for found in index.global_versions("videos", NOON + 9 * DAY, skip_unreadable=True)] == [
        "v2",
        "v0",
    ]
    assert [found.run_id for found in index.last_snapshots("history", 2)] == ["r2", "r0"]
    assert {str(one.name) for one in index.unreadable()} == {
        "run 'r1'",
        "version 'v1' of global element 'videos'",
        "the context set of 2026-01-02",
    }
    assert index.global_version_at("videos", NOON).version_id == "v0"
    assert next(index.iterate_snapshots("history", NOON, NOON + 9 * DAY)).run_id == "r2"
    for look_up in (
        lambda: index.run("r1"),
        lambda: index.runs_by_id(["r0", "r1"]),
        lambda: index.snapshots("history", NOON, NOON + 9 * DAY),
        lambda: index.context_set(date(2026, 1, 2)),
        lambda: index.global_version("videos", "v1"),
        lambda: index.global_version_at("videos", NOON + DAY),
    ):
        with pytest.raises(
            UnreadableRecordError, match="→ withdraw it: delorean index withdraw (run|context-set|global) "
        ):
            look_up()
    index.withdraw_run("r1", "broken", "ann")
    index.withdraw_global("videos", "v1", "broken", "ann")
    index.withdraw_context_set(date(2026, 1, 2), "broken", "ann")
    assert [found.run_id for found in index.snapshots("history", NOON, NOON + 9 * DAY)] == ["r2", "r0"]
    assert index.global_version_at("videos", NOON + DAY).version_id == "v0"
    assert index.publish_context_set(ContextSet.of_one_key("c1", date(2026, 1, 2), ("e",), (), (), ()))


def _spoil_copy(index: CassandraIndex, table: str, row: Any) -> None:
    keys = {
        "snapshots": ("index_name", "service", "month", "captured_to", "captured_from", "attempt", "position"),
        "global_versions": ("index_name", "element", "valid_from", "attempt"),
    }[table]
    if table == "global_versions" or row.service == "history":
        where = " AND ".join(f"{key} = %s" for key in keys)
        execute(index, f"UPDATE KEYSPACE.{table} SET record = '{{' WHERE {where}", *(getattr(row, key) for key in keys))


def test_an_index_that_was_emptied_publishes_nothing(cassandra_uri: str, index: CassandraIndex) -> None:
    execute(index, "DELETE FROM KEYSPACE.published WHERE index_name = %s", index._session.address.index)
    with pytest.raises(SnapshotIndexError, match="was emptied meanwhile → restore it"):
        index.publish_run(run("r1"))
    with pytest.raises(SnapshotIndexError, match="does not exist"):
        open_index(cassandra_uri)


def test_a_host_that_does_not_answer_is_named() -> None:
    with CuttingProxy(("127.0.0.1", 1), b"", "request", 0).running() as proxy:
        port = proxy.port
    with pytest.raises(
        SnapshotIndexError, match=rf"index cassandra://127.0.0.1:{port}/k has no host that answers \(127"
    ) as e:
        open_index(f"cassandra://somebody:secret@127.0.0.1:{port}/k")
    assert "secret" not in str(e.value)
    assert "→ start Cassandra, or correct hosts" in str(e.value)
    with pytest.raises(
        SnapshotIndexError, match=r"has no host that answers in datacenter 'dc9' \(.*datacenter and TLS"
    ):
        open_index(f"cassandra://127.0.0.1:{port}/k?datacenter=dc9")
    with pytest.raises(SnapshotIndexError, match="has no host whose name can be resolved"):
        open_index("cassandra://no-such-host.invalid/k")
