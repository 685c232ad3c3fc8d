"""State of earlier and later types is read as the type that encoders declare; what is missing is counted."""

import dataclasses
import json

import msgspec
import pyarrow as pa
import pytest
from project_at_rest import PROFILE, long_labels, minutes

from delorean.audit.paradox import check_feature_set
from delorean.coverage import label_coverage
from delorean.display.text import to_text
from delorean.feature_sets.table import FeatureSet, load_feature_set
from delorean.generation import generate
from delorean.generation.bucket_task import first_data_maps
from delorean.generation.day import generate_day
from delorean.generation.generation_plan import plan_generation
from delorean.generation.parts import PartSettings
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from delorean.state.adaptations import AdaptedType
from delorean.state.sources import PinnedSources
from delorean.time_travel import TimeMachine
from encoders import FeatureModel, feature_encoder, lookup
from schemas.data_keys import global_element, service_element
from schemas.errors import EmptyLabelsError
from schemas.services import Service
from snapshotter.global_elements import publish_global

COLUMNS = LabelColumns(items=("video_id",))
FIRST = service_element("history", "list<struct<video_id: int32, watched: float>>")
SECOND = service_element(
    "history",
    "list<struct<video_id: int64, minutes: double, device: string, plays: int32>>",
    defaults={"plays": 1},
    aliases={"minutes": ["watched"]},
)
THIRD = service_element(
    "history",
    "list<struct<plays: int32, device: string, minutes: double, video_id: int64, at: date32>>",
    defaults={"at": "1985-10-26"},
)
OLD_VIDEOS = global_element("videos", "struct<video_id: int64, title: string>")
VIDEOS = global_element("videos", "struct<video_id: int64, year: int32>", defaults={"year": 1985})
DAYS = [0, 1440, 2880]


@feature_encoder(data=[SECOND, VIDEOS], features=["minutes", "plays", "with_device", "year"])
def watched(context, items, data, out):
    for i in range(len(items.video_id)):
        out.minutes[i] = 0.0
        out.plays[i] = 0.0
        out.with_device[i] = 0.0
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.minutes[i] += data.history.minutes[j]
                out.plays[i] += data.history.plays[j]
                if data.history.device[j] == "tv":
                    out.with_device[i] += 1.0
        row = lookup(data.videos, items.video_id[i])
        if row >= 0:
            out.year[i] = data.videos.year[row]


def history(*plays):
    return [dict(zip(("video_id", "minutes", "device", "plays", "at"), play, strict=False)) for play in plays]


def publish(project, element, rows, run):
    named = [
        (key, at, [{"watched" if element is FIRST and n == "minutes" else n: v for n, v in p.items()} for p in plays])
        for key, at, plays in rows
    ]
    project.publish(Service("history", element, (PROFILE,)), named, run, buckets=2)


@feature_encoder(data=[VIDEOS], features=["first_year"])
def first_year(context, items, data, out):
    for i in range(len(items.video_id)):
        out.first_year[i] = data.videos.year[0] if data.videos.present else 0.0


@pytest.fixture
def evolved(project):
    """A service that adds and renames fields on the second day, and reorders and adds more on the third."""
    first = [((p,), DAYS[0], history((p, 1.25), (9, None))) for p in range(1, 5)]
    second = [((p,), DAYS[1], history((p, 2.5, "tv", 3), (9, 0.1, None, 2))) for p in (1, 2)]
    third = [((1,), DAYS[2], history((1, 5.0, "tv", 7)))]
    publish(project, FIRST, first, "day-1")
    publish(project, SECOND, second, "day-2")
    publish(project, THIRD, [(k, a, [{**p, "at": None} for p in plays]) for k, a, plays in third], "day-3")
    titles = pa.table({"video_id": [1, 2], "title": ["Back", None]})
    publish_global(titles, OLD_VIDEOS, minutes(DAYS[0]), project.storage, project.index, "v1")
    years = pa.table({"video_id": [1, 2], "year": pa.array([1989, 1990], pa.int32())})
    publish_global(years, VIDEOS, minutes(DAYS[2]), project.storage, project.index, "v2")
    return project


