"""Captures sets of services: the daily ones when a day's contexts are chosen, others by the hour."""

from airflow.sdk import DAG, CronTriggerTimetable, get_current_context, task
from delorean_job import CONTEXTS, SERVICES, SNAPSHOTS, DeloreanJob, announced, ask, days_of, settings


@task
def due_daily() -> list[list[str]]:
    """Name the sets, each with a day and the id of its run."""
    sets = [one["set"] for one in ask("schedule")["snapshots"] if one["every_hours"] == 24]
    return [[name, day, f"{name}-{day}"] for day in days_of(get_current_context()) for name in sets]


@task
def due_hourly() -> list[list[str]]:
    """Name the sets whose hour it is."""
    at = get_current_context()["dag_run"].logical_date or get_current_context()["dag_run"].run_after
    sets = [one for one in ask("schedule")["snapshots"] if one["every_hours"] < 24]
    return [
        [one["set"], at.strftime("%Y-%m-%d"), f"{one['set']}-{at:%Y-%m-%dT%H}"]
        for one in sets
        if at.hour % one["every_hours"] == 0
    ]


@task(outlets=[SNAPSHOTS])
def announce(taken: list[list[str]]) -> None:
    """Tell that all sets of a day are captured."""
    announced(SNAPSHOTS, sorted({day for _, day, _ in taken}))


def command(one: list[str]) -> list[str]:
    """Write the command that captures a set."""
    name, day, run_id = one
    return ["submit", "snapshot", "--set", name, "--date", day, "--run-id", run_id]


def capture() -> DeloreanJob:
    """Make the task, but for which sets."""
    return DeloreanJob.partial(
        task_id="snapshot", gives="run", pool=SERVICES, map_index_template="{{ task.command[-1] }}"
    )


with DAG("snapshot", schedule=[CONTEXTS], **settings(deadline_hours=8)):
    daily = due_daily()
    capture().expand(command=daily.map(command)) >> announce(daily)

with DAG("snapshot_hourly", schedule=CronTriggerTimetable("35 * * * *", timezone="UTC"), **settings(deadline_hours=1)):
    capture().expand(command=due_hourly().map(command))
