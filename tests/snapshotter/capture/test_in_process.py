"""A run whose services this process asks, without Spark."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from snapshot_job import Job, service

from schemas.services import Status
from snapshotter.records import ServiceSnapshot

NAMES = ["history", "my_list", "popular"]


def answers(job: Job, snapshot: ServiceSnapshot) -> list[str]:
    """Every row but its time, which differs from run to run."""
    return sorted(str({**row, "captured_at": None}) for row in job.read(snapshot))


def test_this_process_captures_what_spark_captures(job: Job, company: Any) -> None:
    company.failing = {3: "error", 4: "invalid"}
    on_spark = job.run("on-spark")
    job.spark = None
    reports: list[tuple[str, int, int]] = []
    here = job.run("here", progress=lambda *report: reports.append(report))
    assert here == job.index.run("here")
    for name in NAMES:
        ours, theirs = service(here, name), service(on_spark, name)
        assert answers(job, ours) == answers(job, theirs)
        assert (ours.counts, ours.reasons.keys()) == (theirs.counts, theirs.reasons.keys())
        assert (ours.bucket_variable, ours.buckets) == (theirs.bucket_variable, theirs.buckets)
        assert {file.bucket for file in ours.files} == {file.bucket for file in theirs.files}
    assert {name: (done, total) for name, done, total in reports} == {
        "history": (200, 200),
        "my_list": (200, 200),
        "popular": (2, 2),
    }
    done = [done for name, done, _ in reports if name == "history"]
    assert done == sorted(done)
    assert len(set(done)) > 4


def test_a_service_that_gives_nothing_is_asked_again_at_the_end(
    job: Job, company: Any, caplog: pytest.LogCaptureFixture
) -> None:
    answer, history_is_done = company.answer, threading.Event()

    def answer_late(path: str) -> tuple[int, Any]:
        if path.startswith("/list"):
            history_is_done.wait(60)
        return answer(path)  # type: ignore[no-any-return]  # the company is Any

    def progress(name: str, done: int, _: int) -> None:
        if name == "history" and done == 200:
            history_is_done.set()

    company.answer = answer_late
    job.spark = None
    with caplog.at_level(logging.WARNING):
        run = job.run(services=["history", "my_list"], progress=progress)
    assert "run 'r1': nothing comes from my_list: asked again at the end" in caplog.text
    for name in ("history", "my_list"):
        assert service(run, name).counts == {Status.OK: 200}
        assert len(job.read(service(run, name))) == 200
