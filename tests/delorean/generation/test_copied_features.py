"""Features copied from an earlier version: always what computing everything gives, and only what is new is read."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import HISTORY, MOOD, START, Project, long_labels

from delorean.feature_sets.table import FeatureSet, load_feature_set
from delorean.generation import generate
from delorean.labels import LabelColumns, Labels
from delorean.labels.materialise import materialise_labels
from delorean.leaks import LeakThresholds
from delorean.state.rules import AsOf, ConfidenceFloor, SpreadLimit
from encoders import FeatureModel, feature_encoder, lookup
from schemas.data_keys import global_element
from schemas.errors import MissingFileError
from snapshotter.global_elements import publish_global

PROFILES = range(12)
VIDEOS = global_element("videos", "struct<video_id: int64, year: int32>")


@feature_encoder(data=[HISTORY], features=["minutes_watched", "entries"])
def watched(context: Any, items: Any, data: Any, out: Any, *, factor: float = 1.0) -> None:
    """Minutes of the item, and whatever was watched."""
    for i in range(len(items.video_id)):
        out.entries[i] = len(data.history.video_id)
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.minutes_watched[i] = factor * data.history.minutes[j]


@feature_encoder(data=[MOOD], features=["mood_known"])
def mood_known(context: Any, items: Any, data: Any, out: Any, *, value: float = 1.0) -> None:
    """Whether the mood is known."""
    for i in range(len(items.video_id)):
        out.mood_known[i] = value if data.mood.present else 0.0


@feature_encoder(data=[HISTORY, MOOD], features=["both"])
def both(context: Any, items: Any, data: Any, out: Any) -> None:
    """Of two services."""
    for i in range(len(items.video_id)):
        if data.history.present and data.mood.present:
            out.both[i] = len(data.history.video_id) + i


@feature_encoder(data=[VIDEOS], features=["year"])
def year(context: Any, items: Any, data: Any, out: Any) -> None:
    """Of a global element."""
    for i in range(len(items.video_id)):
        row = lookup(data.videos, items.video_id[i])
        if row >= 0:
            out.year[i] = data.videos.year[row]


@feature_encoder(features=["hour"])
def hour(context: Any, items: Any, data: Any, out: Any) -> None:
    """Of no element."""
    for i in range(len(items.video_id)):
        out.hour[i] = context.time // 3_600_000_000 % 24


ENCODERS = (
    watched,
    watched.configured(factor=2.0),
    mood_known,
    mood_known.configured(value=3.0),
    mood_known.configured(rename={"mood_known": "known"}),
    both,
    year,
    hour,
)
SEVERAL = FeatureModel([watched, mood_known, year, hour])


class World:
    """A project with two services, two runs of each of different confidence, versions of videos, and label data."""

    def __init__(self, project: Project) -> None:
        self.project = project
        for run, at in enumerate((5, 25)):
            history = [((p,), at, [{"video_id": p % 3, "minutes": float(p + at)}]) for p in PROFILES if p % 5 != run]
            project.history(history, f"history-{run}", 4, failed=6 * run)
            mood = [((p,), at + p % 4, "good") for p in PROFILES if p % 3 != run]
            project.mood(mood, f"mood-{run}", 2)
            videos = pa.table({"video_id": [0, 1], "year": pa.array([1990 + run, 2000], pa.int32())})
            moment = START + timedelta(minutes=at)
            publish_global(videos, VIDEOS, moment, project.storage, project.index, f"v{run}")
        rows = [(p, m, v, (p + v) % 2) for p in PROFILES for m in (3, 15, 40) for v in range(1 + p % 3)]
        self.labels = materialise_labels(long_labels(rows), LabelColumns(("video_id",)), project.storage, buckets=4)

    def generate(
        self, model: Any = SEVERAL, name: str = "f", labels: Labels | None = None, **options: Any
    ) -> FeatureSet:
        return generate(labels or self.labels, model, self.project.index, self.project.storage, name, **options)

    def check(self, model: Any = SEVERAL, labels: Labels | None = None, name: str = "f", **options: Any) -> FeatureSet:
        """Generate, and compare with what computing everything under another name gives."""
        result = self.generate(model, name, labels, **options)
        expected = self.generate(model, "expected", labels, recompute=True, **options)
        assert not expected.copied
        assert result.to_arrow().schema.equals(expected.to_arrow().schema)
        assert repr(result.to_arrow().to_pylist()) == repr(expected.to_arrow().to_pylist())  # of NaN too
        apart = {"uri", "version", "lineage", "seconds", "notes"}
        assert {k: v for k, v in vars(result).items() if k not in apart} == {
            k: v for k, v in vars(expected).items() if k not in apart
        }
        assert {k: v for k, v in result.lineage.items() if k != "copied"} == expected.lineage
        return result

    def files(self, name: str = "f") -> list[Path]:
        """The files of the newest version."""
        root = Path(self.project.storage.uri.removeprefix("file://"))
        folders = {path.parent for path in root.glob(f"feature_sets/{name}/*/*.parquet")}
        newest = max(folders, key=lambda folder: folder.stat().st_mtime_ns)
        return sorted(newest.glob("*.parquet"))


@pytest.fixture
def world(project: Project) -> World:
    return World(project)


def test_only_the_features_of_new_encoders_are_computed_and_only_their_state_is_read(world: World) -> None:
    first = world.generate()
    assert (first.copied, "copied" in first.lineage) == ("", False)
    for file in Path(world.project.storage.uri.removeprefix("file://")).glob("snapshots/history/*/*"):
        file.unlink()
    changed = FeatureModel([watched, mood_known.configured(value=2.0), year, hour])
    again = world.generate(changed)
    assert again.copied == "4 of 5 features copied from version 0"
    assert again.lineage["copied"] == {"version": 0, "features": ["minutes_watched", "entries", "year", "hour"]}
    assert load_feature_set(world.project.storage, "f") == again
    with pytest.raises(MissingFileError):
        world.generate(changed, recompute=True)


edits = st.lists(st.sets(st.integers(0, len(ENCODERS) - 1), min_size=1), min_size=2, max_size=3)
limits = st.sampled_from(
    [None, *(SpreadLimit(timedelta(minutes=m), beyond) for m in (1, 2, 60) for beyond in ("drop", "null"))]
)
settings_of = st.fixed_dictionaries(
    {
        "spread": limits,
        "rules": st.sampled_from([{}, {"history": AsOf(max_age=timedelta(minutes=20))}]),
        "confidence": st.sampled_from(
            [{}, *({"history": ConfidenceFloor(0.8, below)} for below in ("skip", "previous"))]
        ),
    }
)


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(edits, st.lists(settings_of, min_size=1, max_size=4), st.booleans())
def test_any_sequence_of_edits_gives_what_computing_everything_gives(
    world: World, models: list[set[int]], options: list[dict[str, Any]], one_policy: bool
) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(Path(world.project.storage.uri.removeprefix("file://")) / "feature_sets")
    for number, chosen in enumerate(models):
        writers = {name: at for at in sorted(chosen) for name in ENCODERS[at].features}
        encoders = [ENCODERS[at] for at in dict.fromkeys(writers.values())]
        model = FeatureModel(encoders)
        these = options[0 if one_policy else number % len(options)]
        known = {
            what: {k: v for k, v in these[what].items() if k in model.elements} for what in ("rules", "confidence")
        }
        world.check(model, spread=these["spread"], leaks=LeakThresholds(), **known)


def test_rows_that_were_dropped_stay_dropped_and_nulls_stay_null(world: World) -> None:
    for beyond in ("drop", "null"):
        spread = SpreadLimit(timedelta(minutes=1), beyond)
        first = world.check(FeatureModel([watched, mood_known]), spread=spread)
        assert first.spread.beyond
        again = world.check(FeatureModel([watched, mood_known.configured(value=4.0), both]), spread=spread)
        assert again.copied == "2 of 4 features copied from version " + str(first.version)
    # Without an element other rows lie beyond the limit, so nothing can be copied.
    assert world.check(FeatureModel([watched, year]), spread=spread).copied == ""


def test_a_limit_that_rows_exceed_only_now_makes_their_buckets_be_computed(world: World) -> None:
    first = world.check(spread=SpreadLimit(timedelta(hours=9)))
    again = world.check(spread=SpreadLimit(timedelta(minutes=1)))
    assert first.dropped < again.dropped
    assert f"computed whole, not copied from version {first.version}: rows lie beyond the spread" in again.notes[-1]


def test_provenance_of_elements_leaves_and_arrives(world: World) -> None:
    world.check(FeatureModel([watched, year]))
    assert world.check(FeatureModel([watched, mood_known])).copied == "2 of 3 features copied from version 0"
    only = world.check(FeatureModel([watched]))
    assert only.copied == "2 of 2 features copied from version 1"
    assert [name for name in only.to_arrow().column_names if name.endswith(("_at", "_id"))] == [
        "profile_id",
        "outcome_at",
        "video_id",
        "history_captured_at",
        "history_run_id",
        "latest_input_at",
    ]
    assert world.check(FeatureModel([hour])).copied == ""


def test_other_sources_rules_label_data_or_parameters_are_never_copied(world: World) -> None:
    world.check()
    assert world.check(rules={"history": AsOf(lag=timedelta(minutes=9))}).copied.startswith("3 of 5")
    world.project.history([((p,), 35, []) for p in PROFILES], "later")
    assert world.check().copied.startswith("3 of 5")
    other = materialise_labels(
        long_labels([(p, 41, v, 1.0) for p in PROFILES for v in range(2)]),
        LabelColumns(("video_id",)),
        world.project.storage,
        buckets=4,
    )
    assert world.check(labels=other).copied == ""
    assert world.check().copied == "5 of 5 features copied from version 2"  # not of the newest, of another label data
    assert world.check(FeatureModel([watched.configured(factor=9.0)])).copied == ""


@pytest.mark.parametrize("names", [(), ("seen", "liked")])
def test_label_data_with_several_labels_or_none_is_copied_too(world: World, names: tuple[str, ...]) -> None:
    rows = [(p, m, v, (p + v) % 2) for p in PROFILES for m in (15, 40) for v in range(1 + p % 3)]
    table = long_labels(rows)
    table = table.append_column("seen", table["label"]).append_column("liked", pa.array([v / 2 for *_, v in rows]))
    table = table.append_column("kept", pa.array([str(p) for p, *_ in rows])).append_column("share", table["video_id"])
    columns = LabelColumns(("video_id",), ("profile_id",), labels=names, weight="share", keep=("kept",))
    labels = materialise_labels(table, columns, world.project.storage, buckets=4)
    world.check(labels=labels, leaks=LeakThresholds())
    changed = FeatureModel([watched, mood_known.configured(value=2.0), year, hour])
    again = world.check(changed, labels, leaks=LeakThresholds())
    assert (again.copied, again.labels) == ("4 of 5 features copied from version 0", names)


@pytest.mark.parametrize("harm", ["missing", "truncated", "other bytes", "another file"])
def test_a_file_that_is_not_what_was_published_is_never_copied(world: World, harm: str) -> None:
    world.generate()
    files = world.files()
    if harm == "missing":
        files[1].unlink()
    elif harm == "truncated":
        files[1].write_bytes(files[1].read_bytes()[:-30])
    elif harm == "other bytes":
        content = bytearray(files[1].read_bytes())
        content[40] ^= 1
        files[1].write_bytes(content)
    else:
        files[1].write_bytes(files[0].read_bytes())
    result = world.check(FeatureModel([watched, mood_known.configured(value=2.0), year, hour]))
    assert result.copied == "4 of 5 features copied from version 0"
    assert result.notes[-1].startswith("1 of 4 buckets were computed whole, not copied from version 0: '")


def test_a_version_whose_files_are_gone_is_not_searched_further(world: World) -> None:
    world.generate()
    for file in world.files():
        file.unlink()
    assert world.check().copied == ""
    assert world.check().copied == "5 of 5 features copied from version 1"


def test_records_of_earlier_releases_are_readable_and_not_copied_from(world: World) -> None:
    first = world.generate()
    log = Path(first.uri.removeprefix("file://")) / "_delta_log" / "00000000000000000000.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "commitInfo" in action:
            record = json.loads(action["commitInfo"]["delorean.made"])
            assert set(record) == {"feature_set", "wanted", "computation", "parts"}
            action["commitInfo"]["delorean.made"] = json.dumps({k: record[k] for k in ("feature_set", "wanted")})
    log.write_text("\n".join(json.dumps(action) for action in actions))
    assert load_feature_set(world.project.storage, "f") == first
    assert world.check().copied == ""


def test_other_readers_read_files_with_copied_columns(world: World) -> None:
    world.generate()
    result = world.generate(FeatureModel([hour, watched, both]))
    files = [str(file) for file in world.files()]
    rows = result.to_arrow().sort_by([("profile_id", "ascending"), ("time", "ascending")])
    other = pl.read_parquet(files).sort("profile_id", "time").to_arrow().cast(rows.schema)
    assert repr(other.to_pylist()) == repr(rows.to_pylist())
    (counted,) = duckdb.sql(f"SELECT count(*), count(history_run_id) FROM read_parquet({files})").fetchall()
    assert counted == (rows.num_rows, rows.num_rows - rows["history_run_id"].null_count)
