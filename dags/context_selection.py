"""Chooses each day the contexts of all experiments on schedule."""

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from delorean_job import CONTEXTS, DAY, JOBS, DeloreanJob, settings


@task(outlets=[CONTEXTS])
def announce(day: str) -> None:
    """Have the day's contexts captured; not by a backfill: it is for a day that is over, and snapshots capture now."""
    context = get_current_context()
    if context["dag_run"].run_type == "backfill":
        raise AirflowSkipException(f"{day} was chosen by a backfill: nothing is captured of it")
    context["outlet_events"][CONTEXTS].extra = {"days": [day]}


with DAG(
    "context_selection",
    schedule=CronTriggerTimetable("5 0 * * *", timezone="UTC", run_immediately=True),
    **settings(timedelta(hours=4)),
):
    chosen = DeloreanJob(task_id="select", command=["submit", "select", "--date", DAY], gives="context_set", pool=JOBS)
    chosen >> announce(DAY)
