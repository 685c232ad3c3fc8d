"""Every rule, broken by hand in a feature set that is otherwise honest, is found broken; nothing else is."""

import json
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import feature_sets_by_hand as by_hand
import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from project_at_rest import minutes

from delorean.audit.paradox import check_feature_set, repeats, row_checks, source_checks
from delorean.audit.paradox.check import LABELS
from delorean.audit.paradox.report import FindingCounts
from delorean.audit.paradox.stored_feature_set import StoredFeatureSet, open_feature_set
from delorean.display.description import describe
from delorean.display.html import to_html
from delorean.leaks import LeakThresholds
from schemas.errors import ConfigError, MissingFileError

SECOND = timedelta(seconds=1)


@pytest.fixture
def honest():
    return by_hand.honest()


@pytest.fixture
def write(tmp_path):
    """Writes rows as a feature set of several files and gives its URI."""

    def write(rows, lineage, schema=by_hand.SCHEMA, files=3, name="f"):
        return by_hand.write(str(tmp_path / name), rows, lineage, schema, files)

    return write


@pytest.fixture
def checked(honest, write):
    """Checks the honest feature set after a change of its rows or lineage; gives the report."""

    def check(change, **options):
        rows, lineage = honest
        change(rows, lineage)
        return check_feature_set(write(rows, lineage), **options)

    return check


def nothing(rows, lineage):
    pass


def setting(row, **values):
    """Change values of one row."""

    def change(rows, lineage):
        rows[row].update(values)

    return change


def lineage_setting(*path, value):
    def change(rows, lineage):
        for step in path[:-1]:
            lineage = lineage[step]
        lineage[path[-1]] = value

    return change


def both(*changes):
    def change(rows, lineage):
        for each in changes:
            each(rows, lineage)

    return change


def captured(row, element, at):
    """Capture an element at another time, and say so in all that follows from it."""

    def change(rows, lineage):
        found = rows[row]
        found[f"{element}_captured_at"] = at
        times = [found[f"{name}_captured_at"] for name in ("history", "mood")]
        found["spread_seconds"] = (max(times) - min(times)).total_seconds()
        found["latest_input_at"] = max(*times, found["videos_captured_at"])

    return change


