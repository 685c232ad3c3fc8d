"""The DAGs, as Airflow reads them and as it runs them, with real jobs on a real cluster."""

import json
import os
import signal
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import quick_jvm
from airflow_settings import ROOT
from proxy_process import until
from spark_cluster import python_of_executors, spark_cluster

from delorean.project.config import load_project
from delorean.time_travel import TimeMachine
from schemas.data_keys import context_variable
from schemas.errors import NotInIndexError
from snapshotter.index import open_index
from snapshotter.records import ContextSet
from snapshotter.selection.context_sets import context_set_schema
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import write_parquet

TODAY = datetime.now(UTC).replace(hour=0, minute=5, second=0, microsecond=0)
DAY = f"{TODAY:%Y-%m-%d}"
LATE = 'services = ["history"]\nlate = "PT12H"'  # these tests may run over midnight


def test_all_dags_are_parsed_quickly_without_warnings_and_without_a_database(airflow):
    read = airflow.parsed
    assert (read["errors"], read["warnings"], read["database"]) == ({}, 0, False)
    assert read["seconds"] < 5
    assert sorted(read["dags"]) == [
        *("context_selection", "features", "global_elements", "housekeeping", "quality"),
        *("snapshot", "snapshot_hourly", "training"),
    ]
    pools = json.loads((ROOT / "dags/pools.json").read_text())
    for name, (active, deadline, used, cautious) in read["dags"].items():
        assert (active, deadline, cautious) == (1, True, True), name
        assert set(used) <= {*pools, "default_pool"}, name
    assert "delorean_services" in read["dags"]["snapshot"][2]


def test_dags_that_learn_can_be_backfilled_day_by_day_and_those_that_capture_cannot(airflow):
    def days(dag):
        return airflow.call("backfill", dag, "2026-01-01T00:00:00+00:00", "2026-01-03T23:59:00+00:00")

    for dag in ("context_selection", "features", "training"):
        assert days(dag) == ["2026-01-01", "2026-01-02", "2026-01-03"], dag
    assert "does not support backfills" in days("snapshot")


def test_a_task_that_is_killed_takes_its_job_with_it(airflow, tmp_path):
    script = "import pathlib, subprocess\nsleep = subprocess.Popen(['sleep', '1000'])\n"
    script += f"pathlib.Path({str(tmp_path / 'new')!r}).write_text(str(sleep.pid))\n"
    script += f"pathlib.Path({str(tmp_path / 'new')!r}).rename({str(tmp_path / 'pid')!r})\nsleep.wait()"
    task = airflow.call("fork", script)
    until((tmp_path / "pid").exists, 60)
    job = psutil.Process(int((tmp_path / "pid").read_text()))
    assert job.is_running()
    os.kill(task, signal.SIGKILL)
    assert not psutil.wait_procs([job], 60)[1]


@pytest.mark.timeout(1500)  # four jobs, most of them with a JVM of their own, one after the other
def test_a_day_goes_from_contexts_to_a_model_on_a_cluster(airflow, project, environment, tmp_path_factory):
    project.spark = {"spark.hadoop.fs.s3a.secret.key": "hush"}
    project.write("daily", f"floor = 0.9\n{LATE}")
    chosen, captured = airflow.run("context_selection", TODAY), airflow.run("snapshot", TODAY)
    with spark_cluster(tmp_path_factory.mktemp("cluster"), workers=1) as cluster:
        project.submit = f'master = "{cluster.master}"\nenvironment = "{environment}"'
        project.spark["spark.executorEnv.DELOREAN_PYTHON"] = python_of_executors()
        project.spark["spark.executor.memory"] = "768m"
        project.spark["spark.executor.extraJavaOptions"] = quick_jvm.OPTIONS
        project.write("daily", f"floor = 0.9\n{LATE}")
        made = airflow.run("features", datetime(2099, 1, 2, 23, tzinfo=UTC))
    project.submit, project.spark = 'master = "local[2]"', {}
    assert (chosen["state"], captured["state"]) == ("success", "success"), captured["log"][-8000:]
    assert {(task, index): state for task, index, state in made["tasks"]} == {
        ("on_schedule", -1): "success",
        ("generate", 0): "success",
        ("announce", -1): "success",
    }, made["log"][-8000:]
    assert '"contexts": 60' in made["log"]  # of 120: the others' outcomes were unknown on that day
    trained = airflow.run("training", datetime(2099, 1, 2, 23, 30, tzinfo=UTC))
    assert trained["state"] == "success", trained["log"][-8000:]
    [package] = (project.folder / "packages").iterdir()
    assert package.name.startswith("home-2099-01-02-")
    assert json.loads((package / "lineage.json").read_text())["snapshot_runs"] == {"history": [f"daily-{DAY}"]}
    logs = chosen["log"] + captured["log"] + made["log"] + trained["log"]
    assert "--master local[2]" in chosen["log"] or "--master 'local[2]'" in chosen["log"]
    assert f"--master {cluster.master}" in made["log"]
    assert "spark.hadoop.fs.s3a.secret.key=…" in logs
    assert "hush" not in logs


