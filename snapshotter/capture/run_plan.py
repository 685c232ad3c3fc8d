"""The plan of a run, stored when it begins, so that a later attempt on any cluster uses the same buckets."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import pyarrow as pa

from schemas.data_keys import DataKey
from schemas.errors import ConfigError, CorruptFileError
from schemas.hashing import check_bucket_count
from schemas.services import Service
from snapshotter.records import ContextSet, JsonRecord, from_micros
from snapshotter.storage import Storage

_log = logging.getLogger(__name__)
_CONTEXTS_IN_A_BUCKET = 50_000  # about 64 MB of histories
_FEWEST_IN_A_BUCKET = 1_000  # smaller buckets would only make small files


@dataclass(frozen=True)
class RunPlan(JsonRecord):
    """How a run's contexts are partitioned.

    bucket_variable: services whose key contains it are bucketed by it
    """

    run_id: str
    context_set_id: str
    buckets: int
    bucket_variable: str | None
    started_at: datetime

    @property
    def path(self) -> str:
        """The path of the plan, relative to the storage's root."""
        return plan_path(self.run_id)

    def buckets_by(self, service: Service) -> bool:
        """Whether a service is bucketed: its key contains the variable."""
        return any(variable.name == self.bucket_variable for variable in service.key)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        return cls(**{**fields, "started_at": from_micros(fields["started_at"])})


def plan_path(run_id: str) -> str:
    """Return the path of a run's plan, relative to the storage's root."""
    return f"snapshots/_plans/{run_id}.json"  # no service's name starts with _


def make_plan(
    run_id: str,
    context_set: ContextSet,
    services: Sequence[Service],
    cores: int,
    buckets: int | None,
    bucket_variable: str | None,
) -> RunPlan:
    """Plan a run that has not begun.

    cores: how many run tasks at the same time
    buckets: a power of two; None: chosen by the number of contexts and the cores
    bucket_variable: None: the variable that most of the services' keys share
    """
    count = _bucket_count(context_set, cores) if buckets is None else buckets
    check_bucket_count(count)
    variable = _bucket_variable(context_set, services, bucket_variable)
    return RunPlan(run_id, context_set.context_set_id, count, variable, datetime.now(UTC))


def begin_run(storage: Storage, plan: RunPlan) -> RunPlan:
    """Store the plan and return it; of a run that has begun already, return the plan that it began with.

    Raises ConfigError if it began with another context set.
    """
    if storage.create(plan.path, json.dumps(plan.to_json()).encode()):
        return plan
    first = _read(storage, plan)
    if first.context_set_id != plan.context_set_id:
        raise ConfigError.because(
            f"run '{plan.run_id}' began for context set '{first.context_set_id}', not for '{plan.context_set_id}'",
            "use another run id",
        )
    _log.warning(
        "run '%s' began at %s and continues in %d buckets by %s: only missing contexts are requested",
        *(plan.run_id, f"{first.started_at:%F %TZ}", first.buckets, first.bucket_variable),
    )
    return first


def _read(storage: Storage, plan: RunPlan) -> RunPlan:
    with storage.open_input(plan.path) as file:
        text = file.read()
    try:
        return RunPlan.from_json(json.loads(text))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError.because(
            f"'{plan.path}' is not a valid run plan: {error!r}", "delete it, or use another run id"
        ) from error


def _bucket_count(context_set: ContextSet, cores: int) -> int:
    """Choose enough buckets to bound a worker's memory and to give every core one, unless they would be tiny."""
    for_memory = -(-context_set.rows // _CONTEXTS_IN_A_BUCKET)
    for_cores = min(cores, context_set.rows // _FEWEST_IN_A_BUCKET)
    return min(65_536, 1 << (max(for_memory, for_cores, 1) - 1).bit_length())


def _bucket_variable(context_set: ContextSet, services: Sequence[Service], requested: str | None) -> str | None:
    variables = {variable.name: variable for group in context_set.groups for variable in group.key}
    names = [name for name, variable in variables.items() if _bucketable(variable)]
    if requested is not None:
        if requested not in names:
            raise ConfigError.unknown("variable to bucket by", requested, names)
        return requested
    shared = {name: sum(name == variable.name for service in services for variable in service.key) for name in names}
    return max(names, key=lambda name: shared[name], default=None)  # of several the first


def _bucketable(variable: DataKey) -> bool:
    return bool(pa.types.is_signed_integer(variable.type) or pa.types.is_string(variable.type))
