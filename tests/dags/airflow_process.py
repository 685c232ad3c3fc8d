"""Runs DAGs in one process of Airflow's environment, which takes seconds to start: a line of JSON for each.

Started by tests with Airflow's Python, and so without pytest. What tasks log goes to stderr.
"""

import json
import os
import sys
from datetime import datetime
from pathlib import Path

from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import conf
from airflow.utils import db


def run(bag, wanted):
    """Run a DAG for a moment; run again for the same moment, its tasks are cleared first, as by a person."""
    dag = bag.dags[wanted["dag"]]
    dag.deadline = None  # DAG.test of Airflow 3.3.2 looks for deadlines by what they are, not by their ids, and dies
    dag_run = dag.test(logical_date=datetime.fromisoformat(wanted["at"]))
    tasks = [[each.task_id, each.map_index, each.state] for each in dag_run.get_task_instances()]
    return {"state": dag_run.state, "tasks": sorted(tasks)}


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    db.initdb()
    folder = conf.get("core", "dags_folder")
    bag = BundleDagBag(dag_folder=folder, bundle_path=Path(folder), bundle_name="dags-folder")
    print(json.dumps({"errors": bag.import_errors}), file=answers)
    for line in sys.stdin:
        print(json.dumps(run(bag, json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
