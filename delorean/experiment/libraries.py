"""Versions of the libraries that results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_DISTRIBUTIONS = ("delorean-features", "numpy", "numba", "pyarrow", "polars", "pyspark", "deltalake", "scikit-learn")


def library_versions() -> dict[str, str]:
    """Return the version of Python, and of each of these libraries that is installed."""
    versions = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
