"""A project may lie in a folder of any name that a URI can hold."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from project_at_rest import Project, long_labels, minutes

from delorean import TimeMachine, materialise_labels, open_project
from delorean.cli.commands import cli
from delorean.experiment import load_experiment
from delorean.experiment.run import run_experiment
from delorean.experiment.steps import package_of
from delorean.feature_sets.table import lineage_of
from delorean.feature_sets.versions import versions_of
from delorean.labels import LabelColumns
from delorean.packaging.package import load_package
from delorean.project.config import load_project
from schemas.errors import ConfigError
from snapshotter.index import open_index
from snapshotter.storage import open_storage

SPEC = """
encoders = ["odd_folder_encoders:seen"]

[labels]
id = "clicks"
items = ["video_id"]
query = "SELECT * FROM nothing"

[split]
by_time = false
group = "profile_id"
"""
ENCODERS = """
from encoders import feature_encoder
from schemas.data_keys import service_element

HISTORY = service_element("history", "list<struct<video_id: int64, minutes: float>>")

@feature_encoder(data=[HISTORY], features=["seen"])
def seen(context, items, data, out):
    for i in range(len(items.video_id)):
        out.seen[i] = 0.0
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.seen[i] = data.history.minutes[j]
"""


@pytest.fixture(autouse=True)
def forget_encoders() -> Iterator[None]:
    """Each test has a folder of its own, and the module's source is deleted with it."""
    yield
    sys.modules.pop("odd_folder_encoders", None)


def write_project(folder: Path) -> None:
    folder.mkdir()
    (folder / "delorean.toml").write_text('encoders = ["odd_folder_encoders"]\n')
    (folder / "home.toml").write_text(SPEC)
    (folder / "odd_folder_encoders.py").write_text(textwrap.dedent(ENCODERS))


def run(folder: Path, *words: str) -> dict[str, Any]:
    ran = CliRunner().invoke(cli, [*words, "--config", str(folder / "delorean.toml"), "--json"])
    assert ran.exit_code == 0, ran.output
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("name", ["C# shop ü? 100% a+b;c&d=e [x] {y} 'q'", "日本 #?"])
def test_everything_works_in_a_folder_of_any_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name
    write_project(folder)
    monkeypatch.syspath_prepend(str(folder))
    config = load_project(folder / "delorean.toml")
    storage = open_storage(config.storage)
    assert open_storage(storage.uri).uri == storage.uri
    with open_index(config.index) as index:
        history = [((p,), p % 5, [{"video_id": p % 4, "minutes": 5.0}]) for p in range(60)]
        Project(storage, index).history(history, "h1", 4)
        rows = [(p, 10, v, float(p % 4 == v)) for p in range(60) for v in range(4)]
        materialise_labels(long_labels(rows), LabelColumns(("video_id",)), storage, labels_id="clicks", buckets=2)
        experiment = load_experiment(folder / "home.toml", index)
        for version in range(2):
            record = run_experiment(experiment, index, storage, None, training=False)
            assert record.features.version == version
        table = storage.uri_of("feature_sets/home")
        assert lineage_of(table)["features"] == lineage_of(table, 0)["features"] == ["seen"]
        assert [each.version for each in versions_of(table)] == [1, 0]
        package = package_of(experiment, index, storage, folder / "package", config.encoders)
        assert load_package(package.path, modules=("odd_folder_encoders",)).features == ("seen",)
        assert TimeMachine(index, storage).at(minutes(9))["history"].to_polars().height == 60
    with open_project(folder) as project:
        assert project.feature_sets["home"].to_arrow().num_rows == 60
    assert run(folder, "index", "runs")["runs"][0]["run"] == "h1"
    assert len(run(folder, "travel", "history", "--at", minutes(9).isoformat())) > 0
    scores = run(folder, "predict", "home", "--package", str(folder / "package"), "--cores", "0")
    assert scores["contexts"] == 60
    assert run(folder, "vacuum", "--dry-run").get("left_alone") is None
    assert len(run(folder, "experiment", "list")["runs"]) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == [name]  # nothing beside it, under half of its name


@pytest.mark.parametrize("name", ["a%20b", "a\\b", "a\nb"])
def test_a_folder_whose_delta_tables_could_not_be_read_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    write_project(folder)
    ran = CliRunner().invoke(cli, ["index", "runs", "--config", str(folder / "delorean.toml")])
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "Delta tables cannot be read" in ran.stderr or "control character" in ran.stderr
    with pytest.raises(ConfigError):
        open_storage(load_project(folder / "delorean.toml").storage)


def test_a_run_id_that_learnt_from_another_day_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shop"
    write_project(folder)
    monkeypatch.syspath_prepend(str(folder))
    config = load_project(folder / "delorean.toml")
    storage = open_storage(config.storage)
    with open_index(config.index) as index:
        Project(storage, index).history([((1,), 0, [])], "h1")
        materialise_labels(long_labels([(1, 10, 1, 0.0)]), LabelColumns(("video_id",)), storage, labels_id="clicks")
        experiment = load_experiment(folder / "home.toml", index)
        first = run_experiment(experiment, index, storage, None, training=False, run_id="x")
        assert run_experiment(experiment, index, storage, None, training=False, run_id="x") == first
        with pytest.raises(ConfigError, match="run id 'x' is taken: that run learned from label data 'clicks'"):
            run_experiment(experiment, index, storage, None, training=False, run_id="x", day=date(2026, 1, 5))
