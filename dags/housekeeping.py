"""Removes each week what nobody can miss."""

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, conf
from delorean_job import JOBS, DeloreanJob, settings

with DAG("housekeeping", schedule=CronTriggerTimetable("0 2 * * 0", timezone="UTC"), **settings(timedelta(hours=8))):
    keep = conf.get("delorean", "keep", fallback="P30D")
    DeloreanJob(task_id="vacuum", command=["vacuum", "--older-than", keep], pool=JOBS)
