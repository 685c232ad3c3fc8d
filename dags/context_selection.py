"""Chooses each day the contexts of all experiments on schedule."""

from airflow.sdk import DAG, CronTriggerTimetable, task
from delorean_job import CONTEXTS, DAY, JOBS, DeloreanJob, announced, settings


@task(outlets=[CONTEXTS])
def announce(day: str) -> None:
    """Have the day's contexts captured."""
    announced(CONTEXTS, [day])


with DAG(
    "context_selection",
    schedule=CronTriggerTimetable("5 0 * * *", timezone="UTC", run_immediately=True),
    **settings(deadline_hours=4),
):
    chosen = DeloreanJob(task_id="select", command=["submit", "select", "--date", DAY], gives="context_set", pool=JOBS)
    chosen >> announce(DAY)
