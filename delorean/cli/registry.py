"""`delorean registry`: versions of model packages, and the pointers to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from delorean.cli.options import common_options
from delorean.cli.output import Output

if TYPE_CHECKING:
    from delorean.project.config import Project
    from delorean.registry.records import PointerMove
    from delorean.registry.registry import Registry

_Command = TypeVar("_Command", bound=Callable[..., Any])


def registry_of(project: Project) -> Registry:
    """Open a project's registry."""
    from delorean.registry.registry import Registry
    from snapshotter.storage import open_storage

    return Registry(open_storage(project.storage), project.encoders, project.packages.allow)


def package_folder(project: Project, package: str) -> Path:
    """Return the folder of a package: the folder itself, or that of `registry:NAME`, fetched and verified."""
    from delorean.registry.registry import PREFIX

    return registry_of(project).fetch(package) if package.startswith(PREFIX) else Path(package)


def _who_and_why(command: _Command) -> _Command:
    command = click.option("--by", help="Who does it.  [the current user]")(command)
    return click.option("--reason", required=True, help="Why; it is recorded and shown in the history.")(command)


def _expect_option(command: _Command) -> _Command:
    text = "Fail unless the pointer is at this VERSION now; an empty text: unless it does not exist."
    return click.option("--expect", metavar="VERSION", help=text)(command)


@click.group(no_args_is_help=True)
def registry() -> None:
    """Keep versions of model packages, and point at those that are served.

    Versions are immutable and stored with the project's data. Pointers such as `production` are moved from version to
    version; each move records who, when and why. Wherever a command takes a PACKAGE, `registry:production` and
    `registry:homepage-3` name one that is registered.
    """


@registry.command("add", no_args_is_help=True)
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the version.  [the experiment's name and the next number]")
@click.option("--note", default="", help="What is to be known of it.")
@click.option("--by", help="Who adds it.  [the current user]")
@common_options
def registry_add(package: Path, name: str | None, note: str, by: str | None, project: Project, output: Output) -> None:
    """Add a PACKAGE as a new version.

    It is loaded and has to reproduce its golden rows first. Adding the same package again returns the version that has
    it; a name that another package has is an error.

    \b
    Example: delorean registry add packages/homepage-1 --note "with the new history features"
    """
    output.show(registry_of(project).add(package, name, note=note, by=by))


@registry.command("list")
@common_options
def registry_list(project: Project, output: Output) -> None:
    """List versions, latest first, and where the pointers are.

    \b
    Example: delorean registry list --json
    """
    from delorean.registry.records import UnreadableFile

    unreadable: list[UnreadableFile] = []
    opened = registry_of(project)
    versions, moves = opened.versions(unreadable), opened.pointers()
    rows = [
        {
            "version": each.name,
            "pointers": [name for name, move in moves.items() if move.version == each.name],
            "added_at": each.added_at,
            "by": each.by,
            "model": each.model,
            "features": len(each.features),
            "ndcg@10": each.metrics.get("test", {}).get("ndcg@10"),
            "bytes": each.bytes,
            "note": each.note,
        }
        for each in versions
    ]
    others = {"unreadable": [vars(each) for each in unreadable]} if unreadable else {}
    output.show({"versions": rows, "pointers": [_row(move) for move in moves.values()], **others})


@registry.command("show", no_args_is_help=True)
@click.argument("version")
@common_options
def registry_show(version: str, project: Project, output: Output) -> None:
    """Show a VERSION: its model, metrics, files and lineage. A pointer's name shows where it points.

    \b
    Example: delorean registry show production
    """
    output.show(registry_of(project).version(version))


@registry.command("move", no_args_is_help=True)
@click.argument("pointer")
@click.argument("version")
@_expect_option
@_who_and_why
@common_options
def registry_move(
    pointer: str, version: str, expect: str | None, reason: str, by: str | None, project: Project, output: Output
) -> None:
    """Point at a VERSION, or where another pointer points.

    A new POINTER is created. The move is one conditional write: of several at once one succeeds, and the others fail
    with who was faster.

    \b
    Example: delorean registry move production homepage-2 --expect homepage-1 --reason "NDCG +0.012 in the comparison"
    """
    output.show(_row(registry_of(project).move(pointer, version, reason, expected=expect, by=by)))


@registry.command("rollback", no_args_is_help=True)
@click.argument("pointer")
@_expect_option
@_who_and_why
@common_options
def registry_rollback(
    pointer: str, expect: str | None, reason: str, by: str | None, project: Project, output: Output
) -> None:
    """Point at the version before; again: at the one before that.

    \b
    Example: delorean registry rollback production --reason "errors since 14:00"
    """
    output.show(_row(registry_of(project).rollback(pointer, reason, expected=expect, by=by)))


@registry.command("history", no_args_is_help=True)
@click.argument("pointer")
@common_options
def registry_history(pointer: str, project: Project, output: Output) -> None:
    """List the moves of a POINTER, latest first.

    \b
    Example: delorean registry history production
    """
    output.show({"pointer": pointer, "moves": [_row(move) for move in registry_of(project).history(pointer)]})


@registry.command("remove", no_args_is_help=True)
@click.argument("version")
@_who_and_why
@common_options
def registry_remove(version: str, reason: str, by: str | None, project: Project, output: Output) -> None:
    """Remove a VERSION and its files, unless a pointer points at it. Its name is never used again.

    \b
    Example: delorean registry remove homepage-1 --reason "its label data had to be deleted"
    """
    output.show(vars(registry_of(project).remove(version, reason, by=by)))


@registry.command("fetch", no_args_is_help=True)
@click.argument("version")
@click.option("--into", type=click.Path(path_type=Path), help="A new folder.  [the user's cache]")
@common_options
def registry_fetch(version: str, into: Path | None, project: Project, output: Output) -> None:
    """Fetch the package of a VERSION, or of a pointer, and verify every byte.

    \b
    Example: delorean registry fetch production --into packages/production
    """
    opened = registry_of(project)
    record = opened.version(version)
    output.show({"version": record.name, "package": str(opened.fetch(record.name, into)), "digest": record.digest})


def _row(move: PointerMove) -> dict[str, Any]:
    return vars(move)
