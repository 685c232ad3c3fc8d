"""The result of a counterfactual estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from delorean.evaluation.estimate import Estimate

ESTIMATORS = ("ips", "snips", "doubly_robust")


@dataclass(frozen=True)
class RewardEstimates:
    """The reward for each context, or a difference of two, by three estimators.

    ips: inverse propensity scoring (Horvitz and Thompson 1952): unbiased, with the greatest variance
    snips: self-normalised (Swaminathan and Joachims 2015): less variance, a bias that vanishes with more contexts
    doubly_robust: with a cross-fitted model of rewards (Dudík, Langford and Li 2011): unbiased, with the least variance
        where the model predicts rewards
    """

    ips: Estimate
    snips: Estimate
    doubly_robust: Estimate

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each estimator."""
        return [
            {"estimator": name, "value": each.value, "low": each.low, "high": each.high}
            for name in ESTIMATORS
            for each in (getattr(self, name),)
        ]


@dataclass(frozen=True)
class PolicyEstimates:
    """What one side's ranking would have earned.

    reward: None where it cannot be estimated; `refused` says why
    effective: the effective sample size (Kish 1965): so many shown items of equal weight would tell as much
    shown: number of shown items that the policy shows too
    greatest_weight, clipped: the greatest weight of a shown item, and how many were cut to the bound
    unsupported: share of what the policy shows that the logging policy never shows; None: not known
    """

    name: str
    reward: RewardEstimates | None
    effective: float
    shown: int
    greatest_weight: float
    clipped: int
    unsupported: float | None
    refused: str | None = None


@dataclass(frozen=True)
class CounterfactualEstimates:
    """What both sides would have earned, and the difference, candidate − production.

    policy: in words; logged: the mean reward of what was shown
    difference: None where a side has no estimate
    """

    policy: str
    logged: Estimate
    candidate: PolicyEstimates
    production: PolicyEstimates
    difference: RewardEstimates | None
    notes: tuple[str, ...] = ()

    @property
    def sides(self) -> tuple[PolicyEstimates, PolicyEstimates]:
        """Both sides."""
        return self.candidate, self.production
