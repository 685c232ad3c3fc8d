"""Other distributions on the package registry use our import names: ours must be what imports."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["delorean", "snapshotter", "prana_proxy", "encoders", "schemas"])
def test_what_imports_under_our_name_is_this_checkout(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == CHECKOUT / name / "__init__.py"
