"""A date's contexts grow by revisions: what it lacks is selected, what it has stays, however many select at once."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import SparkSession

from schemas.errors import ConfigError, SelectionError
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.records import ContextSet
from snapshotter.selection import contexts_of, read_contexts, select_contexts
from snapshotter.storage import Storage

DAY = date(2026, 1, 5)


def test_an_experiment_added_later_is_selected_alone_as_the_next_revision(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex, caplog: pytest.LogCaptureFixture
) -> None:
    morning = [experiment("a"), experiment("broken", query="SELEC 1")]
    first = select_contexts(spark, morning, DAY, storage, index)
    assert (first.revision, first.after, first.experiments) == (1, None, ("a",))
    with pytest.raises(SelectionError, match="experiment 'broken': .*PARSE_SYNTAX_ERROR"):
        select_contexts(spark, morning, DAY, storage, index)  # what is left of them fails as before
    noon = [experiment("a", quota=9), experiment("broken"), experiment("by_device", key=("device",), strata=())]
    with caplog.at_level(logging.WARNING):
        second = select_contexts(spark, noon, DAY, storage, index)
    assert (second.revision, second.after) == (2, first.context_set_id)
    assert (second.experiments, second.failed) == (("broken", "by_device"), ())
    assert f"{DAY} has contexts of 'a' already, selected before the selection was edited" in caplog.text
    assert index.context_sets_of(DAY) == [first, second]
    assert select_contexts(spark, noon, DAY, storage, index) == second
    assert [read_contexts(each.group, storage).num_rows for each in contexts_of(index, "broken")] == [150]
    assert [each.context_set_id for each in contexts_of(index, "a")] == [first.context_set_id]
    assert list(contexts_of(index, "a", earliest=DAY + timedelta(days=1))) == []
    with pytest.raises(ConfigError, match="has contexts of 'a' already, .* → give the edited experiment another name"):
        select_contexts(spark, noon, DAY, storage, index, allow_other=False)
    assert select_contexts(spark, [experiment("a")], DAY, storage, index, allow_other=False) == second


def test_a_day_that_is_over_is_selected_once_and_grows_no_more(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex, caplog: pytest.LogCaptureFixture
) -> None:
    first = select_contexts(spark, [experiment("a")], DAY, storage, index, late=timedelta(0))  # a backfill
    later = [experiment("a"), experiment("b")]
    problem = "2026-01-05 is past, and its contexts were selected without 'b'"
    with pytest.raises(ConfigError, match=f"{problem}: services would be asked for their state now"):
        select_contexts(spark, later, DAY, storage, index, allow_other=False, late=timedelta(0))
    with caplog.at_level(logging.WARNING):
        assert select_contexts(spark, later, DAY, storage, index, late=timedelta(hours=6)) == first
    assert problem in caplog.text
    today = datetime.now(UTC).date() - timedelta(days=1)  # over for less than a day
    every = [experiment(name, query="SELECT * FROM impressions") for name in ("a", "b")]
    for experiments in (every[:1], every):
        select_contexts(spark, experiments, today, storage, index, allow_other=False, late=timedelta(days=2))
    assert [found.experiments for found in index.context_sets_of(today)] == [("a",), ("b",)]


def test_of_selections_at_once_each_experiment_is_selected_once(
    spark: SparkSession, experiment: Any, storage: Storage, index: SnapshotIndex
) -> None:
    first = select_contexts(spark, [experiment("a")], DAY, storage, index)
    groups = [("a", "b"), ("a", "c"), ("b", "c", "d")]

    def select(names: tuple[str, ...]) -> ContextSet:
        with open_index(index.uri) as own:
            experiments = [experiment(name, strata=(), quota=5) for name in names]
            return select_contexts(spark.newSession(), experiments, DAY, storage, own)

    with ThreadPoolExecutor(3) as threads:
        returned = list(threads.map(select, groups))
    revisions = index.context_sets_of(DAY)
    assert revisions[0] == first
    assert [found.revision for found in revisions] == list(range(1, len(revisions) + 1))
    assert [found.after for found in revisions] == [None, *(found.context_set_id for found in revisions[:-1])]
    assert sorted(name for found in revisions for name in found.experiments) == ["a", "b", "c", "d"]
    assert all(found in revisions for found in returned)
