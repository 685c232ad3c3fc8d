"""Random as-of queries against a scan of everything: `make bench CHECK=asof`, and fewer of them in the tests.

A query is one left row answered.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.as_of_worlds import MICROSECOND, World, worlds
from delorean.as_of.join import as_of_join


def main(arguments: list[str]) -> None:
    """Ask a million queries and print how many agreed."""
    parser = argparse.ArgumentParser("make bench CHECK=asof", description=__doc__)
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    counts = check(options.queries, options.seed)
    print(
        f"as-of: {counts['agreed']:,} of {counts['queries']:,} random queries agree with a scan of everything; "
        f"{counts['matched']:,} matched, {counts['tied']:,} of them among equal times, {counts['at an end']:,} exactly "
        f"at lag or max_age; {time.perf_counter() - start:.0f} s"
    )
    if counts["agreed"] != counts["queries"]:
        raise SystemExit(1)


def check(queries: int, seed: int) -> Counter[str]:
    """Count the queries that were asked, that agreed, and those of some special kinds."""
    counts: Counter[str] = Counter()
    for world in worlds(queries, seed):
        right = world.right.append_column("row", pa.array(range(world.right.num_rows), pa.int64()))
        joined = as_of_join(world.left, right, **world.options)
        assert joined.select(world.left.column_names).equals(world.left), "left rows changed"
        rows = np.array(joined["row"].fill_null(-1).to_pylist(), dtype=np.int64)
        expected, special = scan(world)
        counts["queries"] += world.left.num_rows
        counts["agreed"] += int((rows == expected).sum())
        counts.update(special)
    return counts


def scan(world: World) -> tuple[np.ndarray, dict[str, int]]:
    """Compare every left row with every right row: the rule as it is written, by nothing that the kernel uses."""
    options = world.options
    lag, max_age = options["lag"] // MICROSECOND * 1000, options["max_age"]
    same = np.ones((len(world.left_keys), len(world.right_keys)), dtype=bool)
    for column in range(len(options["by"])):
        ids: dict[Any, int] = {}
        left, right = (
            np.array([-1 if k[column] is None else ids.setdefault(k[column], len(ids)) for k in keys], dtype=np.int64)
            for keys in (world.left_keys, world.right_keys)
        )
        same &= (left[:, None] == right[None, :]) & (left >= 0)[:, None]
    left_ok, right_ok = (np.array([t is not None for t in s], bool) for s in (world.left_times, world.right_times))
    left, right = (np.array([t or 0 for t in s], dtype=np.int64) for s in (world.left_times, world.right_times))
    age = left[:, None] - right[None, :]
    fits = same & left_ok[:, None] & right_ok[None, :] & ((age >= lag) if options["allow_exact"] else (age > lag))
    if max_age is not None:
        fits &= age <= max_age // MICROSECOND * 1000
    ordered = sorted(range(len(right)), key=lambda row: (right[row], *map(_sort_key, world.ties[row]), row))
    rank = np.empty(len(right), dtype=np.int64)
    rank[ordered] = np.arange(len(right))
    ranks = np.where(fits, rank[None, :], -1)
    best = ranks.max(axis=1, initial=-1)
    found = np.where(best >= 0, np.array([*ordered, -1])[best], -1)
    best_age = np.where(found >= 0, left - np.append(right, 0)[found], -1)
    at_end = (best_age == lag) | (best_age == (-2 if max_age is None else max_age // MICROSECOND * 1000))
    tied = (fits & (age == best_age[:, None])).sum(axis=1) > 1
    hits = found >= 0
    special = {"matched": hits, "tied": hits & tied, "at an end": hits & at_end}
    return found, {name: int(rows.sum()) for name, rows in special.items()}


def _sort_key(value: Any) -> tuple[int, Any]:
    if value is None:
        return 0, 0
    return (1, 0) if isinstance(value, float) and math.isnan(value) else (2, value)
