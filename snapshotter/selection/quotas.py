"""How many contexts of each stratum a sample takes."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TypeAlias

DEFAULT = "default"
Quota: TypeAlias = "int | Mapping[str, Quota]"


def sample_size(quota: Quota | None, fraction: float | None, stratum: tuple[str, ...], population: int) -> int:
    """Return how many contexts to take from a stratum, by a quota or else by a fraction.

    >>> quota = {"US": {"tv": 100, "default": 5}, "default": 50}
    >>> [sample_size(quota, None, stratum, 1000) for stratum in [("US", "tv"), ("US", "phone"), ("FR", "tv")]]
    [100, 5, 50]
    """
    if fraction is not None:
        return -(-population * Fraction(repr(fraction)) // 1)  # exact: 0.1 of 30 is 3, not 4
    for value in stratum:
        if isinstance(quota, Mapping):
            quota = quota.get(value, quota.get(DEFAULT))
    return quota if isinstance(quota, int) else 0


def sample_problem(quota: Quota | None, fraction: float | None, strata: tuple[str, ...]) -> tuple[str, str | None]:
    """Return why a quota and a fraction cannot be used, and what to do; empty texts if they can.

    >>> sample_problem(10, 0.5, ())[0]
    'needs either a quota or a fraction'
    """
    if (quota is None) == (fraction is None):
        return "needs either a quota or a fraction", "write quota = 100 or fraction = 0.1"
    if fraction is not None and not 0 < fraction <= 1:
        return f"fraction is {fraction}, expected a number in (0, 1]", None
    return ("" if quota is None else _quota_problem(quota, len(strata), strata)), None


def named_strata(quota: Quota | None, levels: int) -> list[tuple[str, ...]]:
    """Return the strata that a quota names in full. levels: number of columns of strata."""
    if levels == 0:
        return [()]
    if not isinstance(quota, Mapping):
        return []
    return [
        (value, *rest) for value, inner in quota.items() if value != DEFAULT for rest in named_strata(inner, levels - 1)
    ]


def stratum_name(values: tuple[str, ...]) -> str:
    r"""Join a stratum's values with slashes, escaping slashes in values.

    >>> stratum_name(("US", "tv")), stratum_name(("a/b", "c")), stratum_name(())
    ('US/tv', 'a\\/b/c', 'all')
    """
    if not values:
        return "all"
    return "/".join(value.replace("\\", "\\\\").replace("/", "\\/") for value in values)


def _quota_problem(quota: Quota, levels: int, strata: tuple[str, ...]) -> str:
    if isinstance(quota, Mapping):
        if levels == 0:
            return f"quota nests deeper than its strata {list(strata)}: {dict(quota)}"
        for name, inner in quota.items():
            if not isinstance(name, str):
                return f"quota names {name!r}, expected the stratum's value as text"
            if problem := _quota_problem(inner, levels - 1, strata):
                return problem
        return ""
    if not isinstance(quota, int) or isinstance(quota, bool) or quota < 0:
        return f"quota is {quota!r}, expected a count of contexts >= 0"
    return ""
