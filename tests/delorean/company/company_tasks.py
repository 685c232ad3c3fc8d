"""The company's one model for three uses: homepages, similar videos, and the order of a homepage's rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import company
import numpy as np
import pyarrow as pa
from company_encoders import from_us, height, listed, popularity, watched

from delorean.packaging.package import ModelPackage, matrix
from delorean.packaging.writing import Lineage, write_package
from delorean.ranking_data.ranking_data import RankingData
from delorean.tasks.applicability import with_impossible_features
from delorean.tasks.task_model import bind_for_tasks
from delorean.tasks.task_set import TASK_VARIABLE, Task, TaskSet
from delorean.training.consolidation.settings import Consolidation
from delorean.training.fitting import TrainedModel, train
from delorean.training.learners.lightgbm import LightGBM
from encoders import DataMaps, Element, FeatureModel
from encoders.library.keys import COUNTRY, PROFILE_ID, VIDEO_ID
from schemas.data_keys import context_variable, item

SEED_ID, ROW_ID = context_variable("seed_id", "int64"), item("row_id", "int64")
CONTEXT = [PROFILE_ID, COUNTRY, SEED_ID, context_variable(TASK_VARIABLE, "string")]
ITEMS = [VIDEO_ID, ROW_ID]
MODEL = FeatureModel([watched.configured(window_days=20.0), listed, popularity, from_us, height])
SENTINELS = {"profile_id": -1, "country": "", "seed_id": -1, "video_id": -1, "row_id": -1}
DECLARED = TaskSet(
    (
        Task("home", ("profile_id", "country"), ("video_id",)),
        Task("similar", ("seed_id", "country"), ("video_id",)),
        Task("rows", ("profile_id", "country"), ("row_id",)),
    ),
    SENTINELS,
    {"listed": 0.5},
)
TASKS = with_impossible_features(
    DECLARED, MODEL, {service.element.name: ["profile_id"] for service in company.SERVICES}
)
PER_CONTEXT = 8


def context(task: str, number: int) -> dict[str, Any]:
    """Return the number-th context of a task, with sentinels."""
    own = {"profile_id": number % company.PROFILES, "seed_id": number % 60, "country": "US" if number % 2 else "BR"}
    variables = DECLARED.task(task).context
    return {
        **{key.name: own[key.name] if key.name in variables else SENTINELS[key.name] for key in CONTEXT[:3]},
        TASK_VARIABLE: task,
    }


def data_maps(requests: Sequence[tuple[str, int]], times: Sequence[datetime] | None = None, seed: int = 0) -> DataMaps:
    """Build data maps of (task, number), as generation would: state that a task cannot have is absent."""
    random = np.random.default_rng(seed)
    rows = [context(task, number) for task, number in requests]
    videos = [random.permutation(60)[:PER_CONTEXT] for _ in requests]
    of_rows = np.array([task == "rows" for task, _ in requests]).repeat(PER_CONTEXT)
    picked = np.concatenate(videos)
    state = company.data_maps([max(row["profile_id"], 0) for row in rows], times)
    known = np.array([row["profile_id"] >= 0 for row in rows])
    elements = {
        name: element if name == "videos" else Element(element.values, np.where(known, element.rows, -1))
        for name, element in state.elements.items()
    }
    contexts = pa.Table.from_pylist(rows, pa.schema([(key.name, key.type) for key in CONTEXT]))
    return DataMaps(
        contexts.append_column("time", state.contexts["time"]),
        pa.table({"video_id": np.where(of_rows, -1, picked), "row_id": np.where(of_rows, picked, -1)}),
        np.arange(0, len(rows) * PER_CONTEXT + 1, PER_CONTEXT),
        elements,
    )


@cache
def train_tasks() -> TrainedModel:
    """Train a trunk that each task continues, with calibrated scores."""
    requests = [(TASKS.names[n % 3], n) for n in range(360)]
    maps = data_maps(requests, [company.NOW - timedelta(minutes=n) for n, _ in enumerate(requests)])
    features = matrix(MODEL.features, bind_for_tasks(MODEL, CONTEXT, ITEMS, TASKS).encode(maps))
    wanted = np.nan_to_num(features)[:, [3, 5]].sum(axis=1)
    labels = (np.random.default_rng(1).random(len(wanted)) < wanted / (1 + wanted)).astype(np.float32)
    data = RankingData(maps.contexts, maps.items, maps.item_offsets, labels, features, MODEL.features)
    learner = LightGBM("lambdarank", {"num_leaves": 7}, rounds=24, stop_after=0, threads=1)
    settings = Consolidation("trunk", calibration="sigmoid", compare=("trunk",))
    return train(data, model=learner, tasks=TASKS, consolidation=settings)


def write_tasks(path: Path) -> ModelPackage:
    lineage = Lineage({"path": "labels"}, {"path": "features", "version": 0}, {"my_list": ["run-1"]}, {}, "ghi")
    golden = data_maps([(TASKS.names[n % 3], n) for n in range(60)])
    return write_package(
        path,
        train_tasks(),
        MODEL,
        CONTEXT,
        ITEMS,
        company.SERVICES,
        golden,
        lineage,
        golden_contexts=12,
        modules=company.MODULES,
    )


def request(task: str, number: int, **more: Any) -> dict[str, Any]:
    """Return a request with the variables of its task only, for the candidates of its data map."""
    maps, declared, variables = data_maps([(task, number)]), DECLARED.task(task), context(task, number)
    return {
        "task": task,
        "context": {name: variables[name] for name in declared.context},
        "candidates": maps.items[declared.items[0]].to_pylist(),
        "request_id": f"{task}-{number}",
        **more,
    }


def bits(values: Sequence[float | None]) -> list[int]:
    """Return numbers of an answer as the bits of float32; null is NaN."""
    return np.array([np.nan if v is None else v for v in values], dtype=np.float32).view(np.uint32).tolist()
