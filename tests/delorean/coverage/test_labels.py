"""What labels would find: against a scan of everything, and against what generation then finds."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import COUNTRY, HISTORY, MOOD, PROFILE, Project, long_labels, minutes

from delorean.coverage import label_coverage
from delorean.display.html import to_html, to_page
from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from delorean.state.rules import AsOf, ConfidenceFloor, SpreadLimit
from encoders import FeatureModel, feature_encoder
from schemas.data_keys import global_element, service_element
from schemas.errors import ConfigError, DataKeyError, LabelError, NaiveTimeError
from schemas.services import Service
from schemas.tables import TIME
from snapshotter.global_elements import publish_global
from snapshotter.index import open_index
from snapshotter.storage import open_storage

STEP = 360  # minutes: four to a day
COLUMNS = LabelColumns(items=("video_id",))
CHARTS = service_element("charts", "list<int64>")
VIDEOS = global_element("videos", "struct<video_id: int64, year: int32>")
SERVICES = {
    "history": Service("history", HISTORY, (PROFILE,)),
    "mood": Service("mood", MOOD, (PROFILE,)),
    "charts": Service("charts", CHARTS, (COUNTRY,)),
}
VALUES = {"history": [], "mood": "glad", "charts": [1]}


@feature_encoder(data=[HISTORY, VIDEOS], features=["a"], compiled=False)
def of_history(context, items, data, out):
    out.a[0] = 1.0


@feature_encoder(data=[CHARTS], features=["b"], compiled=False)
def of_charts(context, items, data, out):
    out.b[0] = 1.0


@feature_encoder(data=[MOOD], features=["c"], compiled=False)
def of_mood(context, items, data, out):
    out.c[0] = 1.0


MODEL = FeatureModel([of_history, of_charts, of_mood])


@pytest.fixture(autouse=True)
def short_pages(monkeypatch):
    """List one older snapshot first, so that rows often need more."""
    monkeypatch.setattr("delorean.state.snapshot_pages.FIRST_PAGE", 1)


def country_of(profile):
    return "US" if profile % 2 else "BR"


def key_of(element, profile):
    return (country_of(profile) if element == "charts" else profile,)


def publish(project, captures, versions=()):
    """Publish runs of (element, [(profile, step)], keys that failed, buckets), and versions, in their order."""
    for number, (element, rows, failed, buckets) in enumerate(captures):
        taken = [(key_of(element, profile), at * STEP, VALUES[element]) for profile, at in rows]
        project.publish(SERVICES[element], taken, f"run-{number}", buckets, failed=failed)
    for number, at in enumerate(versions):
        table = pa.table({"video_id": [1], "year": pa.array([1985], pa.int32())})
        publish_global(table, VIDEOS, minutes(at * STEP), project.storage, project.index, f"v{number}")


def label_table(rows):
    """Label rows of (profile, step)."""
    table = long_labels([(profile, at * STEP, 0, 1) for profile, at in rows])
    return table.append_column("country", pa.array([country_of(profile) for profile, _ in rows]))


def look(element, profile, now, captures, rule, floor):
    """Scan everything for one row: (when it was captured, by which run), or why it is absent."""
    age, lag, exact = rule
    by_then, fresh, served, at_all = False, False, None, False
    for number, (name, rows, failed, _) in enumerate(captures):
        for owner, at in rows:
            if name != element or key_of(element, owner) != key_of(element, profile):
                continue
            at_all = True
            if at > now - lag or (at == now - lag and not exact):
                continue
            by_then = True
            if age is not None and at < now - age:
                continue
            fresh = True
            trusted = floor is None or len(rows) / (len(rows) + failed) >= floor.floor
            if trusted or floor.below != "previous":
                served = max(served or (at, number, trusted), (at, number, trusted))
    if served:
        return served[:2] if served[2] else "below the floor"
    if fresh:
        return "below the floor"
    return "too old" if by_then else "only captured later" if at_all else "never captured"


def quantile(seconds, share):
    return float(np.quantile(seconds, share, method="inverted_cdf"))


def check_spans(spans, seconds):
    """Quantiles are never too short and hardly too long."""
    if not seconds:
        assert (spans.median, spans.p95, spans.longest) == (None, None, None)
        return
    for found, share in ((spans.median, 0.5), (spans.p95, 0.95)):
        assert quantile(seconds, share) <= found <= quantile(seconds, share) * (1 + 1 / 128)
    assert spans.longest == max(seconds)


def check_cell(cell, looked, confidence):
    """Compare a cell with what a scan found: rows of (now, what was found)."""
    served = [(now, found) for now, found in looked if not isinstance(found, str)]
    assert (cell.rows, cell.found) == (len(looked), len(served))
    assert cell.absent == Counter(found for _, found in looked if isinstance(found, str))
    assert cell.runs == Counter(f"run-{number}" for _, (_, number) in served)
    used = [confidence[number] for _, (_, number) in served]
    assert cell.lowest_confidence == min(used, default=None)
    assert cell.mean_confidence == (pytest.approx(sum(used) / len(used)) if used else None)
    check_spans(cell.age, [(now - at) * STEP * 60.0 for now, (at, _) in served])


captures = st.lists(
    st.tuples(
        st.sampled_from(sorted(SERVICES)),
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), min_size=1, max_size=8, unique=True),
        st.integers(0, 4),
        st.sampled_from([1, 2, 4]),
    ),
    max_size=8,
).map(lambda runs: [(name, [(7 + (name == "charts"), 20)], 0, 1) for name in SERVICES] + runs)  # each was captured once
label_rows = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 14)), min_size=1, max_size=12, unique=True)
POLICIES = ["previous", "skip", "fail"]
rules = st.tuples(st.none() | st.integers(2, 8), st.integers(0, 2), st.booleans())


def as_of(rule):
    age, lag, exact = rule
    return AsOf(None if age is None else age * timedelta(minutes=STEP), lag * timedelta(minutes=STEP), exact)


def opened(folder, captures, versions=()):
    index = open_index(f"sqlite://{folder}/index.db")
    project = Project(open_storage(f"file://{folder}/store"), index)
    publish(project, captures, versions)
    return project


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    captures=captures,
    rows=label_rows,
    buckets=st.sampled_from([1, 2, 8]),
    rule=rules,
    floor=st.none() | st.builds(ConfidenceFloor, st.sampled_from([0.5, 0.75, 1.0]), st.sampled_from(POLICIES)),
)
def test_each_row_is_counted_as_a_scan_of_everything_counts_it(captures, rows, buckets, rule, floor, tmp_path_factory):
    project = opened(tmp_path_factory.mktemp("project"), captures)
    with project.index:
        labels = materialise_labels(label_table(rows), COLUMNS, project.storage, buckets=buckets)
        given = {"elements": sorted(SERVICES), "rules": dict.fromkeys(SERVICES, as_of(rule))}
        given["confidence"] = dict.fromkeys(SERVICES if floor else (), floor)
        coverage = label_coverage(labels, project.index, project.storage, **given)
        frame = label_table(rows).select(["time", "profile_id", "country"])
        assert label_coverage(pl.from_arrow(frame), project.index, project.storage, **given) == coverage
    looked = {
        name: [(now, look(name, profile, now, captures, rule, floor)) for profile, now in rows] for name in SERVICES
    }
    confidence = [len(taken) / (len(taken) + failed) for _, taken, failed, _ in captures]
    assert coverage.rows == len(rows)
    for cell in coverage.elements:
        check_cell(cell, looked[cell.element], confidence)
    for cell in coverage.by_day:
        of_day = [(now, found) for now, found in looked[cell.element] if minutes(now * STEP).date() == cell.day]
        assert of_day
        check_cell(cell, of_day, confidence)
    together = [[found for _, found in row if not isinstance(found, str)] for row in zip(*looked.values(), strict=True)]
    assert coverage.complete == sum(len(found) == 3 for found in together)
    spread = [max(at for at, _ in found) - min(at for at, _ in found) for found in together if found]
    check_spans(coverage.spread, [steps * STEP * 60.0 for steps in spread])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    captures=captures,
    versions=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    rows=label_rows,
    buckets=st.sampled_from([1, 8]),
    rule=rules,
    floor=st.none() | st.builds(ConfidenceFloor, st.sampled_from([0.5, 0.75]), st.sampled_from(POLICIES[:2])),
    as_published=st.booleans(),
)
def test_generation_then_finds_exactly_that(
    captures, versions, rows, buckets, rule, floor, as_published, tmp_path_factory
):
    project = opened(tmp_path_factory.mktemp("project"), captures, versions)
    rules = dict.fromkeys(MODEL.elements, as_of(rule))
    rules["videos"] = replace(rules["videos"], as_published=as_published)
    given = {"rules": rules, "confidence": dict.fromkeys(SERVICES if floor else (), floor)}
    with project.index:
        labels = materialise_labels(label_table(rows), COLUMNS, project.storage, buckets=buckets)
        limit = SpreadLimit(timedelta(minutes=2), "null")
        elements = MODEL.elements.values()
        coverage = label_coverage(labels, project.index, project.storage, elements=elements, spread=limit, **given)
        made = generate(labels, MODEL, project.index, project.storage, "f", spread=limit, **given)
    table = made.to_arrow()
    times = table["time"].cast(pa.int64()).to_numpy()
    for cell in coverage.elements:
        captured = table[f"{cell.element}_captured_at"]
        there = captured.is_valid().to_numpy()
        assert (cell.found, cell.rows - cell.found) == (there.sum(), made.absent[cell.element])
        ages = (times - pc.fill_null(captured.cast(pa.int64()), 0).to_numpy())[there] / 1e6
        check_spans(cell.age, ages.tolist())
        served_by = table[f"{cell.element}_{'run_id' if cell.service else 'version_id'}"]
        assert cell.runs == Counter(served_by.drop_null().to_pylist())
    check_spans(coverage.spread, table["spread_seconds"].drop_null().to_pylist())
    assert coverage.torn == made.spread.beyond
    complete = np.all([table[f"{name}_captured_at"].is_valid().to_numpy() for name in MODEL.elements], axis=0)
    assert coverage.complete == complete.sum()


@pytest.fixture
def small(project):
    """Two runs of histories, the second with failures; one of charts; a version of the videos."""
    publish(
        project,
        [
            ("history", [(1, 0), (2, 0)], 0, 2),
            ("history", [(1, 4)], 1, 4),
            ("charts", [(1, 5)], 0, 1),
        ],
        [4],
    )
    return project


def small_coverage(project, rows=((1, 6), (2, 6), (3, 6)), **given):
    return label_coverage(label_table(list(rows)), project.index, project.storage, **given)


def test_without_names_every_element_counts_that_the_context_has_the_key_of(small):
    assert [cell.element for cell in small_coverage(small).elements] == ["charts", "history", "videos"]
    by_profile = label_table([(1, 6)]).drop_columns("country")
    coverage = label_coverage(by_profile, small.index, small.storage)
    assert [cell.element for cell in coverage.elements] == ["history", "videos"]
    with pytest.raises(DataKeyError, match="service 'charts' is keyed by 'country'"):
        label_coverage(by_profile, small.index, small.storage, elements=["charts"])


FLOOR = {"history": ConfidenceFloor(0.6)}


def test_a_run_below_the_floor_leaves_its_rows_to_the_run_before(small):
    [trusting] = small_coverage(small, elements=["history"]).elements
    assert trusting.runs == {"run-0": 1, "run-1": 1}
    assert (trusting.lowest_confidence, trusting.mean_confidence) == (0.5, 0.75)
    [strict] = small_coverage(small, elements=["history"], confidence=FLOOR).elements
    assert strict.runs == {"run-0": 2}
    for below in POLICIES[1:]:
        [strict] = small_coverage(
            small, elements=["history"], confidence={"history": ConfidenceFloor(0.6, below)}
        ).elements
        assert (strict.runs, strict.absent) == ({"run-0": 1}, {"below the floor": 1, "never captured": 1})
    fresh = {"history": AsOf(max_age=timedelta(minutes=2 * STEP))}  # just as old as the run below the floor
    [strict] = small_coverage(small, elements=["history"], confidence=FLOOR, rules=fresh).elements
    assert strict.absent == {"below the floor": 1, "too old": 1, "never captured": 1}


def test_a_global_element_is_found_from_its_version_on(small):
    [cell] = small_coverage(small, [(1, 3), (1, 4), (2, 10)], elements=["videos"]).elements
    assert (cell.service, cell.found, cell.absent) == (None, 2, {"only captured later": 1})
    assert (cell.runs, cell.lowest_confidence, cell.age.longest) == ({"v0": 2}, 1.0, 6 * STEP * 60)
    fresh = {"videos": AsOf(max_age=timedelta(minutes=STEP))}
    [cell] = small_coverage(small, [(1, 3), (1, 4), (2, 10)], elements=["videos"], rules=fresh).elements
    assert cell.absent == {"only captured later": 1, "too old": 1}


def test_the_values_are_never_read(small):
    """A file whose values are gone, though it is whole otherwise, serves as well."""
    from snapshotter.records import SnapshotRun
    from snapshotter.storage.parquet import read_parquet, write_parquet

    before = small_coverage(small)
    with open_index("sqlite://" + small.storage.uri.removeprefix("file://") + "/other.db") as other:
        for run in reversed(small.index.runs()):
            services = []
            for taken in run.services:
                files = []
                for file in taken.files:
                    table = read_parquet(small.storage, file).drop_columns("value")
                    files.append(write_parquet(small.storage, f"bare/{file.path}", table, table.schema, file.bucket))
                services.append(type(taken)(**{**vars(taken), "files": tuple(files)}))
            other.publish_run(SnapshotRun(run.run_id, run.context_set_id, run.started_at, tuple(services)))
        other.publish_global(small.index.global_versions("videos", minutes(9999))[0])
        assert label_coverage(label_table([(1, 6), (2, 6), (3, 6)]), other, small.storage) == before


def test_ages_a_hundredth_apart_are_told_apart(small):
    rows = pa.table({"profile_id": [1, 1], "time": pa.array([minutes(4 * STEP + age) for age in (1003, 1010)], TIME)})
    [cell] = label_coverage(rows, small.index, small.storage, elements=["history"]).elements
    assert (cell.age.median, cell.age.longest) == (1003 * 60, 1010 * 60)


def test_progress_counts_buckets(small):
    labels = materialise_labels(label_table([(p, 6) for p in range(8)]), COLUMNS, small.storage, buckets=4)
    reported = []
    label_coverage(labels, small.index, small.storage, progress=lambda _, *done: reported.append(done))
    assert reported == [(n, len(labels.files)) for n in range(1, len(labels.files) + 1)]
    reported.clear()
    small_coverage(small, [(p, 6) for p in range(8)], progress=lambda _, *done: reported.append(done))
    assert reported == [(n, len(labels.files)) for n in range(1, len(labels.files) + 1)]  # as the largest run has four


def test_what_cannot_be_asked_is_refused(small):
    with pytest.raises(DataKeyError, match="did you mean 'history'"):
        small_coverage(small, elements=["histroy"])
    with pytest.raises(ConfigError, match="as-of rule 'mood'"):
        small_coverage(small, rules={"mood": AsOf()})
    with pytest.raises(ConfigError, match="confidence floor 'mood'"):
        small_coverage(small, confidence={"mood": ConfidenceFloor(0.5)})
    for wrong, error, message in [
        (17, LabelError, "a int is not a table of contexts"),
        (pa.table({"profile_id": [1]}), LabelError, "'time'"),
        (pa.table({"profile_id": [1], "time": [5]}), LabelError, "'time' is int64"),
        (pa.table({"profile_id": [1], "time": [datetime(2026, 5, 1)]}), NaiveTimeError, "without a zone"),
        (label_table([(1, 6)]).slice(0, 0), LabelError, "0 rows"),
    ]:
        with pytest.raises(error, match=message):
            label_coverage(wrong, small.index, small.storage)
    strangers = pa.table({"city": ["Hill Valley"], "time": [datetime(2026, 5, 1, tzinfo=UTC)]})
    assert [c.element for c in label_coverage(strangers, small.index, small.storage).elements] == ["videos"]


def test_what_generation_would_refuse_is_refused(small):
    other = service_element("history", "list<int64>")
    with pytest.raises(DataKeyError, match="which cannot be read as list<item: int64>"):
        small_coverage(small, elements=[other])
    with pytest.raises(ConfigError, match="'videos' has a confidence floor"):
        small_coverage(small, confidence={"videos": ConfidenceFloor(0.5)})


def test_an_element_that_two_services_answer_with_is_refused(small):
    small.publish(Service("history2", HISTORY, (PROFILE,)), [((1,), 3, [])], "another")
    with pytest.raises(DataKeyError, match="several services: history, history2"):
        small_coverage(small)


def test_the_result_can_be_read_by_everyone(small):
    coverage = small_coverage(small)
    table = coverage.to_arrow()
    assert table.num_rows == len(coverage.elements) + len(coverage.by_day) == 6
    assert coverage.to_polars()["share"].to_list() == [cell.share for cell in coverage.cells]
    assert coverage.to_pandas()["element"].tolist() == [cell.element for cell in coverage.cells]
    runs = chain.from_iterable(table["runs"].to_pylist()[:3])
    assert {run["run_id"] for run in runs} == {"run-0", "run-1", "run-2", "v0"}
    drawn = to_html(coverage)
    assert "66.7%" in drawn
    assert "1 never captured" in drawn
    assert "<!doctype html>" not in drawn
    assert to_page(coverage, "Coverage").count("</html>") == 1
