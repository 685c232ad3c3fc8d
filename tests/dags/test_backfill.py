"""Past days, run again by all of Airflow: scheduler, workers, `airflow backfill`, and the alert about a delay."""

import json
import os
import re
import sqlite3
import subprocess
import time
from contextlib import closing, contextmanager, suppress

import numpy as np
import psutil
import pytest
from airflow_settings import AIRFLOW, airflow_settings
from project_at_rest import START
from proxy_process import until
from scheduled_project import PROFILES, VIDEOS, watched_videos

from delorean.demo.airflow import airflow_settings as settings_of_all
from delorean.demo.airflow import started_airflow
from delorean.demo.processes import Processes
from delorean.feature_sets.parts import parts_of
from delorean.feature_sets.table import find_committed
from delorean.project.config import load_project
from snapshotter.index import open_index
from snapshotter.selection.context_selection import load_selections, select_contexts
from snapshotter.selection.context_sets import read_context_set
from snapshotter.storage import open_storage

PATIENCE_SECONDS = 900
SETTINGS = {
    "AIRFLOW__DELOREAN__DEADLINE_HOURS": "0.0005",
    "AIRFLOW__DELOREAN__RETRIES": "3",
    "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "false",  # nothing of today
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",  # DAGs do not change here; by default every 30 s
}


# Airflow's command line, for one command after the other: its imports take seconds.
COMMANDS = """
import json, os, sys
from airflow.cli.cli_parser import get_parser
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
for line in sys.stdin:
    arguments = get_parser().parse_args(json.loads(line))
    arguments.func(arguments)
    print("done", file=answers)
"""


