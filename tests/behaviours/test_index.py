"""What every index promises."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.data_keys import context_variable, global_element, service_element
from schemas.errors import ConfigError, DataKeyError, NaiveTimeError, NotInIndexError, WithdrawnError
from schemas.services import Service, Status
from snapshotter.index import SnapshotIndex, iterate_runs
from snapshotter.records import (
    ContextGroup,
    ContextSet,
    DataFile,
    FailedExperiment,
    GlobalVersion,
    SelectedExperiment,
    ServiceSnapshot,
    SnapshotRun,
    StratumReport,
    to_micros,
)

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
HISTORY = Service(
    "history",
    service_element("history", "list<struct<video_id: int64, at: timestamp[us, UTC]>>"),
    (context_variable("profile_id", "int64"),),
)
MY_LIST = Service("my_list", service_element("my_list", "list<int64>"), HISTORY.key)
VIDEOS = global_element("videos", "struct<video_id: int64, title: string>")

# Publishes each run that it is given on stdin, and says what came of it.
PUBLISHER = """
import json, sys
from snapshotter.index import open_index
from snapshotter.records import SnapshotRun
with open_index(sys.argv[1]) as index:
    print("ready", flush=True)
    for line in sys.stdin:
        print(index.publish_run(SnapshotRun.from_json(json.loads(line))), flush=True)
"""
# Publishes one run after the other under new ids, saying which, until it is killed.
ENDLESS_PUBLISHER = """
import json, sys
from dataclasses import replace
from itertools import count
from snapshotter.index import open_index
from snapshotter.records import SnapshotRun
run = SnapshotRun.from_json(json.loads(sys.stdin.readline()))
with open_index(sys.argv[1]) as index:
    for number in count():
        services = tuple(replace(snapshot, run_id=f"run-{number}") for snapshot in run.services)
        index.publish_run(replace(run, run_id=f"run-{number}", services=services))
        print(f"run-{number}", flush=True)
