"""Contexts of many keys, and days that grow by revisions: what services are asked, and what never again."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from small_company import Company
from snapshot_job import service

from delorean.experiment import ExperimentSpec, LabelSpec
from delorean.experiment.task_spec import TaskSpec
from prana_proxy.config.services_file import gateway_config
from prana_proxy.server import start_proxy
from schemas.data_keys import context_variable, service_element
from schemas.errors import ConfigError, DataKeyError, ServiceError
from schemas.services import Service, Status
from snapshotter.capture import Floor, SnapshotOptions, take_snapshot, take_snapshots
from snapshotter.capture.asked_groups import shared_key
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.records import ContextGroup, ContextSet, SelectedExperiment, SnapshotRun
from snapshotter.selection.context_selection import select_contexts
from snapshotter.selection.context_sets import context_set_schema
from snapshotter.selection.declarations import ContextSelection
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import read_parquet, write_parquet

DAY = date(2026, 1, 5)
SERVICES = {
    "history": ("profile_id",),
    "my_list": ("country", "profile_id"),
    "popular": ("country",),
    "found": ("query", "country"),
}
PATHS = {"history": "history", "my_list": "list", "popular": "popular", "found": "found"}
VALUES = {"profile_id": (0, 1, 2, 3, 5), "country": ("US", "FR"), "query": ("cats", "dogs"), "device": ("tv",)}
KEYS = [
    (("profile_id", "int64"),),
    (("profile_id", "int64"), ("country", "string"), ("device", "string")),
    (("country", "string"), ("profile_id", "int32")),
    (("query", "string"), ("profile_id", "int32"), ("country", "string")),
    (("query", "string"), ("country", "string")),
]


@dataclass(frozen=True)
class Chosen:
    """An experiment, its key's variables with their types, the contexts it chose, and the services it needs."""

    id: str
    key: tuple[tuple[str, str], ...]
    contexts: frozenset[tuple[Any, ...]]
    services: tuple[str, ...] | None = None

    def keys_of(self, name: str) -> set[tuple[Any, ...]]:
        """The keys that a service is to be asked for."""
        names = [variable for variable, _ in self.key]
        if not set(SERVICES[name]) <= set(names) or (self.services is not None and name not in self.services):
            return set()
        return {tuple(dict(zip(names, row, strict=True))[each] for each in SERVICES[name]) for row in self.contexts}


