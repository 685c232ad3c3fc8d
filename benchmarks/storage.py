"""Reading a snapshot of 100,000 contexts, locally and through an S3 server, beside bare pyarrow from the same place.

DeLorean compares every byte with the checksum that was published, which pyarrow does not. Medians of interleaved runs,
ended with 1 when DeLorean takes more than 1.1 times as long. The server is moto's, on this machine's cores; --uri names
another storage to read through.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as pq
from rich.table import Table

from benchmarks.load_report import CONSOLE, Verdict, show
from benchmarks.turns import seconds_in_turns
from schemas.tables import TIME
from snapshotter.records import DataFile
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import read_parquet, write_parquet
from snapshotter.storage.s3_client import s3_client
from snapshotter.storage.s3_location import S3Location

MOST = 1.1
HISTORY = pa.struct([("video_id", pa.int64()), ("minutes", pa.float32()), ("watched_at", TIME)])


def main(arguments: list[str]) -> None:
    """Write the snapshot, read it in turns and print the table."""
    parser = argparse.ArgumentParser("make bench BENCH=storage", description=__doc__)
    parser.add_argument("--contexts", type=int, default=100_000)
    parser.add_argument("--buckets", type=int, default=2, help="files, as `delorean snapshot` makes them by itself")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--uri", help="s3://…, with credentials by the usual chain")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="storage-") as folder, s3_uri(options.uri) as uri:
        places = {"locally": open_storage(f"file://{folder}"), "through S3": open_storage(uri)}
        ways: dict[tuple[str, str], Callable[[], object]] = {}
        for place, storage in places.items():
            files = written(storage, options.contexts, options.buckets)
            bare = bare_reader(storage)
            ways[place, "DeLorean"] = lambda storage=storage, files=files: [read_parquet(storage, f) for f in files]
            ways[place, "pyarrow"] = lambda bare=bare, files=files: [bare(file.path) for file in files]
        size = sum(file.bytes for file in files)
        CONSOLE.print(f"{options.contexts:,} contexts in {len(files)} files, {size / 1e6:.1f} MB")
        report(seconds_in_turns(ways, options.repeats))
        storage.delete([file.path for file in files])


@contextmanager
def s3_uri(given: str | None) -> Iterator[str]:
    """Give the storage to read through; without one start a server."""
    if given is not None:
        yield given
        return
    sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))  # last: it must hide nothing
    from s3_server import s3_server

    with s3_server() as server:
        os.environ.update(server.environment)
        yield server.new_uri()


def written(storage: Storage, contexts: int, buckets: int) -> list[DataFile]:
    """Write histories of 20 to 60 plays for each context."""
    rng = np.random.default_rng(1)
    files = []
    for bucket in range(buckets):
        profiles = np.arange(bucket, contexts, buckets)
        offsets = np.concatenate([[0], np.cumsum(rng.integers(20, 61, len(profiles)))]).astype(np.int32)
        plays = int(offsets[-1])
        columns = [
            pa.array(rng.integers(0, 50_000, plays)),
            pa.array(rng.random(plays, dtype=np.float32) * 120),
            pa.array(rng.integers(1_764_500_000_000_000, 1_767_200_000_000_000, plays)).cast(TIME),
        ]
        table = pa.table(
            {
                "profile_id": profiles,
                "captured_at": pa.array(np.full(len(profiles), 1_767_225_600_000_000)).cast(TIME),
                "value": pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(columns, fields=list(HISTORY))),
            }
        )
        path = f"snapshots/history/bench/{bucket:05d}-0.parquet"
        files.append(write_parquet(storage, path, table, table.schema, bucket))
    return files


def bare_reader(storage: Storage) -> Callable[[str], pa.Table]:
    """Read as anybody would with pyarrow alone."""
    if not storage.uri.startswith("s3:"):
        root = storage.uri.removeprefix("file://")
        return lambda path: pq.read_table(f"{root}/{path}")
    place = S3Location.of(storage.uri)
    way = s3_client(place.server)
    keys = way.session.get_credentials().get_frozen_credentials()
    system = fs.S3FileSystem(
        access_key=keys.access_key,
        secret_key=keys.secret_key,
        session_token=keys.token,
        endpoint_override=place.server.endpoint,
        region=way.client.meta.region_name,
    )
    return lambda path: pq.read_table(f"{place.bucket}/{place.prefix}{path}", filesystem=system)


def report(seconds: Mapping[tuple[str, str], Sequence[float]]) -> None:
    """Print the medians side by side, and exit with 1 if a target was missed."""
    table = Table(title="Reading the snapshot whole: median (fastest)")
    for column in ("", "DeLorean", "pyarrow alone", "times as long"):
        table.add_column(column)
    verdicts = []
    for place in dict.fromkeys(place for place, _ in seconds):
        ours, bare = seconds[place, "DeLorean"], seconds[place, "pyarrow"]
        times = statistics.median(ours) / statistics.median(bare)
        shown = [f"{statistics.median(each) * 1e3:,.0f} ms ({min(each) * 1e3:,.0f})" for each in (ours, bare)]
        table.add_row(place, *shown, f"{times:.2f}")
        verdicts.append(Verdict(f"{place} at most {MOST} × pyarrow alone", f"{times:.2f} ×", times <= MOST))
    CONSOLE.print(table)
    show(verdicts)
    if not all(verdict.met for verdict in verdicts):
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