def labels_of(project, days=DAYS, profiles=(1, 2, 3, 4)):
    rows = [(p, day + 5, video, 0) for p in profiles for day in days for video in (p, 9)]
    return materialise_labels(long_labels(rows), COLUMNS, project.storage, buckets=2)


def generated(project, labels, name="f", **options):
    return generate(labels, FeatureModel([watched]), project.index, project.storage, name, **options)


def rows_of(features):
    return (
        features.to_arrow()
        .select(["profile_id", "time", *features.features])
        .sort_by([("profile_id", "ascending"), ("time", "ascending")])
    )


def test_features_are_those_of_state_that_had_the_declared_type_all_along(evolved):
    features = rows_of(generated(evolved, labels_of(evolved)))
    watched_minutes = features["minutes"].to_pylist()
    assert str(watched_minutes[0]) == "[1.25, nan]"
    assert watched_minutes[1:3] == [[2.5, pytest.approx(0.1)], [5.0, 0.0]]
    assert features["plays"].to_pylist() == [
        *([1.0, 1.0], [3.0, 2.0], [7.0, 0.0]),
        *([1.0, 1.0], [3.0, 2.0], [3.0, 2.0]),
        *([[1.0, 1.0]] * 6),
    ]
    assert features["with_device"].to_pylist()[:3] == [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    assert [year[0] for year in features["year"].to_pylist()[:3]] == [1985.0, 1985.0, 1989.0]


def test_the_rows_with_a_default_are_counted_by_element_and_field_here_and_on_executors(evolved, spark):
    labels = labels_of(evolved)
    features = generated(evolved, labels)
    assert features.adapted == (
        AdaptedType("history", str(FIRST.type), ("device", "plays"), 8, "day-1"),
        AdaptedType("history", str(THIRD.type), (), 1, "day-3"),
        AdaptedType("videos", str(OLD_VIDEOS.type), ("year",), 8, "v1"),
    )
    assert "history.device: default in 8 of 12 rows, until day-1" in features.notes
    assert "videos.year: default in 8 of 12 rows, until v1" in features.notes
    assert any(note.startswith("history: 1 of 12 rows are served by another type, list<") for note in features.notes)
    assert load_feature_set(evolved.storage, "f").adapted == features.adapted
    assert features.lineage["adapted"][0]["defaulted"] == ("device", "plays")
    shown = to_text(features)
    assert "history.device" in shown
    assert "fields that are newer than the captures" in shown
    on_spark = generated(evolved, labels, "on_spark", spark=spark)
    assert (on_spark.digest, on_spark.adapted) == (features.digest, features.adapted)


def test_the_counts_of_copied_features_are_those_of_the_version_that_computed_them(evolved):
    labels, model = labels_of(evolved), FeatureModel([watched, first_year])
    generated(evolved, labels)
    copied = generate(labels, model, evolved.index, evolved.storage, "f")
    computed = generate(labels, model, evolved.index, evolved.storage, "g", recompute=True)
    assert copied.copied == "4 of 5 features copied from version 0"
    assert (copied.adapted, copied.notes) == (computed.adapted, computed.notes)
    only = generate(labels, FeatureModel([first_year]), evolved.index, evolved.storage, "f")
    assert [each.element for each in only.adapted] == ["videos"]


def test_the_counts_of_days_add_up_over_their_parts(evolved):
    days = {minutes(day + 60): (day,) for day in DAYS}
    settings = PartSettings(FeatureModel([watched]), evolved.index, evolved.storage, "f", {}, {})
    for until in (*days, minutes(DAYS[-1] + 90)):
        result = generate_day(settings, until, {}, lambda _, end: labels_of(evolved, known(days, end)))
    at_once = generated(evolved, labels_of(evolved), "g")
    assert set(result.adapted) == set(at_once.adapted)
    assert set(at_once.notes) < set(result.notes)
    assert result.notes[0] == "3 of 3 parts are those of version 2"
    assert load_feature_set(evolved.storage, "f").adapted == result.adapted
    assert len(result.lineage["adapted"]) == 3


def known(days, until):
    if until not in days:
        raise EmptyLabelsError("none")
    return days[until]


def test_a_generation_whose_types_are_equal_records_nothing_more_than_before(evolved):
    pinned = PinnedSources({"history": ["day-2"]}, {"videos": ["v2"]})
    features = generated(evolved, labels_of(evolved, [DAYS[1]], (1, 2)), pinned=pinned)
    assert features.adapted == ()
    assert "adapted" not in features.lineage
    assert not any("another type" in note for note in features.notes)


def test_the_record_of_an_earlier_release_is_read_without_adaptations(evolved):
    features = generated(evolved, labels_of(evolved))
    fields = json.loads(msgspec.json.encode(features))
    del fields["adapted"]
    assert msgspec.convert(fields, FeatureSet, strict=False) == dataclasses.replace(
        features, adapted=(), lineage=fields["lineage"]
    )


def test_golden_rows_and_replays_read_the_same_values(evolved):
    labels = labels_of(evolved)
    features = generated(evolved, labels)
    pinned = PinnedSources(features.lineage["snapshots"], features.lineage["globals"])
    assert generated(evolved, labels, "again", pinned=pinned).digest == features.digest
    plan = plan_generation(labels, FeatureModel([watched]), evolved.index, evolved.storage.uri)
    maps = first_data_maps(plan, 100)
    assert maps.elements["history"].values.type == SECOND.type
    assert {play["plays"] for values in maps.elements["history"].values.to_pylist() for play in values} >= {1, 3}
    assert plan.services[0].service.element == THIRD
    report = check_feature_set(features.uri, features.version, evolved.index)
    assert report.clean, report


def test_travel_reads_older_captures_as_the_type_of_the_moment(evolved):
    machine = TimeMachine(evolved.index, evolved.storage)
    second = machine.at(minutes(DAYS[1] + 1))["history"].to_arrow()
    assert second["history"].type == SECOND.type
    assert second["run_id"].to_pylist() == ["day-2", "day-2", "day-1", "day-1"]
    assert second["history"].to_pylist()[2] == [
        {"video_id": 3, "minutes": 1.25, "device": None, "plays": 1},
        {"video_id": 9, "minutes": None, "device": None, "plays": 1},
    ]
    first = machine.at(minutes(DAYS[0] + 1))["history"].to_arrow()
    assert first["history"].type == FIRST.type
    # On the third day the service declares no default for `plays`, so what it captured on the first cannot be read so.
    third = machine.at(minutes(DAYS[2] + 1))["history"].to_arrow()
    assert third["run_id"].to_pylist() == ["day-3", "day-2"]


def test_coverage_finds_what_generation_reads(evolved):
    labels = labels_of(evolved)
    found = label_coverage(labels, evolved.index, evolved.storage, elements=[SECOND, VIDEOS])
    assert [dict(cell.absent) for cell in found.elements] == [{}, {}]
    narrow = label_coverage(labels, evolved.index, evolved.storage, elements=[dataclasses.replace(SECOND, defaults={})])
    assert dict(narrow.elements[0].absent) == {"of another type": 8}


def test_versions_are_read_once_for_each_declaration_of_their_element(evolved):
    """What workers share is named by the element too: another default gives other values."""
    labels = labels_of(evolved, [DAYS[0]], (1,))
    later = dataclasses.replace(VIDEOS, defaults={"year": 2015})

    @feature_encoder(data=[later], features=["year"])
    def year(context, items, data, out):
        for i in range(len(items.video_id)):
            row = lookup(data.videos, items.video_id[i])
            if row >= 0:
                out.year[i] = data.videos.year[row]

    first = generated(evolved, labels).to_arrow()["year"].to_pylist()
    second = generate(labels, FeatureModel([year]), evolved.index, evolved.storage, "g").to_arrow()["year"].to_pylist()
    assert (first[0][0], second[0][0]) == (1985.0, 2015.0)
