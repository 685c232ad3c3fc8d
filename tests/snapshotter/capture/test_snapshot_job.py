from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from snapshot_job import Job, service

from prana_proxy.config.credentials import ProxyCredentials
from prana_proxy.config.server_settings import ServerConfig
from prana_proxy.server import start_proxy
from schemas.data_keys import DataKey, context_variable
from schemas.errors import (
    ConfigError,
    DataKeyError,
    DeloreanError,
    MissingFileError,
    NotInIndexError,
    ProxyUnavailableError,
    QualityError,
    ServiceError,
)
from schemas.hashing import bucket_of
from schemas.services import Status
from schemas.tables import snapshot_schema
from snapshotter.capture import Floor
from snapshotter.records import ContextSet, SnapshotRun
from snapshotter.selection.context_selection import NamedSelection, read_context_set, select_contexts
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet, write_parquet
from snapshotter.storage.table_source import TableSource


def with_key(context_set: ContextSet, *key: DataKey, **changes: Any) -> ContextSet:
    """The same contexts with another key."""
    return replace(context_set, groups=(replace(context_set.groups[0], key=key, **changes),))


def test_each_distinct_key_is_asked_once_and_its_answer_is_kept(job: Job, company: Any) -> None:
    before = datetime.now(UTC)
    run = job.run()
    after = datetime.now(UTC)
    assert sorted(company.asked) == sorted(
        [f"/history/{i}" for i in range(200)]
        + [f"/list/{'US' if i % 2 else 'FR'}/{i}" for i in range(200)]
        + ["/popular/FR", "/popular/US"]
    )
    history = service(run, "history")
    rows = job.read(history)
    assert {row["profile_id"]: [video["video_id"] for video in row["value"]] for row in rows} == {
        i: [i + j for j in range(i % 3)] for i in range(200)
    }
    times = [row["captured_at"] for row in rows]
    assert before <= min(times) == history.captured_from
    assert history.captured_to == max(times) <= after
    assert (history.counts, history.confidence, history.reasons) == ({Status.OK: 200}, 1.0, {})
    assert run.context_set_id == job.context_set.context_set_id
    assert before <= run.started_at <= run.published_at  # type: ignore[operator]  # published
    assert job.index.run("r1") == run
    assert job.index.snapshots("history", before, after) == [history]


def test_files_are_one_for_each_bucket_sorted_by_key(job: Job) -> None:
    run = job.run()
    for snapshot in (service(run, "history"), service(run, "my_list")):
        assert (snapshot.bucket_variable, snapshot.buckets) == ("profile_id", 4)
        assert [file.bucket for file in snapshot.files] == [0, 1, 2, 3]
        for file in snapshot.files:
            table = read_parquet(job.storage, file)
            assert table.schema == snapshot_schema(snapshot.service)
            assert np.all(bucket_of(table["profile_id"], 4) == file.bucket)
            keys = table["profile_id"].to_pylist()
            assert keys == sorted(keys)
            assert file.path.startswith(f"snapshots/{snapshot.service.name}/r1/{file.bucket:05d}-")


def test_a_service_without_the_bucket_variable_is_one_bucket(job: Job) -> None:
    popular = service(job.run(), "popular")
    assert (popular.bucket_variable, popular.buckets, {file.bucket for file in popular.files}) == (None, 1, {0})
    assert {row["country"]: row["value"] for row in job.read(popular)} == {
        "FR": [{"video_id": 2}],
        "US": [{"video_id": 2}],
    }


def test_the_bucket_variable_can_be_chosen(job: Job) -> None:
    run = job.run(bucket_variable="country")
    assert [snapshot.bucket_variable for snapshot in run.services] == [None, "country", "country"]
    assert len(job.read(service(run, "history"))) == 200


