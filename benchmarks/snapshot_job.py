"""A snapshot job as a process of its own: its own Spark, its own store, and one service hammered by many tasks."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from benchmarks.snapshot_world import World


def main() -> None:
    """Take one snapshot and print how many contexts came to each status, as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.snapshot_job", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("go", type=Path, help="waits for this file before it asks the service")
    parser.add_argument("proxy")
    parser.add_argument("warm", help="a service that is asked before, so that Spark is warm")
    parser.add_argument("service")
    parser.add_argument("--first", type=int, required=True, help="profile")
    parser.add_argument("--contexts", type=int, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--page", type=int, required=True)
    options = parser.parse_args()
    with World(options.folder, f"local[{options.tasks}]") as world:
        chosen = world.context_set(options.contexts, options.first)
        load = {"buckets": options.tasks, "page": options.page}
        world.take(chosen, [options.proxy], [options.warm], **load)
        print("ready", flush=True)
        while not options.go.exists():
            time.sleep(0.02)
        run = world.take(chosen, [options.proxy], [options.service], **load)
    print("counts", json.dumps(run.services[0].counts), flush=True)


if __name__ == "__main__":
    main()
