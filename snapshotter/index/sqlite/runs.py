"""Reads runs from their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from snapshotter.index.record_reader import RecordReader, run_name
from snapshotter.records import ServiceSnapshot, SnapshotRun, from_micros


def runs_query(where: str) -> str:
    """Return the query for runs by a condition on the table `runs`: one query, so that no run lacks its services."""
    return (
        f"SELECT run_id, r.published_at, r.record, s.record FROM (SELECT * FROM runs WHERE {where}) r"  # noqa: S608  # our text
        " LEFT JOIN snapshots s USING (run_id) ORDER BY r.published_at DESC, position"
    )


def read_runs(records: RecordReader, rows: Sequence[Sequence[Any]], skip: bool) -> list[SnapshotRun]:
    """Read runs from rows of `runs_query`, one for each service. skip: whether to skip those that cannot be read."""
    matches = []
    for run_id, group in groupby(rows, key=lambda row: row[0]):
        of_run, name = list(group), run_name(run_id)
        with records.skipping(name, skip):
            run = records.read(name, SnapshotRun.from_json, of_run[0][2])
            services = [records.read(name, ServiceSnapshot.from_json, row[3]) for row in of_run if row[3] is not None]
            matches.append(replace(run, services=tuple(services), published_at=from_micros(of_run[0][1])))
    return matches