"""


def snapshot(
    run_id: str = "r1", service: Service = HISTORY, first: datetime | None = NOON, last: datetime | None = None
) -> ServiceSnapshot:
    files = (DataFile(f"snapshots/{service.name}/{run_id}/00003-a.parquet", 90, 1000, "0f" * 16, 3),)
    counts = {Status.OK: 90, Status.TIMEOUT: 10} if first else {Status.TIMEOUT: 100}
    reasons = {Status.TIMEOUT: "no answer within 1 s"}
    profile = {"rows": 90.0, "mean_bytes": 12.3}
    return ServiceSnapshot(run_id, service, "profile_id", 4, counts, first, last or first, files, reasons, profile)


def run(run_id: str = "r1", *snapshots: ServiceSnapshot) -> SnapshotRun:
    return SnapshotRun(run_id, "2026-01-05-abc", NOON, snapshots or (snapshot(run_id),))


def context_set(day: int = 5, *experiments: str) -> ContextSet:
    return ContextSet.of_one_key(
        f"2026-01-{day:02d}-abc",
        date(2026, 1, day),
        experiments or ("watchers",),
        HISTORY.key,
        (DataFile("context_sets/a.parquet", 10, 100, "ab" * 16),),
        (StratumReport("watchers", "US/tv", 100, 20, 10),),
    )


def version(version_id: str = "v1", valid_from: datetime = NOON) -> GlobalVersion:
    return GlobalVersion(VIDEOS, version_id, valid_from, (DataFile("globals/videos/a.parquet", 10, 100, "ab" * 16),))


@contextmanager
def process(script: str, uri: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", script, uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def say(started: subprocess.Popen[str], line: str) -> None:
    assert started.stdin is not None
    started.stdin.write(line + "\n")
    started.stdin.flush()


def hear(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def test_a_published_run_is_given_back_whole(index: SnapshotIndex) -> None:
    before = datetime.now(UTC)
    taken = run("r1", snapshot("r1"), snapshot("r1", MY_LIST, None))
    assert index.publish_run(taken) is True
    found = index.run("r1")
    assert replace(found, published_at=None) == taken
    assert found.published_at is not None
    assert before - MICROSECOND <= found.published_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert index.runs() == [found]


def test_what_is_not_published_cannot_be_seen(index: SnapshotIndex) -> None:
    with pytest.raises(NotInIndexError, match="'r1'"):
        index.run("r1")
    with pytest.raises(NotInIndexError, match="2026-01-05"):
        index.context_set(date(2026, 1, 5))
    assert index.runs() == []
    assert index.context_sets(date.max) == []
    assert index.snapshots("history", NOON - timedelta(days=9999), NOON) == []
    assert index.global_versions("videos", NOON) == []


def test_publishing_a_run_id_again_changes_nothing(index: SnapshotIndex) -> None:
    index.publish_run(run("r1"))
    first = index.runs()
    other = run("r1", snapshot("r1", MY_LIST, NOON + timedelta(hours=1)))
    assert index.publish_run(other) is False
    assert index.runs() == first
    assert index.snapshots("my_list", NOON, NOON + timedelta(days=1)) == []


def test_publishing_again_is_refused_by_another_instance_too(open_one: Callable[[], SnapshotIndex]) -> None:
    one, two = open_one(), open_one()
    assert (one.publish_run(run()), two.publish_run(run())) == (True, False)
    assert (two.publish_context_set(context_set()), one.publish_context_set(context_set())) == (True, False)
    assert (one.publish_global(version()), two.publish_global(version())) == (True, False)
    assert one.runs() == two.runs()


def test_both_ends_of_a_time_range_are_included(index: SnapshotIndex) -> None:
    first, last = NOON, NOON + timedelta(minutes=10)
    index.publish_run(run("r1", snapshot("r1", HISTORY, first, last)))
    (found,) = index.snapshots("history", first, last)
    assert found == snapshot("r1", HISTORY, first, last)
    day = timedelta(days=1)
    assert index.snapshots("history", last, last + day) == [found]
    assert index.snapshots("history", first - day, first) == [found]
    assert index.snapshots("history", first + MICROSECOND, first + MICROSECOND) == [found]
    assert index.snapshots("history", last + MICROSECOND, last + day) == []
    assert index.snapshots("history", first - day, first - MICROSECOND) == []
    assert index.snapshots("my_list", first, last) == []


def test_a_snapshot_without_successes_is_in_its_run_but_in_no_time_range(index: SnapshotIndex) -> None:
    index.publish_run(run("r1", snapshot("r1", HISTORY, None)))
    assert index.snapshots("history", NOON - timedelta(days=9999), NOON + timedelta(days=9999)) == []
    assert index.run("r1").services[0].confidence == 0.0


def test_the_latest_published_comes_first_whenever_it_captured(index: SnapshotIndex) -> None:
    for run_id, days in (("today", 0), ("late", -7), ("tomorrow", 1)):
        index.publish_run(run(run_id, snapshot(run_id, HISTORY, NOON + timedelta(days=days))))
    wide = index.snapshots("history", NOON - timedelta(days=30), NOON + timedelta(days=30))
    assert [found.run_id for found in wide] == ["tomorrow", "late", "today"]
    assert [found.run_id for found in index.runs()] == ["tomorrow", "late", "today"]
    assert [index.runs(limit) for limit in (0, 2, 9)] == [index.runs()[:limit] for limit in (0, 2, 9)]
    past = index.snapshots("history", NOON - timedelta(days=8), NOON - timedelta(days=6))
    assert [found.run_id for found in past] == ["late"]


def test_pages_of_runs_follow_each_other(index: SnapshotIndex) -> None:
    for number in range(7):
        index.publish_run(run(f"r{number}"))
    every = list(index.runs())
    assert [found.run_id for found in every] == [f"r{number}" for number in reversed(range(7))]
    for at, found in enumerate(every):
        assert index.runs(2, before=found.published_at) == every[at + 1 : at + 3]
        assert index.runs(before=found.published_at) == every[at + 1 :]
    for page in (1, 2, 3, 7, 100):
        assert list(iterate_runs(index, page)) == every
    assert index.run_ids() == [found.run_id for found in every]


def test_runs_are_found_by_id_in_one_question(index: SnapshotIndex) -> None:
    for number in range(5):
        index.publish_run(run(f"r{number}"))
    assert index.runs_by_id(["r3", "nobody", "r1", "r3"]) == {"r1": index.run("r1"), "r3": index.run("r3")}
    assert index.runs_by_id([]) == {}
    many = [f"no-{number}" for number in range(1_000)]
    assert index.runs_by_id([*many, "r0"]) == {"r0": index.run("r0")}


def test_elements_are_the_distinct_declarations_the_latest_published_first(index: SnapshotIndex) -> None:
    assert index.elements() == []
    wider = replace(HISTORY, element=service_element("history", "list<struct<video_id: int64, minutes: float>>"))
    by_country = replace(HISTORY, key=(*HISTORY.key, context_variable("country", "string")))
    for number, services in enumerate([(HISTORY, MY_LIST), (HISTORY,), (wider,), (by_country, wider), (MY_LIST,)]):
        index.publish_run(run(f"r{number}", *(snapshot(f"r{number}", service) for service in services)))
    assert index.publish_run(run("r1", snapshot("r1", replace(HISTORY, name="never")))) is False
    assert index.elements() == [MY_LIST, wider, by_country, HISTORY]


def test_snapshots_are_iterated_by_their_last_capture(index: SnapshotIndex) -> None:
    captured = {"a": 0, "b": -70, "c": 40, "d": 0, "e": -1, "f": 0}
    for run_id, days in captured.items():
        taken = NOON + timedelta(days=days)
        index.publish_run(run(run_id, snapshot(run_id, HISTORY, taken - timedelta(hours=1), taken)))
    index.publish_run(run("long", snapshot("long", HISTORY, NOON - timedelta(days=100), NOON + timedelta(days=100))))
    index.publish_run(run("none", snapshot("none", HISTORY, None)))
    far = timedelta(days=999)
    whole = list(index.iterate_snapshots("history", NOON - far, NOON + far))
    assert [found.run_id for found in whole] == ["long", *"cfdaeb"]
    assert whole == sorted(whole, key=lambda found: "long cfdaeb".index(found.run_id))
    near = index.iterate_snapshots("history", NOON - timedelta(days=1), NOON)
    assert [found.run_id for found in near] == ["long", *"fdae"]
    assert list(index.iterate_snapshots("my_list", NOON - far, NOON + far)) == []


def test_a_run_that_captured_over_months_ends_is_found_in_each_of_them_and_once(index: SnapshotIndex) -> None:
    first, last = datetime(2025, 12, 31, 23, 50, tzinfo=UTC), datetime(2026, 2, 1, 0, 10, tzinfo=UTC)
    taken = snapshot("r1", HISTORY, first, last)
    index.publish_run(run("r1", taken))
    index.publish_run(run("old", snapshot("old", HISTORY, first.replace(year=1999))))
    for moment in (first, datetime(2026, 1, 1, tzinfo=UTC), NOON, last):
        assert index.snapshots("history", moment, moment) == [taken]
    for days in (1, 40, 200):
        span = timedelta(days=days)
        assert index.snapshots("history", first - span, last + span) == [taken]
    assert index.snapshots("history", last + MICROSECOND, last + timedelta(days=400)) == []
    assert index.last_snapshots("history", 1) == [taken]


def test_the_last_snapshots_are_those_that_captured_last(index: SnapshotIndex) -> None:
    for run_id, days in (("c", 0), ("a", -70), ("e", 40), ("b", -1), ("d", 0)):
        index.publish_run(
            run(run_id, snapshot(run_id, HISTORY, NOON + timedelta(days=days)), snapshot(run_id, MY_LIST))
        )
    index.publish_run(run("nothing", snapshot("nothing", HISTORY, None)))
    for limit in range(7):  # of those that captured at the same time the later published first
        assert [found.run_id for found in index.last_snapshots("history", limit)] == list("edcba")[:limit]
    assert index.last_snapshots("nobody", 5) == []


def test_a_service_that_is_in_a_run_twice_is_found_twice_the_last_first(index: SnapshotIndex) -> None:
    twice = (snapshot("r1"), replace(snapshot("r1"), buckets=8))
    index.publish_run(run("r1", *twice))
    assert index.run("r1").services == twice
    assert index.snapshots("history", NOON, NOON) == list(reversed(twice))
    assert index.last_snapshots("history", 5) == list(reversed(twice))


def test_records_may_be_large(index: SnapshotIndex) -> None:
    files = tuple(DataFile(f"snapshots/history/r1/{i:05d}-a.parquet", i, i, f"{i:032x}", i) for i in range(4_096))
    large = (
        replace(snapshot("r1"), files=files),
        snapshot("r1", MY_LIST),
        replace(snapshot("r1", MY_LIST), files=files),
    )
    index.publish_run(run("r1", *large))
    assert index.run("r1").services == large
    assert index.snapshots("history", NOON, NOON) == [large[0]]
    assert index.last_snapshots("my_list", 2) == [large[2], large[1]]
    many = replace(context_set(), groups=tuple(replace(group, files=files) for group in context_set().groups))
    assert index.publish_context_set(many) is True
    assert index.context_sets(date.max) == [many]
    index.publish_global(replace(version(), files=files))
    assert index.global_versions("videos", NOON)[0].files == files


def test_times_of_publication_strictly_increase(open_one: Callable[[], SnapshotIndex]) -> None:
    instances = [open_one(), open_one()]
    for number in range(20):
        assert instances[number % 2].publish_run(run(f"r{number}"))
        assert instances[number % 3 % 2].publish_global(version(f"v{number}"))
    for records in (instances[0].runs(), instances[0].global_versions("videos", NOON)):
        times = [to_micros(found.published_at) for found in records if found.published_at]
        assert len(set(times)) == 20
        assert times == sorted(times, reverse=True)
    assert [found.run_id for found in instances[1].runs()] == [f"r{number}" for number in reversed(range(20))]


def test_context_sets_are_found_by_date_and_experiment(index: SnapshotIndex) -> None:
    third, fifth, ninth = context_set(3, "a"), context_set(5, "a", "b"), context_set(9, "b\"'%")
    for chosen in (fifth, ninth, third):
        assert index.publish_context_set(chosen) is True
    assert index.context_set(date(2026, 1, 5)) == fifth
    assert index.context_sets(date(2026, 1, 9)) == [ninth, fifth, third]
    assert index.context_sets(date(2026, 1, 8)) == [fifth, third]
    assert index.context_sets(date(2026, 1, 31), "a") == [fifth, third]
    assert index.context_sets(date(2026, 1, 31), "b\"'%") == [ninth]
    assert index.context_sets(date(2026, 1, 31), "nobody") == []


def test_a_date_has_one_context_set(index: SnapshotIndex) -> None:
    assert index.publish_context_set(context_set(5, "a")) is True
    assert index.publish_context_set(context_set(5, "b")) is False
    assert index.context_set(date(2026, 1, 5)) == context_set(5, "a")


def revision(number: int, experiment: str, day: int = 5) -> ContextSet:
    """The revision with a number of a day's context set, of one experiment."""
    first = context_set(day, experiment)
    before = f"2026-01-{day:02d}-{number - 1}" if number > 1 else None
    return replace(first, context_set_id=f"2026-01-{day:02d}-{number}", revision=number, after=before)


