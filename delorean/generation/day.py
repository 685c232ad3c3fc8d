"""Generates what a scheduled experiment needs for a day: only what became known since the days before is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from delorean.feature_sets.part_sources import part_records
from delorean.feature_sets.parts import Part, PartRecord, parts_of
from delorean.feature_sets.reusable import content_hash
from delorean.feature_sets.table import FeatureSet, recent_records, table_uri
from delorean.feature_sets.vector_widths import refuse_other_widths
from delorean.generation.generation_plan import GenerationPlan
from delorean.generation.named_run import NamedRun
from delorean.generation.parts import KeptParts, PartSettings, PartToCompute, generate_parts, plan_again
from delorean.labels import TIME_COLUMN, Labels, find_labels
from delorean.labels.row_hashes import row_hashes
from schemas.errors import EmptyLabelsError, ReplayError, StorageError
from snapshotter.records import RecordKind
from snapshotter.storage import Storage
from snapshotter.storage.delta import ConcurrentCommitError
from snapshotter.storage.parquet import read_parquet

LabelsBetween = Callable[[datetime | None, datetime], Labels]
_SEARCHED = 16  # of the latest versions: backfills of past days are seldom further apart
_TRIES = 20
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class _Base:
    """The version that a day is built on.

    feature_set: None: there is none
    kept: its parts up to the day
    newest: whether it is the newest version, and all of its parts are kept
    same: whether its parts were generated with the same encoders, rules and limits
    same_rules: whether with the same rules and floors of confidence, so that they saw all that rows may see
    withdrawn: how many withdrawals the index had
    other_labels: whether the newest version has parts of other label data
    """

    feature_set: FeatureSet | None = None
    kept: tuple[Part, ...] = ()
    newest: bool = False
    same: bool = True
    same_rules: bool = True
    withdrawn: int = 0
    other_labels: bool = False


def generate_day(
    settings: PartSettings,
    until: datetime,
    content: Mapping[str, Any],
    labels_between: LabelsBetween,
    run_id: str | None = None,
    *,
    recompute: bool = False,
) -> FeatureSet:
    """Generate features of all label rows whose outcome was known at a moment.

    until: the beginning of the day
    content: everything that decides what the label data is, such as its query and tables
    labels_between: returns label data of the rows that became known after one moment (None: the beginning) and up to
        another, the same whenever it is called. Raises EmptyLabelsError without any
    run_id: as in `generate`
    recompute: compute all parts, copying nothing

    The version has the parts of earlier days as they were computed, with the sources of that time. All parts are
    computed anew if encoders, rules or limits changed, from the same sources unless rules changed (features of
    unchanged encoders are copied), and those whose sources were withdrawn. Parts whose contexts and times appear again
    later are replaced by one that has all of their items. The notes say so.
    """
    settings = replace(settings, model=settings.model.with_source())
    labels_hash = content_hash(content)
    made_by = content_hash([settings.model.fingerprint, *_policies(settings).values()])
    request = {"labels": labels_hash, "until": until.isoformat(), "encoders": settings.model.fingerprint}
    request |= _policies(settings)
    if run_id is not None:
        committed = NamedRun(settings.storage, settings.name, run_id, request).committed()
        if committed is not None:
            return committed
    refuse_other_widths(settings.storage, settings.name, settings.model.features, settings.model.vectors)
    for _ in range(_TRIES):
        base = _find_base(settings, labels_hash, made_by, until)
        day = _Day(settings, base, until, labels_between, request, run_id, recompute)
        try:
            return day.generate({"part_labels": labels_hash, "part_encoders": made_by})
        except ConcurrentCommitError:
            continue
    raise StorageError.because(
        f"feature set '{settings.name}' has a newer version each time that one was to be committed",
        "run it again when fewer writers are active",
    )


def _policies(settings: PartSettings) -> dict[str, Any]:
    policies: dict[str, Any] = msgspec.to_builtins(
        {"rules": [settings.rules, settings.confidence, settings.spread], "leaks": settings.leaks}
    )
    if settings.tasks is not None:
        policies["tasks"] = msgspec.to_builtins(settings.tasks)
    return policies


def _find_base(settings: PartSettings, labels_hash: str, made_by: str, until: datetime) -> _Base:
    """Return the version, among the latest, whose parts reach furthest up to the day; of equal ones the newest."""
    best = _Base()
    newest = True
    for record in recent_records(settings.storage, settings.name, _SEARCHED):
        found = record.feature_set
        labels = found.lineage.get("part_labels", labels_hash)
        parts = parts_of(found.lineage) if labels == labels_hash else ()
        kept = tuple(part for part in parts if part.until <= until)
        if kept and (not best.kept or kept[-1].until > best.kept[-1].until):
            same = found.lineage.get("part_encoders") == made_by
            same_rules = record.request.get("rules", [])[:2] == _policies(settings)["rules"][:2]
            withdrawn = found.lineage.get("withdrawals", 0)
            best = _Base(found, kept, newest and kept == parts, same, same_rules, withdrawn, best.other_labels)
        if newest and labels != labels_hash:
            best = replace(best, other_labels=True)
        newest = False
        if best.kept and until - best.kept[-1].until <= _ONE_DAY:
            break  # no version that is worth reading more of the log is closer to the day
    return best


@dataclass
class _Day:
    """The generation of one day onto a base."""

    settings: PartSettings
    base: _Base
    until: datetime
    labels_between: LabelsBetween
    request: Mapping[str, Any]
    run_id: str | None
    recompute: bool

    def generate(self, lineage: Mapping[str, Any]) -> FeatureSet:
        withdrawals = self.settings.index.withdrawals()
        self.notes: list[str] = []
        if self.base.other_labels and not self.base.kept:
            self.notes.append("everything was computed anew: the query of the labels or its tables changed")
        kept = list(self.base.kept)
        new = self._new_part(kept)
        in_place = self.base.newest and len(kept) == len(self.base.kept) and self.base.same and not self.recompute
        computed = []
        if kept and not (in_place and len(withdrawals) == self.base.withdrawn):
            computed = self._again(kept, {(each.name.kind, each.name.id) for each in withdrawals}, in_place)
        keep = None
        if kept and not computed and self.base.feature_set is not None:
            keep = KeptParts(self.base.feature_set, tuple(kept))
        computed += [] if new is None else [new]
        if keep is not None:
            parts = len(kept) + len(computed)
            self.notes.append(f"{len(kept)} of {parts} parts are those of version {keep.of.version}")
        more = {**lineage, "withdrawals": len(withdrawals)}
        return generate_parts(self.settings, computed, keep, self.request, more, self.notes, self.run_id)

    def _new_part(self, kept: list[Part]) -> PartToCompute | None:
        """Return what became known since the kept parts. Parts that have some of its rows' items are dropped."""
        while True:
            since = kept[-1].until if kept else None
            if since == self.until:
                return None
            try:
                labels = self.labels_between(since, self.until)
            except EmptyLabelsError:
                if not kept:
                    raise
                return None
            first = self._first_apart(kept, labels)
            if first is None:
                break
            self.notes.append(
                f"{len(kept) - first} parts, from label data '{kept[first].labels}' on, were computed anew as one: "
                "items of the same contexts and times became known on several days, or their label data is gone"
            )
            del kept[first:]
        part = Part(
            labels.labels_id, since, self.until, labels.contexts, labels.item_count, labels.earliest, labels.latest
        )
        return PartToCompute(part, self._plan(labels))

    def _plan(self, labels: Labels) -> GenerationPlan:
        """Plan the new part: a run with an id reads what it resolved when it began."""
        plan = self.settings.plan(labels)
        if self.run_id is None:
            return plan
        attempt = f"{self.run_id}.{labels.labels_id}"
        run = NamedRun(self.settings.storage, self.settings.name, attempt, self.request)
        pinned = run.sources(lambda: plan.pinned)
        return plan if pinned == plan.pinned else self.settings.plan(labels, pinned)

    def _first_apart(self, kept: Sequence[Part], labels: Labels) -> int | None:
        """Return the first part that has a context and time of the new label data, or other columns."""
        new = None
        for position, part in enumerate(kept):
            if part.latest < labels.earliest or part.earliest > labels.latest:
                continue
            before = find_labels(part.labels, self.settings.storage)
            if before is None or before.schema != labels.schema:
                return position
            new = _keys(labels, self.settings.storage) if new is None else new
            if np.isin(_keys(before, self.settings.storage), new).any():
                return position
        last = find_labels(kept[-1].labels, self.settings.storage) if kept else None
        return 0 if last is not None and last.schema != labels.schema else None

    def _again(
        self, kept: Sequence[Part], withdrawn: set[tuple[RecordKind, str]], in_place: bool
    ) -> list[PartToCompute]:
        """Return all kept parts, to be computed or copied again; none if their files can stay.

        in_place: whether they can stay unless their sources were withdrawn
        """
        assert self.base.feature_set is not None
        try:
            records = part_records(table_uri(self.settings.storage, self.settings.name), kept)
        except ReplayError as error:
            self.notes.append(f"all parts were computed anew: {str(error).partition(' → ')[0]}")
            records = []
        affected = [_reads(record, withdrawn) for record in records]
        if in_place and records and not any(affected):
            return []
        if any(affected):
            self.notes.append(f"{sum(affected)} of {len(kept)} parts were computed anew: their sources were withdrawn")
        elif not self.base.same:
            self.notes.append(f"{len(kept)} parts were computed anew: encoders, rules or limits changed")
        again = []
        for position, part in enumerate(kept):
            labels = find_labels(part.labels, self.settings.storage) or self.labels_between(part.since, part.until)
            record = records[position] if records else None
            if record is None or not self.base.same_rules:
                plan = self.settings.plan(labels)
            else:
                plan = plan_again(self.settings, labels, record)
            before = None if self.recompute else record
            new = msgspec.structs.replace(part, labels=labels.labels_id, version=None)
            again.append(PartToCompute(new, plan, before, -1 if part.version is None else part.version))
        return again


def _reads(record: PartRecord, withdrawn: set[tuple[RecordKind, str]]) -> bool:
    runs = {(RecordKind.RUN, id_) for ids in record.sources.snapshots.values() for id_ in ids}
    versions = {(RecordKind.GLOBAL_VERSION, id_) for ids in record.sources.globals.values() for id_ in ids}
    return not withdrawn.isdisjoint(runs | versions)


def _keys(labels: Labels, storage: Storage) -> np.ndarray:
    """Return a hash of each row's context and time. Equal hashes of other rows only cost work."""
    names = [*(key.name for key in labels.context), TIME_COLUMN]
    hashes = [row_hashes(read_parquet(storage, file, names), names) for file in labels.files]
    return np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
