"""Days: each version has what generating everything at once gives, and only what is new is computed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import HISTORY, MOOD, Project, minutes

from delorean.audit.paradox import check_feature_set
from delorean.feature_sets.parts import parts_of
from delorean.feature_sets.table import FeatureSet, load_feature_set, open_table, versions_of
from delorean.generation import generate
from delorean.generation.day import generate_day
from delorean.generation.parts import PartSettings
from delorean.labels import LabelColumns, Labels, find_labels, made_once
from delorean.labels.materialise import materialise_labels
from delorean.leaks import LeakThresholds
from delorean.state.rules import AsOf, SpreadLimit
from encoders import FeatureModel, feature_encoder
from schemas.errors import ConfigError, EmptyLabelsError
from schemas.tables import TIME
from snapshotter.index import open_index
from snapshotter.storage.delta_version import DeltaVersion

DAY = 1440  # minutes
PROFILES = range(6)


@feature_encoder(data=[HISTORY], features=["minutes_watched"])
def watched(context: Any, items: Any, data: Any, out: Any, *, factor: float = 1.0) -> None:
    """All minutes."""
    for i in range(len(items.video_id)):
        for j in range(len(data.history.video_id)):
            out.minutes_watched[i] = factor * data.history.minutes[j]


@feature_encoder(data=[MOOD], features=["mood_known"])
def mood_known(context: Any, items: Any, data: Any, out: Any) -> None:
    """Whether the mood is known."""
    for i in range(len(items.video_id)):
        out.mood_known[i] = 1.0 if data.mood.present else 0.0


MODELS = (FeatureModel([watched, mood_known]), FeatureModel([watched.configured(factor=2.0), mood_known]))


class KilledError(Exception):
    """Whatever may end a generation."""


class World:
    """A project with daily snapshots of six days, and a table of labels that grows.

    rows: (profile, minute, video, minute of the outcome)
    made: label data that was materialised: since, until
    """

    columns = LabelColumns(("video_id",))

    def __init__(self, project: Project) -> None:
        self.project = project
        for day in range(6):
            history = [((p,), DAY * day + 5 + p, [{"video_id": p, "minutes": float(p + day)}]) for p in PROFILES]
            project.history(history, f"history-{day}", 4)
            project.mood([((p,), DAY * day + 9, "good") for p in PROFILES if (p + day) % 3], f"mood-{day}", 2)
        self.rows = [(p, DAY * d + 60 + p, v, DAY * d + 90) for d in range(6) for p in PROFILES for v in range(2)]
        self.made: list[tuple[datetime | None, datetime]] = []

    @property
    def folder(self) -> Path:
        return Path(self.project.storage.uri.removeprefix("file://"))

    def table(self, since: datetime | None, until: datetime) -> pa.Table:
        profile, minute, video, outcome = zip(*self.rows, strict=True)
        table = pa.table(
            {
                "profile_id": pa.array(profile, pa.int64()),
                "time": pa.array([minutes(m) for m in minute], TIME),
                "video_id": pa.array(video, pa.int64()),
                "label": pa.array([float((p + v) % 2) for p, v in zip(profile, video, strict=True)], pa.float32()),
                "outcome_at": pa.array([minutes(m) for m in outcome], TIME),
            }
        )
        for number, name in enumerate(self.columns.labels or ()):
            table = table.append_column(name, pa.array([float(v + number) for v in video], pa.float32()))
        known = pc.less_equal(table["outcome_at"], pa.scalar(until, TIME))
        if since is not None:
            known = pc.and_(known, pc.greater(table["outcome_at"], pa.scalar(since, TIME)))
        return table.filter(known)

    def labels(self, since: datetime | None, until: datetime) -> Labels:
        labels_id = hashlib.sha256(f"{since} {until}".encode()).hexdigest()[:12]
        if find_labels(labels_id, self.project.storage) is None:
            self.made.append((since, until))
        return made_once(
            labels_id,
            self.project.storage,
            lambda: materialise_labels(
                self.table(since, until),
                self.columns,
                self.project.storage,
                labels_id=labels_id,
                named=False,
                buckets=2,
            ),
        )

    def day(self, day: int, model: FeatureModel = MODELS[0], run_id: str | None = None, **options: Any) -> FeatureSet:
        """Generate what was known when a day began."""
        content = options.pop("content", {"query": "all"})
        recompute = options.pop("recompute", False)
        policies = {"rules": {}, "confidence": {}, "index": self.project.index, **options}
        given = PartSettings(model=model, storage=self.project.storage, name="f", **policies)
        return generate_day(given, minutes(DAY * day), content, self.labels, run_id, recompute=recompute)

    def check(self, day: int, model: FeatureModel = MODELS[0], **options: Any) -> FeatureSet:
        """Generate a day, and compare with generating everything that was known then at once."""
        result = self.day(day, model, **options)
        labels = materialise_labels(self.table(None, minutes(DAY * day)), self.columns, self.project.storage, buckets=4)
        given = {name: value for name, value in options.items() if name in ("rules", "spread", "confidence")}
        expected = generate(labels, model, self.project.index, self.project.storage, "once", recompute=True, **given)
        assert result.digest == expected.digest
        assert (result.rows, result.item_count, result.dropped, result.absent, result.spread) == (
            expected.rows,
            expected.item_count,
            expected.dropped,
            expected.absent,
            expected.spread,
        )
        order = [("profile_id", "ascending"), ("time", "ascending")]
        tables = [each.to_arrow().sort_by(order) for each in (result, expected)]
        assert repr(tables[0].to_pylist()) == repr(tables[1].to_pylist())
        assert load_feature_set(self.project.storage, "f", result.version) == result
        parts = parts_of(result.lineage)
        assert [part.since for part in parts] == [None, *(part.until for part in parts[:-1])]
        return result


@pytest.fixture
def world(project: Project) -> World:
    return World(project)


def files(result: FeatureSet) -> set[str]:
    return {file.path for file in DeltaVersion.of(open_table(result.uri, result.version), result.uri).files}


def test_each_day_computes_what_became_known_and_keeps_the_files_of_the_days_before(world: World) -> None:
    before: set[str] = set()
    for day in (1, 2, 3, 5):
        result = world.check(day, leaks=LeakThresholds())
        assert before < files(result)
        before = files(result)
    assert world.made == [
        (None, minutes(DAY)),
        *((minutes(DAY * a), minutes(DAY * b)) for a, b in ((1, 2), (2, 3), (3, 5))),
    ]
    assert [part.version for part in parts_of(result.lineage)] == [0, 1, 2, 3]
    assert result.notes[-1] == "3 of 4 parts are those of version 2"
    with open_index(world.project.index.uri) as index:
        assert check_feature_set(result.uri, result.version, index).clean


def test_a_day_without_new_outcomes_has_what_the_day_before_had(world: World) -> None:
    first = world.check(6)
    again = world.check(8)
    assert (files(again), again.version) == (files(first), 1)
    assert again.notes == ("1 of 1 parts are those of version 0",)
    assert world.check(9).digest == first.digest
    assert world.made == [
        (None, minutes(6 * DAY)),
        *((minutes(6 * DAY), minutes(day * DAY)) for day in (8, 9)),  # what became known since the only part
    ]


def test_without_any_outcome_there_is_no_version(world: World) -> None:
    with pytest.raises(EmptyLabelsError):
        world.day(0)


def test_outcomes_that_are_late_belong_to_the_day_on_which_they_became_known(world: World) -> None:
    world.rows += [(p, 70 + p, 0, DAY + 200) for p in PROFILES]
    assert world.check(1).rows == 6
    result = world.check(2)
    assert (result.rows, len(parts_of(result.lineage))) == (18, 2)


def test_items_of_one_row_that_become_known_on_two_days_are_one_row(world: World) -> None:
    world.rows += [(2, 62, 7, 3 * DAY + 1)]
    for day in (1, 2, 3):
        world.check(day)
    result = world.check(4)
    assert "3 parts, from label data" in result.notes[-1]
    assert len(parts_of(result.lineage)) == 1
    assert len(parts_of(world.check(5).lineage)) == 2


def test_days_of_several_labels_and_kept_columns_add_up(world: World) -> None:
    columns = ("video_id",), ("profile_id",)
    world.columns = LabelColumns(*columns, labels=("seen", "liked"), weight="label", keep=("share",))
    table = world.table
    world.table = lambda *between: (found := table(*between)).append_column("share", found["profile_id"])
    for day in (1, 2, 3):
        result = world.check(day, leaks=LeakThresholds())
    assert result.labels == ("seen", "liked")
    assert result.copied == ""
    assert world.check(3, MODELS[1]).copied == "1 of 2 features copied from version 2"


def test_wider_rules_see_what_narrow_ones_did_not(world: World) -> None:
    narrow = {"history": AsOf(max_age=timedelta(minutes=5))}
    for day in (1, 2):
        world.check(day, rules=narrow)
    assert world.check(3).absent["history"] == 0


def test_days_out_of_order_give_what_days_in_order_give(world: World) -> None:
    for day in (3, 5, 1, 4, 2, 6):
        result = world.check(day)
        assert parts_of(result.lineage)[-1].until == minutes(DAY * day)
    assert len(parts_of(result.lineage)) == 3  # onto the fifth day, which is not the newest version


def test_changed_encoders_copy_the_features_of_the_others_in_every_part(world: World) -> None:
    for day in (1, 2, 3):
        world.check(day)
    shutil.rmtree(world.folder / "snapshots/mood/mood-0")
    result = world.day(3, MODELS[1])
    assert result.copied == "1 of 2 features copied from version 2"
    assert result.notes[-1] == "3 parts were computed anew: encoders, rules or limits changed"
    assert len(parts_of(world.day(4, MODELS[1]).lineage)) == 4


def test_changed_rules_labels_and_limits_compute_all_anew(world: World) -> None:
    world.check(2)
    world.check(3)
    rules = {"history": AsOf(max_age=timedelta(hours=9))}
    assert "rules or limits changed" in world.check(3, rules=rules).notes[-1]
    limited = world.check(4, rules=rules, spread=SpreadLimit(timedelta(minutes=1)))
    assert limited.dropped
    other = world.check(4, content={"query": "other"})
    assert other.notes == ("everything was computed anew: the query of the labels or its tables changed",)
    assert len(parts_of(other.lineage)) == 1


def test_parts_whose_sources_were_withdrawn_are_computed_anew(world: World) -> None:
    for day in (1, 2, 3):
        world.check(day, rules={name: AsOf(max_age=timedelta(hours=20)) for name in ("history", "mood")})
    world.project.index.withdraw_run("mood-1", "wrong", "me")
    rules = {name: AsOf(max_age=timedelta(hours=20)) for name in ("history", "mood")}
    result = world.check(4, rules=rules)
    assert result.notes[-1] == "1 of 3 parts were computed anew: their sources were withdrawn"
    world.project.index.withdraw_run("mood-5", "wrong", "me")  # no part has seen it
    assert world.check(5, rules=rules).notes[-1] == "4 of 5 parts are those of version 3"


def test_a_part_whose_label_data_is_gone_is_made_again(world: World) -> None:
    for day in (1, 2):
        result = world.check(day)
    shutil.rmtree(world.folder / "labels" / parts_of(result.lineage)[0].labels)
    world.check(2, MODELS[1])
    for path in files(result):
        (Path(result.uri.removeprefix("file://")) / path.rpartition("/f/")[2]).unlink()
    world.check(3, recompute=True)


@pytest.mark.parametrize("at", ["labels", "features"])
def test_a_run_that_died_gives_what_it_would_have_given_and_gives_it_once(
    world: World, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.day(1, run_id="one")

    def die(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        if at == "labels":
            patched.setattr(world, "labels", die)
        with pytest.raises(KilledError):
            world.day(2, run_id="two", progress=die if at == "features" else None)
    world.project.mood([((p,), DAY + 50, "late") for p in PROFILES], "mood-late")
    result = world.day(2, run_id="two")
    used = set(result.to_arrow()["mood_run_id"].to_pylist())
    assert ("mood-late" in used) == (at == "labels")  # it reads what it read when it began
    assert world.day(2, run_id="two") == result
    assert [each.version for each in versions_of(result.uri)] == [1, 0]
    with pytest.raises(ConfigError, match="began with other until"):
        world.day(3, run_id="two")


def test_jobs_at_the_same_time_give_what_they_would_give_one_after_the_other(world: World) -> None:
    world.day(1)

    def run(number: int) -> FeatureSet:
        with open_index(world.project.index.uri) as index:
            return world.day(2 + number % 2, run_id=f"run-{number % 4}", index=index)

    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(run, range(6)))
    assert len({each.version for each in made}) == 4
    for day in (2, 3):
        expected = world.check(day).digest
        assert {each.digest.keys for each in made[day - 2 :: 2]} == {expected.keys}
        assert all(each.digest == expected for each in made[day - 2 :: 2])


late = st.lists(
    st.tuples(st.sampled_from(PROFILES), st.integers(60, 5 * DAY), st.integers(0, 3), st.integers(1, 4 * DAY))
)


@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(late, st.lists(st.tuples(st.integers(1, 6), st.integers(0, 1), st.booleans()), min_size=2, max_size=4))
def test_any_order_of_days_edits_and_late_outcomes_gives_what_everything_at_once_gives(
    world: World, late: Sequence[tuple[int, int, int, int]], runs: Sequence[tuple[int, int, bool]]
) -> None:
    for folder in ("feature_sets", "labels"):
        with suppress(FileNotFoundError):
            shutil.rmtree(world.folder / folder)
    distinct = {(p, m, v): m + later for p, m, v, later in late}
    basis = World.__new__(World)
    basis.project, basis.made = world.project, []
    basis.rows = [row for row in world.rows if row[:3] not in distinct] + [(*key, at) for key, at in distinct.items()]
    for day, model, recompute in runs:
        basis.check(day, MODELS[model], recompute=recompute)


def test_a_commit_names_only_the_files_of_its_day(world: World) -> None:
    world.rows = [(1, DAY * d + 60, 0, DAY * d + 90) for d in range(6)]
    for day in range(1, 7):
        result = world.day(day)
        log = world.folder / f"feature_sets/f/_delta_log/{result.version:020}.json"
        assert (log.read_text().count('"add"'), log.read_text().count('"remove"')) == (1, 0)
    assert result.rows == 6
