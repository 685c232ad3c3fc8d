"""Splits feature sets into training, validation and test parts that share nothing they must not share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.training.ranking_data import RankingData
from delorean.training.stable_hash import unit_hash
from schemas.errors import NaiveTimeError, TrainingError

PARTS = ("train", "validation", "test")
_LEFT_OUT = -1


@dataclass(frozen=True)
class Parts:
    """What a split makes of a feature set.

    left_out: contexts in none of the parts: the part of their time is not the part of their group, or their outcome
        was observed only when the next part had begun
    unread: contexts and items that were not read, since a sample left them out
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
    """How to split: by time, by a context variable's value, or by both.

    shares: the parts' shares: of the time range, of the group's values, of each when both are used
    by_time: rows before a first time train, rows before a second validate, the rest tests; a row whose outcome was
        observed only after its part had ended is left out, since nobody could have learnt from it by then
    validation_from, test_from: these times, when the shares of the range should not decide them
    group: a context variable; all rows of one value go into one part, by a seeded hash. Together with by_time a row
        counts only where both agree, so that no value of the test part was seen in training, at any time
    """

    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    by_time: bool = True
    validation_from: datetime | None = None
    test_from: datetime | None = None
    group: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse splits that cannot be meant."""
        if len(self.shares) != 3 or min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise TrainingError.because(f"shares of the split are {self.shares}, expected three above 0 with the sum 1")
        if not self.by_time and self.group is None:
            raise TrainingError.because("the split is neither by time nor by a group", "give by_time=True or a group")
        times = (self.validation_from, self.test_from)
        if any(times) and (not all(times) or not self.by_time):
            raise TrainingError.because("a split by given times needs by_time, validation_from and test_from")
        for time in times:
            if time is not None and time.tzinfo is None:
                raise NaiveTimeError.because(f"split time {time.isoformat()} has no zone", "give it one: tzinfo=UTC")
        if self.validation_from and self.test_from and self.validation_from >= self.test_from:
            raise TrainingError.because(f"validation_from {self.validation_from} is not before test_from")

    def divide(self, data: RankingData) -> Parts:
        """Split ranking data. Raises TrainingError when a part would be empty."""
        assigned = self.assign(data.contexts)
        found = [np.flatnonzero(assigned == part) for part in range(3)]
        for name, rows in zip(PARTS, found, strict=True):
            if len(rows) == 0:
                raise self._empty(name, data.contexts)
        train, validation, test = (data.take(rows) for rows in found)
        return Parts(train, validation, test, int((assigned == _LEFT_OUT).sum()), data.unread)

    def assign(self, contexts: pa.Table) -> NDArray[np.int64]:
        """Give each context the number of its part: 0 train, 1 validation, 2 test, −1 left out."""
        if self.group is None:
            return self._known_in_time(contexts)
        if self.group not in contexts.schema.names:
            raise TrainingError.unknown("context variable to split by", self.group, contexts.schema.names)
        bounds = np.cumsum(self.shares[:2])
        part = np.searchsorted(bounds, unit_hash([contexts[self.group]], self.seed), side="right")
        if not self.by_time:
            return part
        return np.where(part == self._known_in_time(contexts), part, _LEFT_OUT)

    def to_json(self) -> dict[str, Any]:
        """Write the split as plain fields."""
        times = {name: time and time.isoformat() for name, time in self._times().items()}
        return {**vars(self), "shares": list(self.shares), **times}

    def _times(self) -> dict[str, datetime | None]:
        return {"validation_from": self.validation_from, "test_from": self.test_from}

    def _known_in_time(self, contexts: pa.Table) -> NDArray[np.int64]:
        """Give each context the part of its time, if its outcome was known when that part ended."""
        times = contexts["time"].cast(pa.int64()).to_numpy()
        bounds = self._bounds(times)
        part: NDArray[np.int64] = np.searchsorted(bounds, times, side="right")
        if "outcome_at" not in contexts.schema.names:
            return part
        ends = np.append(bounds, np.iinfo(np.int64).max)
        return np.where(contexts["outcome_at"].cast(pa.int64()).to_numpy() < ends[part], part, _LEFT_OUT)

    def _bounds(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.validation_from is not None:
            given = pa.array(list(self._times().values()), pa.timestamp("us", tz="UTC"))
            found: NDArray[np.int64] = given.cast(pa.int64()).to_numpy()
            return found
        first, last = (int(times.min()), int(times.max())) if len(times) else (0, 0)
        # In whole microseconds; the last instant belongs to the test part.
        return np.array([first + int((last - first) * share) for share in np.cumsum(self.shares[:2])])

    def _empty(self, part: str, contexts: pa.Table) -> TrainingError:
        rows = f"{len(contexts)} contexts"
        if self.by_time and len(contexts):
            times = contexts["time"].to_pylist()
            rows += f" from {min(times)} to {max(times)}"
        ways = ["more label data"]
        if self.by_time:
            ways.append("other times" if self.validation_from else "validation_from and test_from within these times")
        if self.group:
            ways.append(f"another seed, or a group with more values than '{self.group}' has")
        return TrainingError.because(f"the {part} part of the split is empty ({rows})", "give " + ", or ".join(ways))
