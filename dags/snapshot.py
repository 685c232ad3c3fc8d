"""Captures sets of services: daily ones after the day's contexts are selected, others by the hour."""

from airflow.sdk import DAG, CronTriggerTimetable, get_current_context, task
from delorean_job import CONTEXTS, SERVICES, SNAPSHOTS, DeloreanJob, days_of, publish_days, run_command, settings


@task
def due_daily() -> list[list[str]]:
    """List the daily sets, each with a day and the id of its run."""
    sets = [entry["set"] for entry in run_command("schedule")["snapshots"] if entry["every_hours"] == 24]
    return [[name, day, f"{name}-{day}"] for day in days_of(get_current_context()) for name in sets]


@task
def due_hourly() -> list[list[str]]:
    """List the sets that are due at this hour."""
    at = get_current_context()["dag_run"].logical_date or get_current_context()["dag_run"].run_after
    sets = [entry for entry in run_command("schedule")["snapshots"] if entry["every_hours"] < 24]
    return [
        [entry["set"], at.strftime("%Y-%m-%d"), f"{entry['set']}-{at:%Y-%m-%dT%H}"]
        for entry in sets
        if at.hour % entry["every_hours"] == 0
    ]


@task(outlets=[SNAPSHOTS])
def announce(taken: list[list[str]]) -> None:
    """Announce the days for which all sets are captured."""
    publish_days(SNAPSHOTS, sorted({day for _, day, _ in taken}))


def command(entry: list[str]) -> list[str]:
    """Build the command that captures a set."""
    name, day, run_id = entry
    return ["submit", "snapshot", "--set", name, "--date", day, "--run-id", run_id]


def capture() -> DeloreanJob:
    """Build the task without its commands."""
    return DeloreanJob.partial(
        task_id="snapshot", result_field="run", pool=SERVICES, map_index_template="{{ task.command[-1] }}"
    )


with DAG("snapshot", schedule=[CONTEXTS], **settings(deadline_hours=8)):
    daily = due_daily()
    capture().expand(command=daily.map(command)) >> announce(daily)

with DAG("snapshot_hourly", schedule=CronTriggerTimetable("35 * * * *", timezone="UTC"), **settings(deadline_hours=1)):
    capture().expand(command=due_hourly().map(command))
