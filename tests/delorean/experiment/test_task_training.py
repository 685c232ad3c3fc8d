"""A spec of tasks, from its features to a package that is tuned, registered, compared and predicted with."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from project_at_rest import Project, minutes

from delorean import ComparisonError, ConfigError, LabelColumns, OpenProject, materialise_labels, open_project
from delorean.cli.commands import cli
from delorean.comparison.result import Verdict
from delorean.display.html import to_html
from delorean.display.text import to_text
from delorean.experiment import load_experiment
from delorean.experiment.checks import check_spec
from delorean.experiment.model_spec import ModelSpec
from delorean.experiment.training_run import train_newest
from delorean.experiment.tuning import tune
from delorean.labels.materialise import materialise_tasks
from delorean.labels.task_layout import TaskRows
from delorean.packaging.package import ModelPackage
from delorean.prediction import predict
from delorean.training.consolidation.settings import Consolidation
from schemas.tables import TIME
from snapshotter.index import open_index
from snapshotter.storage import open_storage

FILES = {
    "delorean.toml": 'storage = "store"\nindex = "index.db"\nencoders = ["task_encoders"]\n',
    "services.toml": '[services.history]\ntype = "list<struct<video_id: int64, minutes: float>>"\n'
    'key = { profile_id = "int64" }\nurl = "http://127.0.0.1:1/{profile_id}"\ntimeout_seconds = 1.0\n',
    "task_encoders.py": """
from delorean import feature_encoder, service_element

HISTORY = service_element("history", "list<struct<video_id: int64, minutes: float>>")

@feature_encoder(data=[HISTORY], features=["watched"])
def watched(context, items, data, out):
    for i in range(len(items.video_id)):
        out.watched[i] = 0.0
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.watched[i] += data.history.minutes[j]

@feature_encoder(features=["early"])
def early(context, items, data, out):
    for i in range(len(items.video_id)):
        out.early[i] = -items.video_id[i]

@feature_encoder(features=["matches"])
def matches(context, items, data, out):
    for i in range(len(items.video_id)):
        out.matches[i] = 1.0 if context.query_id == items.video_id[i] else 0.0

@feature_encoder(features=["odd"])
def odd(context, items, data, out):
    for i in range(len(items.video_id)):
        out.odd[i] = (items.video_id[i] * 7919 + context.query_id * 104729) % 101
