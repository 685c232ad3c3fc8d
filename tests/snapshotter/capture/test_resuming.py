"""Runs that die and are run again: what was captured is kept, and nobody is asked for it twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from driver_process import python_workers
from snapshot_job import Job, service

from prana_proxy.server import start_proxy
from schemas.errors import ConfigError, CorruptFileError, NotInIndexError, ProxyUnavailableError
from schemas.services import Status

SERVE = """
import sys
from prana_proxy.server import serve
serve(sys.argv[1], {"port": 0})
"""
DRIVE = """
import sys
from datetime import date, timedelta
from snapshotter.index import open_index
from snapshotter.capture import SnapshotOptions, take_snapshot
from snapshotter.spark.session import spark_session

index_uri, storage_uri, proxy = sys.argv[1:]
spark = spark_session("doomed", "local[2,4]", spark__ui__enabled="false", spark__driver__memory="512m")
with open_index(index_uri) as index:
    contexts = index.context_set(date(2026, 1, 5))
    options = SnapshotOptions(buckets=2, page=4, keep_every=timedelta())
    take_snapshot(spark, contexts, ["history"], [proxy], storage_uri, index, "r1", options)
"""
PATIENCE = 120.0


def asked(company: Any) -> Counter[int]:
    """How often the history of each profile was asked for: by the service's own log."""
    return Counter(int(path.partition("?")[0].rsplit("/", 1)[1]) for path in list(company.asked))


def written(job: Job) -> set[int]:
    """The profiles whose history is on disk."""
    paths = [Path(job.storage.uri.removeprefix("file://"), file.path) for file in job.storage.list("snapshots/history")]
    tables = [pq.read_table(path, columns=["profile_id"]) for path in paths if path.name[0] != "."]
    return {profile for table in tables for profile in table["profile_id"].to_pylist()}


def profiles(job: Job) -> list[int]:
    [file] = service(job.index.run("r1"), "history").files
    return [row["profile_id"] for row in job.read(service(job.index.run("r1"), "history"))] if file else []


