"""Samples of a task's label rows, drawn before the tasks are merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.errors import ConfigError
from snapshotter.selection.quotas import sample_problem

INCLUSION_COLUMN = "inclusion_probability"


@dataclass(frozen=True)
class LabelSample:
    """A stratified sample of a task's contexts, each with its time, drawn by a seeded hash of both.

    strata: context variables or kept columns by which the sample is stratified
    quota: number of contexts for each stratum, as in a `ContextSelection`. Which are drawn depends on all label rows
    fraction: instead of a quota: the probability of each context, whatever other label rows there are
    seed: another seed gives another sample

    The probability with which each row was included is kept as `inclusion_probability`.

    >>> LabelSample(strata=("country",), quota={"US": 500, "default": 50}).fixed_size
    True
    """

    strata: tuple[str, ...] = ()
    quota: int | Mapping[str, Any] | None = None
    fraction: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject a sample that cannot be drawn."""
        if isinstance(self.strata, str) or len({*self.strata}) != len(self.strata):
            raise ConfigError.because(f"strata is {self.strata!r}, expected a list of different columns")
        problem, hint = sample_problem(self.quota, self.fraction, self.strata)
        if problem:
            raise ConfigError.because(problem, hint)

    @property
    def fixed_size(self) -> bool:
        """Whether strata have a size, so that a row's inclusion depends on the other rows."""
        return self.quota is not None
