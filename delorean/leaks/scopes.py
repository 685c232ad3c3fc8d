"""What is searched for leaks together: one label, in the rows of one task.

Tasks differ in how many of their items are positive, so over all of them even the task, and every variable and feature
that some tasks lack, would tell the label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from delorean.leaks.report import LeakReport, combine_reports
from delorean.leaks.thresholds import LeakThresholds
from delorean.tasks.task_set import TaskSet


class LeakScope(NamedTuple):
    """One label in the rows of one task.

    title: names it among several
    task: None: all rows
    features, context: those that the rows have
    """

    title: str
    label: str
    task: str | None
    features: tuple[str, ...]
    context: tuple[str, ...]


def leak_scopes(
    labels: Iterable[str], features: Iterable[str], context: Iterable[str], tasks: TaskSet | None
) -> list[LeakScope]:
    """Return what is searched of label data or of a feature set. tasks: each with the features that it cannot have.

    >>> [scope.title for scope in leak_scopes(["play", "minutes"], [], ["profile_id"], None)]
    ['play', 'minutes']
    """
    labels, features, context = tuple(labels), tuple(features), tuple(context)
    if tasks is None:
        return [LeakScope(label, label, None, features, context) for label in labels]
    return [
        LeakScope(
            task.name if len(labels) == 1 else f"{task.name}, {label}",
            label,
            task.name,
            tuple(name for name in features if name not in task.without),
            tuple(name for name in context if name in task.context),
        )
        for label in labels
        for task in tasks.tasks
    ]


def combine_scopes(reports: Mapping[LeakScope, LeakReport], thresholds: LeakThresholds) -> LeakReport:
    """Combine the reports of all scopes; the counts are those of the first label in all tasks."""
    combined = combine_reports({scope.title: report for scope, report in reports.items()}, thresholds)
    if not reports:
        return combined
    first = [report for scope, report in reports.items() if scope.label == next(iter(reports)).label]
    if len(first) < 2:
        return combined
    return replace(
        combined,
        items=sum(each.items for each in first),
        contexts=sum(each.contexts for each in first),
        of_items=sum(each.of_items for each in first),
        positives=sum(each.positives for each in first),
    )
