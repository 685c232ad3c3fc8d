"""A service's source of which older snapshots are listed only when a row needs them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pyarrow as pa

from delorean.coverage.bucketed_rows import BucketPosition
from delorean.labels import TIME_COLUMN
from delorean.state.captures import find_captures
from delorean.state.matches import CaptureFile, CaptureMatch
from delorean.state.rules import AsOf
from delorean.state.snapshot_pages import first_page
from delorean.state.sources import ServiceSource
from schemas.services import Service
from snapshotter.index import SnapshotIndex
from snapshotter.records import ServiceSnapshot
from snapshotter.storage import Storage


class PagedSource:
    """Matches rows with the newest snapshots, and with more of them while a row could be served better.

    source: the newest snapshots
    listed: returns the source with more of them, the greater its argument is, see `first_page`
    """

    def __init__(self, source: ServiceSource, listed: Callable[[int], ServiceSource]) -> None:
        self.source, self._listed, self._growth = source, listed, 0

    @classmethod
    def of_service(
        cls,
        index: SnapshotIndex,
        service: Service,
        rule: AsOf,
        times: tuple[datetime, datetime],
        captures: tuple[datetime, datetime],
        usable: Callable[[ServiceSnapshot], bool],
    ) -> PagedSource:
        """Return the source of a service's element.

        times: the first and the last time of the rows; captures: the window in which to look for what serves them
        usable: which snapshots may serve
        """
        _, earliest = rule.window(times[0], times[0])

        def listed(growth: int) -> ServiceSource:
            snapshots, rest = first_page(index, service, captures, earliest, growth)
            return ServiceSource(service.element, service, rule, tuple(filter(usable, snapshots)), rest=rest)

        return cls(listed(0), listed)

    def find(
        self, rows: pa.Table, position: BucketPosition, storage: Storage
    ) -> tuple[list[CaptureFile], CaptureMatch]:
        """Return the capture that serves each row of a bucket, by its position among the files that are returned."""
        while True:
            source = self.source
            files = list(source.files(position.bucket, position.buckets, position.variable))
            match = find_captures(rows, rows[TIME_COLUMN], source.service.key, source.rule, files, storage)
            if not source.needs_older(rows, match):
                return files, match
            self._growth += 1
            self.source = self._listed(self._growth)
