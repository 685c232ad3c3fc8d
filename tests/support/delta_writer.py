"""A process that commits versions of one table, beside others that do: each version is one writer's rows alone."""

from __future__ import annotations

import json
import sys

import pyarrow as pa

from snapshotter.records import DataFile
from snapshotter.storage import open_storage
from snapshotter.storage.delta import USER_METADATA, commit_files
from snapshotter.storage.parquet import write_parquet

SCHEMA = pa.schema([("writer", pa.int64()), ("commit", pa.int64()), ("values", pa.list_(pa.float32()))])
ROWS, FILES = 50, 2


def files_of(storage: object, folder: str, writer: int, commit: int) -> list[DataFile]:
    """Write the files of a version that is to be."""
    rows = {"writer": [writer] * ROWS, "commit": [commit] * ROWS, "values": [[float(commit)]] * ROWS}
    table = pa.table(rows, SCHEMA)
    paths = [f"{folder}/{writer}-{commit}/{part}.parquet" for part in range(FILES)]
    return [write_parquet(storage, path, table, SCHEMA) for path in paths]  # type: ignore[arg-type]  # any storage


def main(uri: str, folder: str, writer: int, commits: int) -> None:
    """Write first, then commit as fast as it goes once a line comes in, and tell the versions."""
    storage = open_storage(uri)
    written = [files_of(storage, folder, writer, commit) for commit in range(commits)]
    tell("ready")
    sys.stdin.readline()
    versions = [commit_files(storage, folder, SCHEMA, files, {USER_METADATA: f"writer {writer}"}) for files in written]
    tell(json.dumps(versions))


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
