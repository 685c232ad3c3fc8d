"""The Python of the virtual environment that Airflow has to itself, and the settings that tests give it."""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AIRFLOW = ROOT / ".venv-airflow" / "bin" / "python"


def airflow_settings(home: Path, project: Path) -> dict[str, str]:
    """Give Airflow's settings as environment variables."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    return {
        **given,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__DELOREAN__COMMAND": f"/usr/bin/env PYTHONPATH={ROOT} {sys.executable} -m delorean",
        "AIRFLOW__DELOREAN__PROJECT": str(project),
        "AIRFLOW__DELOREAN__RETRIES": "0",
        "AIRFLOW_CONN_DELOREAN": json.dumps({"conn_type": "generic", "extra": {"AWS_SECRET_ACCESS_KEY": "hushhush"}}),
    }
