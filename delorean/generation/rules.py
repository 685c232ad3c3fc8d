"""What an experiment demands of the state that features are made from: how old, how complete, how simultaneous."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from schemas.errors import ConfigError

_EVER = datetime(1, 1, 1, tzinfo=UTC)


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
        first = _EVER if self.max_age is None or earliest - _EVER < self.max_age else earliest - self.max_age
        return first, (latest - self.lag if latest - _EVER > self.lag else _EVER)


@dataclass(frozen=True)
class ConfidenceFloor:
    """The confidence that each snapshot run of a service must have, and what becomes of a run that has less.

    floor: real successes / contexts asked, in (0, 1]
    below: previous: as if the run had not been published, so that an earlier one serves, within max_age;
        skip: rows that the run would serve go without the element; fail: nothing is generated
    """

    floor: float
    below: Literal["previous", "skip", "fail"] = "previous"

    def __post_init__(self) -> None:
        """Refuse what no run could miss or reach."""
        if not 0 < self.floor <= 1:
            raise ConfigError.because(f"floor is {self.floor}, expected a confidence in (0, 1]", "write 0.95")


@dataclass(frozen=True)
class SpreadLimit:
    """How far apart the captures that one row is made from may lie, and what becomes of a row beyond it.

    limit: the most between the newest and the oldest capture of the row's services
    beyond: drop: the row is left out; null: the row stays, features that read a service are null in it;
        fail: nothing is generated
    """

    limit: timedelta
    beyond: Literal["drop", "null", "fail"] = "drop"

    def __post_init__(self) -> None:
        """Refuse a limit that nothing could keep."""
        if self.limit < timedelta(0):
            raise ConfigError.because(f"limit is {self.limit}, expected a spread of at least 0", 'write limit = "PT5M"')
