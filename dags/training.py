"""Trains the experiments on schedule whose day it is: when features are there, or else late in the day."""

from datetime import date

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, get_current_context, task
from delorean_job import FEATURES, JOBS, PACKAGES, DeloreanJob, ask, days_of, packages, settings

MONDAY = 0


@task
def due() -> list[list[str]]:
    """Name the experiments to train, each with the id of the run that made its features."""
    experiments = ask("schedule")["experiments"]
    return [
        [one["experiment"], one["spec"], f"{day}-{one['id']}"]
        for day in days_of(get_current_context())
        for one in experiments
        if one["training"] == "daily" or (one["training"] == "weekly" and date.fromisoformat(day).weekday() == MONDAY)
    ]


def command(one: list[str]) -> list[str]:
    """Write the command that trains an experiment."""
    name, spec, run_id = one
    return ["train", spec, "--run-id", run_id, "--package", str(packages() / f"{name}-{run_id}")]


with DAG(
    "training",
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("30 23 * * *", timezone="UTC"), assets=[FEATURES]),
    **settings(deadline_hours=8),
):
    DeloreanJob.partial(
        task_id="train", gives="package", pool=JOBS, outlets=[PACKAGES], map_index_template="{{ task.command[-1] }}"
    ).expand(command=due().map(command))
