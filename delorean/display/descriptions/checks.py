"""Describes checks of feature sets: paradoxes, and features that may be the label in disguise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from delorean.audit.paradox.report import ParadoxReport
from delorean.display.description import describes
from delorean.display.parts import Facts, Headline, Note, Part, Table
from delorean.leaks.report import LeakReport

_LEAK_COLUMNS = ("feature", "auc", "auc_null", "information", "p", "where", "contexts", "suspicious")


def _paradox_document(report: ParadoxReport) -> dict[str, Any]:
    return {
        "clean": report.clean,
        "verdict": report.verdict,
        "feature_set": report.uri,
        "version": report.version,
        "rows": report.rows,
        "items": report.items,
        "checks": list(report.checks),
        "findings": [asdict(finding) for finding in report.findings],
        "notes": list(report.notes),
        "leaks": report.leaks.to_json(),
    }


@describes(ParadoxReport, _paradox_document, headline=lambda report: report.verdict)
def _paradoxes(report: ParadoxReport) -> Iterator[Part]:
    broken = {finding.check for finding in report.findings}
    yield Facts({"feature set": report.uri, "version": report.version, "rows": report.rows, "items": report.items})
    yield Table([asdict(finding) for finding in report.findings], "rows that break a rule", most=None)
    yield Table([{"rule": check, "result": "BROKEN" if check in broken else "holds"} for check in report.checks])
    yield from (Note(note) for note in report.notes)
    yield Headline(repr(report.leaks))
    yield from _leaks(report.leaks)


@describes(LeakReport, LeakReport.to_json)
def _leaks(report: LeakReport) -> Iterator[Part]:
    yield Note(
        f"How well each feature predicts the label, in {report.items:,} of {report.of_items:,} items "
        f"({report.positives:,} positive) of {report.contexts:,} contexts"
    )
    yield from (Note(note) for note in report.notes)
    yield from (
        Note(f"suspicious: {leak.feature} {leak.why}", strong=True) for leak in report.findings if leak.suspicious
    )
    yield Table([{name: row[name] for name in _LEAK_COLUMNS} for row in report.rows()], most=None)