def test_a_service_that_fails_for_some_gives_exact_counts(job: Job, company: Any) -> None:
    company.failing = {3: "error", 4: "invalid"}
    history = service(job.run(services=["history"]), "history")
    ok, error, invalid = (history.counts.get(s, 0) for s in (Status.OK, Status.ERROR, Status.INVALID))
    # An empty list has no minutes that could be wrong: of profiles ending in 4 every third answers so.
    wrong = sum(i % 10 == 4 and i % 3 > 0 for i in range(200))
    assert (ok, error, invalid) == (200 - 20 - wrong, 20, wrong)
    assert history.asked == 200
    assert history.confidence == ok / 200
    assert set(history.reasons) == {Status.ERROR, Status.INVALID}
    assert "500" in history.reasons[Status.ERROR]
    assert sum(file.rows for file in history.files) == ok
    assert all(row["profile_id"] % 10 != 3 for row in job.read(history))


def test_a_run_id_that_is_published_is_given_without_asking(job: Job, company: Any) -> None:
    first = job.run()
    asked, files = len(company.asked), list(job.storage.list("snapshots"))
    assert job.run(buckets=8, proxies=["127.0.0.1:1"]) == first
    with pytest.raises(
        ConfigError, match="run id 'r1' is taken: that run captured history, my_list, popular, not history"
    ):
        job.run(services=["history"])
    assert len(company.asked) == asked
    assert list(job.storage.list("snapshots")) == files


def test_two_jobs_of_one_run_id_publish_once(job: Job) -> None:
    with ThreadPoolExecutor(2) as threads:
        runs = list(threads.map(lambda _: job.run(services=["popular"]), range(2)))
    assert runs[0] == runs[1] == job.index.run("r1")
    assert len(job.read(service(runs[0], "popular"))) == 2


def test_a_service_that_is_down_has_no_confidence_and_a_reason(job: Job, company: Any) -> None:
    company.failing = dict.fromkeys(range(10), "error")
    run = job.run()
    history = service(run, "history")
    assert (history.confidence, history.asked, history.files) == (0.0, 200, ())
    assert (history.captured_from, history.captured_to) == (None, None)
    assert "500" in history.reasons[Status.ERROR]
    assert service(run, "my_list").confidence == 1.0


def test_a_run_that_captured_nothing_is_an_error_and_may_be_tried_again(job: Job, company: Any) -> None:
    company.failing = dict.fromkeys(range(10), "error")
    with pytest.raises(ServiceError, match="run 'r1' captured nothing.*history: error: HTTP 500"):
        job.run(services=["history"])
    with pytest.raises(NotInIndexError):
        job.index.run("r1")
    company.failing = {}
    assert service(job.run(services=["history"]), "history").confidence == 1.0


