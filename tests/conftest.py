"""What tests of several packages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from snapshotter.spark_session import spark_session


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    session = spark_session(
        "tests",
        "local[2]",
        spark__sql__shuffle__partitions="3",
        spark__sql__warehouse__dir=str(tmp_path_factory.mktemp("warehouse")),
        spark__ui__enabled="false",
        spark__driver__host="127.0.0.1",
        spark__driver__memory="1g",
    )
    yield session
    session.stop()
