from __future__ import annotations

from datetime import UTC, date, datetime

from schemas.data_keys import context_variable, service_element
from schemas.services import Service, Status
from snapshotter.records import ContextGroup, ContextSet, DataFile, SelectedExperiment, ServiceSnapshot, SnapshotRun

HISTORY = Service("history", service_element("history", "int64"), (context_variable("profile_id", "int64"),))


def test_a_record_from_before_profiles_were_measured_has_an_empty_one() -> None:
    taken = ServiceSnapshot("r1", HISTORY, None, 1, {Status.ERROR: 2}, None, None, (), {Status.ERROR: "HTTP 500"})
    fields = taken.to_json()
    del fields["profile"]
    assert ServiceSnapshot.from_json(fields) == taken
    assert taken.profile == {}


def test_a_context_set_from_before_there_were_many_keys_is_one_group_and_the_first_revision() -> None:
    record = {
        "context_set_id": "2026-01-05-abc",
        "date": "2026-01-05",
        "experiments": ["a", "b"],
        "key": [context_variable("profile_id", "int64").to_json()],
        "files": [{"path": "context_sets/a.parquet", "rows": 10, "bytes": 100, "checksum": "ab", "bucket": 0}],
        "report": [{"experiment": "a", "stratum": "US", "population": 9, "asked": 2, "taken": 2}],
    }
    found = ContextSet.from_json(record)
    file = DataFile("context_sets/a.parquet", 10, 100, "ab")
    assert found.groups == (ContextGroup(HISTORY.key, (SelectedExperiment("a"), SelectedExperiment("b")), (file,)),)
    assert (found.date, found.experiments, found.rows) == (date(2026, 1, 5), ("a", "b"), 10)
    assert (found.revision, found.after, found.failed) == (1, None, ())
    assert found.report[0].taken == 2
    assert ContextSet.from_json(found.to_json()) == found
    assert found.groups[0].experiments[0].needs("anything")


def test_a_run_from_before_services_could_be_not_applicable_was_asked_for_all() -> None:
    run = SnapshotRun("r1", "c", datetime(2026, 1, 5, tzinfo=UTC), ())
    fields = run.to_json()
    del fields["not_applicable"]
    assert SnapshotRun.from_json(fields) == run
    partial = SnapshotRun("r1", "c", run.started_at, (), None, {"history": ("search",), "popular": ()})
    assert SnapshotRun.from_json(partial.to_json()) == partial
