"""Publishes global elements whose tables have changed."""

from airflow.sdk import DAG, CronTriggerTimetable, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from delorean_job import GLOBALS, JOBS, DeloreanJob, announced, ask, days_of, settings


@task
def on_schedule() -> list[list[str]]:
    """Name the elements, each with the id of a new version, should there be one."""
    run = get_current_context()["dag_run"]
    at = run.logical_date or run.run_after
    return [[one["element"], f"{at:%Y-%m-%dT%H-%M-%S}"] for one in ask("schedule")["globals"]]


@task(outlets=[GLOBALS])
def announce(new: list[bool]) -> None:
    """Tell that one has changed, if it has."""
    if not any(new):
        raise AirflowSkipException("nothing has changed")
    announced(GLOBALS, days_of(get_current_context()))


def command(one: list[str]) -> list[str]:
    """Write the command that publishes an element.

    A version counts from when its table is read, though the run be late, or for a day that is over.
    """
    element, version_id = one
    return ["publish", element, "--version-id", version_id, "--if-changed"]


with DAG(
    "global_elements", schedule=CronTriggerTimetable("*/20 * * * *", timezone="UTC"), **settings(deadline_hours=1)
):
    published = DeloreanJob.partial(
        task_id="publish", gives="new", pool=JOBS, map_index_template="{{ task.command[1] }}"
    ).expand(command=on_schedule().map(command))
    announce(published.output)
