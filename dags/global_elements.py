"""Publishes global elements whose tables have changed."""

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from delorean_job import GLOBALS, JOBS, DeloreanJob, ask, days_of, settings


@task
def on_schedule() -> list[list[str]]:
    """Name the elements, each with the moment that a new version counts from: that at which the run is due."""
    run = get_current_context()["dag_run"]
    at = run.logical_date or run.run_after
    return [[one["element"], at.isoformat(), f"{at:%Y-%m-%dT%H-%M-%S}"] for one in ask("schedule")["globals"]]


@task(outlets=[GLOBALS])
def announce(new: list[bool]) -> None:
    """Tell that one has changed, if it has."""
    if not any(new):
        raise AirflowSkipException("nothing has changed")
    context = get_current_context()
    context["outlet_events"][GLOBALS].extra = {"days": days_of(context)}


def command(one: list[str]) -> list[str]:
    """Write the command that publishes an element."""
    element, valid_from, version_id = one
    return ["publish", element, "--valid-from", valid_from, "--version-id", version_id, "--if-changed"]


with DAG(
    "global_elements", schedule=CronTriggerTimetable("*/20 * * * *", timezone="UTC"), **settings(timedelta(hours=1))
):
    published = DeloreanJob.partial(
        task_id="publish", gives="new", pool=JOBS, map_index_template="{{ task.command[1] }}"
    ).expand(command=on_schedule().map(command))
    announce(published.output)
