"""Generates the features of all scheduled experiments: after a day's snapshots, at the latest late in the day."""

from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, get_current_context, task
from delorean_job import FEATURES, JOBS, SNAPSHOTS, DeloreanJob, days_of, publish_days, run_command, settings


@task
def on_schedule() -> list[dict[str, Any]]:
    """List the experiments and days to generate."""
    experiments = run_command("schedule")["experiments"]
    return [
        {"spec": entry["spec"], "day": day, "run_id": f"{day}-{entry['id'] or 'unreadable'}"}
        for day in days_of(get_current_context())
        for entry in experiments
    ]


@task(outlets=[FEATURES], trigger_rule="all_done_min_one_success")
def announce(generated: list[dict[str, Any]]) -> None:
    """Announce the days that have features, if only of some experiments."""
    publish_days(FEATURES, sorted({entry["day"] for entry in generated}))


def command(entry: dict[str, Any]) -> list[str]:
    """Build the command that generates an experiment's features for a day."""
    return ["submit", "generate", entry["spec"], "--date", entry["day"], "--run-id", entry["run_id"]]


with DAG(
    "features",
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("0 23 * * *", timezone="UTC"), assets=[SNAPSHOTS]),
    **settings(deadline_hours=8),
):
    experiments = on_schedule()
    DeloreanJob.partial(
        task_id="generate",
        result_field="run",
        pool=JOBS,
        map_index_template="{{ task.command[2] }} {{ task.command[-1] }}",
    ).expand(command=experiments.map(command)) >> announce(experiments)
