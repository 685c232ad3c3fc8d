"""Commands for a spec of several tasks, over label data at rest, without Spark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from project_at_rest import Project, long_labels

from delorean.cli.commands import cli
from delorean.experiment import load_experiment
from delorean.experiment.label_data import labels_of
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_tasks
from delorean.labels.task_layout import TaskRows
from delorean.labels.task_sample import LabelSample
from schemas.data_keys import context_variable
from schemas.services import Service
from snapshotter.index import open_index
from snapshotter.storage import open_storage

SPEC = """
encoders = ["encoders.library.my_list:listed"]
sentinels = { profile_id = -1, seed_id = -1 }
merge = { id = "uses" }
tables = { shown = { path = "shown.parquet" } }

[tasks.home.labels]
table = "shown"
items = ["video_id"]
context = ["profile_id"]

[tasks.similar.sample]
quota = 10

[tasks.similar.labels]
query = "SELECT profile_id AS seed_id, * EXCEPT (profile_id) FROM shown"
items = ["video_id"]
context = ["seed_id"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("delorean.toml").write_text('storage = "store"\nindex = "index.db"\n')
    Path("members.toml").write_text(SPEC)
    shown = long_labels([(p, 5, v, float(v == p % 5)) for p in range(40) for v in range(5)])
    seeds = shown.rename_columns(["seed_id", *shown.column_names[1:]])
    columns = [LabelColumns(("video_id",), context=(name,)) for name in ("profile_id", "seed_id")]
    tasks = [TaskRows("home", shown, columns[0]), TaskRows("similar", seeds, columns[1], LabelSample(quota=10))]
    storage = open_storage(f"file://{tmp_path}/store")
    materialise_tasks(tasks, storage, sentinels={"profile_id": -1, "seed_id": -1}, labels_id="uses")
    return tmp_path


def test_label_quality_reports_the_merge_and_measures_each_task(folder: Path) -> None:
    result = CliRunner().invoke(cli, ["label-quality", "members.toml", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.output)
    assert [(row["task"], row["contexts"], row["kept_contexts"]) for row in document["merged"]] == [
        ("home", 40, 40),
        ("similar", 40, 10),
    ]
    assert [row["share_after"] for row in document["merged"]] == [0.8, 0.2]
    by_task = {row["group"]: row["contexts"] for row in document["counts"] if row["by"] == "task_type"}
    assert by_task == {"home": 40, "similar": 10}
    text = CliRunner().invoke(cli, ["label-quality", "members.toml"]).output
    assert "merged tasks" in text


def test_label_data_of_tasks_at_rest_is_read_without_spark(folder: Path) -> None:
    storage = open_storage(f"file://{folder}/store")
    labels = labels_of(load_experiment(folder / "members.toml"), None, storage)
    assert labels.tasks is not None
    assert labels.tasks.names == ("home", "similar")


def test_coverage_of_a_spec_shows_what_does_not_apply(folder: Path) -> None:
    element = load_experiment(folder / "members.toml").feature_model.elements["my_list"]
    with open_index(f"sqlite://{folder}/index.db") as index:
        project = Project(open_storage(f"file://{folder}/store"), index)
        service = Service("lists", element, (context_variable("profile_id", "int64"),))
        project.publish(service, [((p,), 1, []) for p in range(30)], "lists-1")
    result = CliRunner().invoke(cli, ["travel", "coverage", "--spec", "members.toml", "--json"])
    assert result.exit_code == 0, result.output
    [cell] = json.loads(result.output)["elements"]
    assert (cell["rows"], cell["found"], cell["not_applicable"]) == (40, 30, 10)
    assert "of other tasks" in CliRunner().invoke(cli, ["travel", "coverage", "--spec", "members.toml"]).output