def test_a_proxy_that_demands_a_token_is_shown_it_by_every_task(offline: Job, company: Any, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("of-the-snapshots\n")
    with start_proxy(company.config(), ServerConfig(port=0, tokens_file=str(tmp_path / "tokens"))) as proxy:
        with pytest.raises(ServiceError, match="token"):
            offline.run(proxies=[proxy.address])
        assert company.asked == []
        run = offline.run(proxies=[proxy.address], access=ProxyCredentials(token="of-the-snapshots"))
    assert service(run, "history").confidence == 1.0


def test_a_proxy_that_is_down_is_one_clear_error(offline: Job) -> None:
    with pytest.raises(ProxyUnavailableError, match="no proxy answers.*127.0.0.1:1.*start one") as raised:
        offline.run()
    assert "\n" not in str(raised.value)
    assert offline.index.runs() == []


def test_progress_ends_where_the_asking_ends(job: Job) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    job.run(progress=lambda name, done, total: seen.setdefault(name, []).append((done, total)))
    assert {name: steps[-1] for name, steps in seen.items()} == {
        "history": (200, 200),
        "my_list": (200, 200),
        "popular": (2, 2),
    }
    assert all(steps == sorted(steps, key=lambda step: step[0]) for steps in seen.values())
    assert all(done <= total for steps in seen.values() for done, total in steps)


def test_progress_comes_while_tasks_run_and_knows_the_total_once_all_have_begun(job: Job, company: Any) -> None:
    company.seconds = 0.02
    seen: list[tuple[int, int]] = []
    job.run(services=["history"], buckets=1, progress=lambda _, done, total: seen.append((done, total)))
    assert seen[-1] == (200, 200)
    assert [total for done, total in seen if 0 < done < 200]
    assert {total for done, total in seen if 0 < done < 200} == {200}


def test_a_second_pass_gives_what_came_in_the_end(job: Job, company: Any) -> None:
    company.failing = {3: "once", 4: "error"}
    history = service(job.run(services=["history"], second_pass=True), "history")
    assert history.counts == {Status.OK: 180, Status.ERROR: 20}
    assert history.confidence == 0.9
    assert len(job.read(history)) == 180
    assert len(company.asked) == 200 + 40


def test_a_snapshot_has_a_profile_of_all_its_values(job: Job, company: Any) -> None:
    company.failing = {3: "error"}
    history = service(job.run(services=["history"], keep_every=timedelta()), "history")
    values = [row["value"] for row in job.read(history)]
    watched = sum(map(len, values))
    assert history.profile == {
        "rows": 180.0,
        "confidence": 0.9,
        "mean_bytes": watched * 12 / 180,
        "mean_length(value[])": watched / 180,
        "empty_share(value[])": values.count([]) / 180,
        "null_share(value[].minutes)": 0.0,
    }
    assert job.index.run("r1").services == (history,)


def publish_earlier(job: Job, rows: float) -> None:
    """Publish six runs in which the history had so many rows."""
    history = service(job.run("seed", ["history"], drift="off"), "history")
    for number in range(6):
        run_id = f"day-{number}"
        taken = replace(history, run_id=run_id, profile={**history.profile, "rows": rows + number})
        job.index.publish_run(SnapshotRun(run_id, "other", datetime.now(UTC), (taken,)))


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the snapshot job logged; Spark's own gateway may log too."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("snapshotter")]


def test_drift_is_told_of_and_can_hold_back_what_a_rerun_publishes_without_asking(
    job: Job, company: Any, caplog: pytest.LogCaptureFixture
) -> None:
    publish_earlier(job, rows=400.0)
    company.asked.clear()
    with pytest.raises(QualityError, match="run 'r1' is held back: service 'history': rows is 200, expected") as held:
        job.run(services=["history", "popular"], drift="hold")
    assert "--drift warn" in str(held.value)
    assert "popular" not in str(held.value)
    with pytest.raises(NotInIndexError):
        job.index.run("r1")
    asked = sorted(company.asked)
    caplog.clear()
    run = job.run(services=["history", "popular"], drift="warn")
    assert sorted(company.asked) == asked
    assert service(run, "history").counts == {Status.OK: 200}
    assert any("run 'r1', service 'history': rows is 200, expected" in message for message in caplog.messages)
    caplog.clear()
    job.run("r2", services=["history"], drift="off")
    assert logged(caplog) == []


def test_snapshots_as_usual_are_not_held_back(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    publish_earlier(job, rows=200.0)
    caplog.clear()
    assert job.run(services=["history"], drift="hold").published_at is not None
    assert logged(caplog) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"services": ["histry"]}, ConfigError, "unknown service 'histry' → did you mean 'history'"),
        ({"services": []}, ConfigError, "no service to capture"),
        ({"run_id": "../r"}, ConfigError, "run id '../r' cannot name a folder"),
        ({"run_id": ""}, ConfigError, "run id '' cannot name a folder"),
        ({"buckets": 3}, DataKeyError, "bucket count is 3, expected a power of two"),
        ({"page": 0}, ConfigError, "page is 0"),
        ({"budget": timedelta()}, ConfigError, "budget 0:00:00"),
        (
            {"bucket_variable": "profile"},
            ConfigError,
            "unknown variable to bucket by 'profile' → did you mean 'profile_id'",
        ),
        ({"proxies": []}, ConfigError, "no proxy addresses"),
        ({"drift": "held"}, ConfigError, "unknown drift action 'held' → did you mean 'hold'"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_error(
    job: Job, company: Any, options: dict[str, Any], error: type[DeloreanError], message: str
) -> None:
    with pytest.raises(error, match=message):
        job.run(**options)
    assert company.asked == []
    assert job.index.runs() == []
    assert list(job.storage.list("snapshots")) == []


def test_a_context_set_that_lacks_a_services_key_is_refused(job: Job, company: Any) -> None:
    [group] = job.context_set.groups
    with pytest.raises(DataKeyError, match="unknown variable of context set .* 'profile_id'"):
        job.run(services=["history"], context_set=with_key(job.context_set, *group.key[1:]))
    text = with_key(job.context_set, context_variable("profile_id", "string"), *group.key[1:])
    with pytest.raises(DataKeyError, match="profile_id: int64, contexts of experiment 'watchers' have string → cast"):
        job.run(context_set=text)
    assert company.asked == []


def test_a_context_set_whose_file_is_gone_is_named(job: Job) -> None:
    gone = job.context_set.files[1].path
    job.storage.delete([gone])
    with pytest.raises(MissingFileError, match=f"'{gone}' does not exist"):
        job.run()
    assert job.index.runs() == []


def test_narrower_integers_are_asked_as_the_services_own(job: Job, storage: Storage) -> None:
    table = pa.table({"profile_id": pa.array([1, 2, 3], pa.int32())})
    file = write_parquet(storage, "context_sets/narrow/0.parquet", table, table.schema)
    narrow = with_key(job.context_set, context_variable("profile_id", "int32"), files=(file,))
    rows = job.read(job.run(services=["history"], context_set=narrow).services[0])
    assert sorted(row["profile_id"] for row in rows) == [1, 2, 3]


def test_contexts_that_were_selected_can_be_asked_for(job: Job, company: Any, tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"profile_id": list(range(30)) * 2, "country": ["US", "FR"] * 30}), tmp_path / "seen.parquet"
    )
    experiment = NamedSelection(
        "SELECT * FROM seen",
        ("profile_id", "country"),
        quota=20,
        id="watchers",
        tables={"seen": TableSource(str(tmp_path / "seen.parquet"))},
    )
    chosen = select_contexts(job.spark, [experiment], date(2026, 1, 5), job.storage, job.index)
    profiles = read_context_set(chosen, job.storage, ["profile_id"])["profile_id"].to_pylist()
    run = job.run(services=["history"], context_set=chosen, buckets=None)
    assert sorted(row["profile_id"] for row in job.read(run.services[0])) == sorted(profiles)
    assert run.services[0].buckets == 1


