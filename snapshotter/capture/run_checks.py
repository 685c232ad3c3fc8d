"""Checks of a snapshot run: whether it can be captured, and whether its answers are good enough to publish."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

from schemas.errors import ConfigError, DataKeyError, QualityError, ServiceError
from schemas.services import Service, Status
from snapshotter.capture.asked_groups import experiments_asking, fits, lacks, shared_key
from snapshotter.capture.capture_task import ProxyAddresses
from snapshotter.capture.drift import drift_alerts, last_profiles
from snapshotter.index import SnapshotIndex
from snapshotter.records import (
    ContextGroup,
    ContextSet,
    PublishedName,
    SelectedExperiment,
    ServiceSnapshot,
    SnapshotRun,
)
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


@dataclass(frozen=True)
class AskedServices:
    """The services that a run captures. not_applicable: see `SnapshotRun`."""

    services: tuple[Service, ...]
    not_applicable: Mapping[str, tuple[str, ...]]


def refuse_other_run(published: SnapshotRun, context_set: ContextSet, services: Sequence[str] | None) -> None:
    """Raise ConfigError if the run that has the id captured another context set, or other services."""
    hint = "use another run id"
    if published.context_set_id != context_set.context_set_id:
        raise ConfigError.because(
            f"run id '{published.run_id}' is taken: that run captured context set '{published.context_set_id}',"
            f" not '{context_set.context_set_id}'",
            hint,
        )
    captured = {snapshot.service.name for snapshot in published.services}
    if services is not None and not captured <= set(services) <= captured | set(published.not_applicable):
        raise ConfigError.because(
            f"run id '{published.run_id}' is taken: that run captured {', '.join(sorted(captured))},"
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


def services_to_capture(
    context_set: ContextSet, names: Sequence[str] | None, proxies: ProxyAddresses, of_day: Sequence[ContextSet] = ()
) -> AskedServices:
    """Return the services as the proxy declares them. names: None: all that it has and that can be asked.

    of_day: all revisions of the context set's day; a service that is named may be for contexts of another one

    Raises ConfigError for an unknown service, DataKeyError for one that is named but cannot be asked for any context of
    the day, or whose variables have another type in the contexts.
    """
    with proxies.client() as client:
        declared = client.services()
    requested = sorted(declared) if names is None else list(dict.fromkeys(names))
    if not requested:
        raise ConfigError.because("no service to capture", "name one, or declare one to the proxy")
    asked: list[Service] = []
    not_applicable: dict[str, tuple[str, ...]] = {}
    for name in requested:
        if name not in declared:
            raise ConfigError.unknown("service", name, declared)
        require_plain_name("service", name)
        service = declared[name]
        if _asks_any(context_set, service):
            asked.append(service)
        elif names is not None and not any(_asks_any(each, service) for each in of_day):
            raise _never_asked(context_set, service)
        without = _without_variables(context_set, service)
        if without or service not in asked:
            not_applicable[name] = without
    if not any(_asks_any(each, declared[name]) for each in (context_set, *of_day) for name in requested):
        raise DataKeyError.because(
            f"no service can be asked for the contexts of {context_set.context_set_id}:"
            f" {'; '.join(group.key_text for group in context_set.groups)}",
            "add the variables of a service's key to the experiments' keys",
        )
    _log_choice(context_set, declared, not_applicable, names)
    shared_key(context_set.groups, asked)  # raises where there is none
    return AskedServices(tuple(asked), not_applicable)


def _asks_any(context_set: ContextSet, service: Service) -> bool:
    """Whether a service is asked for any context. Raises DataKeyError where types do not fit."""
    asking = [group for group in context_set.groups if experiments_asking(group, service)]
    for group in asking:
        types = {variable.name: variable.type for variable in group.key}
        for variable in service.key:
            if not fits(types[variable.name], variable.type):
                raise DataKeyError.because(
                    f"service '{service.name}' needs {variable.name}: {variable.type}, contexts of experiment"
                    f" '{experiments_asking(group, service)[0]}' have {types[variable.name]}",
                    f"cast the column in the experiment's query, and select again: {_withdraw(context_set)}",
                )
    return bool(asking)


def _withdraw(context_set: ContextSet) -> str:
    return PublishedName.of_revision(context_set.date, context_set.revision).withdraw_command


def _without_variables(context_set: ContextSet, service: Service) -> tuple[str, ...]:
    """Return the experiments that need a service, but whose contexts lack a variable of its key."""
    return tuple(
        experiment.id
        for group in context_set.groups
        if lacks(group, service)
        for experiment in group.experiments
        if experiment.needs(service.name)
    )


def _never_asked(context_set: ContextSet, service: Service) -> DataKeyError:
    for group in context_set.groups:
        for variable in lacks(group, service):
            types = [each.name for each in group.key]
            return DataKeyError.unknown(
                f"variable of context set {context_set.context_set_id}, which service '{service.name}' is asked by,",
                variable,
                types,
            )
    return DataKeyError.because(
        f"no experiment of context set {context_set.context_set_id} needs service '{service.name}'",
        "leave it out, or add it to the services of an experiment's contexts",
    )


def _log_choice(
    context_set: ContextSet,
    declared: Mapping[str, Service],
    not_applicable: Mapping[str, Sequence[str]],
    names: Sequence[str] | None,
) -> None:
    """Log services that experiments name and that cannot be requested for them, and experiments without any service."""
    for name, experiments in not_applicable.items():
        if not experiments and names is None:
            _log.warning("service '%s' is left out: no experiment needs it", name)
    for group in context_set.groups:
        for experiment in group.experiments:
            _log_choice_of(experiment, group, declared)


def _log_choice_of(experiment: SelectedExperiment, group: ContextGroup, declared: Mapping[str, Service]) -> None:
    for name in experiment.services or ():
        if name not in declared:
            _log.warning("experiment '%s' needs an %s", experiment.id, ConfigError.unknown("service", name, declared))
        elif lacking := lacks(group, declared[name]):
            variables = ", ".join(f"'{each}'" for each in lacking)
            message = "service '%s' is not applicable to experiment '%s', which names it: its contexts lack %s"
            _log.warning(message, name, experiment.id, variables)
    if not any(experiment.needs(name) and not lacks(group, service) for name, service in declared.items()):
        _log.warning("no service can be asked for the contexts of experiment '%s'", experiment.id)


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
    asked = any(snapshot.asked for snapshot in snapshots)  # a revision may have nothing left to ask
    if asked and not any(snapshot.counts.get(Status.OK) for snapshot in snapshots):
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
        if snapshot.asked and snapshot.confidence < floor.confidence
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
