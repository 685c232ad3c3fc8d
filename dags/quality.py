"""Looks at the trends of snapshots after each day's: coverage, confidence, and what is not as usual."""

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException
from delorean_job import SNAPSHOTS, DeloreanJob, ask, settings


@task
def trends() -> None:
    """Fail, so that somebody is told, if a service's last snapshot is not as those before it let one expect."""
    told = ask("index", "quality")
    last = {one["service"]: one["run"] for one in reversed(told["runs"])}
    unusual = [
        f"{one['service']}: {one['measure']} is {one['found']:.3g}, expected {one['low']:.3g} to {one['high']:.3g}"
        for one in told["unusual"]
        if one["run"] == last[one["service"]]
    ]
    if unusual:
        raise AirflowFailException("; ".join(unusual))


with DAG("quality", schedule=[SNAPSHOTS], **settings(deadline_hours=8)):
    trends()
    DeloreanJob(task_id="coverage", command=["travel", "coverage"])
