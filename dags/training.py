"""Trains the scheduled experiments that are due: after their features, at the latest late in the day."""

from datetime import date

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, get_current_context, task
from delorean_job import FEATURES, JOBS, PACKAGES, DeloreanJob, days_of, packages, run_command, settings

MONDAY = 0


@task
def due() -> list[list[str]]:
    """List the experiments to train, each with the id of the run that generated its features."""
    experiments = run_command("schedule")["experiments"]
    return [
        [entry["experiment"], entry["spec"], f"{day}-{entry['id']}"]
        for day in days_of(get_current_context())
        for entry in experiments
        if entry["training"] == "daily"
        or (entry["training"] == "weekly" and date.fromisoformat(day).weekday() == MONDAY)
    ]


def command(entry: list[str]) -> list[str]:
    """Build the command that trains an experiment."""
    name, spec, run_id = entry
    return ["train", spec, "--run-id", run_id, "--package", str(packages() / f"{name}-{run_id}")]


with DAG(
    "training",
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("30 23 * * *", timezone="UTC"), assets=[FEATURES]),
    **settings(deadline_hours=8),
):
    DeloreanJob.partial(
        task_id="train",
        result_field="package",
        pool=JOBS,
        outlets=[PACKAGES],
        map_index_template="{{ task.command[-1] }}",
    ).expand(command=due().map(command))
