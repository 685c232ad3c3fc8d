"""How a test is planned: the effect that it must find, its errors, and when it may be looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.errors import ConfigError

Design = Literal["group-sequential", "always-valid", "fixed"]
Spending = Literal["obrien-fleming", "pocock"]


@dataclass(frozen=True)
class PlanSpec:
    """`[plan]` of a test.

    effect: the smallest relative change of the deciding metric that the test must find
    power: the probability of finding it
    alpha: the probability of reporting a difference, in either direction, although the cells do not differ
    design: "group-sequential": a few planned looks, whose boundaries share alpha; "always-valid": a look each day, with
        intervals that hold for all looks together; "fixed": one look at the end
    looks: number of planned looks of the group-sequential design, evenly spread, the last at the end
    spending: how looks share alpha: "obrien-fleming" spends little early, "pocock" about the same at each
    futility: stop early, too, where the chance of finding the effect by the end is below 1 − power; it is advice, and
        never raises the share of false positives
    units: number of units that the plan needs, as `delorean ab plan` computes it: looks then spend alpha by the share
        of it that was observed; None: by the share of the time. The always-valid design is narrowest at this number,
        or at 10,000
    """

    effect: float = 0.02
    power: float = 0.8
    alpha: float = 0.05
    design: Design = "group-sequential"
    looks: int = 5
    spending: Spending = "obrien-fleming"
    futility: bool = False
    units: int | None = None

    def __post_init__(self) -> None:
        """Reject plans that no test can keep."""
        if not 0 < self.effect < float("inf"):
            raise ConfigError.because(
                f"effect is {self.effect}, expected the smallest relative change to find, above 0",
                "write effect = 0.02",
            )
        if not 0 < self.alpha < 0.5:
            raise ConfigError.because(f"alpha is {self.alpha}, expected a probability between 0 and 0.5", "write 0.05")
        if not self.alpha < self.power < 1:
            raise ConfigError.because(
                f"power is {self.power}, expected a probability above alpha, {self.alpha}, and below 1", "write 0.8"
            )
        if not 1 <= self.looks <= 400:
            raise ConfigError.because(f"looks is {self.looks}, expected 1 to 400", "write looks = 5")
        if self.units is not None and self.units < 1:
            raise ConfigError.because(f"units is {self.units}, expected 1 or more")
