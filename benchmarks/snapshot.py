"""Snapshots under load and faults, on loopback, services included: throughput, caps, hangs, kills, memory.

Everything shares this machine's cores, so every table says who used them. Ends with 1 when a target was missed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import load_cap, load_hang, load_kill, load_memory, load_throughput
from benchmarks.load_report import CONSOLE, Verdict, show
from benchmarks.snapshot_world import World
from schemas.errors import DeloreanError

Measurement = Callable[[World, argparse.Namespace], Iterable[Verdict]]
MEASUREMENTS: dict[str, Measurement] = {
    "batched": load_throughput.batched,
    "unbatched": load_throughput.unbatched,
    "cap": load_cap.cap,
    "hang": load_hang.hang,
    "kill": load_kill.kill,
    "memory": load_memory.memory,
}


def main(arguments: list[str]) -> None:
    """Measure what was asked for, print everything, and exit with 1 if a target was missed."""
    options = _options(arguments)
    verdicts: list[Verdict] = []
    folder = Path(tempfile.mkdtemp(prefix="snapshots-"))
    try:
        with World(folder) as world:
            for name in options.only:
                CONSOLE.rule(name)
                try:
                    verdicts.extend(MEASUREMENTS[name](world, options))
                except DeloreanError as error:  # what it cannot do at all is a target missed too
                    verdicts.append(Verdict(name, str(error)[:300], met=False))
    finally:
        shutil.rmtree(folder)
    show(verdicts)
    if not all(verdict.met for verdict in verdicts):
        raise SystemExit(1)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench BENCH=snapshot", description=__doc__)
    parser.add_argument("--only", type=_names, default=list(MEASUREMENTS), help=f"of {','.join(MEASUREMENTS)}")
    parser.add_argument("--contexts", type=int, default=200_000, help="of batched")
    parser.add_argument("--unbatched-contexts", type=int, default=60_000)
    parser.add_argument("--page", type=int, default=1_000, help="contexts a call of the proxy")
    parser.add_argument("--batch-size", type=int, default=100, help="contexts a call of a batched service")
    parser.add_argument("--concurrent", type=int, default=10, help="max_concurrent of batched services")
    parser.add_argument("--unbatched-concurrent", type=int, default=32, help="max_concurrent of the unbatched one")
    parser.add_argument("--profile", action="store_true", help="where the proxy spends its time (py-spy)")
    parser.add_argument("--seconds", type=float, default=30, help="of each part of cap")
    parser.add_argument("--burst", type=int, help="of the capped service; else as services.toml has it by default")
    parser.add_argument("--repeats", type=int, default=3, help="of hang, without and with")
    parser.add_argument("--hang-contexts", type=int, default=200_000)
    parser.add_argument("--hang-seconds", type=float, default=8, help="of each turn that asks the proxy alone")
    parser.add_argument("--kill-contexts", type=int, default=40_000)
    parser.add_argument("--minutes", type=float, default=10, help="of memory")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in MEASUREMENTS:
            raise argparse.ArgumentTypeError(f"no measurement '{name}' → {', '.join(MEASUREMENTS)}")
    return names
