"""`python -m benchmarks [NAME] [options]`: runs one of the benchmarks of this folder."""

import sys

from benchmarks import features

BENCHMARKS = {"features": features.main}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:] or ["features"]
    if name not in BENCHMARKS:
        sys.exit(f"unknown benchmark '{name}' → one of {', '.join(BENCHMARKS)}")
    BENCHMARKS[name](arguments)