def test_too_little_confidence_is_told_of_or_holds_back_what_a_rerun_publishes(
    job: Job, company: Any, caplog: pytest.LogCaptureFixture
) -> None:
    company.failing = {7: "error"}
    poor = "service 'history' has confidence 0.900, expected 0.95"
    with pytest.raises(QualityError, match=f"run 'r1' is held back: {poor} → repair the service"):
        job.run(services=["history", "popular"], floor=Floor(0.95))
    with pytest.raises(NotInIndexError):
        job.index.run("r1")
    assert service(job.run("reported", ["history"], floor=Floor(0.95, "warn")), "history").confidence == 0.9
    assert f"run 'reported', {poor}" in caplog.text
    company.failing, company.asked[:] = {}, []
    assert service(job.run(services=["history", "popular"], floor=Floor(0.95)), "history").confidence == 1.0
    assert sorted(company.asked) == sorted(f"/history/{i}" for i in range(7, 200, 10))  # nobody else again


@pytest.mark.parametrize(
    ("days", "late", "refused"),
    [
        (0, timedelta(0), None),
        (-3, timedelta(days=3), None),
        (-3, timedelta(days=1), "is past: a snapshot captures now"),
        (2, timedelta(days=9), "has not begun"),
    ],
)
def test_a_snapshot_captures_now_and_no_other_day(job: Job, days: int, late: timedelta, refused: str | None) -> None:
    day = datetime.now(UTC).date() + timedelta(days=days)
    options = {"context_set": replace(job.context_set, date=day), "late": late, "services": ["popular"]}
    if refused is None:
        run = job.run(**options)
        assert job.run(**{**options, "context_set": job.context_set, "late": timedelta(0)}) == run  # it is there
    else:
        with pytest.raises(ConfigError, match=f"{day} {refused}"):
            job.run(**options)
