"""What an experiment's labels would find, before anything is generated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.coverage.result import LabelCoverage
from delorean.coverage.rows import Rows, rows_of
from delorean.coverage.search import FOUND, Search, Trace, label_searches
from delorean.coverage.tally import Tally
from delorean.generation import AsOf, ConfidenceFloor, SpreadLimit
from delorean.labels import TIME_COLUMN, Labels
from delorean.state.provenance import micros, spread_between
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
    """See for how many label rows each element would be found, how old it would be, and why not for the others.

    labels: label data at rest, or a frame (pyarrow, Polars, pandas, DuckDB) with context variables and `time`
    elements: data elements, or their names; None: every one that the context has the key of
    rules, confidence: element's name → as-of rule, and what its runs must have, as `delorean.generate` takes them;
        where a floor says "fail", the rows are counted that a run below it would serve
    spread: how far apart the captures of one row may lie, to count the rows beyond
    progress: called with (what is read, buckets done, all); None: a bar in a notebook or at a prompt

    Reads keys and times only, bucket by bucket, and agrees with what `delorean.generate` finds later.
    Raises DataKeyError for elements that nobody captured, or whose service's key the context lacks, ConfigError for
    rules and floors of unknown elements, LabelError for a frame without times.
    """
    rows = rows_of(labels, storage, index)
    searches = label_searches(rows.labels, index, elements, rules, confidence)
    if not searches:
        raise DataKeyError.because(
            "nothing was captured that these contexts have the key of", "name the elements, to see what they lack"
        )
    with shown_progress(progress) as shown:
        return _count(rows, searches, storage, None if spread is None else spread.limit, shown)


def _count(
    rows: Rows, searches: Sequence[Search], storage: Storage, limit: timedelta | None, progress: Progress
) -> LabelCoverage:
    tally = Tally()
    counted = complete = torn = 0
    columns = sorted({name for search in searches for name in search.key})
    for done, (place, part) in enumerate(rows.parts(columns), start=1):
        times = part[TIME_COLUMN].cast(pa.int64()).to_numpy()
        traces = [search.trace(part, place, storage) for search in searches]
        for search, trace in zip(searches, traces, strict=True):
            tally.add(search, times, trace)
        spreads = _spreads(searches, traces)
        tally.add_spreads(spreads)
        torn += 0 if limit is None else int((spreads > micros(limit)).sum())
        counted += part.num_rows
        complete += int(np.all([trace.outcome == FOUND for trace in traces], axis=0).sum())
        progress("label rows, buckets", done, rows.part_count)
    return LabelCoverage(
        rows=counted,
        complete=complete,
        elements=tuple(tally.cell(search) for search in searches),
        by_day=tuple(chain.from_iterable(tally.cells(search) for search in searches)),
        spread=tally.spread(),
        torn=None if limit is None else torn,
    )


def _spreads(searches: Sequence[Search], traces: Sequence[Trace]) -> NDArray[np.int64]:
    """Give the microseconds between the newest and oldest service capture of each row that has any."""
    found = [trace for search, trace in zip(searches, traces, strict=True) if search.service is not None]
    if not found:
        return np.empty(0, dtype=np.int64)
    spreads = spread_between([(trace.captured_at, trace.outcome != FOUND) for trace in found], len(found[0].outcome))
    return spreads[spreads >= 0]
