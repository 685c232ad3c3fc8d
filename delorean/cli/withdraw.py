"""Commands that withdraw what was published, and the withdrawn and unreadable records that listings mention."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

import click

from delorean.cli.options import Day, common_options, opened
from delorean.cli.output import Output
from delorean.users import current_user

if TYPE_CHECKING:
    from delorean.project.config import Project
    from snapshotter.index import SnapshotIndex
    from snapshotter.records import PublishedName, RecordKind, Withdrawal

_Command = TypeVar("_Command", bound=Callable[..., Any])


def left_out(index: SnapshotIndex, kind: RecordKind, element: str = "") -> dict[str, Any]:
    """The withdrawn and the unreadable records of a kind, as fields of a listing; without any no fields."""
    withdrawn = [one for one in index.withdrawals() if (one.name.kind, one.name.element) == (kind, element)]
    broken = [one for one in index.unreadable() if (one.name.kind, one.name.element) == (kind, element)]
    return {
        **({"withdrawn": [_row(one) for one in withdrawn]} if withdrawn else {}),
        **({"unreadable": [{"id": one.name.id, "problem": one.problem} for one in broken]} if broken else {}),
    }


def _row(withdrawal: Withdrawal) -> dict[str, Any]:
    return {
        "id": withdrawal.name.id,
        "withdrawn_at": withdrawal.withdrawn_at,
        "by": withdrawal.by,
        "reason": withdrawal.reason,
        "published_at": withdrawal.published_at,
    }


def _reason_options(command: _Command) -> _Command:
    command = click.option("--by", help="Who withdraws it.  [the current user]")(command)
    return click.option("--reason", required=True, help="Why; it is recorded and shown with the withdrawal.")(command)


@click.group(no_args_is_help=True)
def withdraw() -> None:
    """Withdraw what was published and is wrong.

    No look-up returns it any more, whether or not its record is readable, and `delorean vacuum` may delete its files.
    Who withdrew it, when and why is recorded. The id of a withdrawn run or version can never be used again.
    """


@withdraw.command("run", no_args_is_help=True)
@click.argument("run_id")
@_reason_options
@common_options
def withdraw_run(run_id: str, reason: str, by: str | None, project: Project, output: Output) -> None:
    """Withdraw a snapshot run.

    \b
    Example: delorean index withdraw run 2026-01-05 --reason "asked the staging service"
    """
    from snapshotter.records import PublishedName, RecordKind

    _withdraw(PublishedName(RecordKind.RUN, run_id), reason, by, project, output)


@withdraw.command("global", no_args_is_help=True)
@click.argument("element")
@click.argument("version_id")
@_reason_options
@common_options
def withdraw_global(
    element: str, version_id: str, reason: str, by: str | None, project: Project, output: Output
) -> None:
    """Withdraw a version of a global element.

    \b
    Example: delorean index withdraw global videos day-5 --reason "half of the videos are missing"
    """
    from snapshotter.records import PublishedName, RecordKind

    _withdraw(PublishedName(RecordKind.GLOBAL_VERSION, version_id, element), reason, by, project, output)


@withdraw.command("context-set", no_args_is_help=True)
@click.argument("day", type=Day())
@click.option("--revision", type=click.IntRange(1), help="Only this revision.  [all]")
@_reason_options
@common_options
def withdraw_context_set(
    day: date, revision: int | None, reason: str, by: str | None, project: Project, output: Output
) -> None:
    """Withdraw the context set of a day, so that `delorean select` selects again.

    \b
    Example: delorean index withdraw context-set 2026-01-05 --reason "chose from the wrong table"
    """
    from snapshotter.records import PublishedName

    _require(reason)
    name, who = PublishedName.of_revision(day, revision or 1), by or current_user()
    with opened(project) as (index, _):
        new = index.withdraw_context_set(day, reason, who, revision)
    output.show({"withdrawn": str(name), "by": who, "reason": reason, "new": new})


@click.command("withdrawals")
@common_options
def withdrawals(project: Project, output: Output) -> None:
    """List withdrawals, latest first.

    \b
    Example: delorean index withdrawals --json
    """
    with opened(project) as (index, _):
        rows = [
            {"kind": one.name.kind.value, "element": one.name.element or None, **_row(one)}
            for one in index.withdrawals()
        ]
    output.show({"withdrawals": rows})


def _withdraw(name: PublishedName, reason: str, by: str | None, project: Project, output: Output) -> None:
    _require(reason)
    who = by or current_user()
    with opened(project) as (index, _):
        new = index.withdraw(name, reason, who)
    output.show({"withdrawn": str(name), "by": who, "reason": reason, "new": new})


def _require(reason: str) -> None:
    if not reason.strip():
        raise click.BadParameter("it is empty: write a reason", param_hint="--reason")