@pytest.fixture
def chosen(project):
    """Today's contexts, whichever test chooses them first: every profile."""
    project.write("none", LATE)
    file = load_project(project.folder / "delorean.toml")
    with open_index(file.index) as index:
        with suppress(NotInIndexError):
            return index.context_set(TODAY.date())
        key = (context_variable("profile_id", "int64"), context_variable("country", "string"))
        profiles = pq.read_table(project.folder / "profiles.parquet")
        table = profiles.append_column("experiments", pa.array([[]] * len(profiles)))
        table = table.cast(context_set_schema(key))
        written = write_parquet(open_storage(file.storage), f"context_sets/{DAY}/0.parquet", table, table.schema)
        chosen = ContextSet.of_one_key(f"{DAY}-test", TODAY.date(), ("everyone",), key, (written,), ())
        assert index.publish_context_set(chosen)
        return chosen


def test_a_job_killed_in_the_middle_and_cleared_finishes_with_the_same_data(airflow, project, company, chosen):
    """Between the two it is cleared once while the service fails for some: too little confidence fails the task."""
    project.write("killed", LATE)
    company.open.clear()
    before = len(company.asked)
    airflow.start("snapshot", TODAY)
    until(lambda: len(company.asked) > before, 400)
    job = airflow.job("submit", "snapshot")
    given = job.environ()
    assert given["AWS_SECRET_ACCESS_KEY"] == "hushhush"  # by the connection, and by no command line
    assert not [name for name in given if name.startswith("AIRFLOW")]
    assert "hush" not in " ".join(job.cmdline())
    started = job.children(recursive=True)
    job.send_signal(signal.SIGKILL)
    assert airflow.answer()["state"] == "failed"
    assert "the job was ended by SIGKILL" in airflow.log.read_text()
    assert started
    assert not psutil.wait_procs(started, 60)[1]  # nothing goes on without it
    company.open.set()
    with open_index(load_project(project.folder / "delorean.toml").index) as index:
        with pytest.raises(NotInIndexError):
            index.run(f"killed-{DAY}")

        project.write("killed", f"floor = 0.95\n{LATE}")
        company.failing[3] = "error"
        try:
            poor = airflow.run("snapshot", TODAY)
        finally:
            company.failing.clear()
        assert poor["state"] == "failed"
        assert "service 'history' has confidence 0.900, expected 0.95" in poor["log"]
        with pytest.raises(NotInIndexError):
            index.run(f"killed-{DAY}")

        done = airflow.run("snapshot", TODAY)
        assert done["state"] == "success", done["log"][-8000:]
        [taken] = index.run(f"killed-{DAY}").services
        assert (taken.asked, taken.confidence) == (60, 1.0)
        storage = open_storage(load_project(project.folder / "delorean.toml").storage)
        rows = TimeMachine(index, storage).at(datetime.now(UTC))["history"].to_arrow()
    assert sorted(rows["profile_id"].to_pylist()) == list(range(60))
    assert pc.sum(pc.list_value_length(rows["history"])).as_py() == sum(n % 3 for n in range(60))


def test_a_snapshot_of_a_past_day_is_refused_with_the_reason(airflow, project, chosen):
    project.write("refused", LATE)
    with open_index(load_project(project.folder / "delorean.toml").index) as index:
        assert index.publish_context_set(replace(chosen, date=date(2020, 1, 1)))
        done = airflow.run("snapshot", datetime(2020, 1, 1, tzinfo=UTC))
        assert done["state"] == "failed"
        assert "error: 2020-01-01 is past: a snapshot captures now" in done["log"]
        with pytest.raises(NotInIndexError):
            index.run("refused-2020-01-01")


def test_an_experiment_that_cannot_be_selected_fails_its_task_but_the_day_is_announced(airflow, project):
    project.write("none", 'services = ["history"]\nlate = "P2D"')  # yesterday can be captured all day long
    yesterday = TODAY - timedelta(days=1)
    broken = project.folder / "specs/unlucky.toml"
    broken.write_text('[experiments.unlucky]\nquery = "SELEC 1"\nkey = ["profile_id"]\nquota = 1\n')
    try:
        done = airflow.run("context_selection", yesterday)
        again = airflow.run("context_selection", yesterday)  # nothing else is left to select, and it fails again
    finally:
        broken.unlink()
    with open_index(load_project(project.folder / "delorean.toml").index) as index:
        [chosen] = index.context_sets_of(yesterday.date())
    assert "unlucky" not in chosen.experiments
    assert [failed.id for failed in chosen.failed] == ["unlucky"]
    for ran in (done, again):
        assert {task: state for task, _, state in ran["tasks"]} == {"select": "failed", "announce": "success"}
        assert "error: experiment 'unlucky': [PARSE_SYNTAX_ERROR]" in ran["log"]