def test_a_date_has_revisions_in_order_each_once(index: SnapshotIndex) -> None:
    day, numbers = date(2026, 1, 5), range(1, 13)  # by text, the tenth would come before the second
    for number in numbers:
        assert index.publish_context_set(revision(number, f"e{number}")) is True
        assert index.publish_context_set(revision(number, "other")) is False
    index.publish_context_set(context_set(4, "e2"))
    index.publish_context_set(context_set(6, "later"))
    every = [revision(number, f"e{number}") for number in numbers]
    assert index.context_sets_of(day) == every
    assert [index.context_set(day, number) for number in numbers] == every
    assert index.context_set(day) == every[0]
    newest_first = [context_set(6, "later"), *reversed(every), context_set(4, "e2")]
    assert list(index.iterate_context_sets()) == newest_first
    assert index.context_sets(day) == newest_first[1:]
    assert [index.context_sets(day, limit=limit) for limit in (1, 5)] == [newest_first[1:2], newest_first[1:6]]
    assert index.context_sets(date.max, "e2") == [revision(2, "e2"), context_set(4, "e2")]
    assert [name.label for name in index.context_set_names()][:2] == ["2026-01-06", "2026-01-05.r12"]
    assert index.context_set_dates() == [date(2026, 1, 6), day, date(2026, 1, 4)]
    assert index.context_sets_of(date(2026, 1, 7)) == []


