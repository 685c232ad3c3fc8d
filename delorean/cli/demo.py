"""`delorean demo`: the whole way from snapshots to a served model, for a small streaming company."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from schemas.strict_json import json_text


@click.command()
@click.option(
    "--movielens", type=click.Path(path_type=Path), help="Drive the company from the MovieLens data in this folder."
)
@click.option("--output", "folder", type=click.Path(path_type=Path), default=".demo", show_default=True)
@click.option("--days", type=click.IntRange(3), default=6, show_default=True, help="Days of snapshots.")
@click.option("--seed", type=int, default=1985, show_default=True, help="Another seed generates another company.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and no table.")
def demo(movielens: Path | None, folder: Path, days: int, seed: int, as_json: bool) -> None:
    """Run a small streaming company.

    Captures its services day by day, travels back, generates features without paradoxes, trains a model that ranks its
    homepage, serves it, and replays the past against it bit for bit. The resulting folder is a project to explore.

    \b
    Example: delorean demo --days 6
    """
    from delorean.demo.run import run_demo
    from delorean.demo.summary import show

    result = run_demo(folder, movielens, days, seed)
    _point_latest_to(result.folder)
    if as_json:
        sys.stdout.write(json_text(result.summary) + "\n")
    else:
        show(result)


def _point_latest_to(folder: Path) -> None:
    """Link `latest`, beside the demo's folders, to the newest."""
    latest = folder.parent / "latest"
    if latest.is_symlink() or not latest.exists():
        latest.unlink(missing_ok=True)
        latest.symlink_to(folder.name)
