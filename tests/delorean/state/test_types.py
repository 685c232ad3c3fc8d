"""An element whose type changes: each row meets the type of its own time, and no other can stand in its way."""

from datetime import timedelta

import pyarrow as pa
import pytest
from project_at_rest import PROFILE, long_labels, minutes

from delorean.coverage import day_coverage, label_coverage
from delorean.generation import generate
from delorean.generation.preview import preview_features
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from delorean.state.rules import AsOf
from delorean.state.sources import PinnedSources
from delorean.time_travel import TimeMachine
from encoders import FeatureModel, feature_encoder, lookup
from schemas.data_keys import global_element, service_element
from schemas.errors import DataKeyError
from schemas.services import Service
from snapshotter.global_elements import publish_global

COLUMNS = LabelColumns(items=("video_id",))
OLD = global_element("videos", "struct<video_id: int64, year: int64>")
NEW = global_element("videos", "struct<video_id: int64, year: double, genre: string>")
MOOD = service_element("mood", "string")
MOODS = service_element("mood", "list<string>")
JANUARY, FEBRUARY = 10, 40000


@feature_encoder(data=[OLD], features=["year"])
def old_year(context, items, data, out):
    for i in range(len(items.video_id)):
        row = lookup(data.videos, items.video_id[i])
        if row >= 0:
            out.year[i] = data.videos.year[row]


@feature_encoder(data=[NEW], features=["year"])
def new_year(context, items, data, out):
    for i in range(len(items.video_id)):
        place = lookup(data.videos, items.video_id[i])
        if place >= 0:
            out.year[i] = data.videos.year[place]


@feature_encoder(data=[MOOD], features=["known"])
def mood_known(context, items, data, out):
    for i in range(len(items.video_id)):
        out.known[i] = 1.0 if data.mood.present else 0.0


@feature_encoder(data=[MOODS], features=["known"])
def moods_known(context, items, data, out):
    for i in range(len(items.video_id)):
        out.known[i] = 2.0 if data.mood.present else 0.0


@pytest.fixture
def changed(project):
    """A global element and a service's, both of another type from February on, and the first of a third in March."""
    old = pa.table({"video_id": [1], "year": [1985]})
    new = pa.table({"video_id": [1], "year": [1985.5], "genre": ["comedy"]})
    third = global_element("videos", "struct<video_id: int64>")
    for table, element, at, version in (
        (old, OLD, 0, "v1"),
        (new, NEW, FEBRUARY, "v2"),
        (pa.table({"video_id": [1]}), third, 3 * FEBRUARY, "v3"),
    ):
        publish_global(table, element, minutes(at), project.storage, project.index, version)
    project.publish(Service("mood", MOOD, (PROFILE,)), [((1,), 0, "glad"), ((2,), 0, "sad")], "run-1")
    project.publish(Service("mood", MOODS, (PROFILE,)), [((1,), FEBRUARY, ["glad"])], "run-2")
    return project


def made(project, encoder, at, pinned=None, rules=None, profiles=(1,)):
    rows = long_labels([(profile, minute, 1, 1) for profile in profiles for minute in at])
    labels = materialise_labels(rows, COLUMNS, project.storage, buckets=2)
    options = {"pinned": pinned, "rules": rules}
    result = generate(labels, FeatureModel([encoder]), project.index, project.storage, "f", **options)
    return result.to_arrow().sort_by("time")[encoder.features[0]].combine_chunks().flatten().to_pylist()


def test_rows_are_made_by_encoders_of_the_type_that_they_see(changed):
    assert made(changed, old_year, [JANUARY]) == [1985.0]
    assert made(changed, new_year, [FEBRUARY, FEBRUARY + 5]) == [1985.5, 1985.5]
    assert made(changed, mood_known, [JANUARY]) == [1.0]
    assert made(changed, moods_known, [FEBRUARY]) == [2.0]


def test_rows_pinned_to_what_they_read_are_made_whatever_was_published_since(changed):
    assert made(changed, old_year, [JANUARY], PinnedSources({}, {"videos": ["v1"]})) == [1985.0]
    assert made(changed, mood_known, [JANUARY], PinnedSources({"mood": ["run-1"]}, {})) == [1.0]


def test_a_version_between_that_no_row_sees_is_no_matter(changed):
    again = pa.table({"video_id": [1], "year": [1990]})
    publish_global(again, OLD, minutes(2 * FEBRUARY), changed.storage, changed.index, "again")
    assert made(changed, old_year, [JANUARY, 2 * FEBRUARY]) == [1985.0, 1990.0]
    with pytest.raises(DataKeyError, match="version 'v2' serves rows, but 'videos' has struct<"):
        made(changed, old_year, [JANUARY, FEBRUARY, 2 * FEBRUARY])


def test_a_version_of_another_type_that_a_row_sees_is_refused_by_name(changed):
    with pytest.raises(DataKeyError, match="version 'v2' serves rows, but 'videos' has struct<"):
        made(changed, old_year, [FEBRUARY])
    with pytest.raises(DataKeyError, match="version 'v1' serves rows, but 'videos' has struct<"):
        made(changed, new_year, [JANUARY])
    with pytest.raises(DataKeyError, match="run 'run-2' serves rows, .* new element 'mood@2'"):
        made(changed, mood_known, [JANUARY, FEBRUARY])


def test_a_version_too_old_for_a_row_is_not_seen(changed):
    fresh = {"videos": AsOf(max_age=timedelta(minutes=5))}
    assert str(made(changed, old_year, [FEBRUARY - 1], rules=fresh)) == "[nan]"
    assert str(made(changed, new_year, [FEBRUARY - 1, FEBRUARY], rules=fresh)) == "[nan, 1985.5]"


def test_a_preview_sees_the_types_of_its_rows(changed):
    rows = pa.table({"profile_id": [1], "time": [minutes(JANUARY)], "video_id": [1]})
    columns = LabelColumns(items=("video_id",))
    table = preview_features(rows, [old_year, mood_known], changed.index, changed.storage, columns)
    assert (table["year"].to_pylist(), table["known"].to_pylist()) == ([[1985.0]], [[1.0]])


def test_travel_shows_each_moment_in_the_type_of_then(changed):
    machine = TimeMachine(changed.index, changed.storage)
    january, february = machine.at(minutes(JANUARY)), machine.at(minutes(FEBRUARY))
    assert january["videos"].to_arrow().column_names == ["video_id", "year"]
    assert february["videos"].to_arrow().column_names == ["video_id", "year", "genre"]
    assert january["mood"].to_arrow()["mood"].to_pylist() == ["glad", "sad"]
    assert february["mood"].to_arrow()["mood"].to_pylist() == [["glad"]]
    assert february.keys() == ["mood", "videos"]


def test_coverage_counts_rows_of_another_type_as_such(changed):
    rows = long_labels([(p, at, 1, 1) for p in (1, 2) for at in (JANUARY, FEBRUARY)]).select(["profile_id", "time"])
    for elements, absent in (
        (["mood", "videos"], [{}, {}]),
        ([MOOD, OLD], [{"of another type": 1}, {"of another type": 2}]),
        ([MOODS, NEW], [{"of another type": 3}, {"of another type": 2}]),
    ):
        coverage = label_coverage(rows, changed.index, changed.storage, elements=elements)
        assert [dict(cell.absent) for cell in coverage.elements] == absent


def test_coverage_of_days_goes_on_over_the_change(changed):
    day = minutes(FEBRUARY).date()
    cells = day_coverage(changed.index, changed.storage, first=day, last=day).cells
    assert {cell.element: cell.runs for cell in cells}["videos"] == {"v2": 1}