def test_revisions_are_withdrawn_alone_or_together(index: SnapshotIndex) -> None:
    day = date(2026, 1, 5)
    for number in (1, 2, 3):
        index.publish_context_set(revision(number, f"e{number}"))
    assert index.withdraw_context_set(day, "wrong", "ann", revision=2) is True
    assert index.withdraw_context_set(day, "wrong", "ann", revision=2) is False
    assert [found.revision for found in index.context_sets_of(day)] == [1, 3]
    with pytest.raises(NotInIndexError, match="no revision 2 of the context set of 2026-01-05 is published"):
        index.context_set(day, 2)
    assert index.withdraw_context_set(day, "all wrong", "ann") is True
    assert index.context_sets_of(day) == []
    assert [withdrawal.name.label for withdrawal in index.withdrawals()] == [
        "2026-01-05",
        "2026-01-05.r3",
        "2026-01-05.r2",
    ]
    assert index.publish_context_set(revision(1, "again")) is True
    with pytest.raises(NotInIndexError, match="no revision 9 of the context set of 2026-01-05"):
        index.withdraw_context_set(day, "never there", "ann", revision=9)
    for number in (0, 10_000):
        with pytest.raises(ConfigError, match=f"revision is {number}, expected a number from 1 to 9999"):
            index.context_set(day, number)


