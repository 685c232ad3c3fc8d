"""What an experiment demands of the state that features are made from: how old, how complete, how simultaneous."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from delorean.state.rules import AsOf
from schemas.errors import ConfigError

__all__ = ["AsOf", "ConfidenceFloor", "SpreadLimit"]


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
