"""Counts the exposures of a test by day and cell."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import pyarrow.compute as pc
import pyarrow.parquet as pq

from delorean.exposures.reader import read_exposures
from delorean.exposures.table_format import dropped_before, exposure_files
from snapshotter.storage import Storage

OUTSIDE = "no cell"


@dataclass(frozen=True)
class DayExposures:
    """Exposures of one day, UTC.

    cells: cell → number of requests; those without one are counted as `no cell`
    repeated: rows of requests that the log has already, which no reader counts
    dropped: rows that scorers lost, as far as they could record it
    """

    day: date
    cells: Mapping[str, int]
    repeated: int
    dropped: int


@dataclass(frozen=True)
class ExposureCounts:
    """Exposures of a test by day. test: None: what was shown outside tests."""

    test: str | None
    days: tuple[DayExposures, ...]

    def __repr__(self) -> str:
        """One line for people."""
        name = "outside tests" if self.test is None else f"of test {self.test}"
        return f"{sum(self.cells.values()):,} exposures {name} on {len(self.days):,} days"

    @property
    def cells(self) -> Mapping[str, int]:
        """Number of requests by cell, of all days, sorted by name."""
        counts: Counter[str] = Counter()
        for day in self.days:
            counts.update(day.cells)
        return dict(sorted(counts.items()))


def count_exposures(
    storage: Storage, test: str | None, since: date | None = None, until: date | None = None
) -> ExposureCounts:
    """Count the exposures of a test on some days, UTC. since, until: the first day and the last; None: all.

    Reads small columns of each file, and its footer. Raises what `read_exposures` raises.
    """
    begin = None if since is None else datetime.combine(since, time(), UTC)
    end = None if until is None else datetime.combine(until + timedelta(days=1), time(), UTC)
    requests: defaultdict[date, Counter[str]] = defaultdict(Counter)
    for batch in read_exposures(storage, test, begin, end, columns=["time", "cell"]):
        days = pc.cast(batch["time"], "date32").to_pylist()
        cells = pc.fill_null(batch["cell"], OUTSIDE).to_pylist()
        for day, cell in zip(days, cells, strict=True):
            requests[day][cell] += 1
    rows: Counter[date] = Counter()
    dropped: Counter[date] = Counter()
    for file in exposure_files(storage, test, since, until):
        with storage.open_input(file.path) as opened:
            metadata = pq.read_metadata(opened)
        rows[file.day] += metadata.num_rows
        dropped[file.day] += dropped_before(file.path, metadata.schema.to_arrow_schema())
    found = [
        DayExposures(day, dict(sorted(requests[day].items())), rows[day] - requests[day].total(), dropped[day])
        for day in sorted(rows)
    ]
    return ExposureCounts(test, tuple(found))
