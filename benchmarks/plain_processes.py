"""The bare limit: the same as-of kernel and encoders in two plain processes, pyarrow reads and writes, no Spark."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from delorean.as_of.join import as_of_rows
from delorean.labels import Labels
from encoders import FeatureModel
from encoders.bound_model import BoundModel
from encoders.data_map import DataMaps, Element


class Pool:
    """Two processes, started before they are measured, as Spark's workers are."""

    def __init__(self, labels: Labels, model: FeatureModel, storage_uri: str, out: Path) -> None:
        self.labels, self.root, self.out = labels, storage_uri.removeprefix("file://"), out
        self.model, self.elements = model.bind(labels.context, labels.items), list(model.elements)
        self.processes = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> Self:
        self.out.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.shutdown()

    def run(self) -> None:
        """Generate everything once."""
        tasks = [
            (self.model, self.elements, f"{self.root}/{file.path}", file.bucket, self.root, str(self.out))
            for file in self.labels.files
        ]
        list(self.processes.map(one_bucket, *zip(*tasks, strict=True)))


def one_bucket(model: BoundModel, elements: list[str], labels: str, bucket: int, root: str, out: str) -> None:
    """Read, match, encode and write one bucket, with nothing around it."""
    rows = pq.read_table(labels).combine_chunks()
    found = {}
    for name in elements:
        state = pq.read_table(f"{root}/snapshots/{name}/run/{bucket:05d}-0.parquet").combine_chunks()
        matched = as_of_rows([rows["profile_id"]], rows["time"], [state["profile_id"]], state["captured_at"])
        found[name] = Element(state["value"].chunk(0), matched)
    items = rows["video_id"].chunk(0)
    maps = DataMaps(
        contexts=rows.select(["profile_id", "time"]),
        items=pa.table({"video_id": items.flatten()}),
        item_offsets=items.offsets.to_numpy().astype(np.int64),
        elements=found,
    )
    for name, values in model.encode(maps).items():
        rows = rows.append_column(name, pa.ListArray.from_arrays(items.offsets, pa.array(values)))
    pq.write_table(
        rows, f"{out}/{bucket:05d}.parquet", compression="zstd", compression_level=1, use_dictionary=["profile_id"]
    )
