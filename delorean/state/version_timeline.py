"""The version of a global element at each moment from now on, computed once: a look-up is then a bisection."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta

import pyarrow as pa

from delorean.state.rules import AsOf
from delorean.state.versions import counts_from, find_versions
from schemas.tables import TIME
from snapshotter.records import END_OF_TIME, GlobalVersion, to_micros

_MICROSECOND = timedelta(microseconds=1)


class VersionTimeline:
    """Which version each moment from `since` on sees.

    versions: as for `find_versions`, all that a moment from `since` on may see
    """

    def __init__(self, versions: Sequence[GlobalVersion], rule: AsOf, since: datetime) -> None:
        self.since = since
        first = to_micros(since)
        changes = {first, *(at for version in versions for at in _changes(version, rule) if at > first)}
        self._moments = sorted(at for at in changes if at <= to_micros(END_OF_TIME))
        times = pa.chunked_array([pa.array(self._moments, pa.int64()).cast(TIME)])
        positions, _ = find_versions(times, versions, rule)
        self._versions = [versions[i] if i >= 0 else None for i in positions]

    def at(self, moment: datetime) -> GlobalVersion | None:
        """Return the version that a moment sees; the moment must not be before `since`."""
        return self._versions[bisect_right(self._moments, to_micros(moment)) - 1]

    def until(self, moment: datetime) -> list[GlobalVersion]:
        """Return the versions that moments from `since` to `moment` see."""
        last = bisect_right(self._moments, to_micros(moment))
        return [version for version in dict.fromkeys(self._versions[:last]) if version is not None]


def _changes(version: GlobalVersion, rule: AsOf) -> list[int]:
    """Return the moments, in microseconds, at which a version may come into view or leave it."""
    start = to_micros(counts_from(version, rule))
    first = start + rule.lag // _MICROSECOND
    ends = [] if rule.max_age is None else [start + rule.max_age // _MICROSECOND + 1]
    return [first, first + 1, *ends]  # without allow_exact a microsecond later
