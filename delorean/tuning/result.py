"""What a search has shown: its trials, and its best candidates on data that it has not seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from delorean.evaluation.estimate import Estimate
from delorean.tuning.space import LOWER_IS_BETTER, Value
from schemas.plain_text import plain_text


@dataclass(frozen=True)
class Trial:
    """One model of a search.

    state: "complete", "pruned", "failed" or "running"
    value: the metric on the validation part; None unless it is complete
    error: why it failed
    """

    number: int
    state: str
    value: float | None
    parameters: Mapping[str, Value]
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Candidate:
    """One of the best models, measured on both parts.

    trial: its number; None: the parameters of the spec, as they were before the search
    validation: of the part that the search has chosen it by
    test: of the part that no trial has seen
    """

    trial: int | None
    parameters: Mapping[str, Value]
    validation: Estimate
    test: Estimate


@dataclass(frozen=True, repr=False)
class TuningResult:
    """A study and its best candidates.

    study: the path of its journal
    trials: all of them, in the order in which they began
    candidates: the best by the validation part, the best first
    untuned: the model of the spec without what the search has found; None where that model cannot be fitted
    test_measurements: how many candidates of this study have been measured on the test part so far: the more, the less
        its best value means
    """

    study: str
    metric: str
    trials: tuple[Trial, ...]
    candidates: tuple[Candidate, ...]
    untuned: Candidate | None = None
    test_measurements: int = 0

    @property
    def best(self) -> Candidate:
        """The best candidate by the validation part. The test part only says how good it is."""
        return self.candidates[0]

    @property
    def optimism(self) -> float | None:
        """By how much the best candidate looks better on the validation part, where it was chosen, than on the test."""
        validation, test = self.best.validation.value, self.best.test.value
        if validation is None or test is None:
            return None
        return test - validation if self.metric in LOWER_IS_BETTER else validation - test

    @property
    def toml(self) -> str:
        """The best parameters, to paste into a spec."""
        return parameters_toml(self.best.parameters)

    def to_json(self) -> dict[str, Any]:
        """Write it as plain fields."""
        return {
            "study": self.study,
            "metric": self.metric,
            "best": dict(self.best.parameters),
            "toml": self.toml,
            "optimism": self.optimism,
            "candidates": [_plain(each) for each in self.candidates],
            "untuned": None if self.untuned is None else _plain(self.untuned),
            "test_measurements": self.test_measurements,
            "trials": [asdict(each) for each in self.trials],
        }

    def __repr__(self) -> str:
        """One line for people."""
        best, complete = self.best, sum(trial.state == "complete" for trial in self.trials)
        return plain_text(
            f"tuning of {self.metric}: best of {complete} models {_number(best.validation)} on the validation part, "
            f"{_number(best.test)} on the test part"
        )


def parameters_toml(parameters: Mapping[str, Value]) -> str:
    """Write parameters as the table of a spec.

    >>> print(parameters_toml({"learning_rate": 0.05, "max_leaf_nodes": 31}))
    [model.parameters]
    learning_rate = 0.05
    max_leaf_nodes = 31
    """
    lines = [f"{_key(name)} = {_toml(value)}" for name, value in parameters.items() if value is not None]
    return "\n".join(["[model.parameters]", *lines])


def _toml(value: Value) -> str:
    if isinstance(value, str):
        return json.dumps(value)  # a basic string of TOML has the same escapes
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def _number(estimate: Estimate) -> str:
    if estimate.value is None:
        return "not measured"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def _plain(candidate: Candidate) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(candidate)
    return plain