def context_set(storage: Storage, experiments: Sequence[Chosen], revision: int = 1) -> ContextSet:
    """Write a revision of the day's contexts."""
    groups = []
    for number, key in enumerate(dict.fromkeys(each.key for each in experiments)):
        of_key = [each for each in experiments if each.key == key]
        variables = tuple(context_variable(*each) for each in key)
        rows = [
            {
                **dict(zip((name for name, _ in key), row, strict=True)),
                "experiments": [
                    {"experiment": each.id, "stratum": "all", "probability": 0.5}
                    for each in of_key
                    if row in each.contexts
                ],
            }
            for row in sorted(frozenset().union(*(each.contexts for each in of_key)))
        ]
        table = pa.Table.from_pylist(rows, context_set_schema(variables))
        half = -(-table.num_rows // 2)
        files = tuple(
            write_parquet(storage, f"context_sets/{DAY}/{revision}-{number}/{part}.parquet", rows, rows.schema)
            for part, rows in enumerate((table.slice(0, half), table.slice(half)))
            if rows.num_rows
        )
        selected = tuple(SelectedExperiment(each.id, None, each.services) for each in of_key)
        groups.append(ContextGroup(variables, selected, files))
    after = f"set-{revision - 1}" if revision > 1 else None
    return ContextSet(f"set-{revision}", DAY, tuple(groups), (), (), revision, after)


@dataclass
class Day:
    """A day's captures of a counting company."""

    company: Company
    proxy: str
    storage: Storage
    index: SnapshotIndex
    spark: SparkSession | None = None

    def capture(
        self, sets: Sequence[ContextSet], services: Sequence[str] | None = None, **options: Any
    ) -> list[SnapshotRun]:
        given = SnapshotOptions(**{"buckets": 4, "page": 3, "drift": "off", **options})
        return take_snapshots(self.spark, sets, services, [self.proxy], self.storage.uri, self.index, "r", given)

    def asked(self) -> Counter[tuple[str, ...]]:
        """How often the company was asked for what: by its own log."""
        return Counter(tuple(path.strip("/").split("/")) for path in self.company.asked)

    def keys(self, run: SnapshotRun, name: str) -> set[tuple[Any, ...]]:
        """The keys that a run has answers for."""
        taken = next((each for each in run.services if each.service.name == name), None)
        tables = [read_parquet(self.storage, file, list(SERVICES[name])) for file in (taken.files if taken else ())]
        return {tuple(row[each] for each in SERVICES[name]) for table in tables for row in table.to_pylist()}


def expected(chosen: Mapping[str, set[tuple[Any, ...]]]) -> Counter[tuple[str, ...]]:
    """Each of these keys once."""
    return Counter((PATHS[name], *map(str, key)) for name, keys in chosen.items() for key in keys)


@pytest.fixture(scope="module")
def asked_company() -> Iterator[tuple[Company, str]]:
    company = Company()
    found = {"type": "list<struct<video_id: int64>>", "key": {"query": "string", "country": "string"}}
    services = {**company.services, "found": {**company.services["popular"], **found}}
    services["found"]["url"] = f"{company.url}/found/{{query}}/{{country}}"
    for each in services.values():
        each["breaker"] = {"forced": "closed"}
    try:
        with start_proxy(gateway_config({"services": services})) as proxy:
            yield company, proxy.address
    finally:
        company.close()


@pytest.fixture
def day(asked_company: tuple[Company, str], storage: Storage, index: SnapshotIndex) -> Day:
    company, proxy = asked_company
    company.asked.clear()
    company.failing = {}
    return Day(company, proxy, storage, index)


@st.composite
def chosen(draw: st.DrawFn, name: str) -> Chosen:
    key = draw(st.sampled_from(KEYS))
    every = list(itertools.product(*(VALUES[variable] for variable, _ in key)))
    contexts = draw(st.frozensets(st.sampled_from(every), min_size=1, max_size=6))
    services = draw(st.none() | st.lists(st.sampled_from([*SERVICES]), min_size=1, unique=True).map(tuple))
    return Chosen(name, key, contexts, services)


@st.composite
def days(draw: st.DrawFn) -> list[list[Chosen]]:
    """Experiments of up to three revisions, of which something can be asked for."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    revisions = [[draw(chosen(f"e{n}-{m}")) for m in range(size)] for n, size in enumerate(sizes)]
    always = Chosen("always", KEYS[1], frozenset({(5, "US", "tv")}))
    return [[always, *revisions[0]], *revisions[1:]]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(revisions=days(), buckets=st.sampled_from([1, 4, None]), again=st.booleans())
def test_each_key_that_an_experiment_needs_is_asked_for_once_a_day(
    asked_company: tuple[Company, str],
    tmp_path_factory: pytest.TempPathFactory,
    revisions: list[list[Chosen]],
    buckets: int | None,
    again: bool,
) -> None:
    folder = tmp_path_factory.mktemp("day")
    storage = open_storage(f"file://{folder}/data")
    with open_index(f"sqlite://{folder}/index.db") as index:
        day = Day(*asked_company, storage, index)
        day.company.asked.clear()
        sets = [context_set(storage, experiments, n + 1) for n, experiments in enumerate(revisions)]
        if again:  # the day was captured before it grew
            day.capture(sets[:1], buckets=4)
        runs = day.capture(sets, buckets=buckets)
        seen: dict[str, set[tuple[Any, ...]]] = {name: set() for name in SERVICES}
        for run, experiments in zip(runs, revisions, strict=True):
            for name in SERVICES:
                new = set().union(*(each.keys_of(name) for each in experiments)) - seen[name]
                assert day.keys(run, name) == new
                counted = [each for each in run.services if each.service.name == name]
                assert sum(each.asked for each in counted) == len(new)
                seen[name] |= new
        assert day.asked() == expected(seen)
        assert [run.run_id for run in runs] == ["r", "r.r2", "r.r3"][: len(revisions)]
        assert day.capture(sets) == runs


PROFILES = Chosen("home", KEYS[1], frozenset({(1, "US", "tv"), (2, "FR", "tv"), (3, "US", "tv")}))
QUERIES = Chosen("search", KEYS[4], frozenset({("cats", "US"), ("dogs", "JP")}))
NARROW = Chosen("narrow", KEYS[2], frozenset({("US", 1), ("US", 4)}))


def test_no_service_is_asked_for_the_sentinels_of_tasks(day: Day, spark: SparkSession) -> None:
    uses = {
        "home": (("profile_id", "country"), "VALUES (1, 'US'), (2, 'FR')"),
        "search": (("query", "country"), "VALUES ('cats', 'US')"),
    }
    tasks = {
        name: TaskSpec(
            LabelSpec(items=("video_id",), context=key, table="shown"),
            contexts=ContextSelection(f"SELECT * FROM {rows} AS t({', '.join(key)})", key, fraction=1.0),
        )
        for name, (key, rows) in uses.items()
    }
    spec = ExperimentSpec(name="members", tasks=tasks, sentinels={"profile_id": -1, "query": ""})
    selected = select_contexts(spark, spec.selections, DAY, day.storage, day.index)
    assert [each.id for group in selected.groups for each in group.experiments] == ["members-home", "members-search"]
    day.capture([selected])
    assert day.asked() == expected(
        {
            "history": {(1,), (2,)},
            "my_list": {("US", 1), ("FR", 2)},
            "popular": {("US",), ("FR",)},
            "found": {("cats", "US")},
        }
    )


def test_what_is_not_applicable_is_not_asked_nor_counted_but_said(day: Day, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        [run] = day.capture([context_set(day.storage, [PROFILES, QUERIES])])
    assert {each.service.name: each.asked for each in run.services} == {
        "found": 2,
        "history": 3,
        "my_list": 3,
        "popular": 3,
    }
    assert all(each.confidence == 1.0 for each in run.services)
    assert run.not_applicable == {"found": ("home",), "history": ("search",), "my_list": ("search",)}
    assert caplog.text == ""  # contexts of another kind are no mistake
    assert day.index.run("r") == run


def test_experiments_need_only_the_services_that_they_name(day: Day, caplog: pytest.LogCaptureFixture) -> None:
    picky = replace(PROFILES, services=("popular", "histry", "found"))
    with caplog.at_level(logging.WARNING):
        [run] = day.capture([context_set(day.storage, [picky, NARROW])])
    assert day.asked() == expected(
        {"history": {(1,), (4,)}, "my_list": {("US", 1), ("US", 4)}, "popular": {("US",), ("FR",)}}
    )
    assert run.not_applicable == {"found": ("home", "narrow")}
    assert "experiment 'home' needs an unknown service 'histry' → did you mean 'history'" in caplog.text
    assert "service 'found' is not applicable to experiment 'home', which names it: its contexts lack 'q" in caplog.text


def test_contexts_for_which_no_service_can_be_asked_are_a_warning(day: Day, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        day.capture([context_set(day.storage, [PROFILES, replace(NARROW, services=("found",))])])
    assert "no service can be asked for the contexts of experiment 'narrow'" in caplog.text
    assert "experiment 'home'" not in caplog.text


def test_a_service_that_no_context_can_be_asked_for_is_left_out_or_refused_where_it_is_named(day: Day) -> None:
    sets = [context_set(day.storage, [PROFILES]), context_set(day.storage, [QUERIES], 2)]
    with pytest.raises(DataKeyError, match="unknown variable of context set set-1, which service 'found' .* 'query'"):
        day.capture(sets[:1], ["history", "found"])
    picky = context_set(day.storage, [replace(NARROW, services=("history",))], 9)
    with pytest.raises(DataKeyError, match="no experiment of context set set-9 needs service 'popular'"):
        day.capture([picky], ["popular"])
    text = Chosen("as_text", (("profile_id", "string"),), frozenset({("1",)}))
    with pytest.raises(DataKeyError, match="'history' needs profile_id: int64, contexts of .* 'as_text' have string"):
        day.capture([context_set(day.storage, [PROFILES, text], 8)])
    devices = Chosen("devices", (("device", "string"),), frozenset({("tv",)}))
    nothing = context_set(day.storage, [devices], 7)
    with pytest.raises(DataKeyError, match="no service can be asked for the contexts of set-7: device: string"):
        take_snapshot(None, nothing, None, [day.proxy], day.storage.uri, day.index, "x")
    with pytest.raises(DataKeyError, match="no service can be asked for the contexts of set-7: device: string"):
        day.capture([nothing])
    assert day.company.asked == []
    runs = day.capture(sets, ["history", "found"])  # each for the revision that has its variables
    assert [[each.service.name for each in run.services] for run in runs] == [["history"], ["found"]]
    assert day.capture(sets, ["found", "history"]) == runs
    with pytest.raises(ConfigError, match="run id 'r' is taken: .* captured history, not found, history, popular"):
        day.capture(sets, ["found", "history", "popular"])


def test_variables_of_two_groups_are_of_the_wider_type_or_an_error_that_names_both_experiments() -> None:
    def group(name: str, type_: str, needs: str) -> ContextGroup:
        return ContextGroup((context_variable("code", type_),), (SelectedExperiment(name, None, (needs,)),), ())

    def by(name: str, type_: str) -> Service:
        return Service(name, service_element(name, "int64"), (context_variable("code", type_),))

    services = [by("short", "int32"), by("long", "int64"), by("text", "string")]
    short, long, text = (group(one.name, str(one.key[0].type), one.name) for one in services)
    for groups, type_ in (([short, long], "int64"), ([long, short], "int64"), ([short], "int32"), ([text], "string")):
        assert shared_key(groups, services) == [context_variable("code", type_)]
    problem = "variable 'code' is int64 in the contexts of experiment 'long', string in those of 'text' → cast"
    with pytest.raises(DataKeyError, match=problem):
        shared_key([short, long, text], services)
    assert shared_key([short, text], services[:2]) == [context_variable("code", "int32")]  # nobody asks for the text


def test_a_revision_with_nothing_left_to_ask_is_published_without_a_call(day: Day) -> None:
    sets = [context_set(day.storage, [PROFILES]), context_set(day.storage, [replace(PROFILES, id="same")], 2)]
    first = day.capture(sets[:1])
    calls = list(day.company.asked)
    runs = day.capture(sets, floor=Floor(1.0), drift="hold")
    assert (runs[0], day.company.asked) == (first[0], calls)
    assert [(each.service.name, each.asked, each.files) for each in runs[1].services] == [
        (name, 0, ()) for name in ("history", "my_list", "popular")
    ]
    devices = Chosen("devices", (("device", "string"),), frozenset({("tv",)}))
    runs = day.capture([*sets, context_set(day.storage, [devices], 3)])
    assert (runs[2].run_id, runs[2].services, day.company.asked) == ("r.r3", (), calls)
    assert day.index.run("r.r3") == runs[2]


def test_keys_that_failed_are_asked_again_by_a_later_revision_that_needs_them(day: Day) -> None:
    day.company.failing = {2: "error", 3: "error"}
    sets = [context_set(day.storage, [PROFILES])]
    [first] = day.capture(sets)
    assert service(first, "history").counts == {Status.OK: 1, Status.ERROR: 2}
    day.company.failing = {}
    day.company.asked.clear()
    later = Chosen("later", KEYS[0], frozenset({(1,), (2,), (4,)}))
    second = day.capture([*sets, context_set(day.storage, [later], 2)])[1]
    assert service(second, "history").counts == {Status.OK: 2}
    assert day.asked() == expected({"history": {(2,), (4,)}})
    assert service(second, "history").profile == {}  # a few contexts of a day say nothing about drift


def test_a_revision_waits_for_the_run_before_it(day: Day) -> None:
    day.company.failing = dict.fromkeys(range(10), "error")
    sets = [
        context_set(day.storage, [replace(PROFILES, services=("history",))]),
        context_set(day.storage, [QUERIES], 2),
    ]
    with pytest.raises(ServiceError, match="run 'r' captured nothing"):
        day.capture(sets)
    assert day.index.run_ids() == []
    day.company.failing = {}
    assert [run.run_id for run in day.capture(sets)] == ["r", "r.r2"]


def test_a_revision_that_was_interrupted_goes_on_where_it_stopped(day: Day) -> None:
    many = Chosen("many", KEYS[0], frozenset((number,) for number in range(40)))
    more = Chosen("more", KEYS[0], frozenset((number,) for number in range(20, 80)))
    sets = [context_set(day.storage, [many]), context_set(day.storage, [more], 2)]
    day.capture(sets[:1])

    def interrupt(name: str, done: int, total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    given = SnapshotOptions(buckets=2, page=3)
    with pytest.raises(KeyboardInterrupt):
        take_snapshots(None, sets, None, [day.proxy], day.storage.uri, day.index, "r", given, progress=interrupt)
    assert 60 <= len(day.company.asked) < 80
    runs = day.capture(sets)
    assert service(runs[1], "history").counts == {Status.OK: 40}
    assert day.asked() == expected({"history": {(number,) for number in range(80)}})


CAPTURE = """
import sys
from datetime import date, timedelta
from snapshotter.capture import SnapshotOptions, take_snapshots
from snapshotter.index import open_index
index_uri, storage_uri, proxy = sys.argv[1:]
with open_index(index_uri) as index:
    options = SnapshotOptions(buckets=2, page=3, keep_every=timedelta())
    take_snapshots(None, index.context_sets_of(date(2026, 1, 5)), None, [proxy], storage_uri, index, "r", options)
"""


@pytest.mark.program
@pytest.mark.parametrize("calls", [1, 45, 65])
def test_a_capture_that_is_killed_in_either_revision_goes_on_and_asks_for_what_is_missing(day: Day, calls: int) -> None:
    many = Chosen("many", KEYS[0], frozenset((number,) for number in range(40)))
    more = Chosen("more", KEYS[0], frozenset((number,) for number in range(20, 80)))
    for number, experiment in enumerate([many, more]):
        assert day.index.publish_context_set(context_set(day.storage, [experiment], number + 1))
    day.company.seconds = 0.02
    try:
        killed = subprocess.Popen([sys.executable, "-c", CAPTURE, day.index.uri, day.storage.uri, day.proxy])
        while len(day.company.asked) < calls:
            assert killed.poll() is None
            time.sleep(0.01)
        killed.kill()
        killed.wait()
    finally:
        day.company.seconds = 0.0
    in_flight = 3 * 2  # a page, or two whose answers were not on disk yet
    published, before = day.index.run_ids(), set(day.asked())
    assert published == (["r"] if calls > 40 else [])
    day.company.asked[:] = list(dict.fromkeys(day.company.asked))
    runs = day.capture(day.index.context_sets_of(DAY))
    assert [service(run, "history").counts for run in runs] == [{Status.OK: 40}, {Status.OK: 40}]
    assert [len(day.keys(run, "history")) for run in runs] == [40, 40]
    assert set(day.asked()) == set(expected({"history": {(number,) for number in range(80)}}))
    again = {key for key, count in day.asked().items() if count > 1}
    assert again <= before
    assert len(again) <= in_flight


def test_over_spark_the_same_is_asked_and_no_more(day: Day, spark: SparkSession) -> None:
    day.spark = spark
    picky = replace(PROFILES, id="picky", contexts=frozenset({(9, "US", "tv")}), services=("popular",))
    revisions = [[PROFILES, QUERIES, NARROW, picky], [replace(NARROW, contexts=frozenset({("FR", 1), ("FR", 8)}))]]
    sets = [context_set(day.storage, experiments, n + 1) for n, experiments in enumerate(revisions)]
    runs = day.capture(sets[:1])
    runs = day.capture(sets)
    every = [each for experiments in revisions for each in experiments]
    needed = {name: set().union(*(each.keys_of(name) for each in every)) for name in SERVICES}
    assert day.asked() == expected(needed)
    assert {name: day.keys(runs[0], name) | day.keys(runs[1], name) for name in SERVICES} == needed
    assert day.keys(runs[1], "history") == {(8,)}
