"""What label data may be like: the `[label_quality]` table of a spec."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Final, Literal, get_args

from schemas.errors import ConfigError

Policy = Literal["warn", "fail"]
SHARES: Final = (
    *("max_duplicates", "max_contradictions", "max_unknown", "min_positives", "max_positives"),
    *("max_without_positives", "max_all_positive"),
)


@dataclass(frozen=True)
class LabelQualityLimits:
    """What is measured of label data, and the limits that it must keep. A limit of None is not checked.

    by: context variables or carried columns, such as a stratum: shares are measured for each of their values
    near: an item that the same context has again within this time is a duplicate if the labels are equal, and a
        contradiction if they differ
    max_duplicates, max_contradictions: shares of items
    max_unknown: share of items whose label is null
    min_positives, max_positives: share of positives among the items with a label
    max_without_positives, max_all_positive: shares of contexts
    max_delay: time from a context to its outcome that 99 % of contexts keep
    max_change: population stability index of each distribution against earlier label data; 0.1 is usually called small,
        0.25 large
    policy: "warn": report only; "fail": train nothing, and exit with 3

    >>> LabelQualityLimits(max_duplicates=0.01, policy="fail").limits
    {'max_duplicates': 0.01}
    """

    by: tuple[str, ...] = ()
    near: timedelta = timedelta(minutes=1)
    max_duplicates: float | None = None
    max_contradictions: float | None = None
    max_unknown: float | None = None
    min_positives: float | None = None
    max_positives: float | None = None
    max_without_positives: float | None = None
    max_all_positive: float | None = None
    max_delay: timedelta | None = None
    max_change: float | None = None
    policy: Policy = "warn"

    def __post_init__(self) -> None:
        """Reject limits that cannot be kept or reached."""
        if isinstance(self.by, str):
            raise ConfigError.mistaken("by", self.by, "names of columns", f'write by=("{self.by}",)')
        if self.policy not in get_args(Policy):
            raise ConfigError.unknown("policy", self.policy, get_args(Policy))
        for name in SHARES:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, float(value))  # so that a spec has one id
                if not 0 <= value <= 1:
                    raise ConfigError.because(f"{name} is {value}, expected a share from 0 to 1")
        if self.max_change is not None:
            object.__setattr__(self, "max_change", float(self.max_change))
            if not self.max_change > 0:
                raise ConfigError.because(f"max_change is {self.max_change}, expected more than 0, such as 0.25")
        for name in ("near", "max_delay"):
            if (span := getattr(self, name)) is not None and span < timedelta(0):
                raise ConfigError.because(f"{name} is negative")

    @property
    def limits(self) -> dict[str, float | timedelta]:
        """The limits that are checked."""
        names = (each.name for each in fields(self) if each.name.startswith(("max_", "min_")))
        return {name: value for name in names if (value := getattr(self, name)) is not None}
