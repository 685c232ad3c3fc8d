"""Compares a candidate with production: on identical contexts, with intervals, and a verdict in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy_imports import lazy_getattr

if TYPE_CHECKING:
    from delorean.comparison.compare import compare_scores
    from delorean.comparison.packages import compare_packages

__all__ = ["compare_packages", "compare_scores"]

__getattr__ = lazy_getattr(
    __name__,
    {"compare_scores": "delorean.comparison.compare", "compare_packages": "delorean.comparison.packages"},
)
