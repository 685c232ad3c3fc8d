"""Which version of a global element a moment sees.

Among the versions that count by then (from `counts_from` on, at least `lag` ago) it is the one with the latest
valid_from, of equal ones the later published; unless it has counted for longer than `max_age`, then there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.as_of.join import as_of_rows
from delorean.state.rules import AsOf
from schemas.tables import TIME
from snapshotter.index import SnapshotIndex
from snapshotter.records import GlobalVersion, to_micros

_FIRST_PAGE = 8


def counts_from(version: GlobalVersion, rule: AsOf) -> datetime:
    """Return the moment from which on a version counts."""
    if not rule.as_published or version.published_at is None:
        return version.valid_from
    return max(version.valid_from, version.published_at)


def find_versions(
    times: pa.ChunkedArray, versions: Sequence[GlobalVersion], rule: AsOf
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the version that each time sees.

    versions: by valid_from, of equal ones the later published last; extra versions that no time can see do not matter

    Returns for each time the version's position, −1 for none, and when it counts from, in microseconds, 0 for none.
    """
    effective = np.array(_effective(versions, rule), dtype=np.int64)
    starts = pa.array([to_micros(counts_from(versions[i], rule)) for i in effective], pa.int64())
    rows = as_of_rows(
        [_one_key(len(times))],
        times,
        [_one_key(len(starts))],
        pa.chunked_array([starts.cast(TIME)]),
        max_age=rule.max_age,
        lag=rule.lag,
        allow_exact=rule.allow_exact,
    )
    if not len(effective):
        return rows, np.zeros(len(rows), dtype=np.int64)
    matched = rows >= 0
    return np.where(matched, effective[rows], -1), np.where(matched, starts.to_numpy()[rows], 0)


def version_at(versions: Sequence[GlobalVersion], rule: AsOf, moment: datetime) -> GlobalVersion | None:
    """Return the version that one moment sees; versions as for `find_versions`."""
    times = pa.chunked_array([pa.array([to_micros(moment)], pa.int64()).cast(TIME)])
    (position,) = find_versions(times, versions, rule)[0]
    return versions[position] if position >= 0 else None


def versions_in_view(
    index: SnapshotIndex, element: str, rule: AsOf, earliest: datetime, latest: datetime
) -> tuple[GlobalVersion, ...]:
    """Return the versions that times from earliest to latest may see, in the order that `find_versions` expects.

    The index is read from the newest version down to the one that `earliest` sees. That one is returned even if it is
    older than max_age allows, so that a report can say so.
    """
    newest, oldest = rule.newest_visible(latest), rule.newest_visible(earliest)
    seen = []
    for version in newest_versions(index, element, newest):
        start = counts_from(version, rule)
        if start <= newest:
            seen.append(version)
        if start <= oldest:  # it wins over all versions that are valid from earlier, whatever the time
            break
    return tuple(reversed(seen))


def published_version_at(index: SnapshotIndex, element: str, rule: AsOf, moment: datetime) -> GlobalVersion | None:
    """Return the version that one moment sees, of those that the index has now."""
    return version_at(versions_in_view(index, element, rule, moment, moment), rule, moment)


def newest_versions(index: SnapshotIndex, element: str, latest: datetime) -> Iterator[GlobalVersion]:
    """Yield an element's versions with valid_from up to a time, the newest first, reading the index page by page."""
    limit = _FIRST_PAGE
    yielded: set[str] = set()
    while True:
        page = index.global_versions(element, latest, limit)
        for version in page:
            if version.version_id not in yielded:  # versions may be published or withdrawn between two pages
                yielded.add(version.version_id)
                yield version
        if len(page) < limit:
            return
        limit *= 4


def in_order(versions: Iterable[GlobalVersion]) -> tuple[GlobalVersion, ...]:
    """Order versions by valid_from, of equal ones the later published last."""
    return tuple(sorted(versions, key=lambda version: (version.valid_from, version.published_at or version.valid_from)))


def _effective(versions: Sequence[GlobalVersion], rule: AsOf) -> list[int]:
    """Leave out versions that began to count only after one that is valid from later: no time ever sees those."""
    kept: list[int] = []
    for position in reversed(range(len(versions))):
        start = counts_from(versions[position], rule)
        if not kept or start <= counts_from(versions[kept[-1]], rule):
            kept.append(position)
    return kept[::-1]


def _one_key(rows: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.nulls(rows, pa.int8()).fill_null(0)])
