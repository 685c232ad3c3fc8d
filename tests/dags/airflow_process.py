"""One process of Airflow's environment, which takes seconds to start, for all tests: a line of JSON for each command.

Started by tests with Airflow's Python, and so without pytest. What tasks log goes to stderr.
"""

import json
import os
import sys
import time
import warnings
from datetime import datetime
from functools import cache
from pathlib import Path

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.exceptions import AirflowException
from airflow.models.backfill import ReprocessBehavior, _do_dry_run
from airflow.sdk import conf
from airflow.utils import db
from airflow.utils.session import create_session

RETRIES = "AIRFLOW__DELOREAN__RETRIES"


@cache
def dags():
    """The DAGs, once there is a database to run them with."""
    db.initdb()
    return read_dags()


def read_dags():
    folder = conf.get("core", "dags_folder")
    return BundleDagBag(dag_folder=folder, bundle_path=Path(folder), bundle_name="dags-folder")


def parsed():
    """Describe the DAGs as a scheduler reads them that retries tasks, and what reading them cost."""
    ours, os.environ[RETRIES] = os.environ[RETRIES], "3"
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bag = read_dags()
    seconds = time.process_time() - start
    os.environ[RETRIES] = ours
    return {
        "errors": bag.import_errors,
        "dags": {name: described(dag) for name, dag in bag.dags.items()},
        "warnings": sum(each.warning_num for each in bag.dagbag_stats),
        "seconds": seconds,
        "database": Path(os.environ["AIRFLOW_HOME"], "airflow.db").exists(),
    }


def described(dag):
    cautious = all(task.retries and task.execution_timeout and task.on_failure_callback for task in dag.tasks)
    return [dag.max_active_runs, bool(dag.deadline), sorted({task.pool for task in dag.tasks}), cautious]


def run(dag, at):
    """Run a DAG for a moment; run again for the same moment, its tasks are cleared first, as by a person."""
    found = dags().dags[dag]
    found.deadline = None  # DAG.test of Airflow 3.3.2 looks for deadlines by what they are, not by their ids, and dies
    dag_run = found.test(logical_date=datetime.fromisoformat(at))
    tasks = [[each.task_id, each.map_index, each.state] for each in dag_run.get_task_instances()]
    return {"state": dag_run.state, "tasks": sorted(tasks)}


def backfill(dag, first, last):
    """Give the days for which `airflow backfill create` would create runs of a DAG, or its refusal."""
    bag = dags()
    with create_session() as session:
        DagBundlesManager().sync_bundles_to_db(session=session)
    sync_bag_to_db(bag, "dags-folder", None)
    with create_session() as session:
        try:
            days = _do_dry_run(
                dag_id=dag,
                from_date=datetime.fromisoformat(first),
                to_date=datetime.fromisoformat(last),
                reverse=False,
                reprocess_behavior=ReprocessBehavior.NONE,
                session=session,
            )
            return [str(day.logical_date.date()) for day in days]
        except AirflowException as error:
            return str(error)


def result(script):
    """Run a Python script as a task's job; give what the task returns, or the name and the message of its error."""
    import delorean_job  # the folder of DAGs is on the path since they were read

    command_line = delorean_job._command_line
    delorean_job._command_line = lambda words: [sys.executable, "-c", *words]
    try:
        with delorean_job._started([script]) as job:
            outcome, error = delorean_job._outcome(job)
            if error is not None:
                raise error
            return outcome
    except Exception as error:  # noqa: BLE001  # the test sees it, whatever it is
        return [type(error).__name__, str(error)]
    finally:
        delorean_job._command_line = command_line


def fork(script):
    """Run a script as the job of a task in a process of its own; give that process's id."""
    pid = os.fork()
    if pid == 0:
        result(script)
        os._exit(0)
    return pid


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(json.dumps(parsed()), file=answers)
    commands = {"run": run, "backfill": backfill, "result": result, "fork": fork}
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        print(json.dumps(commands[what](*arguments)), file=answers)


if __name__ == "__main__":
    main()
