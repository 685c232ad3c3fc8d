"""Prepares the company for a stack in which each of its services is a container: its world, its specs, its clock.

`python -m delorean.demo.prepare FOLDER` does so once; `--at TIME` moves the clock, which services and proxy read.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path

from delorean.demo.layout import Layout
from delorean.demo.simulation import SEED, generate_world
from schemas.errors import DeloreanError
from snapshotter.records import from_micros

_DAYS = 7


def prepare(
    folder: Path, days: int = _DAYS, at: datetime | None = None, *, profiles: int = 600, videos: int = 1500
) -> datetime:
    """Write the company's files unless they are there; gives the moment that its clock shows.

    days: how long life goes on
    at: None: the moment of the first snapshot, or what the clock shows already

    Raises ConfigError for a world too small, or a clock that cannot be set.
    """
    layout = Layout(folder)
    if not layout.clock.path.exists():
        world = generate_world(SEED, days, profiles, videos)
        layout.write_company(world)
        at = at or world.snapshot_moment(0)
    if at is not None:
        layout.clock.set(at)
    return from_micros(layout.clock())


def command_line() -> argparse.ArgumentParser:
    """Build what reads the arguments."""
    parser = argparse.ArgumentParser(description="Make the demo company's world, once.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--days", type=int, default=_DAYS, help=f"how long life goes on, default {_DAYS}")
    parser.add_argument("--at", type=datetime.fromisoformat, help="set the company's clock, with its zone")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run as a process."""
    given = command_line().parse_args(arguments)
    try:
        moment = prepare(given.folder, given.days, given.at)
    except (DeloreanError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)  # noqa: T201  # a process's last words
        return 1
    print(f"the company's clock shows {moment.isoformat()}")  # noqa: T201  # what its starter sees
    return 0


if __name__ == "__main__":
    sys.exit(main())
