"""Deletes, each week, files that no published or recorded run needs."""

from airflow.sdk import DAG, CronTriggerTimetable, conf
from delorean_job import JOBS, DeloreanJob, settings

with DAG("housekeeping", schedule=CronTriggerTimetable("0 2 * * 0", timezone="UTC"), **settings(deadline_hours=8)):
    keep = conf.get("delorean", "keep", fallback="P30D")
    DeloreanJob(task_id="vacuum", command=["vacuum", "--older-than", keep], pool=JOBS)
