"""An id that something else has is refused, and never answered with what that has."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from schemas.data_keys import context_variable, global_element, service_element
from schemas.errors import ConfigError
from schemas.services import Service, Status
from snapshotter.capture.snapshot_job import take_snapshot
from snapshotter.global_elements import publish_global
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.records import ContextGroup, ContextSet, SelectedExperiment, ServiceSnapshot, SnapshotRun
from snapshotter.selection.context_selection import _context_set_id, select_contexts
from snapshotter.selection.declarations import NamedSelection
from snapshotter.storage import Storage, open_storage

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
KEY = (context_variable("profile_id", "int64"),)
NO_SPARK: Any = None


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SnapshotIndex]:
    with open_index(f"sqlite://{tmp_path}/index.db") as opened:
        yield opened


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(f"file://{tmp_path}/data")


def contexts(day: int) -> ContextSet:
    return ContextSet.of_one_key(f"set-{day}", date(2026, 1, day), ("everyone",), KEY, (), ())


def publish(index: SnapshotIndex, *names: str) -> None:
    taken = [
        ServiceSnapshot(
            "x", Service(name, service_element(name, "string"), KEY), None, 1, {Status.OK: 1}, NOW, NOW, (), {}
        )
        for name in names
    ]
    assert index.publish_run(SnapshotRun("x", "set-5", NOW, tuple(taken)))


def snapshot(index: SnapshotIndex, storage: Storage, day: int, services: list[str] | None) -> SnapshotRun:
    return take_snapshot(NO_SPARK, contexts(day), services, ["127.0.0.1:1"], storage.uri, index, "x")


def test_a_run_id_that_captured_another_day_is_refused(index: SnapshotIndex, storage: Storage) -> None:
    publish(index, "history")
    with pytest.raises(ConfigError, match="run id 'x' is taken: that run captured context set 'set-5', not 'set-4'"):
        snapshot(index, storage, 4, None)
    assert snapshot(index, storage, 5, None).run_id == "x"


def test_a_run_id_that_asked_other_services_is_refused(index: SnapshotIndex, storage: Storage) -> None:
    publish(index, "history", "mood")
    for services in (["history"], ["history", "mood", "lists"]):
        with pytest.raises(ConfigError, match="run id 'x' is taken: that run captured history, mood, not history"):
            snapshot(index, storage, 5, services)
    assert snapshot(index, storage, 5, ["mood", "history"]).run_id == "x"


def test_an_experiment_that_was_edited_since_the_date_has_it_stays_or_is_refused_where_it_is_named(
    index: SnapshotIndex, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    everyone = NamedSelection(id="everyone", query="SELECT 1 AS profile_id", key=("profile_id",), quota=5)
    edited = NamedSelection(id="everyone", query="SELECT 2 AS profile_id", key=("profile_id",), quota=5)
    day = date(2026, 1, 5)
    group = ContextGroup(KEY, (SelectedExperiment("everyone", everyone.digest),), ())
    chosen = ContextSet(_context_set_id([everyone], day), day, (group,), ())
    assert index.publish_context_set(chosen)
    assert select_contexts(NO_SPARK, [everyone], day, storage, index, allow_other=False) == chosen
    assert select_contexts(NO_SPARK, [edited], day, storage, index) == chosen
    assert "2026-01-05 has contexts of 'everyone' already, selected before the selection was edited" in caplog.text
    with pytest.raises(ConfigError, match="2026-01-05 has contexts of 'everyone' already, .*edited → give the edited"):
        select_contexts(NO_SPARK, [edited], day, storage, index, allow_other=False)


def test_a_version_id_that_has_other_rows_is_refused(index: SnapshotIndex, storage: Storage) -> None:
    films = global_element("films", "struct<video_id: int64, year: int64>")
    first, other = (pa.table({"video_id": [1], "year": [year]}) for year in (2001, 2002))
    assert publish_global(first, films, NOW, storage, index, "v1")
    assert publish_global(first, films, NOW, storage, index, "v1") is False
    with pytest.raises(ConfigError, match="version id 'v1' of global element 'films' is taken by other rows"):
        publish_global(other, films, NOW, storage, index, "v1")
