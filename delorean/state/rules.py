"""The as-of rule's settings for one element: they travel with a feature set's lineage and with a model package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from schemas.errors import ConfigError

FIRST_MOMENT = datetime(1, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class AsOf:
    """How the as-of rule is set for one element, see `delorean.as_of_join`.

    as_published: of global elements: a version counts only from when it was published, if it was said to be valid
        from earlier; so that what was filled in afterwards is not seen by times that could not have known it
    """

    max_age: timedelta | None = None
    lag: timedelta = timedelta(0)
    allow_exact: bool = True
    as_published: bool = False

    def __post_init__(self) -> None:
        """Refuse what could read the future or never match."""
        for what, given in (("max_age", self.max_age), ("lag", self.lag)):
            if given is not None and not isinstance(given, timedelta):
                raise ConfigError.mistaken(what, given, "a timedelta", "write timedelta(hours=1)")
        if self.lag < timedelta(0) or (self.max_age is not None and self.max_age < self.lag):
            raise ConfigError.because(
                f"as-of rule has lag {self.lag} and max_age {self.max_age}, expected 0 ≤ lag ≤ max_age"
            )

    def window(self, earliest: datetime, latest: datetime) -> tuple[datetime, datetime]:
        """Give the range of captures that times from earliest to latest may see."""
        first = FIRST_MOMENT if self.max_age is None else _before(earliest, self.max_age)
        return first, _before(latest, self.lag)

    def newest_visible(self, moment: datetime) -> datetime:
        """Give the latest capture that a moment may see."""
        return _before(_before(moment, self.lag), timedelta(0) if self.allow_exact else _MICROSECOND)

    def to_json(self) -> dict[str, Any]:
        """Write the rule as plain fields."""
        return {
            "max_age_seconds": None if self.max_age is None else self.max_age.total_seconds(),
            "lag_seconds": self.lag.total_seconds(),
            "allow_exact": self.allow_exact,
            "as_published": self.as_published,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises ConfigError for anything else."""
        try:
            age, lag = fields["max_age_seconds"], timedelta(seconds=fields["lag_seconds"])
            flags = fields["allow_exact"], fields.get("as_published", False)
            if not all(isinstance(flag, bool) for flag in flags):
                raise TypeError("allow_exact and as_published must be true or false")
            return cls(None if age is None else timedelta(seconds=age), lag, *flags)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise ConfigError.because(f"{fields!r} is not an as-of rule: {error!r}") from error


def _before(moment: datetime, span: timedelta) -> datetime:
    return moment - span if moment - FIRST_MOMENT > span else FIRST_MOMENT
