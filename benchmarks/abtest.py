"""Simulates tests whose truth is known: false positives, power, coverage of counterfactual intervals, interleaving.

The figures of docs/AB_TESTS.md come from here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from delorean.ab_tests.interleaving import METHODS
from delorean.ab_tests.simulation import false_positives, interleaving_sensitivity, power_of_plans
from delorean.comparison.counterfactual.simulation import coverage


def main(arguments: list[str]) -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser("make bench BENCH=abtest", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="A/A tests")
    parser.add_argument("--power-runs", type=int, default=4_000)
    parser.add_argument("--logs", type=int, default=2_000, help="of counterfactual estimates")
    parser.add_argument("--requests", type=int, default=40_000, help="of interleaving")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    shares = false_positives(options.runs, seed=options.seed)
    show(
        f"{options.runs:,} A/A tests of 14 days, looked at daily: share that sees a difference (alpha 5 %)",
        ("design", "false positives"),
        [(name, f"{share:.2%}") for name, share in shares.items()],
    )
    show(
        f"{options.power_runs:,} tests with the planned effect of 15 %",
        ("design", "units", "planned power", "measured"),
        [
            (each.design, f"{each.units:,}", f"{each.planned:.1%}", f"{each.measured:.1%}")
            for each in power_of_plans(options.power_runs, seed=options.seed + 1)
        ],
    )
    show(
        f"{options.logs:,} logs of 400 contexts: 95 % intervals that cover the truth",
        ("estimator", "coverage"),
        [(name, f"{share:.1%}") for name, share in coverage(options.logs, seed=options.seed).items()],
    )
    sensitivities = [interleaving_sensitivity(options.requests, 2_000, method, options.seed) for method in METHODS]
    show(
        "requests to tell two rankers apart, power 80 %",
        ("method", "A/B test", "power", "interleaving", "power", "times fewer"),
        [
            (
                each.method,
                f"{each.ab_requests:,}",
                f"{each.ab_power:.1%}",
                f"{each.interleaving_requests:,}",
                f"{each.interleaving_power:.1%}",
                f"{each.ratio:.1f}",
            )
            for each in sensitivities
        ],
    )


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
