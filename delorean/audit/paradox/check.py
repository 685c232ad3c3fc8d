"""Checks a stored feature set again: reads all of it, and believes nothing that it can hold against something else."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from delorean.audit.paradox import row_checks as of_rows
from delorean.audit.paradox.repeats import ONE_ROW, RepeatSearch
from delorean.audit.paradox.report import Ledger, ParadoxReport
from delorean.audit.paradox.rows import Rows
from delorean.audit.paradox.source_checks import INDEXED, SOURCES, IndexCheck, check_sources
from delorean.audit.paradox.stored import StoredFeatureSet, open_stored
from delorean.feature_sets.columns import CONFIDENCE_COLUMN, SPREAD_COLUMN, run_column, version_column
from delorean.labels import LABEL_COLUMN, OUTCOME_COLUMN
from delorean.leaks import LeakSampler, LeakThresholds, detect_leaks
from snapshotter.index import SnapshotIndex
from snapshotter.spark.progress import Progress

LABELS = "features are made from data that is traced, and never from labels"
_Check = Callable[[Rows, Ledger], object]


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
    index: where its runs and versions were published; None: rows are held against the lineage only
    thresholds: from when on a feature predicts its label too well
    progress: called with (what is read, rows done, all)

    Memory: a few thousand rows, the sample for leaks, and hashes of the keys of at most 16 million rows. Raises
    ConfigError for what is no feature set of ours, MissingFileError when a file of it is gone.
    """
    thresholds = thresholds or LeakThresholds()
    stored = open_stored(uri, version)
    checks, missing = _row_checks(stored)
    ledger, noted = Ledger(), Ledger()
    against_index = None if index is None else IndexCheck(stored, index)
    sampler = LeakSampler(stored.features, stored.context, thresholds.max_items, thresholds.seed)
    _check_traces(stored, ledger)
    items = done = 0
    with RepeatSearch(stored) as repeats:
        for table in stored.batches():
            rows = Rows(stored, table)
            for check in checks.values():
                check(rows, ledger)
            whole = of_rows.check_lists(rows, ledger)
            if against_index is not None:
                against_index.check(rows, ledger, noted)
            sampler.add(rows.table.filter(pa.array(whole)).select(sampler.columns))
            repeats.add(table)
            items += pc.sum(pc.list_value_length(rows.table[LABEL_COLUMN])).as_py() or 0
            done += len(rows)
            if progress is not None:
                progress("rows", done, stored.rows)
        repeats.report(ledger)
    names = [*checks, of_rows.LISTS, of_rows.ONE_ITEM, ONE_ROW, LABELS]
    if index is None:
        missing.append("no index was at hand: sources were held against the lineage only")
    elif SOURCES in checks:
        names.append(INDEXED)
    return ParadoxReport(
        uri=uri,
        version=stored.version,
        rows=done,
        items=items,
        checks=tuple(names),
        findings=tuple(ledger.findings.values()),
        notes=(
            *missing,
            *(f"{found.rows:,} rows: {found.what} ({found.example})" for found in noted.findings.values()),
        ),
        leaks=detect_leaks(sampler.sample(), thresholds),
    )


def _row_checks(stored: StoredFeatureSet) -> tuple[dict[str, _Check], list[str]]:
    """Give the checks that the columns allow, and say which they do not."""
    checks: dict[str, _Check] = {
        of_rows.WINDOW: of_rows.check_window,
        of_rows.LATEST: of_rows.check_latest_input,
        of_rows.OUTCOME: of_rows.check_outcome,
        SOURCES: check_sources,
    }
    runs = [run_column(element) for element in stored.services]
    absent = [
        name for name in (*runs, *(version_column(element) for element in stored.globals)) if not stored.has(name)
    ]
    notes = [f"it has no column {name}: where that data comes from was not checked" for name in absent]
    if len(absent) == len(stored.services) + len(stored.globals):
        del checks[SOURCES]
    if stored.has(SPREAD_COLUMN):
        checks[of_rows.SPREAD] = of_rows.check_spread
    else:
        notes.append(f"it has no column {SPREAD_COLUMN}: how far its captures lie apart was not checked")
    if stored.has(CONFIDENCE_COLUMN, *runs) and CONFIDENCE_COLUMN in stored.lineage:
        checks[of_rows.CONFIDENCE] = of_rows.check_confidence
    else:
        notes.append("it does not say the confidence of its rows and runs: that was not checked")
    return checks, notes


def _check_traces(stored: StoredFeatureSet, ledger: Ledger) -> None:
    """Hold what encoders read against what the lineage traces, and against the labels' own columns."""
    traced = (*stored.services, *stored.globals)
    reads: dict[str, str] = dict.fromkeys(traced, "a feature")
    for encoder in stored.lineage.get("encoders", []):
        reads |= dict.fromkeys(encoder["data"], encoder["encoder"])
    outcome = (LABEL_COLUMN, OUTCOME_COLUMN, *stored.lineage.get("outcome_columns", ()))
    for element, reader in reads.items():
        if element in outcome:
            what = f"{reader} is made from the data element '{element}', which is the labels' own column"
        elif element not in traced:
            what = f"{reader} reads '{element}', and the lineage does not say where that was captured"
        else:
            continue
        ledger.count(LABELS, what, stored.rows, "it concerns every row")
