"""Which keys earlier runs of a day have answers for: against all that is in their files, reading no other buckets."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from counting_storage import CountingStorage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.data_keys import context_variable, service_element
from schemas.hashing import bucket_of
from schemas.services import OnFallback, Service, Status
from schemas.tables import IS_FALLBACK, snapshot_schema
from snapshotter.capture.answered_keys import AnsweredKeys, answered_keys
from snapshotter.records import ServiceSnapshot, SnapshotRun
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import write_parquet

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
PROFILE, COUNTRY = context_variable("profile_id", "int64"), context_variable("country", "string")
LISTS = Service("lists", service_element("lists", "list<int64>"), (PROFILE, COUNTRY))
keys = st.sets(st.tuples(st.integers(0, 30), st.sampled_from(["US", "FR"])), max_size=25)


def table(chosen: set[tuple[int, str]]) -> pa.Table:
    profiles, countries = [profile for profile, _ in sorted(chosen)], [country for _, country in sorted(chosen)]
    return pa.table({"profile_id": pa.array(profiles, pa.int64()), "country": pa.array(countries, pa.string())})


def captured(
    storage: Storage,
    chosen: set[tuple[int, str]],
    service: Service,
    by: str | None,
    buckets: int,
    fallbacks: bool = False,
) -> SnapshotRun:
    """A run with answers for these keys, or only with fallbacks."""
    rows = table(chosen)
    rows = rows.append_column("captured_at", pa.array([NOON] * len(rows), pa.timestamp("us", "UTC")))
    rows = rows.append_column("value", pa.array([[1]] * len(rows), service.element.type))
    if service.on_fallback is OnFallback.VALUE:
        rows = rows.append_column(IS_FALLBACK, pa.array([fallbacks] * len(rows)))
    rows = rows.cast(snapshot_schema(service))
    bucket = bucket_of(rows[by], buckets) if by and len(rows) else [0] * len(rows)
    files = [
        write_parquet(storage, f"snapshots/{by}-{buckets}-{number}-{fallbacks}.parquet", part, part.schema, number)
        for number in sorted(set(map(int, bucket)))
        if (part := rows.filter(pa.array([int(one) == number for one in bucket]))).num_rows
    ]
    taken = ServiceSnapshot("r", service, by, buckets, {Status.OK: len(rows)}, NOON, NOON, tuple(files), {})
    return SnapshotRun("r", "set", NOON, (taken,))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    answered=keys,
    others=keys,
    needed=keys,
    buckets=st.sampled_from([1, 2, 8]),
    before=st.sampled_from([1, 2, 16]),
    by=st.sampled_from(["profile_id", "country", None]),
)
def test_exactly_the_keys_without_an_answer_are_missing_from_each_bucket(
    tmp_path_factory: pytest.TempPathFactory,
    answered: set[tuple[int, str]],
    others: set[tuple[int, str]],
    needed: set[tuple[int, str]],
    buckets: int,
    before: int,
    by: str | None,
) -> None:
    storage = open_storage(f"file://{tmp_path_factory.mktemp('storage')}")
    service = replace(LISTS, on_fallback=OnFallback.VALUE)
    before = before if by else 1
    runs = [
        captured(storage, answered, service, by, before),
        captured(storage, others, service, by, before, fallbacks=True),
    ]
    wanted = table(needed)
    own = bucket_of(wanted["profile_id"], buckets) if len(wanted) else []
    missing: set[tuple[int, str]] = set()
    for bucket in range(buckets):
        part = wanted.filter(pa.array([int(one) == bucket for one in own], pa.bool_()))
        for each in answered_keys(runs, LISTS, "profile_id"):
            part = each.missing(part, storage, bucket, buckets)
        missing |= {(row["profile_id"], row["country"]) for row in part.to_pylist()}
    assert missing == needed - answered


def test_only_buckets_that_may_have_the_keys_are_read(storage: Storage) -> None:
    every = {(profile, "US") for profile in range(200)}
    run = captured(storage, every, LISTS, "profile_id", 16)
    [aligned], [other] = answered_keys([run], LISTS, "profile_id"), answered_keys([run], LISTS, "country")
    needed = table(every)
    part = needed.filter(pa.array(bucket_of(needed["profile_id"], 4) == 1))
    counting = CountingStorage(storage)
    assert aligned.missing(part, counting, 1, 4).num_rows == 0
    assert {path.rpartition("-")[0].rpartition("-")[2] for path in counting.opened} == {"1", "5", "9", "13"}
    assert other.missing(part, storage, 1, 4).num_rows == 0
    assert aligned == AnsweredKeys(run.services[0].files, 16, has_fallbacks=False)
    assert other.buckets == 1


def test_a_service_that_is_declared_otherwise_now_has_no_answers(storage: Storage) -> None:
    run = captured(storage, {(1, "US")}, LISTS, "profile_id", 2)
    wider = replace(LISTS, element=service_element("lists", "list<float64>"))
    assert answered_keys([run], wider, "profile_id") == ()
    assert len(answered_keys([run, run], LISTS, "profile_id")) == 2
