"""What an experiment demands of the state that features are computed from: how old, how complete, how simultaneous.

As-of rules are recorded in a feature set's lineage and in a model package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

from schemas.errors import ConfigError

FIRST_MOMENT = datetime(1, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class AsOf:
    """The settings of the as-of rule for one element, see `delorean.as_of_join`.

    as_published: for global elements: a version that was declared valid from a time before its publication counts only
        from its publication, so that times before it do not see data that was not available then
    """

    max_age: timedelta | None = None
    lag: timedelta = timedelta(0)
    allow_exact: bool = True
    as_published: bool = False

    def __post_init__(self) -> None:
        """Reject rules that could read the future or could never match."""
        for name, value in (("max_age", self.max_age), ("lag", self.lag)):
            if value is not None and not isinstance(value, timedelta):
                raise ConfigError.mistaken(name, value, "a timedelta", "write timedelta(hours=1)")
        if self.lag < timedelta(0) or (self.max_age is not None and self.max_age < self.lag):
            raise ConfigError.because(
                f"as-of rule has lag {self.lag} and max_age {self.max_age}, expected 0 ≤ lag ≤ max_age"
            )

    def window(self, earliest: datetime, latest: datetime) -> tuple[datetime, datetime]:
        """Return the first and last capture that times from `earliest` to `latest` may see."""
        first = FIRST_MOMENT if self.max_age is None else _before(earliest, self.max_age)
        return first, _before(latest, self.lag)

    def newest_visible(self, moment: datetime) -> datetime:
        """Return the latest capture that a moment may see."""
        return _before(_before(moment, self.lag), timedelta(0) if self.allow_exact else _MICROSECOND)

    def to_json(self) -> dict[str, Any]:
        """Return the rule as plain fields."""
        return {
            "max_age_seconds": None if self.max_age is None else self.max_age.total_seconds(),
            "lag_seconds": self.lag.total_seconds(),
            "allow_exact": self.allow_exact,
            "as_published": self.as_published,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned. Raises ConfigError for anything else."""
        try:
            age, lag = fields["max_age_seconds"], timedelta(seconds=fields["lag_seconds"])
            flags = fields["allow_exact"], fields.get("as_published", False)
            if not all(isinstance(flag, bool) for flag in flags):
                raise TypeError("allow_exact and as_published must be true or false")
            return cls(None if age is None else timedelta(seconds=age), lag, *flags)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise ConfigError.because(f"{fields!r} is not an as-of rule: {error!r}") from error


@dataclass(frozen=True)
class ConfidenceFloor:
    """The least confidence of a service's snapshot runs, and what happens to runs below it.

    floor: successful responses / contexts requested, in (0, 1]
    below: previous: ignore such runs, so that an earlier one serves, within max_age; skip: rows that such a run would
        serve go without the element; fail: generate nothing
    """

    floor: float
    below: Literal["previous", "skip", "fail"] = "previous"

    def __post_init__(self) -> None:
        """Reject a floor that every run or no run could reach."""
        if not 0 < self.floor <= 1:
            raise ConfigError.because(f"floor is {self.floor}, expected a confidence in (0, 1]", "write 0.95")


@dataclass(frozen=True)
class SpreadLimit:
    """How far apart the captures behind one row may lie, and what happens to rows beyond that.

    limit: the longest time between the newest and the oldest capture of the row's services
    beyond: drop: leave the row out; null: keep the row, with null in all features that read a service; fail: generate
        nothing
    """

    limit: timedelta
    beyond: Literal["drop", "null", "fail"] = "drop"

    def __post_init__(self) -> None:
        """Reject a negative limit."""
        if self.limit < timedelta(0):
            raise ConfigError.because(f"limit is {self.limit}, expected a spread of at least 0", 'write limit = "PT5M"')


def _before(moment: datetime, span: timedelta) -> datetime:
    return moment - span if moment - FIRST_MOMENT > span else FIRST_MOMENT
