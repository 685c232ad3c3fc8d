"""Prepares the demo company for the container stack: its world, its specs and its clock.

`python -m delorean.demo.prepare FOLDER` creates them once; `--at TIME` moves the clock that services and proxy read.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path

from delorean.demo.folder import CompanyFolder
from delorean.demo.simulation import SEED, generate_world
from schemas.errors import DeloreanError
from snapshotter.records import from_micros

_DAYS = 7


def prepare(
    folder: Path, days: int = _DAYS, at: datetime | None = None, *, profiles: int = 600, videos: int = 1500
) -> datetime:
    """Create the company's files unless they exist; return the time of its clock.

    days: simulated days
    at: new time of the clock; None: the first snapshot's for a new world, else unchanged

    Raises ConfigError for a world too small, or a clock that cannot be set.
    """
    company = CompanyFolder(folder)
    if not company.clock.path.exists():
        world = generate_world(SEED, days, profiles, videos)
        company.write_company(world)
        at = at or world.snapshot_moment(0)
    if at is not None:
        company.clock.set(at)
    return from_micros(company.clock())


def command_line() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description="Make the demo company's world, once.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--days", type=int, default=_DAYS, help=f"simulated days, default {_DAYS}")
    parser.add_argument("--at", type=datetime.fromisoformat, help="set the company's clock, with its zone")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    options = command_line().parse_args(arguments)
    try:
        moment = prepare(options.folder, options.days, options.at)
    except (DeloreanError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)  # noqa: T201  # the process's error output
        return 1
    print(f"the company's clock shows {moment.isoformat()}")  # noqa: T201  # the command's output
    return 0


if __name__ == "__main__":
    sys.exit(main())
