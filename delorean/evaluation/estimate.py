"""A measured value with its confidence interval."""

from __future__ import annotations

import msgspec


class Estimate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value measured on a sample of contexts.

    value: None where nothing could be measured
    low, high: the confidence interval; None where the sample is too small for one
    contexts: number of contexts that were measured
    """

    value: float | None
    low: float | None
    high: float | None
    contexts: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval is on one side of 0, so that a difference is more than chance."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)
