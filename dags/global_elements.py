"""Publishes global elements whose tables changed."""

from airflow.sdk import DAG, CronTriggerTimetable, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from delorean_job import GLOBALS, JOBS, DeloreanJob, days_of, publish_days, run_command, settings


@task
def on_schedule() -> list[list[str]]:
    """List the elements, each with the id that a new version would get."""
    run = get_current_context()["dag_run"]
    at = run.logical_date or run.run_after
    return [[entry["element"], f"{at:%Y-%m-%dT%H-%M-%S}"] for entry in run_command("schedule")["globals"]]


@task(outlets=[GLOBALS])
def announce(new: list[bool]) -> None:
    """Announce new versions, if there are any."""
    if not any(new):
        raise AirflowSkipException("nothing changed")
    publish_days(GLOBALS, days_of(get_current_context()))


def command(entry: list[str]) -> list[str]:
    """Build the command that publishes an element.

    A version is valid from the time at which its table is read, even in a late run.
    """
    element, version_id = entry
    return ["publish", element, "--version-id", version_id, "--if-changed"]


with DAG(
    "global_elements", schedule=CronTriggerTimetable("*/20 * * * *", timezone="UTC"), **settings(deadline_hours=1)
):
    published = DeloreanJob.partial(
        task_id="publish", result_field="new", pool=JOBS, map_index_template="{{ task.command[1] }}"
    ).expand(command=on_schedule().map(command))
    announce(published.output)