""",
}
MEMBERS = """
encoders = ["task_encoders:watched", "task_encoders:early"]
[sentinels]
profile_id = -1
query_id = -1
[defaults]
watched = 0.0
[merge]
id = "members"
[tasks.home.labels]
table = "home"
items = ["video_id"]
context = ["profile_id"]
[tasks.search]
encoders = [{search}]
[tasks.search.labels]
table = "search"
items = ["video_id"]
context = ["query_id"]
[tables]
home = {{ path = "home.parquet" }}
search = {{ path = "search.parquet" }}
[model]
learner = "lightgbm"
rounds = 12
stop_after = 0
threads = 1
parameters = {{ num_leaves = 4, min_data_in_leaf = 5 }}
[evaluation]
at = [1, 10]
replicates = 200
repeats = 1
[tuning]
trials = 2
pruning = false
[tuning.space]
num_leaves = {{ low = 3, high = 6 }}
[consolidation]
compare = []
calibration = "sigmoid"
{consolidation}
"""
HOME = """
encoders = ["task_encoders:watched", "task_encoders:early"]
[labels]
id = "home"
table = "home"
items = ["video_id"]
context = ["profile_id"]
[tables]
home = { path = "home.parquet" }
[model]
learner = "lightgbm"
rounds = 12
stop_after = 0
threads = 1
parameters = { num_leaves = 4, min_data_in_leaf = 5 }
"""
PROFILES, QUERIES, TIMES, VIDEOS = range(30), range(10), range(5, 65, 5), range(6)
SPECS = {
    "members": MEMBERS.format(search='"task_encoders:matches"', consolidation='accept_loss = ["home", "search"]'),
    "strict": MEMBERS.format(search='"task_encoders:matches"', consolidation="loss_limit = 0.0001"),
    "wider": MEMBERS.format(
        search='"task_encoders:matches", "task_encoders:odd"', consolidation='accept_loss = ["home", "search"]'
    ),
    "plain": MEMBERS.format(search='"task_encoders:matches"', consolidation='accept_loss = ["home", "search"]').replace(
        "[consolidation]", '[consolidation]\nsharing = "task_type"'
    ),
    "home": HOME,
}


def shown(variable: str, values: range) -> pa.Table:
    """Profiles like one video of six, queries find theirs."""
    random = np.random.default_rng(len(values))
    rows = [
        {
            variable: value,
            "time": minutes(time),
            "outcome_at": minutes(time + 1),
            "video_id": video,
            "label": float(random.random() < (0.8 if video == value % 6 else 0.1)),
        }
        for value in values
        for time in TIMES
        for video in VIDEOS
    ]
    columns = [(variable, pa.int64()), ("time", TIME), ("outcome_at", TIME), ("video_id", pa.int64())]
    return pa.Table.from_pylist(rows, pa.schema([*columns, ("label", pa.float32())]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    for name, text in SPECS.items():
        (folder / f"{name}.toml").write_text(textwrap.dedent(text))
    tables = {"home": shown("profile_id", PROFILES), "search": shown("query_id", QUERIES)}
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    with open_index(f"sqlite://{folder}/index.db") as index:
        at_rest = Project(open_storage(f"file://{folder}/store"), index)
        history = [((p,), 0, [{"video_id": p % 6, "minutes": 5.0 + p}]) for p in PROFILES]
        at_rest.history(history, "history-0")
    with open_project(folder) as project:
        columns = {
            "home": LabelColumns(items=("video_id",), context=("profile_id",)),
            "search": LabelColumns(items=("video_id",), context=("query_id",)),
        }
        materialise_labels(tables["home"], columns["home"], project.storage, labels_id="home")
        tasks = [TaskRows(name, tables[name], columns[name]) for name in tables]
        materialise_tasks(tasks, project.storage, sentinels={"profile_id": -1, "query_id": -1}, labels_id="members")
        for name in SPECS:
            project.generate(name)
    return folder


@pytest.fixture(scope="module")
def packages(folder: Path) -> dict[str, ModelPackage]:
    with open_project(folder) as project:
        return {name: project.package(name, f"packages/{name}") for name in SPECS if name != "strict"}


@pytest.fixture
def project(folder: Path) -> Iterator[OpenProject]:
    with open_project(folder) as opened:
        yield opened


def test_training_takes_the_tasks_of_the_features_and_packages_them(packages: dict[str, ModelPackage]) -> None:
    package = packages["members"]
    assert package.tasks is not None
    assert {task.name: task.without for task in package.tasks.tasks} == {"home": ("matches",), "search": ("watched",)}
    assert {*package.calibrations} == {"home", "search"}
    report = package.report.consolidation
    assert report is not None
    assert (report.sharing, report.consolidated, report.accepted) == ("trunk", True, ("home", "search"))
    assert {each.task for each in report.chosen.tasks} == {"home", "search"}
    assert packages["home"].tasks is None


def test_train_exits_with_3_and_packages_a_model_whose_tasks_may_lose(
    folder: Path, project: OpenProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(cli, ["train", "strict.toml", "--package", "packages/strict", "--json"])
    assert result.exit_code == 3
    shown = json.loads(result.stdout)["consolidation"]
    assert shown["consolidated"] is False
    assert shown["reasons"][0].startswith("Not consolidated: ")
    report = project.load_package("packages/strict").report.consolidation
    assert report is not None
    assert not report.consolidated
    text = to_text(report)
    assert "one model for 2 tasks: not consolidated" in text
    assert "sharing = trunk, the chosen one" in text
    assert "<svg" in to_html(report)


@pytest.mark.parametrize("name", ["members", "plain"])
def test_predictions_are_those_of_the_package_task_by_task(
    project: OpenProject, packages: dict[str, ModelPackage], name: str
) -> None:
    package = packages[name]
    predictions = predict(package, project.feature_sets[name], project.storage, f"scores-{name}")
    table = predictions.to_arrow()
    features = project.feature_sets[name].to_arrow()
    key = [(name, "ascending") for name in ("task_type", "profile_id", "query_id", "time")]
    rows, sources = (each.sort_by(key).to_pylist()[::37] for each in (table, features))
    for row, source in zip(rows, sources, strict=True):
        matrix = np.float32([source[feature] for feature in package.features]).T.copy()
        scores = package.score(matrix, row["task_type"])
        assert row["score"] == scores.tolist()
        probabilities = package.probabilities(scores, row["task_type"])
        assert probabilities is not None
        assert row["probability"] == probabilities.tolist()


def test_packages_of_tasks_are_compared_by_task(project: OpenProject, packages: dict[str, ModelPackage]) -> None:
    del packages
    compared = project.compare("packages/wider", "packages/members", "wider")
    assert {(each.by, each.group) for each in compared.groups} == {("task_type", "home"), ("task_type", "search")}
    computed = project.compare("packages/wider", "packages/members", labels="members")
    assert computed.metrics == compared.metrics  # with features off in other tasks, as in the feature set
    only = project.compare("packages/wider", "packages/members", "wider", task="home")
    assert only.contexts == {each.group: each.contexts for each in compared.groups}["home"]


def test_a_package_of_one_use_is_compared_with_one_of_tasks_on_the_tasks_contexts(
    project: OpenProject, packages: dict[str, ModelPackage]
) -> None:
    del packages
    pair = ("packages/members", "packages/home")
    both = [project.compare(*each, task="home") for each in (pair, pair[::-1])]
    for compared in both:
        assert (compared.data, compared.contexts) == ("members, version 0", 60)
        assert compared.verdict is not Verdict.IDENTICAL
    change, reverse = (compared["ndcg@10"].difference.value for compared in both)
    assert change == pytest.approx(-(reverse or 0))
    with pytest.raises(ComparisonError, match="only one of the packages has tasks: home, search → name the task"):
        project.compare("packages/home", "packages/members")
    with pytest.raises(ComparisonError, match="unknown task of the packages 'serach'"):
        project.compare("packages/members", "packages/home", task="serach")
    with pytest.raises(ComparisonError, match="cannot be compared on label data"):
        project.compare("packages/members", "packages/home", labels="members", task="home")
    with pytest.raises(ComparisonError, match="the data has no column 'task_type'|unknown column"):
        project.compare("packages/members", "packages/home", "home", task="home")
    with pytest.raises(ComparisonError, match="neither package has tasks"):
        project.compare("packages/home", "packages/home", task="home")


def test_tuning_a_spec_of_tasks_measures_the_mean_of_its_tasks(folder: Path, project: OpenProject) -> None:
    spec = load_experiment(folder / "members.toml")
    result = tune(spec, project.storage, folder, study="members")
    assert len(result.candidates) == 2
    assert result.untuned is not None
    report = project.load_package("packages/members").report.consolidation
    assert report is not None
    mean = np.mean([each.shared.value for each in report.chosen.tasks])
    assert result.untuned.test.value == pytest.approx(mean, abs=1e-6)
    again = tune(spec, project.storage, folder, study="members")
    assert again.candidates == result.candidates
    other = replace(spec, consolidation=replace(spec.consolidation, own_rounds=3))
    with pytest.raises(ConfigError, match="consolidation.own_rounds was None, is 3"):
        tune(other, project.storage, folder, study="members")


def test_what_only_training_reads_does_not_ask_for_features_again(folder: Path, project: OpenProject) -> None:
    spec = load_experiment(folder / "members.toml")
    other = replace(spec, consolidation=Consolidation(own_rounds=5, compare=(), accept_loss=("home", "search")))
    assert other.id != spec.id
    trained = train_newest(other, project.storage)
    assert trained.report.consolidation is not None
    assert trained.report.consolidation.calibrations == ()
    tasks = {"home": 12, "search": 12}
    assert {each.task: each.trees[0] for each in trained.report.consolidation.chosen.tasks} == tasks


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            ('accept_loss = ["home", "search"]', 'accept_loss = ["hme"]'),
            "unknown task of consolidation.accept_loss 'hme'",
        ),
        (("rounds = 12", "rounds = 1"), "1 of 1 rounds are the tasks' own"),
        (('"lightgbm"', '"xgboost"\nworkers = 2'), "a model of several tasks is fitted by one process"),
    ],
)
def test_a_wrong_table_is_an_error_before_any_work(folder: Path, change: tuple[str, str], problem: str) -> None:
    text = SPECS["members"].replace(*change).replace('path = "', f'path = "{folder}/')
    (folder / "wrong.toml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        check_spec(load_experiment(folder / "wrong.toml"))


def test_consolidation_without_tasks_and_a_learner_without_a_trunk_are_errors(
    folder: Path, project: OpenProject
) -> None:
    (folder / "none.toml").write_text(HOME + "\n[consolidation]\nloss_limit = 0.01\n")
    with pytest.raises(ConfigError, match="consolidation are settings of tasks, and there are none"):
        load_experiment(folder / "none.toml")
    spec = replace(load_experiment(folder / "members.toml"), model=ModelSpec())
    check_spec(spec)  # features are generated: only a training needs a learner
    with pytest.raises(ConfigError, match="cannot be continued for each task"):
        train_newest(spec, project.storage)
