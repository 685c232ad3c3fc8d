"""Checks each day's snapshots against the trends of recent runs, and logs coverage."""

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException
from delorean_job import SNAPSHOTS, DeloreanJob, run_command, settings


@task
def trends() -> None:
    """Fail if a service's latest snapshot is outside the range predicted from its recent runs."""
    quality = run_command("index", "quality")
    last = {entry["service"]: entry["run"] for entry in reversed(quality["runs"])}
    unusual = [
        f"{alert['service']}: {alert['measure']} is {alert['found']:.3g}, "
        f"expected {alert['low']:.3g} to {alert['high']:.3g}"
        for alert in quality["unusual"]
        if alert["run"] == last[alert["service"]]
    ]
    if unusual:
        raise AirflowFailException("; ".join(unusual))


with DAG("quality", schedule=[SNAPSHOTS], **settings(deadline_hours=8)):
    trends()
    DeloreanJob(task_id="coverage", command=["travel", "coverage"])
