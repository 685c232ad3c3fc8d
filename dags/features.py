"""Makes the features of every experiment on schedule: when a day's snapshots are there, or else late in the day."""

from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, get_current_context, task
from delorean_job import FEATURES, JOBS, SNAPSHOTS, DeloreanJob, announced, ask, days_of, settings


@task
def on_schedule() -> list[dict[str, Any]]:
    """Name the experiments, each with a day."""
    experiments = ask("schedule")["experiments"]
    return [
        {"spec": one["spec"], "day": day, "run_id": f"{day}-{one['id'] or 'unreadable'}"}
        for day in days_of(get_current_context())
        for one in experiments
    ]


@task(outlets=[FEATURES], trigger_rule="all_done_min_one_success")
def announce(made: list[dict[str, Any]]) -> None:
    """Tell that a day has features, if only of some experiments."""
    announced(FEATURES, sorted({one["day"] for one in made}))


def command(one: dict[str, Any]) -> list[str]:
    """Write the command that makes an experiment's features for a day."""
    return ["submit", "generate", one["spec"], "--date", one["day"], "--run-id", one["run_id"]]


with DAG(
    "features",
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("0 23 * * *", timezone="UTC"), assets=[SNAPSHOTS]),
    **settings(deadline_hours=8),
):
    wanted = on_schedule()
    DeloreanJob.partial(
        task_id="generate", gives="run", pool=JOBS, map_index_template="{{ task.command[2] }} {{ task.command[-1] }}"
    ).expand(command=wanted.map(command)) >> announce(wanted)
