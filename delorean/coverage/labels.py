"""How much state an experiment's labels would see, before anything is generated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.coverage.bucketed_rows import BucketedRows, BucketPosition, rows_of
from delorean.coverage.counts import CoverageCounts
from delorean.coverage.element_search import FOUND, ElementSearch, SearchResult, label_searches
from delorean.coverage.result import LabelCoverage
from delorean.labels import TIME_COLUMN, Labels
from delorean.state.provenance import micros, spread_between
from delorean.state.rules import AsOf, ConfidenceFloor, SpreadLimit
from delorean.tasks.applicable_rows import lacking_rows
from delorean.tasks.task_set import TASK_VARIABLE, TaskSet
from schemas.data_keys import DataKey
from schemas.errors import DataKeyError
from snapshotter.index import SnapshotIndex
from snapshotter.spark.progress import Progress, shown_progress
from snapshotter.storage import Storage


def label_coverage(
    labels: Labels | Any,
    index: SnapshotIndex,
    storage: Storage,
    *,
    elements: Iterable[str | DataKey] | None = None,
    rules: Mapping[str, AsOf] | None = None,
    confidence: Mapping[str, ConfidenceFloor] | None = None,
    spread: SpreadLimit | None = None,
    progress: Progress | None = None,
) -> LabelCoverage:
    """Count for each element the label rows that would have it, its age, and the reasons for the other rows.

    labels: label data at rest, or a frame (pyarrow, Polars, pandas, DuckDB) with context variables and `time`
    elements: data elements, or their names; None: every one whose key the context has
    rules, confidence: element's name → as-of rule, and the floor of its runs' confidence, as `delorean.generate` takes
        them; where a floor's policy is "fail", the rows are counted that a run below it would serve
    spread: how far apart the captures of one row may lie, to count the rows beyond
    progress: called with (what is read, buckets done, all); None: a bar in a notebook or at a prompt

    Reads keys and times only, bucket by bucket, and agrees with what `delorean.generate` matches later.
    Raises DataKeyError for elements that were never captured, or whose service's key the context lacks, ConfigError
    for rules and floors of unknown elements, LabelError for a frame without times.
    """
    rows = rows_of(labels, storage, index)
    searches = label_searches(rows.labels, index, elements, rules, confidence)
    if not searches:
        raise DataKeyError.because(
            "no captured element has a key that these contexts have", "name the elements, to see what they lack"
        )
    with shown_progress(progress) as report:
        return _count(rows, searches, storage, None if spread is None else spread.limit, report)


def _count(
    rows: BucketedRows,
    searches: Sequence[ElementSearch],
    storage: Storage,
    limit: timedelta | None,
    progress: Progress,
) -> LabelCoverage:
    counts = CoverageCounts()
    total = complete = torn = 0
    tasks = rows.labels.tasks
    columns = sorted({name for search in searches for name in search.key} | ({TASK_VARIABLE} if tasks else set()))
    for done, (position, part) in enumerate(rows.parts(columns), start=1):
        times = part[TIME_COLUMN].cast(pa.int64()).to_numpy()
        results = [_of_tasks(search, part, position, storage, tasks) for search in searches]
        for search, result in zip(searches, results, strict=True):
            counts.add(search, times, result)
        spreads = _spreads(searches, results)
        counts.add_spreads(spreads)
        torn += 0 if limit is None else int((spreads > micros(limit)).sum())
        total += part.num_rows
        complete += int(np.all([result.outcome >= FOUND for result in results], axis=0).sum())
        progress("label rows, buckets", done, rows.part_count)
    return LabelCoverage(
        rows=total,
        complete=complete,
        elements=tuple(counts.cell(search) for search in searches),
        by_day=tuple(chain.from_iterable(counts.cells(search) for search in searches)),
        spread=counts.spread(),
        torn=None if limit is None else torn,
    )


def _of_tasks(
    search: ElementSearch, rows: pa.Table, position: BucketPosition, storage: Storage, tasks: TaskSet | None
) -> SearchResult:
    """Search for the rows whose task has the variables of the service's key; the others need no such element."""
    lacking = lacking_rows(rows, search.key, tasks)
    if not lacking.any():
        return search.search(rows, position, storage)
    applicable = pa.array(~lacking)
    found = search.search(rows.filter(applicable), position, storage)
    return found.spread_over(~lacking)


def _spreads(searches: Sequence[ElementSearch], results: Sequence[SearchResult]) -> NDArray[np.int64]:
    """Return the microseconds between the newest and oldest service capture of each row that has any."""
    of_services = [result for search, result in zip(searches, results, strict=True) if search.service is not None]
    if not of_services:
        return np.empty(0, dtype=np.int64)
    captures = [(result.captured_at, result.outcome != FOUND) for result in of_services]
    spreads = spread_between(captures, len(of_services[0].outcome))
    return spreads[spreads >= 0]
