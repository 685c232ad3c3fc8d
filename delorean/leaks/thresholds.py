"""The limits above which a feature predicts its label implausibly well: the `[leaks]` table of a spec."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from schemas.errors import ConfigError

Policy = Literal["warn", "fail"]
SCOPES = 2  # each feature is tested within contexts and across them, so that its p counts twice


@dataclass(frozen=True)
class LeakThresholds:
    """When a feature is suspicious: it exceeds a limit, and chance does not explain it.

    auc: area under the ROC curve, by context; 1 − auc is as suspicious, since a negated label leaks it too
    information: share of the uncertainty about the label that the feature removes, in (0, 1]
    p_value: the greatest probability that shuffled labels would make any feature as strong
    permutations: how often labels are shuffled; the smallest p is 2 / (permutations + 1)
    seed: of shuffling and sampling
    policy: "warn": report only; "fail": publish nothing
    max_items: the most items in the sample

    >>> LeakThresholds(auc=0.4)
    Traceback (most recent call last):
    ...
    schemas.errors.ConfigError: auc is 0.4, expected more than 0.5 and at most 1
    """

    auc: float = 0.95
    information: float = 0.5
    p_value: float = 0.01
    permutations: int = 200
    seed: int = 0
    policy: Policy = "warn"
    max_items: int = 200_000

    def __post_init__(self) -> None:
        """Reject limits that every feature or no feature could reach."""
        _require("auc", self.auc, 0.5 < self.auc <= 1, "more than 0.5 and at most 1")
        _require("information", self.information, 0 < self.information <= 1, "more than 0 and at most 1")
        _require("p_value", self.p_value, 0 < self.p_value < 1, "between 0 and 1")
        _require("seed", self.seed, self.seed >= 0, "0 or more")
        _require("max_items", self.max_items, self.max_items > 0, "1 or more")
        if self.policy not in get_args(Policy):
            raise ConfigError.unknown("policy", self.policy, get_args(Policy))
        fewest = math.ceil(SCOPES / self.p_value - 1e-9) - 1
        _require(
            "permutations", self.permutations, self.permutations >= fewest, f"{fewest} or more to see p {self.p_value}"
        )


def _require(name: str, value: float, possible: bool, expected: str) -> None:
    if not possible:
        raise ConfigError.because(f"{name} is {value}, expected {expected}")
