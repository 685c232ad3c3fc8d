"""Describes context sets and snapshot runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from delorean.display.description import describes
from delorean.display.formats import bytes_text
from delorean.display.parts import MOST_ROWS, Facts, Note, Part, ShareBar, Table
from schemas.services import Status
from snapshotter.records import ContextGroup, ContextSet, ServiceSnapshot, SnapshotRun

CONFIDENT = 0.9  # a lower confidence is drawn in the colour of a warning


def _context_set_document(contexts: ContextSet) -> dict[str, Any]:
    return {
        "context_set": contexts.context_set_id,
        "date": contexts.date,
        "revision": contexts.revision,
        "contexts": contexts.rows,
        "groups": [_group_row(group) for group in contexts.groups],
        "strata": [{**vars(row), "filled": row.filled} for row in contexts.report],
        "failed": [vars(failed) for failed in contexts.failed],
    }


def _group_row(group: ContextGroup) -> dict[str, Any]:
    experiments = ", ".join(selected.id for selected in group.experiments)
    return {"key": group.key_text, "experiments": experiments, "contexts": group.rows, "files": len(group.files)}


@describes(ContextSet, _context_set_document)
def _context_set(contexts: ContextSet) -> Iterator[Part]:
    later = {} if contexts.revision == 1 else {"revision": contexts.revision, "after": contexts.after}
    yield Facts({"date": contexts.date, **later})
    yield Table([_group_row(group) for group in contexts.groups], "contexts by key", most=None)
    rows = [
        {**vars(row), "inclusion_probability": ShareBar(row.probability), "filled": row.filled}
        for row in contexts.report[:MOST_ROWS]
    ]
    yield Table(rows, "strata", total=len(contexts.report))
    short = sum(not row.filled for row in contexts.report)
    if short:
        yield Note(f"{short:,} of {len(contexts.report):,} strata have fewer contexts than were asked of them")
    for failed in contexts.failed:
        yield Note(f"{failed.id} selected nothing: {failed.error}", strong=True)


def _run_document(run: SnapshotRun) -> dict[str, Any]:
    services = [
        {
            "service": snapshot.service.name,
            "asked": snapshot.asked,
            "confidence": snapshot.confidence,
            **{status.value: count for status, count in snapshot.counts.items()},
            "from": snapshot.captured_from,
            "to": snapshot.captured_to,
        }
        for snapshot in run.services
    ]
    return {
        "run": run.run_id,
        "context_set": run.context_set_id,
        "published_at": run.published_at,
        "services": services,
        "not_applicable": {service: list(experiments) for service, experiments in run.not_applicable.items()},
    }


@describes(SnapshotRun, _run_document)
def _snapshot_run(run: SnapshotRun) -> Iterator[Part]:
    published = run.published_at or "not yet"
    yield Facts({"context set": run.context_set_id, "started": run.started_at, "published": published})
    yield Table([service_row(snapshot) for snapshot in run.services], most=None)
    for service, experiments in run.not_applicable.items():
        to = ", ".join(experiments)
        yield Note(f"{service}: not applicable to {to}" if to else f"{service}: no experiment needs it")
    for snapshot in run.services:
        for path, count in snapshot.defaulted.items():
            answered = f"{count:,} of {snapshot.counts.get(Status.OK, 0):,} answers lacked it"
            yield Note(f"{snapshot.service.element.name}.{path}: default, because {answered}")
    reasons = [
        {
            "service": snapshot.service.name,
            "status": status.value,
            "contexts": snapshot.counts[status],
            "for_example": reason,
        }
        for snapshot in run.services
        for status, reason in snapshot.reasons.items()
    ]
    yield Table(reasons, "why contexts have no answer")


def service_row(snapshot: ServiceSnapshot) -> dict[str, Any]:
    """A table's row for one service of a run."""
    others = {status: count for status, count in snapshot.counts.items() if count and status is not Status.OK}
    return {
        "service": snapshot.service.name,
        "element": snapshot.service.element.name,
        "asked": snapshot.asked,
        "answered": snapshot.counts.get(Status.OK, 0),
        "confidence": ShareBar(snapshot.confidence if snapshot.asked else None, enough=CONFIDENT),
        "others": ", ".join(f"{count:,} {status.value}" for status, count in others.items()) or None,
        "captured_from": snapshot.captured_from,
        "to": snapshot.captured_to,
        "files": len(snapshot.files),
        "size": bytes_text(sum(file.bytes for file in snapshot.files)),
    }
