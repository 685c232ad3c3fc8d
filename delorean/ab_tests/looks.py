"""When a test may be looked at, and which units each look analyses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from delorean.ab_tests.declaration import AbTest
from delorean.ab_tests.metrics import MetricSpec
from schemas.errors import AbTestError

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Look:
    """One planned look. It always analyses what was known at its time, whenever it is computed.

    number: from 1
    at: when it may be taken
    share: of the time in which units enter, up to the last units that it analyses
    last: whether it ends the test
    """

    number: int
    at: datetime
    share: float
    last: bool

    def entered_before(self, metric: MetricSpec) -> datetime:
        """Until when units entered whose outcomes of a metric are complete at this look."""
        return self.at - metric.matures


def planned_looks(test: AbTest) -> list[Look]:
    """Return all looks of a test, the first first.

    Looks of the group-sequential design divide the time in which units enter evenly; those of the always-valid design
    are a day apart. Each comes when the outcomes of the deciding metric are complete for the units up to it.

    Raises AbTestError for a test without metrics, start or end.
    """
    if not test.metrics:
        raise AbTestError.because(f"test '{test.name}' has no metric", "add [metrics.NAME]: the first decides")
    if test.start is None or test.end is None:
        missing = "start" if test.start is None else "end"
        raise AbTestError.because(
            f"test '{test.name}' has no {missing}, so its looks are not planned",
            f"`delorean ab plan` computes its duration: write {missing} = … in its file",
        )
    matures = next(iter(test.metrics.values())).matures
    span = test.end - test.start
    count = {"group-sequential": test.plan.looks, "fixed": 1, "always-valid": max(1, -(-span // _DAY))}[
        test.plan.design
    ]
    if test.plan.design == "always-valid":
        times = [min(test.start + _DAY * number, test.end) for number in range(1, count + 1)]
    else:
        times = [test.start + span * number / count for number in range(1, count + 1)]
    return [
        Look(number, time + matures, (time - test.start) / span, number == count)
        for number, time in enumerate(times, 1)
    ]


def looks_until(test: AbTest, at: datetime) -> tuple[list[Look], Look | None]:
    """Return the looks whose time has come, and the next one.

    Raises AbTestError before the first look: it says when that is.
    """
    looks = planned_looks(test)
    past = [look for look in looks if look.at <= at]
    if not past:
        raise AbTestError.because(
            f"test '{test.name}' may not be analysed before its first look at {looks[0].at:%F %R} UTC: looks that were "
            "not planned raise the share of false positives",
            "wait, or see its health with --peek",
        )
    return past, looks[len(past)] if len(past) < len(looks) else None
