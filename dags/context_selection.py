"""Selects the day's contexts of all scheduled experiments."""

from airflow.sdk import DAG, CronTriggerTimetable, task
from delorean_job import CONTEXTS, DAY, JOBS, DeloreanJob, publish_days, settings


@task(outlets=[CONTEXTS])
def announce(day: str) -> None:
    """Trigger the snapshot of the day."""
    publish_days(CONTEXTS, [day])


with DAG(
    "context_selection",
    schedule=CronTriggerTimetable("5 0 * * *", timezone="UTC", run_immediately=True),
    **settings(deadline_hours=4),
):
    chosen = DeloreanJob(
        task_id="select", command=["submit", "select", "--date", DAY], result_field="context_set", pool=JOBS
    )
    chosen >> announce(DAY)
