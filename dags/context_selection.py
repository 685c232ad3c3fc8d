"""Selects the day's contexts of all scheduled experiments. Those that fail fail the task, but cost no other."""

from airflow.sdk import DAG, CronTriggerTimetable, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException
from delorean_job import CONTEXTS, DAY, JOBS, DeloreanJob, publish_days, settings


@task(outlets=[CONTEXTS], trigger_rule="all_done")
def announce(day: str) -> None:
    """Trigger the snapshot of the day if it has any contexts."""
    if get_current_context()["ti"].xcom_pull(task_ids="select") is None:
        raise AirflowFailException(f"{day} has no contexts")
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
