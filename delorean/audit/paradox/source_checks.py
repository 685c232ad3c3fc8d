"""Where each row says it comes from: runs and versions, held against the lineage and the index."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.audit.paradox.report import Ledger
from delorean.audit.paradox.rows import NEVER, Rows, moment, span
from delorean.audit.paradox.stored import StoredFeatureSet
from delorean.feature_sets.columns import CONFIDENCE_COLUMN, run_column, version_column
from schemas.errors import NotInIndexError
from snapshotter.index import SnapshotIndex
from snapshotter.records import GlobalVersion, ServiceSnapshot, to_micros

SOURCES = "the runs and versions that served a row are those of the lineage"
INDEXED = "the index knows these runs and versions, and that they captured then"
BACKFILL = "was published only after the row's time, though valid from before it: online nobody had it then"
_MICRO = 1e-6


def check_sources(rows: Rows, ledger: Ledger) -> None:
    """Hold the runs and versions that a row names against those that the lineage lists."""
    stored = rows.stored
    named = [(element, run_column(element), stored.lineage["snapshots"][element]) for element in stored.services]
    named += [(element, version_column(element), stored.lineage["globals"][element]) for element in stored.globals]
    for element, column, listed in named:
        if not stored.has(column):
            continue
        present = ~rows.null(column)
        known = np.asarray(pc.is_in(rows.table[column], pa.array(listed, rows.table[column].type)))
        _, captured = rows.captured(element)

        def example(row: int, column: str = column) -> str:
            return f"{rows.name(row)}: {column} is {rows.value(column, row) or 'none'}"

        what = f"{element} is from a run or version that the lineage does not list"
        ledger.add(SOURCES, what, present & ~known, example)
        ledger.add(
            SOURCES, f"{element} has a time of capture without its source, or the reverse", present != captured, example
        )


@dataclass
class IndexCheck:
    """Holds rows against the index, asking it once for each run and element."""

    stored: StoredFeatureSet
    index: SnapshotIndex
    _snapshots: dict[tuple[str, str], ServiceSnapshot | None] = field(default_factory=dict)
    _versions: dict[tuple[str, str], GlobalVersion | None] = field(default_factory=dict)

    def check(self, rows: Rows, ledger: Ledger, notes: Ledger) -> None:
        """Check rows; what is only worth knowing goes to the notes."""
        for element in self.stored.services:
            if self.stored.has(run_column(element)):
                self._check_runs(element, rows, ledger)
        for element in self.stored.globals:
            if self.stored.has(version_column(element)):
                self._check_versions(element, rows, ledger, notes)

    def _check_runs(self, element: str, rows: Rows, ledger: Ledger) -> None:
        column = run_column(element)

        def first_of(run: str) -> int:
            snapshot = self._snapshot(element, run)
            return NEVER if snapshot is None else _micros(snapshot.captured_from)

        def last_of(run: str) -> int:
            snapshot = self._snapshot(element, run)
            return NEVER if snapshot is None else _micros(snapshot.captured_to)

        first, last = rows.by_value(column, first_of, NEVER), rows.by_value(column, last_of, NEVER)
        at, there = rows.captured(element)
        there = there & ~rows.null(column)

        def example(row: int) -> str:
            return f"{rows.name(row)}: {element} of run {rows.value(column, row)}, captured {moment(at[row])}"

        ledger.add(
            INDEXED,
            f"the index has no run that captured {element} under the id it names",
            there & (first == NEVER),
            example,
        )
        outside = there & (first != NEVER) & ((at < first) | (at > last))
        ledger.add(INDEXED, f"{element} was captured before or after the run that served it", outside, example)
        self._check_shares(element, rows, ledger)

    def _check_shares(self, element: str, rows: Rows, ledger: Ledger) -> None:
        shares = (self.stored.lineage.get(CONFIDENCE_COLUMN) or {}).get(element, {})

        def off(run: str) -> float:
            snapshot = self._snapshot(element, run)
            return 0.0 if snapshot is None or run not in shares else shares[run] - snapshot.confidence

        differs = np.abs(rows.by_value(run_column(element), off, 0.0)) > _MICRO

        def example(row: int) -> str:
            run = rows.value(run_column(element), row)
            found = self._snapshot(element, run)
            return f"run {run}: the lineage says {shares[run]:g}, the index {found.confidence if found else 0:g}"

        ledger.add(INDEXED, f"the lineage has another confidence of {element} than the index", differs, example)

    def _check_versions(self, element: str, rows: Rows, ledger: Ledger, notes: Ledger) -> None:
        column = version_column(element)

        # Under as_published a version counts from when it was published, if it was said to be valid from earlier.
        hidden = self.stored.lineage["rules"].get(element, {}).get("as_published", False)

        def published_of(version: str) -> int:
            found = self._version(element, version)
            return NEVER if found is None else _micros(found.published_at)

        def valid_of(version: str) -> int:
            found = self._version(element, version)
            valid_from = NEVER if found is None else _micros(found.valid_from)
            return max(valid_from, published_of(version)) if hidden else valid_from

        valid_from, published_at = (rows.by_value(column, of, NEVER) for of in (valid_of, published_of))
        at, there = rows.captured(element)
        there = there & ~rows.null(column)

        def example(row: int) -> str:
            return f"{rows.name(row)}: version {rows.value(column, row)} of {element}, captured {moment(at[row])}"

        def backfilled(row: int) -> str:
            late = span(published_at[row] - rows.time[row])
            return f"{rows.name(row)}: version {rows.value(column, row)}, published {late} later"

        unknown = there & (valid_from == NEVER)
        ledger.add(INDEXED, f"{element} is of a version that the index does not have", unknown, example)
        wrong: NDArray[np.bool_] = there & ~unknown & (at != valid_from)
        ledger.add(INDEXED, f"{element} was captured at another time than its version is valid from", wrong, example)
        notes.add("", f"{element} {BACKFILL}", there & rows.timed & (published_at > rows.time), backfilled)

    def _snapshot(self, element: str, run: str) -> ServiceSnapshot | None:
        """Give a run's snapshot of an element, None if there is none."""
        if (element, run) not in self._snapshots:
            try:
                services = self.index.run(run).services
            except NotInIndexError:
                services = ()
            found = [snapshot for snapshot in services if snapshot.service.element.name == element]
            self._snapshots[element, run] = found[0] if found else None
        return self._snapshots[element, run]

    def _version(self, element: str, version_id: str) -> GlobalVersion | None:
        """Give a version of an element that rows name, None if the index does not have it."""
        if (element, version_id) not in self._versions:
            self._versions[element, version_id] = self.index.global_version(element, version_id)
        return self._versions[element, version_id]


def _micros(moment: datetime | None) -> int:
    return NEVER if moment is None else to_micros(moment)
