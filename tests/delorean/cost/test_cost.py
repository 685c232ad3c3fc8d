"""What experiments cost: every amount is what the records say, and each is counted once."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from counting_storage import CountingStorage
from project_at_rest import HISTORY, PROFILE, START, Project, long_labels

from delorean.cli.commands import cli
from delorean.cost import cost
from delorean.cost.result import Amounts
from delorean.display.description import describe
from delorean.display.html import to_html
from delorean.display.text import to_text
from delorean.experiment import ExperimentSpec, LabelSpec
from delorean.experiment.record import RunRecord, save_run
from delorean.experiment.run import features_record, labels_record
from delorean.feature_sets.table import FeatureSet
from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from encoders import FeatureModel, feature_encoder
from schemas.errors import ConfigError
from snapshotter.records import ContextGroup, ContextSet, SelectedExperiment, StratumReport
from snapshotter.storage.parquet import write_parquet

TODAY = datetime.now(UTC).date()
NOW = datetime.now(UTC)


@feature_encoder(data=[HISTORY], features=["entries"])
def entries(context: Any, items: Any, data: Any, out: Any) -> None:
    """How much was watched."""
    for i in range(len(items.video_id)):
        out.entries[i] = len(data.history.video_id)


class World:
    """A project whose context set two experiments selected, of 30 and 10 contexts."""

    def __init__(self, project: Project) -> None:
        self.project = project
        table = long_labels([(p, 1, 0, 0) for p in range(4)]).select(["profile_id"])
        file = write_parquet(project.storage, "context_sets/x.parquet", table, table.schema)
        report = tuple(StratumReport(name, "all", 100, count, count) for name, count in (("a", 30), ("b", 10)))
        project.index.publish_context_set(ContextSet.of_one_key("set", TODAY, ("a", "b"), (PROFILE,), (file,), report))
        rows = [(p, m, v, (p + v) % 2) for p in range(8) for m in (20, 40) for v in range(3)]
        self.labels = materialise_labels(long_labels(rows), LabelColumns(("video_id",)), project.storage, buckets=2)

    def capture(self, run_id: str) -> None:
        self.project.history([((p,), 5, [{"video_id": 1, "minutes": 2.0}]) for p in range(8)], run_id, 2, failed=4)

    def run(self, name: str, owner: str = "", started_at: datetime = NOW) -> tuple[RunRecord, FeatureSet]:
        features = generate(
            self.labels, FeatureModel([entries]), self.project.index, self.project.storage, name, recompute=True
        )
        spec = ExperimentSpec(LabelSpec(items=("video_id",), table="t"), (), name, owner=owner)
        record = RunRecord(
            run_id="",
            experiment_id=spec.id,
            name=name,
            started_at=started_at,
            spec=spec.to_json(),
            seed=0,
            labels=labels_record(self.labels),
            feature_model={},
            snapshots={key: tuple(ids) for key, ids in features.lineage["snapshots"].items()},
            confidence={},
            globals={},
            features=features_record(name, features),
            versions={},
            seconds={"labels": 1.5, "features": 99.0, "training": 2.0},
            owner=owner,
        )
        return save_run(record, self.project.storage), features

    def cost(self, **options: Any) -> Any:
        return cost(self.project.index, self.project.storage, **options)

    def size(self, pattern: str) -> int:
        root = Path(self.project.storage.uri.removeprefix("file://"))
        return sum(path.stat().st_size for path in root.glob(pattern))


@pytest.fixture
def world(project: Project) -> World:
    return World(project)


def test_captures_are_shared_by_the_contexts_that_experiments_selected(world: World) -> None:
    world.capture("one")
    world.capture("two")
    rows = {row.experiment: row.amounts for row in world.cost(by=("experiment",)).rows}
    size = world.size("snapshots/**/*.parquet")
    assert rows == {
        "a": Amounts(calls=18, captured_bytes=size * 3 / 4),
        "b": Amounts(calls=6, captured_bytes=size / 4),
    }
    assert world.cost().total.calls == 24


def test_what_was_captured_for_a_day_long_before_it_was_published_is_that_days_experiments(
    world: World, project: Project
) -> None:
    selected = project.index.context_set(TODAY)
    project.index.withdraw_context_set(TODAY, "again", "me")
    project.index.publish_context_set(replace(selected, date=START.date()))
    world.capture("one")
    assert [(row.experiment, row.amounts.calls) for row in world.cost(by=("experiment",)).rows] == [("a", 9), ("b", 3)]


def test_a_service_costs_only_those_that_it_was_asked_for(world: World, project: Project) -> None:
    project.index.withdraw_context_set(TODAY, "again", "me")
    chosen = {"a": None, "b": ("history",), "c": ("mood",), "d": None}
    selected = tuple(SelectedExperiment(name, None, services) for name, services in chosen.items())
    report = tuple(StratumReport(name, "all", 100, 10, 10) for name in chosen)
    group = ContextGroup((PROFILE,), selected, ())
    project.index.publish_context_set(ContextSet("set", TODAY, (group,), report))
    world.capture("one")
    run = project.index.run("one")
    project.index.withdraw_run("one", "again", "me")
    project.index.publish_run(replace(run, run_id="two", not_applicable={"history": ("d",)}))
    assert {row.experiment: row.amounts.calls for row in world.cost(by=("experiment",)).rows} == {"a": 6, "b": 6}


def test_runs_cost_what_their_records_and_their_versions_say(world: World) -> None:
    world.capture("one")
    first, features = world.run("a", "ann")
    world.run("a", "ann")
    world.run("ann.a", "ben")
    by_space = {row.namespace: row.amounts for row in world.cost(by=("namespace",)).rows}
    assert set(by_space) == {"", "ann"}
    assert by_space["ann"] == world.cost(by=("experiment",), namespace="ann").total
    assert 0 < by_space["ann"].stored_bytes < by_space[""].stored_bytes
    (row,) = world.cost(by=("owner",), owner="ann").rows
    tasks = [features.seconds.values()]
    labels, snapshots = world.size("labels/**/*.parquet"), world.size("snapshots/**/*.parquet")
    assert row.amounts.stored_bytes == labels + world.size("feature_sets/a/*/*.parquet")
    assert row.amounts.read_bytes == 2 * (labels + snapshots)
    assert row.amounts.core_seconds > 7 + sum(tasks[0])
    assert row.amounts.core_seconds < 99
    assert row.amounts.calls == 9  # the owner of a run is that of its experiment's captures
    assert first.to_json()["owner"] == "ann"
    assert "owner" not in first.spec


def test_only_the_records_of_the_days_are_read(world: World, project: Project) -> None:
    world.capture("one")
    for age in (0, 3, 50):
        world.run("a", started_at=NOW - timedelta(days=age))
    assert len(world.cost(by=("day",), experiment="a").rows) == 2
    one = world.cost(by=("day",), since=TODAY - timedelta(days=3), until=TODAY - timedelta(days=3))
    assert [row.day for row in one.rows] == [TODAY - timedelta(days=3)]
    assert one.total.calls == 0
    counting = CountingStorage(project.storage)
    future = cost(project.index, counting, since=TODAY + timedelta(days=2), until=TODAY + timedelta(days=3))
    assert future.rows == ()
    assert not [path for path in counting.opened if path.startswith("experiments/")]


def test_what_nobody_selected_is_nobodys_and_broken_records_are_named(world: World, project: Project) -> None:
    project.index.withdraw_context_set(TODAY, "wrong", "me")
    world.capture("one")
    record, _ = world.run("a")
    project.storage.create("experiments/x/x-1.json", b"{")
    found = world.cost()
    assert {row.experiment: row.amounts.calls for row in found.rows} == {"": 12, "a": 0}
    assert len(found.notes) == 1
    assert "experiments/x/x-1.json" in found.notes[0]
    assert repr(record)


def test_wrong_days_and_groupings_are_errors(world: World) -> None:
    with pytest.raises(ConfigError, match="since is 2026-05-02, after until, 2026-05-01 → swap them"):
        world.cost(since=date(2026, 5, 2), until=date(2026, 5, 1))
    with pytest.raises(ConfigError, match="week"):
        world.cost(by=("week",))


def test_an_owner_is_no_part_of_an_experiments_id() -> None:
    spec = ExperimentSpec(LabelSpec(items=("video_id",), table="t"), (), "a")
    assert replace(spec, owner="ann").id == spec.id


def test_the_command_prints_what_the_function_returns(world: World, tmp_path: Path) -> None:
    world.capture("one")
    world.run("a")
    (tmp_path / "delorean.toml").write_text('storage = "store"\nindex = "index.db"\n')
    (tmp_path / "a.toml").write_text('owner = "ann"\nencoders = []\n[labels]\ntable = "t"\nitems = ["video_id"]\n')
    result = CliRunner().invoke(cli, ["cost", "--config", str(tmp_path / "delorean.toml"), "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    found = world.cost(owners={"a": "ann"})
    expected = json.loads(json.dumps(describe(found).document(), default=str))
    assert printed == expected
    assert [(row["owner"], row["experiment"]) for row in printed["rows"]] == [("", "b"), ("ann", "a")]
    for shown in (to_text(found), to_html(found)):
        assert "core seconds" in shown
        assert "ann" in shown
