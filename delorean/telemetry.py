"""Keeps dependencies from reporting to anybody whom the user did not name.

What was checked of the versions in the two locks, in their code and libraries and by recording what they send:

- onnxruntime, from 1.29 on, writes a device id below the home folder and looks its maker's host up for each session.
  Only `ORT_DISABLE_TELEMETRY`, set before the import, prevents both; `disable_telemetry_events()` comes after the id.
- mlflow-skinny sends counts of what is called to its maker, unless `MLFLOW_DISABLE_TELEMETRY` is set before the import.
- jupyterlab asks for newer versions and for news: the Makefile starts it with both off.
- pip asks for its own newer version: `.ci/install.py` and the images switch that off.
- fastapi, deltalake, pyarrow and Airflow hold OpenTelemetry: it sends nothing until an exporter is configured.
- duckdb (tests only) fetches an extension when a query needs one: no query of ours does.
- All others (pyspark, Delta, pyiceberg, Polars, Numba, scikit-learn, Optuna, matplotlib, boto3, cassandra-driver,
  aiohttp, uvicorn, Airflow 3.3 and its providers) contact only hosts that a configuration names. Spark fetches Delta's
  jar once, where that is used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

# Variable → its value. Images and other environments set the same, which a test compares.
SWITCHES: Mapping[str, str] = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime: device id, host look-up and upload, for each session
    "MLFLOW_DISABLE_TELEMETRY": "true",  # mlflow-skinny: counts of calls
}


def disable_telemetry() -> None:
    """Switch reports off in this process and in those that it starts; `delorean` does so before it imports anything."""
    os.environ.update(SWITCHES)
