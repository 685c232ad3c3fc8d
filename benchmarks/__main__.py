"""`python -m benchmarks [NAME] [options]`: runs one of the benchmarks of this folder."""

import sys
from importlib import import_module

BENCHMARKS = {
    "features": "benchmarks.features",
    "as_of": "benchmarks.as_of",
    "as_of_spark": "benchmarks.as_of_spark",
    "snapshot": "benchmarks.snapshot",
    "index": "benchmarks.index",
    "history": "benchmarks.history",
    "storage": "benchmarks.storage",
    "increments": "benchmarks.increments",
    "score": "benchmarks.score",
    "abtest": "benchmarks.abtest",
    "train": "benchmarks.train",
    "consolidation": "benchmarks.consolidation",
    "cluster": "benchmarks.cluster",
    "hung-service": "benchmarks.hung_service",
    "check-asof": "benchmarks.as_of_check",
    "check-fuzz": "benchmarks.fuzz",
}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:] or ["features"]
    if name not in BENCHMARKS:
        sys.exit(f"unknown benchmark '{name}' → one of {', '.join(BENCHMARKS)}")
    import_module(BENCHMARKS[name]).main(arguments)  # only now: Polars counts its threads when it is imported