# Row 1: profile 0 at minute 81, captured at 60, 70 and 50, runs h2 and m1.
PLANTED = {
    "captured after the time": (
        captured(1, "mood", minutes(81) + SECOND),
        {row_checks.WINDOW: 1, row_checks.LATEST: 1},
        "profile_id 0, country US at 2026-05-01 01:21:00Z: mood captured 2026-05-01 01:21:01Z, 0:00:01 after it",
    ),
    "captured within the lag": (
        captured(1, "mood", minutes(80) + SECOND),
        {row_checks.WINDOW: 1},
        "0:00:59 before it",
    ),
    "captured at an open end": (
        both(captured(1, "mood", minutes(80)), lineage_setting("rules", "mood", "allow_exact", value=False)),
        {row_checks.WINDOW: 1},
        "0:01:00 before it",
    ),
    "too old": (captured(1, "history", minutes(-39) - SECOND), {row_checks.WINDOW: 1}, "2:00:01 before it"),
    "a later version": (
        both(captured(1, "videos", minutes(100)), setting(1, videos_version_id="v2")),
        {row_checks.WINDOW: 1, row_checks.LATEST: 1},
        "videos captured 2026-05-01 01:40:00Z, 0:19:00 after it",
    ),
    "a latest input that is not": (
        setting(1, latest_input_at=minutes(60)),
        {row_checks.LATEST: 1},
        "it says 2026-05-01 01:00:00Z, the latest capture is 2026-05-01 01:10:00Z",
    ),
    "a latest input without a capture": (
        setting(7, latest_input_at=minutes(60)),
        {row_checks.LATEST: 1},
        "the latest capture is none",
    ),
    "no latest input": (setting(1, latest_input_at=None), {row_checks.LATEST: 1}, "it says none"),
    "an outcome at the time": (
        setting(1, outcome_at=minutes(81)),
        {row_checks.OUTCOME: 1},
        "its outcome was observed 2026-05-01 01:21:00Z",
    ),
    "an outcome before the time": (setting(1, outcome_at=minutes(2)), {row_checks.OUTCOME: 1}, "00:02:00Z"),
    "an outcome at no known time": (setting(1, outcome_at=None), {row_checks.OUTCOME: 1}, "at an unknown time"),
    "no time": (setting(1, time=None), {row_checks.OUTCOME: 1}, "profile_id 0, country US at no time"),
    "a row twice, in other files": (
        lambda rows, lineage: rows[39].update(profile_id=0, country="US", time=minutes(81)),
        {repeats.ONE_ROW: 1},
        "profile_id 0, country US at 2026-05-01 01:21:00Z: 2 rows",
    ),
    "a row without a country twice": (
        lambda rows, lineage: rows[39].update(profile_id=0, country=None, time=minutes(80)),
        {repeats.ONE_ROW: 1},
        "profile_id 0, country None at",
    ),
    "a row three times": (
        lambda rows, lineage: rows.extend([rows[1], rows[1]]),
        {repeats.ONE_ROW: 2},
        "3 rows",
    ),
    "an item twice": (setting(1, video_id=[7, 8, 7]), {row_checks.ONE_ITEM: 1}, "video_id 7, 2 times"),
    "a short feature": (setting(1, seen=[1.0]), {row_checks.LISTS: 1}, "3 labels, 1 of seen"),
    "a long item list": (setting(1, video_id=[1, 2, 3, 4]), {row_checks.LISTS: 1}, "3 labels, 4 of video_id"),
    "no feature": (setting(1, year=None), {row_checks.LISTS: 1}, "3 labels, no list of year"),
    "no labels": (setting(1, label=None), {row_checks.LISTS: 1}, "profile_id 0"),
    "a run that is not in the lineage": (
        both(setting(1, mood_run_id="m9"), lineage_setting("confidence", "mood", value={"m1": 0.97, "m9": 0.97})),
        {source_checks.SOURCES: 1},
        "mood_run_id is m9",
    ),
    "a version that is not in the lineage": (
        setting(1, videos_version_id="v9"),
        {source_checks.SOURCES: 1},
        "videos_version_id is v9",
    ),
    "a capture by nobody": (setting(1, videos_version_id=None), {source_checks.SOURCES: 1}, "is none"),
    "another spread": (
        setting(1, spread_seconds=599.0),
        {row_checks.SPREAD: 1},
        "it says 599, 600 s lie between its captures",
    ),
    "no spread": (setting(1, spread_seconds=None), {row_checks.SPREAD: 1}, "it says none"),
    "a spread of nothing": (setting(7, spread_seconds=0.0), {row_checks.SPREAD: 1}, "it has no capture of a service"),
    "a spread beyond the limit": (
        lineage_setting("spread", value={"limit_seconds": 599.0, "beyond": "drop"}),
        {row_checks.SPREAD: 25},
        "600 s lie between",
    ),
    "a torn row that knows something": (
        both(
            lambda rows, lineage: [row.update(seen=[None] * len(row["seen"])) for row in rows],
            lineage_setting("spread", value={"limit_seconds": 599.0, "beyond": "null"}),
            setting(1, seen=[None, None, float("nan")]),
            setting(3, seen=[1.0, 2.0]),  # not torn
        ),
        {row_checks.SPREAD: 1},
        "profile_id 0, country US at 2026-05-01 01:21",
    ),
    "another confidence": (
        setting(1, confidence=0.97),
        {row_checks.CONFIDENCE: 1},
        "it says 0.97, its runs have 0.95",
    ),
    "a confidence of nothing": (setting(7, confidence=1.0), {row_checks.CONFIDENCE: 1}, "no run served it"),
    "a run without confidence": (
        lineage_setting("confidence", "history", value={"h2": 0.95}),
        {row_checks.CONFIDENCE: 20},
        "at 2026-05-01 01:20:00Z",
    ),
    "a label as data": (
        lineage_setting("encoders", 0, "data", value=["history", "label"]),
        {LABELS: 40},
        "own:seen",
    ),
    "data that is not traced": (
        lineage_setting("encoders", 1, "data", value=["videos", "tomorrow"]),
        {LABELS: 40},
        "'tomorrow'",
    ),
}


def by_check(report):
    found = {}
    for finding in report.findings:
        found[finding.check] = found.get(finding.check, 0) + finding.rows
    return found


