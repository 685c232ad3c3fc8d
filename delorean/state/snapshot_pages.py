"""Lists a service's snapshots from the newest on, page by page, as far as label rows need them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from delorean.state.rules import FIRST_MOMENT
from schemas.errors import ReplayError
from schemas.services import Service
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, ServiceSnapshot

FIRST_PAGE = 32  # snapshots before the labels' first time: most keys were captured in one of them
_GROWTH = 8  # pages grow this fast, so that rows which need every snapshot are matched again only a few times


class SnapshotPage(NamedTuple):
    """The newest snapshots of a window.

    snapshots: the earliest published first
    rest: the last capture of the newest snapshot that is left out; None: none is
    """

    snapshots: tuple[ServiceSnapshot, ...]
    rest: datetime | None


def snapshots_of(
    index: SnapshotIndex, service: Service, window: tuple[datetime, datetime] = (FIRST_MOMENT, END_OF_TIME)
) -> list[ServiceSnapshot]:
    """Return a service's snapshots of its element that captured within a window, the earliest published first."""
    seen = index.snapshots(service.name, *window)
    return [snapshot for snapshot in reversed(seen) if snapshot.service.element.name == service.element.name]


def first_page(
    index: SnapshotIndex, service: Service, window: tuple[datetime, datetime], earliest: datetime, growth: int = 0
) -> SnapshotPage:
    """List the snapshots that captured anything since a time, and `FIRST_PAGE` older ones.

    window: of captures that any row may see; earliest: the last capture that the earliest row may see
    growth: how many times the number of older ones grows, for rows that need more
    """
    return _newest(index, service, window, earliest, FIRST_PAGE * _GROWTH**growth)


def longer_page(
    index: SnapshotIndex,
    service: Service,
    window: tuple[datetime, datetime],
    earliest: datetime,
    listed: Collection[str],
    rest: datetime,
) -> SnapshotPage:
    """List more than an earlier page did, and nothing that was published since among what that page covers.

    listed, rest: the run ids and the rest of that page

    Raises ReplayError if one of its runs was withdrawn.
    """
    older = _GROWTH * max(FIRST_PAGE, len(listed))
    while True:
        page = _newest(index, service, window, earliest, older)
        if page.rest is None or page.rest < rest:
            break
        older *= _GROWTH  # so much was published since that the page does not reach beyond the earlier one
    return _continuing(page, service, listed, rest)


def page_back_to(
    index: SnapshotIndex,
    service: Service,
    window: tuple[datetime, datetime],
    listed: Collection[str],
    rest: datetime,
    end: datetime | None,
) -> SnapshotPage:
    """List what an earlier page did, and all older snapshots that captured last after a time; see `longer_page`.

    end: before `rest`, it becomes the rest of the new page; None: all older snapshots
    """
    return _continuing(_page_after(index, service, window, end), service, listed, rest)


def _continuing(page: SnapshotPage, service: Service, listed: Collection[str], rest: datetime) -> SnapshotPage:
    """Return a longer page without what was published since among what the page before covers."""
    ids = frozenset(listed)
    kept = tuple(s for s in page.snapshots if s.run_id in ids or (s.captured_to or rest) <= rest)
    require_all(f"snapshot runs of '{service.element.name}'", sorted(ids - {s.run_id for s in kept}))
    return SnapshotPage(kept, page.rest)


def _page_after(
    index: SnapshotIndex, service: Service, window: tuple[datetime, datetime], rest: datetime | None
) -> SnapshotPage:
    """List the snapshots that captured last after a time; None: all."""
    if rest is None:
        return SnapshotPage(tuple(snapshots_of(index, service, window)), None)
    newer = snapshots_of(index, service, (rest, window[1]))
    return SnapshotPage(tuple(s for s in newer if s.captured_to and s.captured_to > rest), rest)


def require_all(what: str, missing: Collection[str]) -> None:
    """Raise ReplayError if anything that must be read again is missing."""
    if missing:
        raise ReplayError.because(
            f"{what} are not in the index any more: {', '.join(missing)}", "restore the index from a copy"
        )


def _newest(
    index: SnapshotIndex, service: Service, window: tuple[datetime, datetime], earliest: datetime, older: int
) -> SnapshotPage:
    """List the snapshots since a time and so many older ones; all that captured last at one moment, or none of them."""
    count, last = 0, END_OF_TIME
    for snapshot in index.iterate_snapshots(service.name, *window):
        captured_to = snapshot.captured_to
        if captured_to is None or captured_to >= earliest or snapshot.service.element.name != service.element.name:
            continue
        if count >= older and captured_to < last:
            return _page_after(index, service, window, captured_to)
        count, last = count + 1, captured_to
    return _page_after(index, service, window, None)
