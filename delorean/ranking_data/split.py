"""Splits feature sets into training, validation and test parts without leakage between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.stable_hash import unit_hash
from schemas.errors import NaiveTimeError, TrainingError
from schemas.times import from_micros

PARTS = ("train", "validation", "test")
LEFT_OUT = -1


@dataclass(frozen=True)
class SplitParts:
    """The parts of a feature set.

    left_out: contexts in none of the parts: the part of their time is not the part of their group, or their outcome
        was observed only after the next part had begun
    unread: contexts and items that were not read because a sample left them out
    """

    train: RankingData
    validation: RankingData
    test: RankingData
    left_out: int
    unread: tuple[int, int] = (0, 0)

    @property
    def sizes(self) -> dict[str, dict[str, int]]:
        """Contexts, items and positives of each part, and how many contexts were left out or not read at all."""
        sizes = {
            name: {"contexts": len(part), "items": len(part.labels), "positives": int(part.positive.sum())}
            for name, part in zip(PARTS, (self.train, self.validation, self.test), strict=True)
        }
        unread = {"contexts": self.unread[0], "items": self.unread[1]}
        return {**sizes, "left_out": {"contexts": self.left_out}, "unread": unread}


@dataclass(frozen=True)
class Split:
    """How to split: by time, by the values of a context variable, or by both.

    shares: of the training, validation and test part: of the time range, of the group's values, or of both
    by_time: rows before a first time are the training part, rows before a second one the validation part, the others
        the test part; a row whose outcome was observed only after its part had ended is left out, because it could
        not have been learned from by then
    validation_from, test_from: these two times; None: the shares of the time range decide them
    group: a context variable; all rows with one value go into one part, by a seeded hash. Together with by_time a row
        counts only where both agree, so no value of the test part occurs in training, at any time

    >>> Split(shares=(0.8, 0.1, 0.1), group="profile_id").by_time
    True
    """

    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    by_time: bool = True
    validation_from: datetime | None = None
    test_from: datetime | None = None
    group: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject shares and times that contradict each other."""
        if len(self.shares) != 3 or min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise TrainingError.because(f"shares of the split are {self.shares}, expected three above 0 with the sum 1")
        if not self.by_time and self.group is None:
            raise TrainingError.because("the split is neither by time nor by a group", "give by_time=True or a group")
        times = (self.validation_from, self.test_from)
        if any(times) and (not all(times) or not self.by_time):
            raise TrainingError.because("a split at fixed times needs by_time, validation_from and test_from")
        for time in times:
            if time is not None and time.tzinfo is None:
                raise NaiveTimeError.because(f"split time {time.isoformat()} has no time zone", "add one: tzinfo=UTC")
        if self.validation_from and self.test_from and self.validation_from >= self.test_from:
            raise TrainingError.because(f"validation_from {self.validation_from} is not before test_from")

    def divide(self, data: RankingData) -> SplitParts:
        """Split ranking data. Raises TrainingError when a part would be empty."""
        assigned = self.assign(data.contexts)
        self.require_parts(assigned, data.contexts)
        rows_by_part = [np.flatnonzero(assigned == part) for part in range(len(PARTS))]
        train, validation, test = (data.take(rows) for rows in rows_by_part)
        return SplitParts(train, validation, test, int((assigned == LEFT_OUT).sum()), data.unread)

    def require_parts(self, assigned: NDArray[np.int64], contexts: pa.Table) -> None:
        """Raise TrainingError when a part would be empty. assigned: the part of each context."""
        for part, name in enumerate(PARTS):
            if not (assigned == part).any():
                raise self._empty(name, contexts)

    def assign(self, contexts: pa.Table) -> NDArray[np.int64]:
        """Return the part of each context: 0 train, 1 validation, 2 test, −1 left out."""
        if self.group is None:
            return self._part_by_time(contexts)
        if self.group not in contexts.schema.names:
            raise TrainingError.unknown("context variable to split by", self.group, contexts.schema.names)
        bounds = np.cumsum(self.shares[:2])
        part = np.searchsorted(bounds, unit_hash([contexts[self.group]], self.seed), side="right")
        if not self.by_time:
            return part
        return np.where(part == self._part_by_time(contexts), part, LEFT_OUT)

    def at_times_of(self, contexts: pa.Table) -> Split:
        """Return the same split at the fixed times at which it divides these contexts, so that it divides others there.

        Raises TrainingError for contexts that are all of one time.
        """
        if not self.by_time or self.validation_from is not None:
            return self
        validation_from, test_from = self._bounds(contexts["time"].cast(pa.int64()).to_numpy())
        return replace(self, validation_from=from_micros(int(validation_from)), test_from=from_micros(int(test_from)))

    def _part_by_time(self, contexts: pa.Table) -> NDArray[np.int64]:
        """Return the part of each context by its time; −1 where its outcome was not yet known when that part ended."""
        times = contexts["time"].cast(pa.int64()).to_numpy()
        bounds = self._bounds(times)
        part: NDArray[np.int64] = np.searchsorted(bounds, times, side="right")
        if "outcome_at" not in contexts.schema.names:
            return part
        ends = np.append(bounds, np.iinfo(np.int64).max)
        return np.where(contexts["outcome_at"].cast(pa.int64()).to_numpy() < ends[part], part, LEFT_OUT)

    def _bounds(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.validation_from is not None:
            times_of_parts = pa.array([self.validation_from, self.test_from], pa.timestamp("us", tz="UTC"))
            bounds: NDArray[np.int64] = times_of_parts.cast(pa.int64()).to_numpy()
            return bounds
        first, last = (int(times.min()), int(times.max())) if len(times) else (0, 0)
        # In whole microseconds; the last moment belongs to the test part.
        return np.array([first + int((last - first) * share) for share in np.cumsum(self.shares[:2])])

    def _empty(self, part: str, contexts: pa.Table) -> TrainingError:
        rows = f"{len(contexts)} contexts"
        if self.by_time and len(contexts):
            times = contexts["time"].to_pylist()
            rows += f" from {min(times)} to {max(times)}"
        remedies = ["more label data"]
        if self.by_time:
            remedies.append(
                "other times" if self.validation_from else "validation_from and test_from within these times"
            )
        if self.group:
            remedies.append(f"another seed, or a group with more values than '{self.group}'")
        return TrainingError.because(
            f"the {part} part of the split is empty ({rows})", "give " + ", or ".join(remedies)
        )