class AllOfAirflow:
    """Airflow with its scheduler. home: its own folder; process: it; commands: its command line, by COMMANDS."""

    def __init__(self, home, process, commands):
        self.home, self.process, self.commands = home, process, commands

    def backfill(self, dag, first, last, *more):
        """Create a DAG's runs from one midnight to another, and wait until they have ended; give each task's state.

        more: options of `airflow backfill create`
        """
        running = f"SELECT 1 FROM backfill WHERE dag_id = '{dag}' AND completed_at IS NULL"
        until(lambda: not self.query(running), PATIENCE_SECONDS)  # the scheduler notices late that one has ended
        words = ["backfill", "create", "--dag-id", dag, "--from-date", first, "--to-date", last, *more]
        with self.not_writing():
            self.commands.stdin.write(json.dumps(words) + "\n")
            self.commands.stdin.flush()
            assert self.commands.stdout.readline() == "done\n", (self.home / "commands.log").read_text()
        states = f"SELECT DISTINCT state FROM dag_run WHERE dag_id = '{dag}' AND run_type = 'backfill'"
        until(lambda: {state for (state,) in self.query(states)} <= {"success", "failed"}, PATIENCE_SECONDS)
        assert self.query(states) == [("success",)], self.log(dag)
        return self.query(
            "SELECT date(logical_date), task_id, t.state, try_number FROM task_instance t JOIN dag_run USING (run_id)"
            f" WHERE t.dag_id = '{dag}' AND run_type = 'backfill' ORDER BY 1, 2, map_index"
        )

    @contextmanager
    def not_writing(self):
        """Suspend Airflow's processes at a moment when none of them writes to the database.

        `backfill create` reads before it writes in one transaction; SQLite refuses the write at once, whatever the
        time-out, when another process has written in between.
        """
        while True:
            suspended = [self.process, *self.process.children(recursive=True)]
            try:
                for process in suspended:
                    with suppress(psutil.NoSuchProcess):
                        process.suspend()
                if self.writable():
                    yield
                    return
            finally:
                for process in suspended:
                    with suppress(psutil.NoSuchProcess):
                        process.resume()
            time.sleep(0.05)

    def writable(self):
        """Whether no other process is writing to the database."""
        with closing(sqlite3.connect(self.home / "airflow.db", timeout=0, isolation_level=None)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            database.execute("ROLLBACK")
            return True

    def query(self, query):
        with closing(sqlite3.connect(f"file:{self.home}/airflow.db?mode=ro", uri=True, timeout=60)) as database:
            return database.execute(query).fetchall()

    def log(self, of):
        """What was logged of a DAG, or of callbacks."""
        return "\n".join(path.read_text() for path in sorted(self.home.glob(f"logs/*{of}*/**/*")) if path.is_file())


@pytest.fixture
def all_of_airflow(past, tmp_path):
    home, project = tmp_path / "airflow", past.folder / "delorean.toml"
    ours = {name: value for name, value in airflow_settings(home, project).items() if name.startswith("AIRFLOW")}
    settings = {**ours, **SETTINGS}
    with Processes(tmp_path / "logs") as processes, started_airflow(home, project, processes, **settings) as started:
        port = int(started.url.rpartition(":")[2])
        environment = {**os.environ, **settings_of_all(home, project, port), **settings}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with (
            (home / "commands.log").open("w") as log,
            subprocess.Popen([AIRFLOW, "-c", COMMANDS], env=environment, stderr=log, **pipes) as commands,
        ):
            yield AllOfAirflow(home, psutil.Process(started.process.process.pid), commands)
            commands.stdin.close()


@pytest.mark.timeout(2400)  # all of Airflow, and six jobs with a JVM of their own
def test_a_backfill_gives_what_each_day_would_have_given_and_reports_delays(past, all_of_airflow, spark, tmp_path):
    """Three days, each of which computes its own part; the first gets another experiment after it was selected."""
    chosen = all_of_airflow.backfill("context_selection", "2026-05-02", "2026-05-03")
    of_day = [("2026-05-02", "announce", "skipped"), ("2026-05-02", "select", "success")]
    assert [row[:3] for row in chosen] == of_day
    one_after_the_other = ("--max-active-runs", "1")
    made = all_of_airflow.backfill("features", "2026-05-02", "2026-05-05", *one_after_the_other)
    day = [("announce", "skipped"), ("generate", "failed"), ("generate", "success"), ("on_schedule", "success")]
    assert [row[:3] for row in made] == [(f"2026-05-0{number}", *task) for number in (2, 3, 4) for task in day]
    # What would only fail again is not tried again; a busy machine may try others twice.
    assert {tries for *_, state, tries in made if state == "failed"} == {1}
    assert re.search(
        r"error: \S+broken.toml, line 2: labels.itmes: unknown field 'itmes'", all_of_airflow.log("features")
    )
    everyone, noon = past.folder / "specs/everyone.toml", past.folder / "specs/noon.toml"
    noon.write_text(everyone.read_text().replace("everyone", "noon"))
    again = ("--reprocess-behavior", "completed")
    grown = all_of_airflow.backfill("context_selection", "2026-05-02", "2026-05-03", *again)
    assert [row[:3] for row in grown] == of_day
    all_of_airflow.backfill("training", "2026-05-03", "2026-05-04")

    project = load_project(past.folder / "delorean.toml")
    storage = open_storage(project.storage)
    [package] = (past.folder / "packages").iterdir()
    id_ = package.name.removeprefix("home-2026-05-03-")
    known = {  # hours of labels with an outcome by then
        "2026-05-02": (6, 22.5),
        "2026-05-03": (6, 22.5, 23.5, 46),
        "2026-05-04": (6, 22.5, 23.5, 46, 70),
    }
    for number, (day, hours) in enumerate(known.items()):
        feature_set = find_committed(storage, "home", f"{day}-{id_}").feature_set
        assert [part.version for part in parts_of(feature_set.lineage)] == [*range(number + 1)]
        features = feature_set.to_arrow()
        rows = {(row["profile_id"], row["time"]): row["watched"] for row in features.to_pylist()}
        assert len(rows) == len(hours) * PROFILES
        for (profile, moment), values in rows.items():
            seen = watched_videos(profile, (moment - START).days)
            assert values == [np.float32(seen + video / 100) for video in range(VIDEOS)]

    with open_index(project.index) as index, open_index(f"sqlite:///{tmp_path}/other.db") as other:
        experiments = load_selections(everyone)
        at_the_time = select_contexts(spark, experiments, START.date().replace(day=2), storage, other)
        backfilled, revision = index.context_sets_of(START.date().replace(day=2))
        sets = [read_context_set(one, storage).sort_by("profile_id") for one in (backfilled, at_the_time, revision)]
        assert 0 < sets[0].num_rows < PROFILES
        assert sets[0].equals(sets[1])
        assert (revision.experiments, revision.after) == (("noon",), backfilled.context_set_id)
        assert sets[2]["profile_id"] == sets[0]["profile_id"]  # another experiment with the same query and seed

    late = r"training, backfill__2026-05-03\S+ missed its deadline, .+: it is \w+"
    until(lambda: re.search(late, all_of_airflow.log("executor_callbacks")), PATIENCE_SECONDS)
    assert all_of_airflow.query("SELECT DISTINCT run_type FROM dag_run") == [
        ("backfill",)
    ]  # a backfill triggers no other DAG