def test_of_those_who_publish_a_revision_at_once_one_does(open_one: Callable[[], SnapshotIndex]) -> None:
    indexes = [open_one() for _ in range(4)]
    indexes[0].publish_context_set(revision(1, "first"))
    start = threading.Barrier(4)

    def work(who: int) -> list[int]:
        """Publish three revisions, each under the next free number."""
        mine: list[int] = []
        start.wait()
        while len(mine) < 3:
            number = len(indexes[who].context_sets_of(date(2026, 1, 5))) + 1
            if indexes[who].publish_context_set(revision(number, f"{who}")):
                mine.append(number)
        return mine

    with ThreadPoolExecutor(4) as threads:
        published = list(threads.map(work, range(4)))
    assert sorted(number for mine in published for number in mine) == list(range(2, 14))
    for who, mine in enumerate(published):
        assert [found.revision for found in indexes[0].context_sets(date.max, f"{who}")] == mine[::-1]


def test_groups_failures_and_services_come_back_whole(index: SnapshotIndex) -> None:
    groups = tuple(
        ContextGroup(
            (context_variable(name, type_),),
            (SelectedExperiment(f"{name}-a", "ab12", services), SelectedExperiment(f"{name}-b")),
            (DataFile(f"context_sets/{name}.parquet", 10, 100, "ab" * 16),),
        )
        for name, type_, services in (("query", "string", ("history",)), ("profile_id", "int32", None))
    )
    failed = (FailedExperiment("broken", "experiment 'broken': [PARSE_SYNTAX_ERROR] …", final=False),)
    whole = ContextSet("2026-01-05-abc", date(2026, 1, 5), groups, (), failed)
    assert index.publish_context_set(whole) is True
    assert index.context_set(date(2026, 1, 5)) == whole
    assert whole.experiments == ("query-a", "query-b", "profile_id-a", "profile_id-b")
    assert index.context_sets(date.max, "profile_id-b") == [whole]
    assert index.context_sets(date.max, "broken") == []  # it selected nothing


def test_versions_of_a_global_element_are_found_by_validity(index: SnapshotIndex) -> None:
    for name, days in (("v1", 0), ("v3", 2), ("v2", 1), ("v2-again", 1)):
        assert index.publish_global(version(name, NOON + timedelta(days=days))) is True
    names = [found.version_id for found in index.global_versions("videos", NOON + timedelta(days=9))]
    assert names == ["v3", "v2-again", "v2", "v1"]  # of equal ones the later published first
    assert [found.version_id for found in index.global_versions("videos", NOON)] == ["v1"]
    assert index.global_versions("videos", NOON - MICROSECOND) == []
    assert index.global_versions("books", NOON) == []
    found = index.global_versions("videos", NOON)[0]
    assert found.published_at is not None
    assert replace(found, published_at=None) == version("v1")
    assert index.publish_global(version("v1", NOON + timedelta(days=5))) is False
    assert [found.version_id for found in index.global_versions("videos", NOON)] == ["v1"]


def test_one_version_is_found_by_its_id_or_by_a_moment(index: SnapshotIndex) -> None:
    for name, days in (("v1", 0), ("v3", 2), ("v2", 1), ("v2-again", 1)):
        index.publish_global(version(name, NOON + timedelta(days=days)))
    every = index.global_versions("videos", NOON + timedelta(days=9))
    for limit in range(6):
        assert index.global_versions("videos", NOON + timedelta(days=9), limit) == every[:limit]
    assert [index.global_version("videos", found.version_id) for found in every] == every
    assert index.global_version("videos", "v9") is index.global_version("books", "v1") is None
    at = {days: index.global_version_at("videos", NOON + timedelta(days=days)) for days in (-1, 0, 0.5, 1, 1.5, 2, 99)}
    names = {days: None if found is None else found.version_id for days, found in at.items()}
    assert names == {-1: None, 0: "v1", 0.5: "v1", 1: "v2-again", 1.5: "v2-again", 2: "v3", 99: "v3"}
    assert index.global_version_at("books", NOON) is None


def test_global_elements_are_named_once_each_and_in_order(index: SnapshotIndex) -> None:
    assert index.global_elements() == []
    books = global_element("books", "struct<book_id: int64>")
    later = NOON + timedelta(days=9999)
    for made in (version("v1"), version("v2", NOON + MICROSECOND), replace(version("b1", later), element=books)):
        index.publish_global(made)
    assert index.global_elements() == ["books", "videos"]