def wait_until(there: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def proxy_process(company: Any, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    config = folder / "services.toml"
    config.write_text(
        "[services.history]\n"
        'type = "list<struct<video_id: int64, minutes: float>>"\n'
        'key = { profile_id = "int64" }\n'
        f'url = "{company.url}/history/{{profile_id}}?through=process"\n'
        "timeout_seconds = 5.0\nmax_concurrent = 2\n"
    )
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(config)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().split()[4].rstrip(":")
        yield process, address
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def killed_when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> Iterator[None]:
    """Kill a process at a moment of what is done meanwhile."""

    def kill() -> None:
        wait_until(ready)
        process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    killer.join()


def test_a_proxy_killed_in_mid_run_publishes_nothing_and_the_rerun_asks_only_for_the_rest(
    offline: Job, company: Any, tmp_path: Path
) -> None:
    company.seconds = 0.05
    with (
        proxy_process(company, tmp_path) as (process, address),
        killed_when(process, lambda: len(company.asked) >= 80),
        pytest.raises(ProxyUnavailableError, match="no proxy answers") as raised,
    ):
        offline.run(proxies=[address])
    assert "\n" not in str(raised.value)
    assert offline.index.runs() == []
    kept, before = written(offline), asked(company)
    assert 16 <= len(kept) <= len(before) < 200
    company.seconds = 0.0
    with start_proxy(company.config()) as proxy:
        again = offline.run(proxies=[proxy.address], services=["history"])
    assert sorted(row["profile_id"] for row in offline.read(again.services[0])) == list(range(200))
    assert again.services[0].counts == {Status.OK: 200}
    assert asked(company) == {profile: before[profile] + (profile not in kept) for profile in range(200)}


def test_of_two_proxies_one_is_killed_and_the_run_goes_on_through_the_other(
    job: Job, company: Any, tmp_path: Path
) -> None:
    company.seconds = 0.02
    with proxy_process(company, tmp_path) as (process, address):

        def well_under_way() -> bool:
            return sum("?" in path for path in list(company.asked)) >= 10

        with killed_when(process, well_under_way):  # each of 16 tasks begins with one of the two, by chance
            run = job.run(proxies=[address, *job.proxies], services=["history"], buckets=16, page=4)
    assert service(run, "history").counts == {Status.OK: 200}
    assert sorted(row["profile_id"] for row in job.read(service(run, "history"))) == list(range(200))
    assert max(asked(company).values()) <= 2  # what was under way at the proxy's end


def test_a_worker_is_killed_then_the_driver_and_nothing_that_was_written_is_asked_again(
    job: Job, company: Any, tmp_path: Path
) -> None:
    job.index.publish_context_set(job.context_set)
    company.seconds = 0.15
    uris = [f"sqlite://{tmp_path}/index.db", job.storage.uri]
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVE, *uris, *job.proxies], stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_until(lambda: len(written(job)) >= 30 or driver.poll() is not None)
        workers = python_workers(driver.pid)
        for worker in workers:
            worker.kill()
        psutil.wait_procs(workers)
        after_workers = written(job)
        wait_until(lambda: len(written(job)) >= 90 or driver.poll() is not None)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL  # the job outlived its workers
    after_driver, before = written(job), asked(company)
    assert len(workers) >= 2
    assert 30 <= len(after_workers) < len(after_driver) < 200
    with pytest.raises(NotInIndexError):
        job.index.run("r1")
    company.seconds = 0.0
    history = service(job.run(services=["history"], buckets=None), "history")
    assert history.buckets == 2
    assert history.counts == {Status.OK: 200}
    assert sorted(row["profile_id"] for row in job.read(history)) == list(range(200))
    times = asked(company)
    assert {times[profile] for profile in after_workers} == {1}
    assert all(times[profile] == before[profile] for profile in after_driver)


def test_a_run_goes_on_in_the_buckets_that_it_began_with(
    job: Job, company: Any, caplog: pytest.LogCaptureFixture
) -> None:
    company.failing = dict.fromkeys(range(10), "error")
    with pytest.raises(Exception, match="captured nothing"):
        job.run(services=["history"], buckets=4)
    company.failing = {}
    caplog.clear()
    history = service(job.run(services=["history"], buckets=8, bucket_variable="country"), "history")
    assert (history.buckets, history.bucket_variable) == (4, "profile_id")
    assert any(
        "and continues in 4 buckets by profile_id: only missing contexts are requested" in message
        for message in caplog.messages
    )


def test_a_run_that_began_for_other_contexts_is_refused(job: Job, company: Any) -> None:
    company.failing = dict.fromkeys(range(10), "error")
    with pytest.raises(Exception, match="captured nothing"):
        job.run(services=["history"])
    company.asked.clear()
    other = replace(job.context_set, context_set_id="2026-01-06-other")
    with pytest.raises(ConfigError, match="'r1' began for context set '2026-01-05-test', not for '2026-01-06-other'"):
        job.run(services=["history"], context_set=other)
    assert company.asked == []
    job.storage.delete(["snapshots/_plans/r1.json"])
    job.storage.create("snapshots/_plans/r1.json", b'{"run_id": "r1"}')
    with pytest.raises(CorruptFileError, match=r"'snapshots/_plans/r1.json' is not a valid run plan"):
        job.run(services=["history"])


def test_a_spoilt_part_is_told_of_and_asked_again(job: Job, company: Any, caplog: pytest.LogCaptureFixture) -> None:
    job.storage.create("snapshots/history/r1/00002-spoilt.parquet", b"no Parquet")
    history = service(job.run(services=["history"]), "history")
    assert history.counts == {Status.OK: 200}
    assert any("'snapshots/history/r1/00002-spoilt.parquet' cannot be read" in message for message in caplog.messages)


def test_a_run_whose_parts_are_many_still_publishes_one_file_a_bucket(job: Job, company: Any) -> None:
    run = job.run(keep_every=timedelta())
    for name in ("history", "my_list"):
        snapshot = service(run, name)
        assert [file.bucket for file in snapshot.files] == [0, 1, 2, 3]
        assert sum(file.rows for file in snapshot.files) == 200
        for file in snapshot.files:
            keys = pq.read_table(job.storage.uri.removeprefix("file://") + "/" + file.path)["profile_id"].to_pylist()
            assert keys == sorted(keys)
    assert len(list(job.storage.list("snapshots/history"))) > 4 + 4
