"""Where the state of each row comes from: which run or version served it, when, how far apart, how complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.state.matches import ElementMatch
from schemas.errors import ParadoxError
from schemas.tables import TIME

_EARLIEST, _LATEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_SECOND = 1_000_000
# Edges of the distribution of spreads, in seconds: up to and including each.
SPREAD_EDGES = (0, 1, 10, 60, 600, 3_600, 21_600, 86_400, 604_800)


@dataclass(frozen=True)
class ResolvedElement:
    """An element for each row, and where it comes from.

    source_ids: the id of the run or version at each position that `match.file` may have
    confidence: of each of these runs; None for a global element
    complete: whether no snapshot that the source leaves out could serve a row better
    """

    match: ElementMatch
    source_ids: Sequence[str]
    confidence: Sequence[float] | None = None
    complete: bool = True

    def where(self, kept: NDArray[np.bool_]) -> ResolvedElement:
        """Keep only some rows."""
        return replace(self, match=self.match.where(kept))

    def served_by(self) -> pa.Array:
        """Return the id of the run or version that served each row, null where the element is absent."""
        return pa.array(self.source_ids, pa.string()).take(pa.array(self.match.file, mask=self.match.absent))


@dataclass(frozen=True)
class SpreadReport:
    """How far apart the captures behind a row lie, counted before any row is dropped.

    counts: rows with a spread up to each of `SPREAD_EDGES`, and beyond the last
    beyond: rows beyond the experiment's limit
    """

    counts: tuple[int, ...] = (0,) * (len(SPREAD_EDGES) + 1)
    beyond: int = 0

    @classmethod
    def of(cls, spread: NDArray[np.int64], limit: timedelta | None) -> Self:
        """Count spreads in microseconds, negative where a row has none."""
        existing = spread[spread >= 0]
        edges = np.array(SPREAD_EDGES) * _SECOND
        counts = np.bincount(np.searchsorted(edges, existing), minlength=len(edges) + 1)
        beyond = 0 if limit is None else int((existing > micros(limit)).sum())
        return cls(tuple(counts.tolist()), beyond)

    @classmethod
    def total(cls, parts: Iterable[SpreadReport]) -> Self:
        """Add up the reports of bucket tasks."""
        parts = list(parts)
        counts = np.sum([part.counts for part in parts], axis=0).tolist()
        return cls(tuple(counts), sum(part.beyond for part in parts))

    def rows(self) -> list[dict[str, Any]]:
        """Show the distribution as a table's rows, from the first to the last range that has any."""
        names = ["0", *(f"≤ {_short(edge)}" for edge in SPREAD_EDGES[1:]), f"> {_short(SPREAD_EDGES[-1])}"]
        total = max(1, sum(self.counts))
        filled = [i for i, count in enumerate(self.counts) if count]
        return [
            {"spread": names[i], "rows": self.counts[i], "share": self.counts[i] / total}
            for i in range(min(filled, default=0), max(filled, default=-1) + 1)
        ]


def micros(span: timedelta) -> int:
    """Return a time span in whole microseconds."""
    return span // timedelta(microseconds=1)


def spread_between(captures: Sequence[tuple[NDArray[np.int64], NDArray[np.bool_]]], rows: int) -> NDArray[np.int64]:
    """Return the microseconds between each row's newest and oldest capture; −1 for a row without any.

    captures: for each service (rows,) microseconds of its captures, and a mask of the rows without one
    """
    newest, oldest = np.full(rows, _EARLIEST), np.full(rows, _LATEST)
    for captured_at, absent in captures:
        np.maximum(newest, np.where(absent, _EARLIEST, captured_at), out=newest)
        np.minimum(oldest, np.where(absent, _LATEST, captured_at), out=oldest)
    return np.where(newest == _EARLIEST, -1, newest - oldest)


def spread_of(services: Sequence[ResolvedElement], rows: int) -> NDArray[np.int64]:
    """Return `spread_between` for resolved service elements."""
    return spread_between([(service.match.captured_at, service.match.absent) for service in services], rows)


def spread_seconds(spread: NDArray[np.int64]) -> pa.Array:
    """Convert spreads from microseconds to seconds; rows without a spread become null."""
    return pa.array(spread / _SECOND, mask=spread < 0)


def confidence_of(services: Sequence[ResolvedElement], rows: int) -> pa.Array:
    """Return the lowest confidence among the runs that served each row, null where none did."""
    lowest = np.full(rows, np.inf)
    for service in services:
        if service.confidence:
            confidence = np.asarray(service.confidence)[service.match.file]
            np.minimum(lowest, np.where(service.match.absent, np.inf, confidence), out=lowest)
    return pa.array(lowest, mask=np.isinf(lowest))


def latest_input(times: pa.ChunkedArray, elements: Mapping[str, ResolvedElement]) -> pa.Array:
    """Return the time of each row's latest capture, null where every element is absent.

    Raises ParadoxError if a capture is later than its row's time.
    """
    latest = np.full(len(times), _EARLIEST, dtype=np.int64)
    for element in elements.values():
        np.maximum(latest, np.where(element.match.absent, _EARLIEST, element.match.captured_at), out=latest)
    late = latest > times.cast(pa.int64()).to_numpy()
    if late.any():
        raise ParadoxError.because(
            f"{int(late.sum())} rows would be made from state captured after their time: this is a defect of DeLorean",
            "please report it; nothing was published",
        )
    return pa.array(latest, mask=latest == _EARLIEST).cast(TIME)


def _short(seconds: int) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
