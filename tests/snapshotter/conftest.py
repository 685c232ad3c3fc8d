"""Small real services, a real proxy before them, and a context set to ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from small_company import Company
from snapshot_job import Job

from prana_proxy.server import start_proxy
from schemas.data_keys import context_variable
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.records import ContextSet
from snapshotter.selection.context_sets import context_set_schema
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import write_parquet


@pytest.fixture
def company() -> Iterator[Company]:
    with ExitStack() as stack:
        company = Company()
        stack.callback(company.close)
        yield company


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SnapshotIndex]:
    with open_index(f"sqlite://{tmp_path}/index.db") as index:
        yield index


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(f"file://{tmp_path}/data")


@pytest.fixture
def context_set(storage: Storage) -> ContextSet:
    """200 profiles in two countries, 50 of them on two devices, in two files."""
    profiles = list(range(200)) + list(range(50))
    devices = ["tv"] * 200 + ["phone"] * 50
    key = (
        context_variable("profile_id", "int64"),
        context_variable("country", "string"),
        context_variable("device", "string"),
    )
    table = pa.table(
        {
            "profile_id": profiles,
            "country": ["US" if profile % 2 else "FR" for profile in profiles],
            "device": devices,
            "experiments": [[]] * 250,
        }
    ).cast(context_set_schema(key))
    files = tuple(
        write_parquet(storage, f"context_sets/2026-01-05/{part}.parquet", table.slice(part * 125, 125), table.schema)
        for part in range(2)
    )
    return ContextSet.of_one_key("2026-01-05-test", date(2026, 1, 5), ("watchers",), key, files, ())


@pytest.fixture
def offline(spark: SparkSession, context_set: ContextSet, storage: Storage, index: SnapshotIndex) -> Job:
    return Job(spark, context_set, storage, index)


@pytest.fixture
def job(offline: Job, company: Any) -> Iterator[Job]:
    with start_proxy(company.config()) as proxy:
        offline.proxies = [proxy.address]
        yield offline
