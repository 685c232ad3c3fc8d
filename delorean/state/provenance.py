"""Where the state of each row comes from: which run or version served it, when, how far apart, how complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.state.matched import Matched
from schemas.errors import ParadoxError
from schemas.tables import TIME

_NEVER = np.iinfo(np.int64).min
_SECOND = 1_000_000
# Edges of the distribution of spreads, in seconds: up to and including each.
SPREAD_EDGES = (0, 1, 10, 60, 600, 3_600, 21_600, 86_400, 604_800)


@dataclass(frozen=True)
class Served:
    """An element for each row, and where from.

    by: the run or version of each file that `matched.file` counts
    confidence: of each of these runs; None for a global element
    """

    matched: Matched
    by: Sequence[str]
    confidence: Sequence[float] | None = None

    def where(self, kept: NDArray[np.bool_]) -> Served:
        """Leave rows out."""
        return Served(self.matched.where(kept), self.by, self.confidence)

    def names(self) -> pa.Array:
        """Name the run or version that served each row, null where the element is absent."""
        return pa.array(self.by, pa.string()).take(pa.array(self.matched.file, mask=self.matched.absent))


@dataclass(frozen=True)
class SpreadReport:
    """How far apart the captures lie that rows are made from, before any row is dropped.

    counts: rows with a spread up to each of `SPREAD_EDGES`, and beyond the last
    beyond: rows beyond the experiment's limit
    """

    counts: tuple[int, ...] = (0,) * (len(SPREAD_EDGES) + 1)
    beyond: int = 0

    @classmethod
    def of(cls, spread: NDArray[np.int64], limit: timedelta | None) -> Self:
        """Count spreads given in microseconds, negative where there is none."""
        known = spread[spread >= 0]
        edges = np.array(SPREAD_EDGES) * _SECOND
        counts = np.bincount(np.searchsorted(edges, known), minlength=len(edges) + 1)
        beyond = 0 if limit is None else int((known > micros(limit)).sum())
        return cls(tuple(counts.tolist()), beyond)

    @classmethod
    def total(cls, parts: Iterable[SpreadReport]) -> Self:
        """Add up what bucket tasks counted."""
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
    """Give a time span in whole microseconds."""
    return span // timedelta(microseconds=1)


def spread_of(services: Sequence[Served], rows: int) -> NDArray[np.int64]:
    """Give the microseconds between each row's newest and oldest capture by services; −1 for a row without any."""
    return spread_between([(served.matched.captured_at, served.matched.absent) for served in services], rows)


def spread_between(captures: Sequence[tuple[NDArray[np.int64], NDArray[np.bool_]]], rows: int) -> NDArray[np.int64]:
    """Give the microseconds between each row's newest and oldest capture; −1 for a row without any.

    captures: for each service (rows,) microseconds of its captures, and where there is none
    """
    newest, oldest = np.full(rows, _NEVER), np.full(rows, np.iinfo(np.int64).max)
    for captured_at, absent in captures:
        np.maximum(newest, np.where(absent, _NEVER, captured_at), out=newest)
        np.minimum(oldest, np.where(absent, oldest, captured_at), out=oldest)
    return np.where(newest == _NEVER, -1, newest - oldest)


def spread_seconds(spread: NDArray[np.int64]) -> pa.Array:
    """Turn spreads into seconds, null where there is none."""
    return pa.array(spread / _SECOND, mask=spread < 0)


def confidence_of(services: Sequence[Served], rows: int) -> pa.Array:
    """Give the lowest confidence among the runs that served each row, null where none did."""
    lowest = np.full(rows, np.inf)
    for served in services:
        if served.confidence:
            of = np.asarray(served.confidence)[served.matched.file]
            np.minimum(lowest, np.where(served.matched.absent, np.inf, of), out=lowest)
    return pa.array(lowest, mask=np.isinf(lowest))


def latest_input(times: pa.ChunkedArray, elements: Mapping[str, Served]) -> pa.Array:
    """Give the latest capture each row was made from, null where every element is absent.

    Raises ParadoxError if one is later than its row's time.
    """
    latest = np.full(len(times), _NEVER, dtype=np.int64)
    for served in elements.values():
        found = served.matched
        np.maximum(latest, np.where(found.absent, _NEVER, found.captured_at), out=latest)
    late = latest > times.cast(pa.int64()).to_numpy()
    if late.any():
        raise ParadoxError.because(
            f"{int(late.sum())} rows would be made from state captured after their time: this is a defect of DeLorean",
            "please report it; nothing was published",
        )
    return pa.array(latest, mask=latest == _NEVER).cast(TIME)


def _short(seconds: int) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
