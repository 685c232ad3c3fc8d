"""Snapshots that are captured in this process, without Spark: the same files, counts and promises."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from snapshot_job import Job, service

from delorean.display.text import to_text
from prana_proxy.config.services_file import gateway_config
from prana_proxy.server import start_proxy
from schemas.hashing import bucket_of
from schemas.services import Status
from schemas.tables import snapshot_schema
from snapshotter.capture import service_jobs
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet


@pytest.fixture
def job(context_set: ContextSet, storage: Storage, index: SnapshotIndex, company: Any) -> Iterator[Job]:
    job = Job(None, context_set, storage, index)
    with start_proxy(company.config()) as proxy:
        job.proxies = [proxy.address]
        yield job


def test_each_distinct_key_is_requested_once_and_its_answer_is_stored(job: Job, company: Any) -> None:
    run = job.run()
    assert sorted(company.asked) == sorted(
        [f"/history/{i}" for i in range(200)]
        + [f"/list/{'US' if i % 2 else 'FR'}/{i}" for i in range(200)]
        + ["/popular/FR", "/popular/US"]
    )
    history, popular = service(run, "history"), service(run, "popular")
    rows = {row["profile_id"]: [video["video_id"] for video in row["value"]] for row in job.read(history)}
    assert rows == {i: [i + j for j in range(i % 3)] for i in range(200)}
    assert (history.counts, history.confidence) == ({Status.OK: 200}, 1.0)
    assert history.profile["rows"] == 200.0
    assert (popular.bucket_variable, popular.buckets, [file.bucket for file in popular.files]) == (None, 1, [0])
    assert job.index.run("r1") == run


def test_an_instance_that_is_older_than_a_field_is_captured_and_counted(
    context_set: ContextSet, storage: Storage, index: SnapshotIndex, company: Any
) -> None:
    declared = company.services
    declared["history"]["type"] = "list<struct<video_id: int64, minutes: float, plays: int32>>"
    declared["history"]["defaults"] = {"plays": 1}
    old = company.answer  # answers of every other profile come from a new instance

    def answer(path: str) -> Any:
        status, rows = old(path)
        number = int(path.rsplit("/", 1)[1])
        return status, [{**row, "plays": 9} for row in rows] if number % 2 else rows

    company.answer = answer
    job = Job(None, context_set, storage, index)
    with start_proxy(gateway_config({"services": {"history": declared["history"]}})) as proxy:
        job.proxies = [proxy.address]
        history = service(run := job.run(services=["history"]), "history")
    plays = {row["profile_id"]: {entry["plays"] for entry in row["value"]} for row in job.read(history)}
    assert plays == {i: ({9} if i % 2 else {1}) if i % 3 else set() for i in range(200)}
    assert history.defaulted == {"plays": sum(1 for i in range(200) if i % 3 and i % 2 == 0)}
    assert history.counts == {Status.OK: 200}
    assert index.run("r1") == run
    assert f"history.plays: default, because {history.defaulted['plays']} of 200 answers lacked it" in to_text(run)


def test_files_are_those_of_a_capture_over_spark_one_for_each_bucket_sorted_by_key(job: Job) -> None:
    for snapshot in (service(run := job.run(), "history"), service(run, "my_list")):
        assert (snapshot.bucket_variable, snapshot.buckets) == ("profile_id", 4)
        assert [file.bucket for file in snapshot.files] == [0, 1, 2, 3]
        for file in snapshot.files:
            table = read_parquet(job.storage, file)
            assert table.schema == snapshot_schema(snapshot.service)
            assert np.all(bucket_of(table["profile_id"], 4) == file.bucket)
            assert table["profile_id"].to_pylist() == sorted(table["profile_id"].to_pylist())


def test_progress_ends_with_all_contexts_of_each_service(job: Job) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    job.run(progress=lambda name, done, total: seen.setdefault(name, []).append((done, total)))
    assert {name: steps[-1] for name, steps in seen.items()} == {
        "history": (200, 200),
        "my_list": (200, 200),
        "popular": (2, 2),
    }
    assert all(done <= total for steps in seen.values() for done, total in steps)
    assert [done for done, _ in seen["history"]] == sorted(done for done, _ in seen["history"])


def test_a_run_that_was_interrupted_is_continued(job: Job, company: Any) -> None:
    def interrupt(name: str, done: int, total: int) -> None:
        if done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.run(services=["history"], progress=interrupt)
    assert 100 <= len(company.asked) < 200
    history = service(job.run(services=["history"]), "history")
    assert history.counts == {Status.OK: 200}
    assert set(Counter(company.asked).values()) == {1}


def test_a_service_that_was_postponed_is_captured_at_the_end_and_counted_once(
    job: Job, company: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    capture = service_jobs.capture_bucket

    def postpone_one(*args: Any, patient: bool) -> Any:
        results = capture(*args, patient=patient)
        return results if patient else {**results, min(results): None}

    monkeypatch.setattr(service_jobs, "capture_bucket", postpone_one)
    run = job.run(services=["history", "my_list"])
    assert "run 'r1': no answers from history: requested again at the end" in caplog.text
    assert [service(run, name).counts for name in ("history", "my_list")] == [{Status.OK: 200}] * 2
    assert [sorted(row["profile_id"] for row in job.read(snapshot)) for snapshot in run.services] == [[*range(200)]] * 2
    assert set(Counter(company.asked).values()) == {1}


def test_no_pyspark_is_needed() -> None:
    script = "import sys, snapshotter.capture, snapshotter.selection; print('pyspark' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.stdout.strip() == "False", ran.stderr
