"""Checks of a snapshot run: whether it can be captured, and whether its answers are good enough to publish."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

import pyarrow as pa

from schemas.data_keys import DataKey
from schemas.errors import ConfigError, DataKeyError, QualityError, ServiceError
from schemas.services import Service, Status
from snapshotter.capture.capture_task import ProxyAddresses
from snapshotter.capture.drift import drift_alerts, last_profiles
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, ServiceSnapshot, SnapshotRun
from snapshotter.storage import require_plain_name

DriftAction = Literal["warn", "hold", "off"]
"""What happens if a snapshot is outside the range predicted from recent runs: "hold" does not publish it."""

_log = logging.getLogger(__name__)
_REPAIR = "repair the service and run the same run id again, which requests only what failed"


@dataclass(frozen=True)
class Floor:
    """The confidence that each service of a run must have, and whether less fails the run or is only logged."""

    confidence: float
    below: Literal["fail", "warn"] = "fail"


def refuse_other_run(published: SnapshotRun, context_set: ContextSet, services: Sequence[str] | None) -> None:
    """Raise ConfigError if the run that has the id captured another context set, or other services."""
    hint = "use another run id"
    if published.context_set_id != context_set.context_set_id:
        raise ConfigError.because(
            f"run id '{published.run_id}' is taken: that run captured context set '{published.context_set_id}',"
            f" not '{context_set.context_set_id}'",
            hint,
        )
    captured = sorted(snapshot.service.name for snapshot in published.services)
    if services is not None and captured != sorted(set(services)):
        raise ConfigError.because(
            f"run id '{published.run_id}' is taken: that run captured {', '.join(captured)},"
            f" not {', '.join(sorted(set(services)))}",
            hint,
        )


def refuse_other_day(day: date, late: timedelta, now: datetime) -> None:
    """Raise ConfigError for a day that has not begun, or is over for longer than `late`."""
    begins = datetime.combine(day, time(), UTC)
    if now < begins:
        raise ConfigError.because(f"{day} has not begun: a snapshot captures now, {now:%F %R} UTC", "wait for it")
    over = now - begins - timedelta(days=1)
    if over > late:
        raise ConfigError.because(
            f"{day} is past: a snapshot captures now, {now:%F %R} UTC, never the state of another day",
            "take the snapshot of today, or allow the set of services to be `late`",
        )


def services_to_capture(context_set: ContextSet, names: Sequence[str] | None, proxies: ProxyAddresses) -> list[Service]:
    """Return the services as the proxy declares them. names: None: all that it has.

    Raises ConfigError for an unknown service, DataKeyError for one whose key the context set lacks.
    """
    with proxies.client() as client:
        declared = client.services()
    requested = sorted(declared) if names is None else list(dict.fromkeys(names))
    if not requested:
        raise ConfigError.because("no service to capture", "name one, or declare one to the proxy")
    for name in requested:
        if name not in declared:
            raise ConfigError.unknown("service", name, declared)
        require_plain_name("service", name)
        for variable in declared[name].key:
            _check_variable(context_set, name, variable)
    return [declared[name] for name in requested]


def _check_variable(context_set: ContextSet, service: str, variable: DataKey) -> None:
    """Check that the context set has a variable of a service's key; its integers may be narrower."""
    types = {variable.name: variable.type for variable in context_set.key}
    if variable.name not in types:
        raise DataKeyError.unknown(f"variable of context set {context_set.context_set_id}", variable.name, types)
    available = types[variable.name]
    widens = (
        pa.types.is_signed_integer(available)
        and pa.types.is_signed_integer(variable.type)
        and available.bit_width <= variable.type.bit_width
    )
    if available != variable.type and not widens:
        raise DataKeyError.because(
            f"service '{service}' needs {variable.name}: {variable.type},"
            f" context set {context_set.context_set_id} has {available}",
            "cast the column in the experiments' queries",
        )


def check_quality(
    index: SnapshotIndex, run_id: str, snapshots: Sequence[ServiceSnapshot], floor: Floor | None, drift: DriftAction
) -> None:
    """Log what is wrong with a run's answers, or raise if they are not to be published.

    Raises ServiceError if no service answered, QualityError for confidence below the floor, or drift to hold.
    """
    _require_answers(run_id, snapshots)
    if floor is not None:
        _check_confidence(run_id, snapshots, floor)
    if drift != "off":
        _check_drift(index, run_id, snapshots, drift)


def _require_answers(run_id: str, snapshots: Sequence[ServiceSnapshot]) -> None:
    failures = [(snapshot, *failure) for snapshot in snapshots for failure in snapshot.reasons.items()]
    for snapshot, status, reason in failures:
        _log.warning(
            "run '%s', service '%s': %d of %d contexts %s: %s",
            *(run_id, snapshot.service.name, snapshot.counts[status], snapshot.asked, status.value, reason),
        )
    if not any(snapshot.counts.get(Status.OK) for snapshot in snapshots):
        reasons = "; ".join(
            f"{snapshot.service.name}: {status.value}: {reason}" for snapshot, status, reason in failures
        )
        raise ServiceError.because(
            f"run '{run_id}' captured nothing, so nothing is published ({reasons})",
            "repair the services, then run the same run id again",
        )


def _check_confidence(run_id: str, snapshots: Sequence[ServiceSnapshot], floor: Floor) -> None:
    problems = [
        f"service '{snapshot.service.name}' has confidence {snapshot.confidence:.3f}, expected {floor.confidence:g}"
        for snapshot in snapshots
        if snapshot.confidence < floor.confidence
    ]
    _hold_or_warn(run_id, problems, hold=floor.below == "fail", hint=_REPAIR)


def _check_drift(index: SnapshotIndex, run_id: str, snapshots: Sequence[ServiceSnapshot], drift: DriftAction) -> None:
    alerts = [
        f"service '{snapshot.service.name}': {alert}"
        for snapshot in snapshots
        for alert in drift_alerts(last_profiles(index, snapshot.service.name), snapshot.profile)
    ]
    hint = f'{_REPAIR}, or publish it as it is with --drift warn (drift="warn")'
    _hold_or_warn(run_id, alerts, hold=drift == "hold", hint=hint)


def _hold_or_warn(run_id: str, problems: Sequence[str], *, hold: bool, hint: str) -> None:
    """Log problems of a run, or raise QualityError for them."""
    if problems and hold:
        raise QualityError.because(f"run '{run_id}' is held back: {'; '.join(problems)}", hint)
    for problem in problems:
        _log.warning("run '%s', %s", run_id, problem)
