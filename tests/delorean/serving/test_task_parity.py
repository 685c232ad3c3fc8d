"""What a scorer computes for requests of tasks equals the feature set of the same contexts, bit for bit."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import company
import company_tasks
import numpy as np
import pyarrow as pa
from company_tasks import DECLARED, MODEL, SENTINELS, TASKS, bits
from company_tasks import request as body
from project_at_rest import START, Project

from delorean.feature_sets.table import open_table
from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_tasks
from delorean.labels.task_layout import TaskRows
from delorean.packaging.package import ModelPackage
from delorean.serving import GlobalVersions, Ranker
from delorean.tasks.task_set import TaskSet
from encoders.library.keys import VIDEOS
from prana_proxy.clock import FileClock
from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway import Gateway
from schemas.tables import TIME

AT = (company.NOW - START) // timedelta(minutes=1)
NUMBERS = [0, 1, 3, 5, 8, 13, 21, 34]  # 3 has no history, 5 no list


def label_rows(task: str) -> pa.Table:
    """The candidates that `body` sends for a task, as label data of the moment that requests are of."""
    rows = []
    for number in NUMBERS:
        request = body(task, number)
        for place, candidate in enumerate(request["candidates"]):
            item = DECLARED.task(task).items[0]
            rows.append({**request["context"], item: candidate, "label": float((place + number) % 2)})
    table = pa.Table.from_pylist(rows)
    for name, moment in (("time", company.NOW), ("outcome_at", company.NOW + timedelta(minutes=1))):
        table = table.append_column(name, pa.array([moment] * len(rows), TIME))
    return table


def feature_set(published: Any) -> dict[tuple[str, int, int], dict[str, Any]]:
    """Generate features of all tasks from captures: (task, profile, seed) → row."""
    project = Project(published.storage, published.index)
    for service, values, missing in zip(company.SERVICES, (company.HISTORIES, company.LISTS), (3, 5), strict=True):
        rows = [((profile,), AT - 1, value) for profile, value in values.items() if profile != missing]
        rows.append(((SENTINELS["profile_id"],), AT - 1, values[7]))  # which somebody else captured
        project.publish(service, rows, f"{service.name}-1", 2)
    merged = materialise_tasks(
        [
            TaskRows(task.name, label_rows(task.name), LabelColumns(items=task.items, context=task.context))
            for task in DECLARED.tasks
        ],
        published.storage,
        sentinels=SENTINELS,
        buckets=2,
    )
    assert merged.tasks is not None
    tasks = TaskSet(merged.tasks.tasks, merged.tasks.sentinels, TASKS.defaults)
    features = generate(merged, MODEL, published.index, published.storage, "members", tasks=tasks)
    rows = open_table(features.uri, features.version).to_pyarrow_table().to_pylist()
    return {(row["task_type"], row["profile_id"], row["seed_id"]): row for row in rows}


def test_features_of_requests_are_those_of_the_feature_set(
    tasks_package: ModelPackage, services: Any, published: Any, tmp_path: Path
) -> None:
    stored = feature_set(published)
    assert len(stored) == len(NUMBERS) * len(TASKS.tasks)
    clock = FileClock(tmp_path / "clock")
    clock.set(company.NOW)
    compared = 0
    with (
        Gateway(gateway_config(services.config())) as gateway,
        GlobalVersions([VIDEOS], published.index, published.storage, clock) as versions,
    ):
        ranker = Ranker(tasks_package, gateway, versions, clock, timedelta(seconds=30))
        for task in TASKS.names:
            for number in NUMBERS:
                context = company_tasks.context(task, number)
                row = stored[task, context["profile_id"], context["seed_id"]]
                answer = ranker.rank(json.dumps(body(task, number, explain=True)).encode())
                item = TASKS.task(task).items[0]
                served = {entry["item"][item]: entry["features"] for entry in answer["ranked"]}
                assert {*served} == {*row[item]}
                for name in MODEL.features:
                    expected = [None if v is None or np.isnan(v) else v for v in row[name]]
                    assert bits([served[each][name] for each in row[item]]) == bits(expected), (task, number, name)
                    compared += len(expected)
    assert compared == len(stored) * company_tasks.PER_CONTEXT * len(MODEL.features)
