"""Compares the runs and versions that each row names with the lineage and the index."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.audit.paradox.report import FindingCounts
from delorean.audit.paradox.row_batch import NEVER, RowBatch, moment, span
from delorean.audit.paradox.stored_feature_set import StoredFeatureSet
from delorean.feature_sets.columns import CONFIDENCE_COLUMN, run_column, version_column
from schemas.errors import NotInIndexError
from snapshotter.index import SnapshotIndex
from snapshotter.records import GlobalVersion, ServiceSnapshot, to_micros

SOURCES = "the runs and versions that served a row are those of the lineage"
INDEXED = "the index knows these runs and versions, and that they captured then"
BACKFILL = "was published only after the row's time, though valid from before it: online it was not available then"
_MICRO = 1e-6


def check_sources(rows: RowBatch, findings: FindingCounts) -> None:
    """Compare the runs and versions that a row names with those that the lineage lists."""
    stored = rows.stored
    named = [(element, run_column(element), stored.lineage["snapshots"][element]) for element in stored.services]
    named += [(element, version_column(element), stored.lineage["globals"][element]) for element in stored.globals]
    for element, column, listed in named:
        if not stored.has(column):
            continue
        present = ~rows.null(column)
        is_listed = np.asarray(pc.is_in(rows.table[column], pa.array(listed, rows.table[column].type)))
        _, captured = rows.captured(element)

        def example(row: int, column: str = column) -> str:
            return f"{rows.name(row)}: {column} is {rows.value(column, row) or 'none'}"

        what = f"{element} is from a run or version that the lineage does not list"
        findings.add(SOURCES, what, present & ~is_listed, example)
        findings.add(
            SOURCES, f"{element} has a time of capture without its source, or the reverse", present != captured, example
        )


@dataclass
class IndexCheck:
    """Compares rows with the index, which is read once for each run and element."""

    stored: StoredFeatureSet
    index: SnapshotIndex
    _snapshots: dict[tuple[str, str], ServiceSnapshot | None] = field(default_factory=dict)
    _versions: dict[tuple[str, str], GlobalVersion | None] = field(default_factory=dict)

    def check(self, rows: RowBatch, findings: FindingCounts, remarks: FindingCounts) -> None:
        """Check rows. remarks: receives rows that break no rule and are worth a note."""
        for element in self.stored.services:
            if self.stored.has(run_column(element)):
                self._check_runs(element, rows, findings)
        for element in self.stored.globals:
            if self.stored.has(version_column(element)):
                self._check_versions(element, rows, findings, remarks)

    def _check_runs(self, element: str, rows: RowBatch, findings: FindingCounts) -> None:
        column = run_column(element)

        def first_of(run: str) -> int:
            snapshot = self._snapshot(element, run)
            return NEVER if snapshot is None else _micros(snapshot.captured_from)

        def last_of(run: str) -> int:
            snapshot = self._snapshot(element, run)
            return NEVER if snapshot is None else _micros(snapshot.captured_to)

        first, last = rows.by_value(column, first_of, NEVER), rows.by_value(column, last_of, NEVER)
        at, existing = rows.captured(element)
        existing = existing & ~rows.null(column)

        def example(row: int) -> str:
            return f"{rows.name(row)}: {element} of run {rows.value(column, row)}, captured {moment(at[row])}"

        findings.add(
            INDEXED,
            f"the index has no run that captured {element} under the id it names",
            existing & (first == NEVER),
            example,
        )
        outside = existing & (first != NEVER) & ((at < first) | (at > last))
        findings.add(INDEXED, f"{element} was captured before or after the run that served it", outside, example)
        self._check_shares(element, rows, findings)

    def _check_shares(self, element: str, rows: RowBatch, findings: FindingCounts) -> None:
        shares = (self.stored.lineage.get(CONFIDENCE_COLUMN) or {}).get(element, {})

        def difference(run: str) -> float:
            snapshot = self._snapshot(element, run)
            return 0.0 if snapshot is None or run not in shares else shares[run] - snapshot.confidence

        differs = np.abs(rows.by_value(run_column(element), difference, 0.0)) > _MICRO

        def example(row: int) -> str:
            run = rows.value(run_column(element), row)
            snapshot = self._snapshot(element, run)
            return f"run {run}: the lineage says {shares[run]:g}, the index {snapshot.confidence if snapshot else 0:g}"

        findings.add(INDEXED, f"the lineage has another confidence of {element} than the index", differs, example)

    def _check_versions(self, element: str, rows: RowBatch, findings: FindingCounts, remarks: FindingCounts) -> None:
        column = version_column(element)

        # Under as_published a version counts from its publication, if it was declared valid from an earlier time.
        as_published = self.stored.lineage["rules"].get(element, {}).get("as_published", False)

        def published_of(version: str) -> int:
            published = self._version(element, version)
            return NEVER if published is None else _micros(published.published_at)

        def valid_of(version: str) -> int:
            published = self._version(element, version)
            valid_from = NEVER if published is None else _micros(published.valid_from)
            return max(valid_from, published_of(version)) if as_published else valid_from

        valid_from, published_at = (rows.by_value(column, of, NEVER) for of in (valid_of, published_of))
        at, existing = rows.captured(element)
        existing = existing & ~rows.null(column)

        def example(row: int) -> str:
            return f"{rows.name(row)}: version {rows.value(column, row)} of {element}, captured {moment(at[row])}"

        def backfilled(row: int) -> str:
            late = span(published_at[row] - rows.time[row])
            return f"{rows.name(row)}: version {rows.value(column, row)}, published {late} later"

        unknown = existing & (valid_from == NEVER)
        findings.add(INDEXED, f"{element} is of a version that the index does not have", unknown, example)
        wrong: NDArray[np.bool_] = existing & ~unknown & (at != valid_from)
        findings.add(INDEXED, f"{element} was captured at another time than its version is valid from", wrong, example)
        remarks.add("", f"{element} {BACKFILL}", existing & rows.timed & (published_at > rows.time), backfilled)

    def _snapshot(self, element: str, run: str) -> ServiceSnapshot | None:
        """Return a run's snapshot of an element, None if it has none."""
        if (element, run) not in self._snapshots:
            try:
                services = self.index.run(run).services
            except NotInIndexError:
                services = ()
            matching = (snapshot for snapshot in services if snapshot.service.element.name == element)
            self._snapshots[element, run] = next(matching, None)
        return self._snapshots[element, run]

    def _version(self, element: str, version_id: str) -> GlobalVersion | None:
        """Return a version of an element, None if the index does not have it."""
        if (element, version_id) not in self._versions:
            self._versions[element, version_id] = self.index.global_version(element, version_id)
        return self._versions[element, version_id]


def _micros(moment: datetime | None) -> int:
    return NEVER if moment is None else to_micros(moment)