def test_a_withdrawn_run_is_seen_by_no_look_up_and_its_id_is_never_free_again(index: SnapshotIndex) -> None:
    for run_id in ("r1", "wrong", "r2"):
        index.publish_run(run(run_id, snapshot(run_id), snapshot(run_id, MY_LIST)))
    before = datetime.now(UTC) - timedelta(seconds=1)
    published_at = index.run("wrong").published_at
    assert index.withdraw_run("wrong", "the staging service was asked", "ann") is True
    assert (
        [found.run_id for found in index.runs()] == [found.run_id for found in iterate_runs(index, 1)] == ["r2", "r1"]
    )
    assert index.runs_by_id(["wrong", "r1"]).keys() == {"r1"}
    for look_up in (index.snapshots, index.iterate_snapshots):
        assert sorted(found.run_id for found in look_up("history", NOON, NOON)) == ["r1", "r2"]
    assert [found.run_id for found in index.last_snapshots("history", 9)] == ["r2", "r1"]
    for refused in (lambda: index.run("wrong"), lambda: index.publish_run(run("wrong"))):
        with pytest.raises(WithdrawnError, match="run 'wrong' was withdrawn .* by ann at .*: the staging service was"):
            refused()
    (withdrawal,) = index.withdrawals()
    assert (str(withdrawal.name), withdrawal.by, withdrawal.reason) == (
        "run 'wrong'",
        "ann",
        "the staging service was asked",
    )
    assert withdrawal.published_at == published_at
    assert before <= withdrawal.withdrawn_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert index.withdraw_run("wrong", "once more", "bob") is False
    assert index.withdrawals() == [withdrawal]
    with pytest.raises(NotInIndexError, match="'r9'"):
        index.withdraw_run("r9", "never there", "ann")


def test_a_withdrawn_version_serves_no_moment(index: SnapshotIndex) -> None:
    for name, days in (("v1", 0), ("v2", 1), ("v3", 2)):
        index.publish_global(version(name, NOON + timedelta(days=days)))
    assert index.withdraw_global("videos", "v2", "half of the films are missing", "ann") is True
    at = index.global_version_at("videos", NOON + timedelta(days=1))
    assert at is not None
    assert at.version_id == "v1"
    assert [found.version_id for found in index.global_versions("videos", NOON + timedelta(days=9))] == ["v3", "v1"]
    assert index.global_version("videos", "v2") is None
    with pytest.raises(
        WithdrawnError, match="version 'v2' of global element 'videos' was withdrawn.*→ publish it again"
    ):
        index.publish_global(version("v2"))
    for name in ("v1", "v3"):
        index.withdraw_global("videos", name, "all of it", "ann")
    assert index.global_elements() == index.global_versions("videos", NOON + timedelta(days=9)) == []
    assert [withdrawal.name.id for withdrawal in index.withdrawals()] == ["v3", "v1", "v2"]
    with pytest.raises(NotInIndexError, match="version 'v9' of global element 'videos'"):
        index.withdraw_global("videos", "v9", "never there", "ann")


def test_after_a_withdrawal_a_date_may_have_another_context_set(index: SnapshotIndex) -> None:
    day = date(2026, 1, 5)
    for experiment in ("a", "b", "c"):
        assert index.publish_context_set(context_set(5, experiment)) is True
        assert index.context_set(day).experiments == (experiment,)
        assert index.withdraw_context_set(day, f"{experiment} chose too few", "ann") is True
        with pytest.raises(NotInIndexError, match="no context set of 2026-01-05"):
            index.context_set(day)
        assert index.context_sets(date.max) == []
    assert index.withdraw_context_set(day, "again", "ann") is False
    reasons = ["c chose too few", "b chose too few", "a chose too few"]
    assert [withdrawal.reason for withdrawal in index.withdrawals()] == reasons


def test_elements_know_what_is_left_after_withdrawals(index: SnapshotIndex) -> None:
    wider = replace(HISTORY, element=service_element("history", "list<struct<video_id: int64, minutes: float>>"))
    for number, services in enumerate([(HISTORY,), (MY_LIST, HISTORY), (wider, MY_LIST)]):
        index.publish_run(run(f"r{number}", *(snapshot(f"r{number}", service) for service in services)))
    assert index.elements() == [MY_LIST, wider, HISTORY]
    index.withdraw_run("r2", "", "ann")
    assert index.elements() == [HISTORY, MY_LIST]
    index.withdraw_run("r0", "", "ann")
    assert index.elements() == [HISTORY, MY_LIST]
    index.withdraw_run("r1", "", "ann")
    assert index.elements() == []


