"""The weight of each context in training and in metrics: a column, or the inverse of a probability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.tasks.task_set import TASK_VARIABLE
from schemas.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class ContextWeight:
    """A weight computed from columns of the feature set: min(1 / inverse, cap) · times · tasks[task_type].

    With `inverse = "inclusion_probability"`, means over a stratified sample estimate those of the population (Horvitz
    and Thompson 1952); a cap trades a little bias for less variance (Ionides 2008).

    inverse: a column of probabilities above 0 and up to 1
    times: a column that multiplies the weight, such as `confidence`; where it is null the factor is 1
    cap: the greatest value of 1 / inverse
    tasks: task → what multiplies the weights of its contexts

    >>> ContextWeight(inverse="inclusion_probability", times="confidence", cap=50).columns
    ('inclusion_probability', 'confidence')
    """

    inverse: str | None = None
    times: str | None = None
    cap: float | None = None
    tasks: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject a weight of nothing, and a cap without an inverse or below 1."""
        if self.cap is not None:
            object.__setattr__(self, "cap", float(self.cap))  # so that a spec has one id, in Python and TOML
        if self.inverse is None and self.times is None and not self.tasks:
            raise ConfigError.because("a weight names no column", 'write inverse = "…", times = "…", or both')
        if self.cap is not None and (self.inverse is None or not self.cap >= 1):
            raise ConfigError.because(f"the weight's cap is {self.cap}", "expected 1 or more, together with inverse")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it is computed from."""
        task = TASK_VARIABLE if self.tasks else None
        return tuple(dict.fromkeys(name for name in (self.inverse, self.times, task) if name is not None))

    def of(self, contexts: pa.Table) -> NDArray[np.float64]:
        """Compute each context's weight. Raises TrainingError for values that are no probability or no weight."""
        probabilities = self.probabilities(contexts)
        weights = np.ones(len(contexts)) if probabilities is None else 1 / probabilities
        if self.cap is not None:
            weights = np.minimum(weights, self.cap)
        if self.times is not None:
            weights = weights * _factors(contexts, self.times)
        return weights * _of_tasks(contexts, self.tasks) if self.tasks else weights

    def probabilities(self, contexts: pa.Table) -> NDArray[np.float64] | None:
        """Return each context's probability, None without `inverse`. Raises TrainingError for another value."""
        return None if self.inverse is None else _probabilities(contexts, self.inverse)


def _probabilities(contexts: pa.Table, name: str) -> NDArray[np.float64]:
    values = _numbers(contexts, name)
    wrong = ~((values > 0) & (values <= 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise TrainingError.because(
            f"column '{name}' has {int(wrong.sum())} values that are no probability, such as "
            f"{contexts[name][row].as_py()}: a weight is its inverse",
            "expected values above 0 and up to 1: leave those contexts out of the label data, or correct them",
        )
    return values


def _factors(contexts: pa.Table, name: str) -> NDArray[np.float64]:
    values = np.where(contexts[name].is_null().to_numpy(), 1.0, _numbers(contexts, name))
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise TrainingError.because(f"weight column '{name}' has values that are negative or not finite")
    return values


def _of_tasks(contexts: pa.Table, weights: Mapping[str, float]) -> NDArray[np.float64]:
    names = contexts[TASK_VARIABLE].to_pylist()
    unknown = {*names} - {*weights}
    if unknown:
        raise TrainingError.unknown("task with a weight", str(min(map(str, unknown))), weights)
    return np.array([weights[name] for name in names], dtype=np.float64)


def _numbers(contexts: pa.Table, name: str) -> NDArray[np.float64]:
    """Return a column as floats, NaN where null. Raises TrainingError for one that has no numbers."""
    type = contexts[name].type  # noqa: A001  # the field's own name
    if not (pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type)):
        raise TrainingError.because(f"weight column '{name}' is {type}, expected numbers")
    numbers: NDArray[np.float64] = pc.fill_null(contexts[name].cast(pa.float64()), np.nan).to_numpy()
    return numbers
