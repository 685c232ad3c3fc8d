"""What is searched, and for how long: the `[tuning]` table of a spec."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias

from schemas.errors import ConfigError

Value: TypeAlias = str | int | float | bool | None
LOWER_IS_BETTER = ("log_loss",)
_METRICS = ("mrr", "map", "auc_by_context", "auc", "log_loss")
_AT = re.compile(r"(ndcg|recall)@([1-9]\d{0,3})")


@dataclass(frozen=True)
class ParameterRange:
    """The values that a parameter may have: a range, of integers where both ends are integers, or a list.

    low, high: both ends included
    log: whether to search the logarithm, as for rates and regularisation
    choices: plain values, instead of a range

    >>> ParameterRange(0.01, 0.3, log=True).is_integer, ParameterRange(7, 63).is_integer
    (False, True)
    """

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        """Reject what is neither a range nor a list."""
        if self.choices:
            if self.low is not None or self.high is not None or self.log:
                raise ConfigError.because("a parameter has choices and a range", "leave one of them out")
            if len({repr(choice) for choice in self.choices}) < len(self.choices):
                raise ConfigError.because(f"choices {list(self.choices)} repeat a value")
            return
        if self.low is None or self.high is None:
            raise ConfigError.because(
                "a parameter has no range", "write { low = 0.01, high = 0.3 } or { choices = […] }"
            )
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError.because(f"low is {self.low} and high {self.high}, expected finite numbers, low < high")
        if self.log and self.low <= 0:
            raise ConfigError.because(f"low is {self.low} with log = true", "expected a number above 0")

    @property
    def is_integer(self) -> bool:
        """Whether values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class TuningSpec:
    """A search for parameters of an experiment's model.

    space: parameter of the model → its values
    trials: number of models to fit; a search that is started again fits those that are missing
    metric: of the validation part, by the names of a report: "ndcg@10", "recall@5", "mrr", "map", "auc", "log_loss", …
    timeout: begin no trial after this time; None: no limit
    candidates: how many of the best are measured on the test part, once the trials are done
    pruning: whether to end trials whose metric is worse than that of half of the others after as many rounds, where the
        learner reports rounds: LightGBM and XGBoost
    workers: processes that fit side by side, each with its share of the cores
    seed: of the search; one worker with the same seed proposes the same trials, also if it is interrupted

    >>> TuningSpec({"learning_rate": ParameterRange(0.01, 0.3, log=True)}, trials=20).direction
    'maximize'
    """

    space: Mapping[str, ParameterRange] = field(default_factory=dict)
    trials: int = 50
    metric: str = "ndcg@10"
    timeout: timedelta | None = None
    candidates: int = 3
    pruning: bool = True
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject numbers out of range, and an unknown metric."""
        for name, most in (("trials", 100_000), ("candidates", 100), ("workers", 256)):
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError.because(f"{name} is {getattr(self, name)}, expected 1 to {most:,}")
        if self.timeout is not None and self.timeout <= timedelta(0):
            raise ConfigError.because("the timeout is not longer than 0")
        if self.seed < 0:
            raise ConfigError.because(f"seed is {self.seed}, expected 0 or more")
        if self.metric not in _METRICS and not _AT.fullmatch(self.metric):
            raise ConfigError.unknown("metric", self.metric, ["ndcg@10", "recall@10", *_METRICS])

    @property
    def direction(self) -> str:
        """Whether the metric is to be maximised or minimised."""
        return "minimize" if self.metric in LOWER_IS_BETTER else "maximize"

    @property
    def at(self) -> tuple[int, ...]:
        """Numbers of first places that the metric needs."""
        matched = _AT.fullmatch(self.metric)
        return (int(matched[2]),) if matched else (10,)
