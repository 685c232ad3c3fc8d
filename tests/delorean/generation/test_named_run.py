"""Generations under an id: whatever ended one, run again it gives what it would have given, and gives it once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from project_at_rest import HISTORY, Project, long_labels

from delorean.feature_sets.table import FeatureSet
from delorean.feature_sets.versions import versions_of
from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from delorean.leaks import LeakThresholds
from delorean.state.rules import AsOf, SpreadLimit
from encoders import FeatureModel, feature_encoder
from schemas.errors import ConfigError, CorruptFileError
from snapshotter.index import open_index

PROFILES = range(20)


@feature_encoder(data=[HISTORY], features=["minutes_watched"])
def minutes_watched(context: Any, items: Any, data: Any, out: Any, *, factor: float = 1.0) -> None:
    """Minutes of all that was watched."""
    for i in range(len(items.video_id)):
        out.minutes_watched[i] = 0.0
        for j in range(len(data.history.video_id)):
            out.minutes_watched[i] += factor * data.history.minutes[j]


class KilledError(Exception):
    """Whatever may end a generation."""


class Work:
    """A project with label data and one run of snapshots, of which features are generated."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.capture("r1", 10)
        rows = long_labels([(p, m, v, (p + v) % 2) for p in PROFILES for m in (20, 40) for v in range(3)])
        self.labels = materialise_labels(rows, LabelColumns(("video_id",)), project.storage, buckets=4)

    def capture(self, run_id: str, minute: int) -> None:
        history = [((p,), minute, [{"video_id": p % 3, "minutes": float(p + minute)}]) for p in PROFILES]
        self.project.history(history, run_id, 4)

    def generate(self, run_id: str | None = "g1", factor: float = 1.0, name: str = "f", **options: Any) -> FeatureSet:
        model = FeatureModel([minutes_watched.configured(factor=factor)])
        given = {"index": self.project.index, "labels": self.labels, **options}
        return generate(
            given.pop("labels"), model, given.pop("index"), self.project.storage, name, run_id=run_id, **given
        )

    def die(self, at: int, **options: Any) -> None:
        """Begin a generation that ends when so many buckets are done."""

        def progress(_: str, done: int, of: int) -> None:
            if done == at:
                raise KilledError

        with pytest.raises(KilledError):
            self.generate(progress=progress, **options)


@pytest.fixture
def work(project: Project) -> Work:
    return Work(project)


def test_a_run_that_has_ended_is_given_as_it_is(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    leaks = LeakThresholds()
    first = work.generate(leaks=leaks)
    assert first == replace(work.generate(run_id=None, leaks=leaks, recompute=True), version=0, seconds=first.seconds)
    work.capture("later", 15)
    caplog.clear()
    assert work.generate(leaks=leaks) == first
    assert "run 'g1' already committed version 0 of 'f': nothing is generated" in caplog.text
    assert work.generate(run_id="g2").version == 2
    assert work.generate(name="other").version == 0  # an id is of one feature set's runs
    assert first.to_arrow().num_rows == 40


@pytest.mark.parametrize("done", [1, 4])
def test_a_run_that_died_reads_what_it_read_when_it_began(work: Work, done: int) -> None:
    expected = work.generate(name="expected")
    work.die(at=done)
    assert versions_at(work) == []
    work.capture("later", 15)
    again = work.generate()
    assert again.digest == expected.digest
    assert again.lineage["snapshots"] == {"history": ["r1"]}
    assert work.generate(run_id="g2").digest != expected.digest
    assert [version.version for version in versions_of(again.uri)] == [1, 0]


def versions_at(work: Work) -> list[str]:
    return [file.path for file in work.project.storage.list("feature_sets/f/_delta_log")]


def test_of_runs_with_one_id_at_the_same_time_one_commits_and_all_give_it(work: Work) -> None:
    def run(number: int) -> FeatureSet:
        with open_index(work.project.index.uri) as index:
            return work.generate("one" if number % 2 else f"own-{number}", index=index)

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(run, range(8)))
    assert sorted({feature_set.version for feature_set in made}) == [0, 1, 2, 3, 4]
    assert len({feature_set.version for feature_set in made[1::2]}) == 1
    assert [version.version for version in versions_of(made[0].uri)] == [4, 3, 2, 1, 0]


def test_a_run_that_wants_other_things_than_the_id_began_with_is_refused(work: Work) -> None:
    work.die(at=1)
    for _ in ("begun", "ended"):
        for other, named in (
            ({"factor": 2.0}, "encoders"),
            ({"rules": {"history": AsOf(lag=timedelta(minutes=1))}}, "rules"),
            ({"spread": SpreadLimit(timedelta(1))}, "rules"),
            ({"labels": replace(work.labels, labels_id="others"), "factor": 2.0}, "encoders and labels"),
        ):
            with pytest.raises(
                ConfigError, match=f"run 'g1' of feature set 'f' began with other {named} → use another"
            ):
                work.generate(**other)
        work.generate()
    with pytest.raises(ConfigError, match="run id '../g1' cannot name a folder"):
        work.generate("../g1")


def test_a_plan_that_was_tampered_with_is_named(work: Work) -> None:
    work.project.storage.create("feature_sets/_plans/f/g1.json", b'{"wanted": {}}')
    with pytest.raises(
        CorruptFileError, match="'feature_sets/_plans/f/g1.json' is not a plan of a generation.* → delete"
    ):
        work.generate()


def test_a_plan_of_an_earlier_release_lists_all_that_is_read(work: Work) -> None:
    plan = b'{"wanted": {}, "pinned": {"snapshots": {"history": ["r1"]}, "globals": {}}}'
    assert work.project.storage.create("feature_sets/_plans/f/g1.json", plan)
    work.capture("later", 15)
    assert work.generate().lineage["snapshots"] == {"history": ["r1"]}