def test_an_honest_feature_set_is_clean(checked):
    report = checked(nothing)
    assert report.clean, report.findings
    assert report.verdict.startswith("CLEAN: 10 rules hold in all 40 rows; none of 2 features")
    assert report.notes == ("without an index, sources were compared with the lineage only",)
    assert (report.rows, report.items, report.leaks.items) == (40, 119, 119)


@pytest.mark.parametrize("flaw", PLANTED)
def test_every_planted_paradox_is_found_and_said(flaw, checked):
    change, expected, message = PLANTED[flaw]
    report = checked(change)
    assert by_check(report) == expected
    assert not report.clean
    assert any(message in f"{finding.what} {finding.example}" for finding in report.findings), report.findings
    assert set(expected) <= set(report.checks)


def test_captures_at_the_ends_of_the_window_are_within_it(checked):
    first, last = minutes(81) - timedelta(seconds=7200), minutes(80)
    assert checked(both(captured(1, "history", first), captured(1, "mood", last))).clean


def test_what_may_be_null_in_torn_rows_is(checked):
    """Values of features that read no service stay."""
    change = both(
        lambda rows, lineage: [row.update(seen=[None] * len(row["seen"])) for row in rows],
        lineage_setting("spread", value={"limit_seconds": 599.0, "beyond": "null"}),
    )
    assert checked(change).clean


def test_rows_of_all_files_are_compared_though_few_hashes_fit(honest, write):
    rows, lineage = honest
    rows += [dict(rows[i]) for i in (3, 3, 9, 20)]
    stored = open_feature_set(write(rows, lineage), None)
    for at_once in (1, 7, 1000):
        ledger = FindingCounts()
        with repeats.RepeatSearch(stored, at_once) as search:
            for table in stored.batches():
                search.add(table)
            search.report(ledger)
        assert [finding.rows for finding in ledger.findings.values()] == [4]


class CountingReads(StoredFeatureSet):
    """Remembers which columns were read."""

    reads: ClassVar[list[object]] = []

    def batches(self, columns=None):
        self.reads.append(columns)
        return super().batches(columns)


def test_keys_are_read_again_only_where_some_repeat(honest, write):
    rows, lineage = honest
    for repeated, again in (([], 0), ([dict(rows[3])], 1)):
        stored = open_feature_set(write(rows + repeated, lineage), None)
        counted = CountingReads(stored.lineage, stored.data)
        CountingReads.reads.clear()
        with repeats.RepeatSearch(counted, at_once=2) as search:
            for table in stored.batches():
                search.add(table)
            search.report(FindingCounts())
        assert len(CountingReads.reads) == again


def test_a_leak_is_reported_and_no_paradox(honest, write):
    rows, lineage = honest
    rng = np.random.default_rng(2)
    for row in rows:
        row["label"] = rng.integers(0, 2, len(row["label"])).astype(float).tolist()
        row["year"] = [1.0 - label for label in row["label"]]
    report = check_feature_set(write(rows, lineage), thresholds=LeakThresholds(seed=3))
    assert report.clean
    assert report.leaks.suspicious == ("year",)
    assert "year may be the label in disguise" in report.verdict


def test_a_malformed_row_does_not_keep_the_leaks_from_being_found(checked):
    def change(rows, lineage):
        for row in rows:
            row["year"] = [float(label) for label in row["label"]]
        rows[3]["seen"] = [1.0]

    report = checked(change)
    assert report.leaks.suspicious == ("year",)
    assert report.leaks.items == report.items - 2


def test_an_older_feature_set_is_checked_as_far_as_it_goes(honest, write):
    rows, lineage = honest
    new = ("_run_id", "_version_id", "spread_seconds", "confidence")
    for row in rows:
        for name in [name for name in row if name.endswith(new)]:
            del row[name]
    for name in ("encoders", "confidence", "spread"):
        del lineage[name]
    schema = pa.Table.from_pylist(rows).schema
    from_now_on = [field for field in by_hand.SCHEMA if not field.name.endswith(new)]
    assert schema.names == [field.name for field in from_now_on]
    uri = write(rows, lineage, schema=pa.schema(from_now_on))
    report = check_feature_set(uri)
    assert report.clean
    assert set(report.checks) == {
        row_checks.WINDOW,
        row_checks.LATEST,
        row_checks.OUTCOME,
        row_checks.LISTS,
        row_checks.ONE_ITEM,
        repeats.ONE_ROW,
        LABELS,
    }
    for name in ("history_run_id", "mood_run_id", "videos_version_id", "spread_seconds", "confidence"):
        assert any(name in note for note in report.notes), name


