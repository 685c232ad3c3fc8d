"""The DAGs, as Airflow reads them and as it runs them, with real jobs on a real cluster."""

import json
import re
import signal
import subprocess
from dataclasses import replace
from datetime import UTC, date, datetime

import psutil
import pyarrow.compute as pc
import pytest
from airflow_settings import AIRFLOW, ROOT, airflow_settings
from proxy_process import until
from spark_cluster import python_of_executors, spark_cluster

from delorean.project.config import load_project
from delorean.time_travel import TimeMachine
from schemas.errors import NotInIndexError
from snapshotter.index import open_index
from snapshotter.selection.context_selection import load_experiments, select_contexts
from snapshotter.storage import open_storage

PARSE = """
import json, sys, time, warnings
from pathlib import Path
from airflow.dag_processing.dagbag import BundleDagBag
warnings.simplefilter("error")
start = time.process_time()
bag = BundleDagBag(dag_folder=sys.argv[1], bundle_path=Path(sys.argv[1]), bundle_name="dags-folder")
print(json.dumps({
    "errors": bag.import_errors,
    "dags": {name: [dag.max_active_runs, bool(dag.deadline), sorted({task.pool for task in dag.tasks}),
             all(task.retries and task.execution_timeout and task.on_failure_callback for task in dag.tasks)]
             for name, dag in bag.dags.items()},
    "warnings": sum(each.warning_num for each in bag.dagbag_stats),
    "seconds": time.process_time() - start,
}))
"""
TODAY = datetime.now(UTC).replace(hour=0, minute=5, second=0, microsecond=0)
DAY = f"{TODAY:%Y-%m-%d}"
LATE = 'services = ["history"]\nlate = "PT12H"'  # these tests may run over midnight


def test_all_dags_are_read_in_no_time_without_warnings_and_without_a_database(tmp_path):
    environment = {
        **airflow_settings(tmp_path, tmp_path / "delorean.toml"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nowhere/none.db",
        "AIRFLOW__DELOREAN__RETRIES": "3",
    }
    command = [AIRFLOW, "-c", PARSE, ROOT / "dags"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout.splitlines()[-1])
    assert (read["errors"], read["warnings"]) == ({}, 0)
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


def test_what_learns_can_be_backfilled_day_by_day_and_what_captures_cannot(airflow):
    def days(dag):
        airflow.ask("backfill", dag, "2026-01-01T00:00:00+00:00", "2026-01-03T23:59:00+00:00")
        return airflow.answer()

    for dag in ("context_selection", "features", "training"):
        assert days(dag) == ["2026-01-01", "2026-01-02", "2026-01-03"], dag
    assert "does not support backfills" in days("snapshot")


def test_a_task_that_is_killed_takes_its_job_with_it(tmp_path):
    program = tmp_path / "delorean"
    program.write_text("#!/bin/sh\nsleep 1000 & echo $! && wait\n")
    program.chmod(0o755)
    environment = {**airflow_settings(tmp_path, tmp_path), "AIRFLOW__DELOREAN__COMMAND": str(program)}
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'dags')!r})\n"
    # Without a task there is no connection.
    code += "import delorean_job; delorean_job._environment = dict; delorean_job.run_command('schedule')"
    command = [AIRFLOW, "-c", code]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as task:
        lines = (re.search(r" (\d+) +\[airflow.task\]", line) for line in task.stdout)
        started = next(found for found in lines if found)
        job = psutil.Process(int(started[1]))
        assert job.is_running()
        task.kill()
        assert not psutil.wait_procs([job], 60)[1]


@pytest.mark.timeout(1500)  # six jobs, most of them with a JVM of their own, one after the other
def test_a_day_goes_from_contexts_to_a_model_on_a_cluster(airflow, project, environment, tmp_path_factory):
    with spark_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        project.submit = f'master = "{cluster.master}"\nenvironment = "{environment}"'
        project.spark = {
            "spark.executorEnv.DELOREAN_PYTHON": python_of_executors(),
            "spark.executor.memory": "768m",
            "spark.hadoop.fs.s3a.secret.key": "hush",
        }
        project.write("daily", f"floor = 0.9\n{LATE}")
        chosen, captured = airflow.run("context_selection", TODAY), airflow.run("snapshot", TODAY)
        made = airflow.run("features", datetime(2099, 1, 2, 23, tzinfo=UTC))
    project.submit, project.spark = 'master = "local[2]"', {}
    assert (chosen["state"], captured["state"]) == ("success", "success"), captured["log"][-8000:]
    assert {(task, index): state for task, index, state in made["tasks"]} == {
        ("on_schedule", -1): "success",
        ("generate", 0): "success",
        ("announce", -1): "success",
    }, made["log"][-8000:]
    assert '"contexts": 60' in made["log"]  # of 120: the others were not known on that day
    trained = airflow.run("training", datetime(2099, 1, 2, 23, 30, tzinfo=UTC))
    assert trained["state"] == "success", trained["log"][-8000:]
    [package] = (project.folder / "packages").iterdir()
    assert package.name.startswith("home-2099-01-02-")
    assert json.loads((package / "lineage.json").read_text())["snapshot_runs"] == {"history": [f"daily-{DAY}"]}
    logs = chosen["log"] + captured["log"] + made["log"] + trained["log"]
    assert f"--master {cluster.master}" in logs
    assert "spark.hadoop.fs.s3a.secret.key=…" in logs
    assert "hush" not in logs


@pytest.fixture
def chosen(project, spark):
    """Today's contexts are chosen, if only one of these tests runs."""
    project.write("none", LATE)
    file = load_project(project.folder / "delorean.toml")
    with open_index(file.index) as index:
        experiments = load_experiments(project.folder / "specs/everyone.toml")
        return select_contexts(spark, experiments, TODAY.date(), open_storage(file.storage), index)


def test_a_job_killed_in_the_middle_and_cleared_finishes_with_the_same_data(airflow, project, company, chosen):
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


def test_too_little_confidence_fails_the_task_and_says_whose(airflow, project, company, chosen):
    project.write("poor", f"floor = 0.95\n{LATE}")
    company.failing[3] = "error"
    try:
        done = airflow.run("snapshot", TODAY)
    finally:
        company.failing.clear()
    assert done["state"] == "failed"
    assert "service 'history' has confidence 0.900, expected 0.95" in done["log"]
