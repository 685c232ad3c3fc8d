"""Says when its first task ran: what spark-submit runs for the cluster's benchmark."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa

from snapshotter.spark.session import spark_session

PREFIX = "first task at "


def main() -> None:
    """Run one task and say when it ran, in seconds since the epoch."""

    def now(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        at = time.time()
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"at": [at]})

    [row] = spark_session("first task").range(1).mapInArrow(now, "at double").collect()
    print(f"{PREFIX}{row.at}")


if __name__ == "__main__":
    main()
