"""Versions of what numbers depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_DISTRIBUTIONS = ("delorean-features", "numpy", "numba", "pyarrow", "polars", "pyspark", "deltalake", "scikit-learn")


def library_versions() -> dict[str, str]:
    """Give the versions that numbers may depend on; of libraries that are not there, none."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
