"""Checks all rows of a stored feature set against its lineage, the index and their own columns."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from delorean.audit.paradox import row_checks
from delorean.audit.paradox.repeats import ONE_ROW, RepeatSearch
from delorean.audit.paradox.report import FindingCounts, ParadoxReport
from delorean.audit.paradox.row_batch import RowBatch
from delorean.audit.paradox.source_checks import INDEXED, SOURCES, IndexCheck, check_sources
from delorean.audit.paradox.stored_feature_set import StoredFeatureSet, open_feature_set
from delorean.feature_sets.columns import CONFIDENCE_COLUMN, SPREAD_COLUMN, run_column, version_column
from delorean.labels import LABEL_COLUMN, OUTCOME_COLUMN
from delorean.leaks import LeakThresholds
from delorean.leaks.detect import detect_leaks
from delorean.leaks.sample import LeakSampler
from delorean.leaks.scopes import combine_scopes, leak_scopes
from delorean.tasks.task_set import recorded_tasks
from schemas.closeable import Closeable
from snapshotter.index import SnapshotIndex
from snapshotter.spark.progress import Progress

LABELS = "features are made from data that is traced, and never from labels"
_RowCheck = Callable[[RowBatch, FindingCounts], object]


def check_feature_set(
    uri: str,
    version: int | None = None,
    index: SnapshotIndex | None = None,
    thresholds: LeakThresholds | None = None,
    progress: Progress | None = None,
) -> ParadoxReport:
    """Check every row of a stored feature set for what could not be known at its time.

    uri: of the Delta table
    version: of the feature set, None: the newest
    index: where its runs and versions were published; None: rows are compared with the lineage only
    thresholds: above which a feature predicts its label implausibly well
    progress: called with (what is read, rows done, all)

    Memory: a few thousand rows, the sample for leaks, and hashes of the keys of at most 16 million rows. Raises
    ConfigError for what is not a feature set of DeLorean, MissingFileError if a file is missing.
    """
    stored = open_feature_set(uri, version)
    with _Check(stored, index, thresholds or LeakThresholds()) as check:
        for table in stored.batches():
            check.add(table)
            if progress is not None:
                progress("rows", check.rows, stored.rows)
        return check.report()


class _Check(Closeable):
    """All checks of one feature set, over its batches of rows."""

    def __init__(self, stored: StoredFeatureSet, index: SnapshotIndex | None, thresholds: LeakThresholds) -> None:
        self.rows = self._items = 0
        self._stored, self._thresholds = stored, thresholds
        self._checks, self._unchecked = _row_checks(stored)
        self._findings, self._remarks = FindingCounts(), FindingCounts()
        self._index_check = None if index is None else IndexCheck(stored, index)
        self._samplers = {
            scope: LeakSampler(
                scope.features, scope.context, thresholds.max_items, thresholds.seed, label=scope.label, task=scope.task
            )
            for scope in leak_scopes(stored.labels, stored.features, stored.context, recorded_tasks(stored.lineage))
        }
        _check_traces(stored, self._findings)
        self._repeats = RepeatSearch(stored)

    def close(self) -> None:
        self._repeats.close()

    def add(self, table: pa.Table) -> None:
        """Check a batch of rows."""
        rows = RowBatch(self._stored, table)
        for check in self._checks.values():
            check(rows, self._findings)
        aligned = row_checks.check_lists(rows, self._findings)
        if self._index_check is not None:
            self._index_check.check(rows, self._findings, self._remarks)
        for sampler in self._samplers.values():
            sampler.add(rows.table.filter(pa.array(aligned)).select(sampler.columns))
        self._repeats.add(table)
        self._items += pc.sum(pc.list_value_length(rows.table[self._stored.of_items[0]])).as_py() or 0
        self.rows += len(rows)

    def report(self) -> ParadoxReport:
        """Return the report, once all batches are added."""
        self._repeats.report(self._findings)
        names = [*self._checks, row_checks.LISTS, row_checks.ONE_ITEM, ONE_ROW, LABELS]
        notes = list(self._unchecked)
        if self._index_check is None:
            notes.append("without an index, sources were compared with the lineage only")
        elif SOURCES in self._checks:
            names.append(INDEXED)
        notes += (f"{each.rows:,} rows: {each.what} ({each.example})" for each in self._remarks.findings.values())
        return ParadoxReport(
            uri=self._stored.data.uri,
            version=self._stored.data.version,
            rows=self.rows,
            items=self._items,
            checks=tuple(names),
            findings=tuple(self._findings.findings.values()),
            notes=tuple(notes),
            leaks=combine_scopes(
                {scope: detect_leaks(sampler.sample(), self._thresholds) for scope, sampler in self._samplers.items()},
                self._thresholds,
            ),
        )


def _row_checks(stored: StoredFeatureSet) -> tuple[dict[str, _RowCheck], list[str]]:
    """Return the checks that the columns allow, and notes about the others."""
    checks: dict[str, _RowCheck] = {
        row_checks.WINDOW: row_checks.check_window,
        row_checks.LATEST: row_checks.check_latest_input,
        row_checks.OUTCOME: row_checks.check_outcome,
        SOURCES: check_sources,
    }
    runs = [run_column(element) for element in stored.services]
    if not stored.labels:
        del checks[row_checks.OUTCOME]
    columns = (*runs, *(version_column(element) for element in stored.globals))
    absent = [name for name in columns if not stored.has(name)]
    notes = [] if stored.labels else ["it has no labels: there are no outcomes to check"]
    notes += [f"it has no column {name}: where that data comes from was not checked" for name in absent]
    if len(absent) == len(stored.services) + len(stored.globals):
        del checks[SOURCES]
    if stored.has(SPREAD_COLUMN):
        checks[row_checks.SPREAD] = row_checks.check_spread
    else:
        notes.append(f"it has no column {SPREAD_COLUMN}: how far its captures lie apart was not checked")
    if stored.has(CONFIDENCE_COLUMN, *runs) and CONFIDENCE_COLUMN in stored.lineage:
        checks[row_checks.CONFIDENCE] = row_checks.check_confidence
    else:
        notes.append("it does not record the confidence of its rows and runs: that was not checked")
    return checks, notes


def _check_traces(stored: StoredFeatureSet, findings: FindingCounts) -> None:
    """Compare the encoders' elements with those that the lineage traces, and with the labels' own columns."""
    traced = (*stored.services, *stored.globals)
    reads: dict[str, str] = dict.fromkeys(traced, "a feature")
    for encoder in stored.lineage.get("encoders", []):
        reads |= dict.fromkeys(encoder["data"], encoder["encoder"])
    outcome = (LABEL_COLUMN, OUTCOME_COLUMN, *stored.lineage.get("outcome_columns", ()))
    for element, reader in reads.items():
        if element in outcome:
            what = f"{reader} is made from the data element '{element}', which is the labels' own column"
        elif element not in traced:
            what = f"{reader} reads '{element}', and the lineage does not record where that was captured"
        else:
            continue
        findings.count(LABELS, what, stored.rows, "it concerns every row")