def test_of_those_who_withdraw_and_publish_at_once_all_agree(open_one: Callable[[], SnapshotIndex]) -> None:
    indexes = [open_one() for _ in range(3)]
    for number in range(8):
        indexes[0].publish_run(run(f"r{number}", snapshot(f"r{number}"), snapshot(f"r{number}", MY_LIST)))
    start = threading.Barrier(3)

    def work(who: int) -> int:
        start.wait()
        if who == 2:
            return sum(indexes[2].publish_run(run(f"new-{number}")) for number in range(8))
        return sum(indexes[who].withdraw_run(f"r{number}", "wrong", f"{who}") for number in range(8))

    with ThreadPoolExecutor(3) as threads:
        first, second, published = threads.map(work, range(3))
    assert (first + second, published) == (8, 8)
    for index in indexes:
        assert [found.run_id for found in index.runs()] == [f"new-{number}" for number in reversed(range(8))]
        assert index.elements() == [HISTORY]
    assert len(indexes[0].withdrawals()) == 8


def test_context_sets_come_in_pages(index: SnapshotIndex) -> None:
    for day in (3, 9, 5, 7):
        index.publish_context_set(context_set(day, "a" if day != 5 else "b"))
    every = index.context_sets(date.max)
    for limit in range(6):
        assert index.context_sets(date.max, limit=limit) == every[:limit]
    assert [found.date.day for found in index.context_sets(date.max, "a", 2)] == [9, 7]
    assert list(index.iterate_context_sets()) == every
    assert [found.date.day for found in index.iterate_context_sets(date(2026, 1, 8), "a")] == [7, 3]
    assert index.context_set_dates() == [found.date for found in every]


def test_what_could_not_be_read_back_is_never_published(index: SnapshotIndex) -> None:
    class Odd(ServiceSnapshot):
        def to_json(self) -> dict[str, Any]:
            return {**super().to_json(), "counts": {"ok": 90, "fine": 10}}

    odd = Odd(**vars(snapshot("r1")))
    with pytest.raises(DataKeyError, match="is not published, because reading its record back fails: 'fine' is not"):
        index.publish_run(run("r1", snapshot("r1"), odd))
    assert index.runs() == index.elements() == []
    assert index.snapshots("history", NOON, NOON) == []


def test_types_of_any_file_come_back_from_the_index(index: SnapshotIndex) -> None:
    type_ = pa.struct(
        [pa.field("id", pa.int64(), nullable=False), ("release-year", pa.int64()), ("a, b: c", pa.list_(pa.string()))]
    )
    names = ["id", "release-year", "a, b: c"]
    index.publish_global(replace(version(), element=global_element("films", type_)))
    found = index.global_version("films", "v1")
    assert found is not None
    assert found.element.type.names == names
    history = replace(HISTORY, element=service_element("history", pa.list_(type_)))
    index.publish_run(run("r1", snapshot("r1", history)))
    assert index.run("r1").services[0].service == index.elements()[0] == history


def test_reopening_sees_all(open_one: Callable[[], SnapshotIndex]) -> None:
    with open_one() as first:
        first.publish_run(run("r1", snapshot("r1"), snapshot("r1", MY_LIST)))
        first.publish_context_set(context_set())
        first.publish_global(version())
        seen = (first.runs(), first.context_sets(date.max), first.global_versions("videos", NOON))
    again = open_one()
    assert (again.runs(), again.context_sets(date.max), again.global_versions("videos", NOON)) == seen


def test_times_without_a_zone_are_refused(index: SnapshotIndex) -> None:
    naive = NOON.replace(tzinfo=None)
    for ask in (
        lambda: index.snapshots("history", naive, NOON),
        lambda: index.global_versions("videos", naive),
        lambda: index.publish_global(version("v1", naive)),
        lambda: index.publish_run(run("r1", snapshot("r1", HISTORY, naive))),
    ):
        with pytest.raises(NaiveTimeError):
            ask()
    assert index.runs() == []
    assert index.global_versions("videos", NOON) == []


def test_threads_share_an_instance(index: SnapshotIndex) -> None:
    def publish(number: int) -> bool:
        published = index.publish_run(run(f"r{number // 4}"))
        assert index.run(f"r{number // 4}").run_id == f"r{number // 4}"
        return published

    with ThreadPoolExecutor(8) as threads:
        published = list(threads.map(publish, range(40)))
    assert sum(published) == len(index.runs()) == 10