def test_an_older_version_can_be_checked(honest, write):
    rows, lineage = honest
    uri = write(rows, lineage, files=1)
    later = {**lineage, "snapshots": {"history": ["h3"], "mood": []}}
    write([{**rows[0], "outcome_at": minutes(0)}], later, files=1)
    assert check_feature_set(uri, version=0).clean
    assert not check_feature_set(uri).clean
    assert not check_feature_set(uri, version=1).clean
    with pytest.raises(ConfigError, match="there is no version 7 of the feature set"):
        check_feature_set(uri, version=7)


def test_what_is_no_feature_set_is_a_clear_error(honest, write, tmp_path):
    rows, lineage = honest
    with pytest.raises(ConfigError, match="there is no feature set at"):
        check_feature_set(str(tmp_path / "nothing"))
    write_deltalake(str(tmp_path / "other"), pa.table({"a": [1]}))
    with pytest.raises(ConfigError, match="has no lineage"):
        check_feature_set(str(tmp_path / "other"))
    del lineage["rules"]
    with pytest.raises(ConfigError, match="does not record 'rules'"):
        check_feature_set(write(rows, lineage, name="g"))


@pytest.mark.parametrize("column", ["time", "outcome_at", "label", "seen", "video_id", "country", "mood_captured_at"])
def test_a_missing_column_is_named(column, honest, write):
    rows, lineage = honest
    schema = pa.schema([field for field in by_hand.SCHEMA if field.name != column])
    with pytest.raises(ConfigError, match=f"unknown column in the feature set .*'{column}'"):
        check_feature_set(write([{k: v for k, v in row.items() if k != column} for row in rows], lineage, schema))


def test_a_column_of_another_type_is_named(honest, write):
    rows, lineage = honest
    for row in rows:
        row["seen"] = 1.0
    types = [pa.field("seen", pa.float32()) if f.name == "seen" else f for f in by_hand.SCHEMA]
    with pytest.raises(ConfigError, match=r"column 'seen' of .* is float, expected a list"):
        check_feature_set(write(rows, lineage, pa.schema(types)))
    for row in rows:
        row["time"] = row["time"].replace(tzinfo=None)
    types = [pa.field("time", pa.timestamp("us")) if f.name == "time" else f for f in by_hand.SCHEMA]
    with pytest.raises(ConfigError, match=r"column 'time' of .* expected timestamp\[us, tz=UTC\]"):
        check_feature_set(write([{**row, "seen": [1.0]} for row in rows], lineage, pa.schema(types), name="g"))


def test_a_file_that_was_vacuumed_away_is_named(honest, write):
    rows, lineage = honest
    uri = write(rows, lineage, files=1)
    for path in DeltaTable(uri).file_uris():
        Path(path).unlink()
    with pytest.raises(MissingFileError, match="a vacuum may have deleted it"):
        check_feature_set(uri)


def test_an_empty_feature_set_says_so(honest, write):
    report = check_feature_set(write([], honest[1]))
    assert report.clean
    assert report.verdict.startswith("EMPTY: no rows to check")


def test_the_report_can_be_read_by_programs_and_in_notebooks(checked):
    report = checked(setting(1, country="<b>", outcome_at=minutes(81)))
    message = json.loads(json.dumps(describe(report).document()))
    assert (message["clean"], message["rows"], message["leaks"]["suspicious"]) == (False, 40, [])
    assert message["findings"][0]["rows"] == 1
    shown = to_html(report)
    assert "&lt;b&gt;" in shown
    assert "PARADOX</strong>: 1 of 10 rules are broken" in shown


def test_progress_counts_rows(honest, write):
    seen = []
    check_feature_set(write(*honest), progress=lambda _, done, of: seen.append((done, of)))
    assert seen[-1] == (40, 40)
    assert len(seen) == 3
