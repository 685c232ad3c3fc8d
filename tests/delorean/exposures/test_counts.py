"""Counts of exposures by day and cell, as `delorean exposures` shows them."""

from __future__ import annotations

import json
import os
import time
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner
from exposure_rows import CONTEXT, ITEMS, NOON, exposure, write_exposures

from delorean.cli.commands import cli
from delorean.display.text import to_text
from delorean.exposures.counts import count_exposures
from delorean.exposures.log import ExposureLimits, ExposureLog
from delorean.project.vacuum import vacuum
from schemas.times import to_micros
from snapshotter.index import open_index
from snapshotter.storage import Storage, open_storage

DAY = timedelta(days=1)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project's folder, whose log has two days, a repeated request, and rows outside the test."""
    (tmp_path / "delorean.toml").write_text('storage = "storage"\nindex = "index.db"\n')
    storage = open_storage(f"file://{tmp_path}/storage")
    later = [exposure(number, time=to_micros(NOON + DAY) + number) for number in range(10, 14)]
    outside = exposure(20, test=None, cell=None)
    write_exposures(storage, [0, 1, 2, 2, *later, outside, exposure(0, time=to_micros(NOON) + 60_000_000)])
    return tmp_path


def stored(project: Path) -> Storage:
    return open_storage(f"file://{project}/storage")


def test_requests_are_counted_once_by_day_and_cell(project: Path) -> None:
    counts = count_exposures(stored(project), "homepage")
    assert [(day.day, day.cells, day.repeated, day.dropped) for day in counts.days] == [
        (date(2026, 1, 5), {"candidate": 1, "control": 2}, 2, 0),
        (date(2026, 1, 6), {"candidate": 2, "control": 2}, 0, 0),
    ]
    assert repr(counts) == "7 exposures of test homepage on 2 days"
    assert [day.day for day in count_exposures(stored(project), "homepage", date(2026, 1, 6)).days] == [
        date(2026, 1, 6)
    ]
    assert count_exposures(stored(project), "homepage", None, date(2026, 1, 5)).cells == {"candidate": 1, "control": 2}
    assert count_exposures(stored(project), None).cells == {"no cell": 1}


def test_any_engine_counts_the_same(project: Path) -> None:
    rows = duckdb.sql(
        f"SELECT cell, count(DISTINCT request_id) FROM '{project}/storage/exposures/homepage/*/*.parquet' GROUP BY ALL"
    ).fetchall()
    assert dict(rows) == count_exposures(stored(project), "homepage").cells


def test_dropped_rows_are_counted_on_the_day_of_the_next_file(project: Path) -> None:
    with ExposureLog(stored(project), CONTEXT, ITEMS, ExposureLimits(rows=1)) as log, log._writing:
        for number in (30, 31, 32):  # the queue is not read meanwhile
            log.append(exposure(number, time=to_micros(NOON + 2 * DAY)))
        log.append(exposure(33, test="other"))
    counts = count_exposures(stored(project), "homepage")
    assert [day.dropped for day in counts.days] == [0, 0, 2]
    assert "scorers could not log 2 requests" in to_text(counts)


def test_the_command_shows_days_and_cells_as_text_and_as_json(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    shown = CliRunner().invoke(cli, ["exposures", "homepage"])
    assert shown.exit_code == 0, shown.output
    assert "2026-01-06" in shown.output
    assert "57.14%" in shown.output
    result = json.loads(CliRunner().invoke(cli, ["exposures", "homepage", "--since", "2026-01-06", "--json"]).output)
    assert result == {
        "test": "homepage",
        "requests": 4,
        "cells": {"candidate": 2, "control": 2},
        "dropped": 0,
        "days": [{"day": "2026-01-06", "cells": {"candidate": 2, "control": 2}, "repeated": 0, "dropped": 0}],
    }
    missing = CliRunner().invoke(cli, ["exposures", "search"])
    assert missing.exit_code == 2
    assert "there are no exposures of test 'search'" in missing.output


def test_a_vacuum_never_deletes_the_log(project: Path) -> None:
    old = time.time() - 400 * 86_400
    for path in (project / "storage").rglob("*.parquet"):
        os.utime(path, (old, old))
    before = count_exposures(stored(project), "homepage")
    with open_index(f"sqlite:///{project}/index.db") as index:
        assert vacuum(stored(project), index, DAY).paths == []
    assert count_exposures(stored(project), "homepage") == before
