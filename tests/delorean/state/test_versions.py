"""Which version of a global element a moment sees: one rule, whoever asks, around every boundary."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from delorean.serving.global_versions import GlobalVersions
from delorean.state.rules import AsOf
from delorean.state.sources import GlobalSource
from delorean.state.version_timeline import VersionTimeline
from delorean.state.version_values import match_versions
from delorean.state.versions import (
    find_versions,
    in_order,
    published_version_at,
    version_at,
    versions_in_view,
)
from schemas.data_keys import global_element
from schemas.errors import ConfigError
from schemas.tables import TIME
from snapshotter.capture.global_elements import publish_global
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.records import END_OF_TIME, GlobalVersion, to_micros
from snapshotter.storage import open_storage

VIDEOS = global_element("videos", "struct<video_id: int64, year: int32>")
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
US = timedelta(microseconds=1)


def at(n):
    return NOON + n * US


class Versions(SnapshotIndex):
    """An index of versions whose times of publishing a test chooses: real ones are stamped by the clock."""

    def __init__(self, versions):
        self.versions = versions
        self.read = []

    def global_versions(self, element, latest, limit=None):
        known = [version for version in reversed(in_order(self.versions)) if version.valid_from <= latest]
        self.read += known[:limit]
        return known[:limit]


Versions.__abstractmethods__ = frozenset()


def scan(versions, rule, moment):
    """The rule as it is written: of what counts by then the latest valid_from, of equal ones the later published."""
    by_then = []
    for version in versions:
        start = max(version.valid_from, version.published_at) if rule.as_published else version.valid_from
        if start + rule.lag < moment or (start + rule.lag == moment and rule.allow_exact):
            by_then.append((version.valid_from, version.published_at, start, version))
    if not by_then:
        return None
    *_, start, found = max(by_then, key=lambda each: each[:2])
    return found if rule.max_age is None or moment - start <= rule.max_age else None


published_versions = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), max_size=6).map(
    lambda times: [
        GlobalVersion(VIDEOS, f"v{i}", at(valid), (), at(published) + i * timedelta(0))
        for i, (valid, published) in enumerate({p: (v, p) for v, p in times}.values())
    ]
)
rules = st.builds(
    lambda age, lag, exact, as_published: AsOf(
        None if age is None else (age + lag) * US, lag * US, allow_exact=exact, as_published=as_published
    ),
    st.none() | st.integers(0, 5),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
)
moments = st.integers(-1, 16).map(at)


@settings(max_examples=300, deadline=None)
@given(versions=published_versions, rule=rules, moments=st.lists(moments, min_size=1, max_size=5))
def test_every_way_to_ask_sees_what_the_rule_says(versions, rule, moments):
    expected = [scan(versions, rule, moment) for moment in moments]
    ordered = in_order(versions)
    found, starts = find_versions(pa.chunked_array([pa.array(moments, TIME)]), ordered, rule)
    assert [ordered[i] if i >= 0 else None for i in found] == expected
    assert all((start == 0) == (i < 0) for start, i in zip(starts, found, strict=True))
    assert [version_at(ordered, rule, moment) for moment in moments] == expected
    index = Versions(versions)
    assert [published_version_at(index, "videos", rule, moment) for moment in moments] == expected
    seen = versions_in_view(index, "videos", rule, min(moments), max(moments))
    assert [version_at(seen, rule, moment) for moment in moments] == expected


@settings(max_examples=300, deadline=None)
@given(versions=published_versions, rule=rules, since=moments)
def test_a_timeline_sees_at_each_moment_what_the_rule_says(versions, rule, since):
    timeline = VersionTimeline(versions_in_view(Versions(versions), "videos", rule, since, END_OF_TIME), rule, since)
    for n in range(20):
        moment = since + n * US
        assert timeline.at(moment) == scan(versions, rule, moment)
    seen = {version.version_id for version in timeline.until(since + 20 * US)}
    assert seen == {v.version_id for n in range(21) if (v := scan(versions, rule, since + n * US))}


def test_no_version_is_read_that_no_moment_can_see():
    index = Versions([GlobalVersion(VIDEOS, f"v{n}", at(n), (), at(n)) for n in range(10_000)])
    seen = versions_in_view(index, "videos", AsOf(), at(9_990), at(9_995))
    assert [version.version_id for version in seen] == [f"v{n}" for n in range(9_990, 9_996)]
    assert len(index.read) < 100


class Clock:
    """A clock that tests set."""

    def __init__(self, now):
        self.now = now

    def __call__(self):
        return to_micros(self.now)


def table_of(year):
    return pa.table({"video_id": [1], "year": pa.array([year], pa.int32())})


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    starts=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    age=st.none() | st.integers(0, 4),
    lag=st.integers(0, 2),
    exact=st.booleans(),
    as_published=st.booleans(),
)
@example(starts=[0, 3, 3], age=1, lag=0, exact=True, as_published=False)
def test_generation_and_serving_see_the_same_version_around_every_boundary(
    starts, age, lag, exact, as_published, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("project")
    rule = AsOf(None if age is None else (age + lag) * US, lag * US, allow_exact=exact, as_published=as_published)
    storage = open_storage(f"file://{folder}/store")
    with open_index(f"sqlite://{folder}/index.db") as index:
        for number, start in enumerate(starts):
            publish_global(table_of(number), VIDEOS, at(start), storage, index, f"v{number}")
        every = in_order(index.global_versions("videos", END_OF_TIME))
        boundaries = {at(start) for start in starts} | {version.published_at for version in every}
        spans = (timedelta(0), rule.lag, rule.max_age or timedelta(0))
        moments = sorted({b + span + n * US for b in boundaries for span in spans for n in (-1, 0, 1)})
        source = GlobalSource(VIDEOS, rule, versions_in_view(index, "videos", rule, moments[0], moments[-1]))
        matched = match_versions(pa.chunked_array([pa.array(moments, TIME)]), source, storage.uri)
        offline = [None if i < 0 else source.versions[i].version_id for i in matched.file]
        clock = Clock(moments[0])
        with GlobalVersions([VIDEOS], index, storage, clock, timedelta(hours=1), rules={"videos": rule}) as online:
            live, replayed = [], []
            for moment in moments:
                clock.now = moment
                for found, seen in ((live, online.newest(moment)), (replayed, online.at(moment))):
                    found.append(seen["videos"] and seen["videos"].version.version_id)
    assert live == replayed == offline


def test_a_rule_is_read_back_from_a_package_as_it_was():
    rule = AsOf(timedelta(days=2, microseconds=1), timedelta(minutes=5), allow_exact=False, as_published=True)
    assert AsOf.from_json(rule.to_json()) == rule
    assert AsOf.from_json(AsOf().to_json()) == AsOf()
    for wrong in ({}, None, {**rule.to_json(), "allow_exact": "yes"}, {**rule.to_json(), "lag_seconds": "5"}):
        with pytest.raises(ConfigError, match="not an as-of rule"):
            AsOf.from_json(wrong)