def test_of_two_processes_exactly_one_publishes_a_run_id(index_uri: str, index: SnapshotIndex) -> None:
    with process(PUBLISHER, index_uri) as one, process(PUBLISHER, index_uri) as two:
        assert hear(one) == hear(two) == "ready"
        for number in range(50):
            line = json.dumps(run(f"r{number}").to_json())
            pair = [one, two] if number % 2 else [two, one]
            for publisher in pair:
                say(publisher, line)
            assert sorted([hear(one), hear(two)]) == ["False", "True"]
            assert index.run(f"r{number}").services == run(f"r{number}").services
    assert len(index.runs()) == 50


def test_many_processes_open_a_new_index_at_once(index_uri: str, open_one: Callable[[], SnapshotIndex]) -> None:
    with (
        process(PUBLISHER, index_uri) as one,
        process(PUBLISHER, index_uri) as two,
        process(PUBLISHER, index_uri) as three,
    ):
        assert [hear(publisher) for publisher in (one, two, three)] == ["ready"] * 3
    assert open_one().runs() == []


@pytest.mark.parametrize("attempt", range(5))
def test_a_writer_killed_in_mid_publish_leaves_all_that_was_published(
    index_uri: str, open_one: Callable[[], SnapshotIndex], attempt: int
) -> None:
    services = tuple(snapshot("r", service) for service in [HISTORY, MY_LIST] * 40)
    with process(ENDLESS_PUBLISHER, index_uri) as writer:
        say(writer, json.dumps(run("r", *services).to_json()))
        reported = [hear(writer) for _ in range(3)]
        time.sleep(random.Random(attempt).uniform(0, 0.05))
        os.kill(writer.pid, signal.SIGKILL)
        assert writer.stdout is not None
        reported += writer.stdout.read().split()
    index = open_one()
    runs = index.runs()
    assert {found.run_id for found in runs} >= set(reported)
    assert len(runs) - len(reported) in (0, 1)  # one may have been published but not reported
    assert all(len(found.services) == len(services) for found in runs)
    assert index.publish_run(run("after")) is True
    assert index.runs()[0].run_id == "after"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    captures=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), min_size=1, max_size=6),
    ranges=st.lists(st.tuples(st.integers(-2, 25), st.integers(0, 8)), min_size=1, max_size=6),
)
def test_a_time_range_finds_exactly_what_overlaps_it(
    index: SnapshotIndex, captures: list[tuple[int, int]], ranges: list[tuple[int, int]]
) -> None:
    name = uuid.uuid4()  # all examples share one index
    service = replace(HISTORY, name=f"service-{name}")
    for i, (start, length) in enumerate(captures):
        first = NOON + start * MICROSECOND
        taken = snapshot(f"{name}-{i}", service, first, first + length * MICROSECOND)
        assert index.publish_run(run(f"{name}-{i}", taken))
    for start, length in ranges:
        found = index.snapshots(service.name, NOON + start * MICROSECOND, NOON + (start + length) * MICROSECOND)
        expected = [
            f"{name}-{i}"
            for i, (first, lasting) in enumerate(captures)
            if first <= start + length and first + lasting >= start
        ]
        assert [taken.run_id for taken in found] == expected[::-1]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    captures=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), min_size=1, max_size=12),
    days=st.sampled_from([0.5, 9, 40]),
    ranges=st.lists(st.tuples(st.integers(-2, 12), st.integers(0, 8)), min_size=1, max_size=3),
)
def test_iterating_gives_what_a_look_up_gives_by_last_capture_over_months_ties_and_withdrawals(
    index: SnapshotIndex, captures: list[tuple[int, int, bool]], days: float, ranges: list[tuple[int, int]]
) -> None:
    name, unit = uuid.uuid4(), timedelta(days=days)
    service = replace(HISTORY, name=f"service-{name}")
    for i, (start, length, withdrawn) in enumerate(captures):
        first = NOON + start * unit
        taken = snapshot(f"{name}-{i}", service, first, first + length * unit)
        assert index.publish_run(run(f"{name}-{i}", taken))
        if withdrawn:
            assert index.withdraw_run(f"{name}-{i}", "wrong", "ann")
    left = any(not withdrawn for _, _, withdrawn in captures)
    assert [found for found in index.elements() if found.name == service.name] == ([service] if left else [])
    for start, length in [*ranges, (-2, 99)]:
        asked = (service.name, NOON + start * unit, NOON + (start + length) * unit)
        looked_up = index.snapshots(*asked)  # the latest published first
        expected = sorted(looked_up, key=lambda found: found.captured_to or NOON, reverse=True)
        iterated = list(index.iterate_snapshots(*asked))
        assert iterated == expected
        for limit in (1, 3):
            if length == 99:
                assert index.last_snapshots(service.name, limit) == expected[:limit]
