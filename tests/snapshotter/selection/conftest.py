"""Impressions to select contexts from, and experiments that do."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from snapshotter.selection import NamedSelection
from snapshotter.storage.table_source import TableSource

DAY = date(2026, 1, 5)
KEY = ("profile_id", "country")


@pytest.fixture(scope="session")
def impressions(tmp_path_factory: pytest.TempPathFactory) -> TableSource:
    """1000 profiles, each seen three times on the day and once the day before; 600 in US, 300 in FR, 100 in JP."""
    folder = tmp_path_factory.mktemp("impressions")
    ids = [i % 1000 for i in range(3000)] + list(range(1000, 2000))
    days = [DAY] * 3000 + [date(2026, 1, 4)] * 1000
    countries = ["US" if i % 10 < 6 else "FR" if i % 10 < 9 else "JP" for i in ids]
    devices = ["tv" if i % 3 == 0 else "phone" for i in ids]
    table = pa.table({"profile_id": ids, "country": countries, "device": devices, "date": days})
    for part in range(4):
        pq.write_table(table.slice(part * 1000, 1000), folder / f"{part}.parquet")
    return TableSource(str(folder))


@pytest.fixture
def experiment(impressions: TableSource) -> Any:
    def make(name: str = "watchers", **changes: Any) -> NamedSelection:
        query = "SELECT profile_id, country, device FROM impressions WHERE date = :date"
        given: dict[str, Any] = {
            "query": query,
            "key": KEY,
            "strata": ("country",),
            "tables": {"impressions": impressions},
        }
        if "fraction" not in changes:
            given["quota"] = 50
        return NamedSelection(id=name, **{**given, **changes})

    return make
