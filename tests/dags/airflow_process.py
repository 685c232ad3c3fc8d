"""Runs DAGs in one process of Airflow's environment, which takes seconds to start: a line of JSON for each.

Started by tests with Airflow's Python, and so without pytest. What tasks log goes to stderr.
"""

import json
import os
import sys
from datetime import datetime
from pathlib import Path

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.exceptions import AirflowException
from airflow.models.backfill import ReprocessBehavior, _do_dry_run
from airflow.sdk import conf
from airflow.utils import db
from airflow.utils.session import create_session


def run(bag, dag, at):
    """Run a DAG for a moment; run again for the same moment, its tasks are cleared first, as by a person."""
    found = bag.dags[dag]
    found.deadline = None  # DAG.test of Airflow 3.3.2 looks for deadlines by what they are, not by their ids, and dies
    dag_run = found.test(logical_date=datetime.fromisoformat(at))
    tasks = [[each.task_id, each.map_index, each.state] for each in dag_run.get_task_instances()]
    return {"state": dag_run.state, "tasks": sorted(tasks)}


def backfill(bag, dag, first, last):
    """Say for which days `airflow backfill create` would make runs of a DAG, or why it refuses."""
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


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    db.initdb()
    folder = conf.get("core", "dags_folder")
    bag = BundleDagBag(dag_folder=folder, bundle_path=Path(folder), bundle_name="dags-folder")
    print(json.dumps({"errors": bag.import_errors}), file=answers)
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        print(json.dumps({"run": run, "backfill": backfill}[what](bag, *arguments)), file=answers)


if __name__ == "__main__":
    main()
