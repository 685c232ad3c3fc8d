"""Compares two model packages on contexts that neither was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.comparison.compare import compare_scores
from delorean.comparison.compared_tasks import ComparedTasks, with_new_features
from delorean.comparison.computed_features import computed_features
from delorean.comparison.counterfactual.estimate import estimate_rewards
from delorean.comparison.counterfactual.exposures import Exposures
from delorean.comparison.feature_data import FeatureData, FeatureSource
from delorean.comparison.held_out import held_out_split, is_held_out, model_spec
from delorean.comparison.result import Comparison
from delorean.comparison.scored_contexts import Reading, ScoredContexts, score_apart, score_together
from delorean.comparison.settings import ComparisonSettings
from delorean.comparison.verdict import with_counterfactual
from delorean.evaluation.groups import clusters_of
from delorean.labels import WEIGHT_COLUMN, Labels, load_labels
from delorean.packaging.package import ModelPackage
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import Split
from schemas.errors import ComparisonError, ConfigError
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage

MOST_ITEMS = 5_000_000


def compare_packages(
    candidate: ModelPackage,
    production: ModelPackage,
    features: FeatureSource | None = None,
    production_features: FeatureSource | None = None,
    *,
    labels: Labels | str | None = None,
    index: SnapshotIndex | None = None,
    storage: Storage | None = None,
    label: str | None = None,
    all_contexts: bool = False,
    max_items: int | None = MOST_ITEMS,
    settings: ComparisonSettings | None = None,
    exposures: Exposures | None = None,
    names: tuple[str, str] | None = None,
    task: str | None = None,
) -> Comparison:
    """Compare a candidate with production, on the same contexts and items.

    features: a feature set with the features of both packages, or of the candidate only
    production_features: a feature set with production's features, of the same label data. None: `features` has them
    labels: label data, or its id, for which the features of both are computed from the state as of each row's time.
        With neither features nor labels: the feature set that the candidate was trained on; if it lacks features of
        production's encoders, its label data
    index, storage: where labels and the state are; needed for labels only
    label: that is measured; None: the one that the candidate was trained on
    all_contexts: compare on contexts that a package was trained on too
    max_items: if there are more, contexts are sampled by a seeded hash, to bound memory; None: no bound
    settings: metrics, groups, clusters, and what decides
    exposures: columns of logged exposures, for counterfactual estimates
    names: of the packages, for the result; None: of their folders
    task: the only one to compare. Packages of tasks are compared on those that both serve, by task; a package of tasks
        and one without only on the task that is named, on the features of the package of tasks

    Only contexts are compared that are in the test part of both packages' splits, or later. Raises ComparisonError for
    packages of other items, features that are missing or were computed by other encoders, no labels, and no contexts
    that are held out.
    """
    tasks = ComparedTasks.of(candidate, production, task)
    inputs = _Inputs(
        candidate,
        production,
        tasks,
        tasks.settings(settings or ComparisonSettings()),
        exposures,
        names or (candidate.path.name, production.path.name),
        label,
        max_items,
        (index, storage),
        {}
        if all_contexts
        else {
            who: held_out_split(package) for who, package in (("the candidate", candidate), ("production", production))
        },
    )
    inputs.check_variables()
    if features is None and labels is None:
        features, labels = inputs.default_data()
    if labels is not None:
        scored, data = inputs.from_labels(labels)
    elif features is not None:
        scored, data = inputs.from_features(features, production_features)
    else:
        raise ConfigError.because("there is neither a feature set nor label data", "give one to compare on")
    return inputs.compare(scored, data)


@dataclass(frozen=True)
class _Inputs:
    """Two packages and how they are compared.

    splits: of each side, or why it is not known; empty: contexts that were trained on are compared too
    """

    candidate: ModelPackage
    production: ModelPackage
    tasks: ComparedTasks
    settings: ComparisonSettings
    exposures: Exposures | None
    names: tuple[str, str]
    label: str | None
    max_items: int | None
    opened: tuple[SnapshotIndex | None, Storage | None]
    splits: dict[str, tuple[Split | None, str | None]]

    def check_variables(self) -> None:
        """Raise ComparisonError unless both packages rank the same kind of items."""
        ours, theirs = (
            {key.name: key.type for key in package.items if key.name in (self.tasks.items or (key.name,))}
            for package in (self.candidate, self.production)
        )
        if ours != theirs:
            raise ComparisonError.because(
                f"the candidate ranks items by {_variables(ours)}, production by {_variables(theirs)}",
                "only packages that rank the same items can be compared",
            )

    def default_data(self) -> tuple[FeatureSource | None, str | None]:
        """Return the candidate's own feature set if production's features are in it, otherwise its label data."""
        package = self._package_of_data
        origin = package.lineage.get("feature_set") or {}
        if "uri" not in origin:
            raise ComparisonError.because(
                "the candidate's lineage names no feature set", "name a feature set or label data to compare on"
            )
        source = (str(origin["uri"]), origin.get("version"))
        labels = (package.lineage.get("label_data") or {}).get("id")
        if (
            self._mixed
            or None in (labels, *self.opened)
            or FeatureData.of(source).problem_for(self.production, "production") is None
        ):
            return source, None
        return None, str(labels)

    def from_features(
        self, features: FeatureSource, production_features: FeatureSource | None
    ) -> tuple[ScoredContexts, FeatureData]:
        """Read and score one feature set with the features of both, or one for each."""
        ours = FeatureData.of(features)
        ours.require(self.candidate, "the candidate")
        notes = ours.notes_on(self.candidate, "the candidate")
        theirs = ours if production_features is None else FeatureData.of(production_features)
        theirs.require(self.production, "production")
        notes += theirs.notes_on(self.production, "production")
        reading = self._reading(ours)
        if production_features is None:
            both = self._held_out(reading, ours, [*self.candidate.features, *self.production.features])
            scored = score_together(both, self.candidate, self.production)
        else:
            own = self._held_out(reading, ours, self.candidate.features)
            paired = reading.of_variables(self._split_groups())
            other = self._held_out(paired, theirs, self.production.features)
            scored = score_apart(own, other, self.candidate, self.production, reading)
        return replace(scored, notes=(*dict.fromkeys(notes), *scored.notes)), ours

    def from_labels(self, labels: Labels | str) -> tuple[ScoredContexts, FeatureData]:
        """Compute the features of both packages for label data, and score them."""
        index, storage = self.opened
        if self._mixed:
            raise ComparisonError.because(
                "a package of tasks and one without cannot be compared on label data, which is of one kind",
                "compare on the feature set of the package of tasks: --features NAME",
            )
        if index is None or storage is None:
            raise ConfigError.because("label data is compared on without an index and a storage", "give both")
        stored = load_labels(labels, storage) if isinstance(labels, str) else labels
        for package, who in ((self.candidate, "the candidate"), (self.production, "production")):
            known = [key.name for key in (*stored.context, *stored.items)]
            for key in (*package.context, *package.items):
                if key.name not in known:
                    raise ComparisonError.unknown(
                        f"column of label data {stored.labels_id}, a variable of {who}", key.name, known
                    )
        lineage = {
            "context": [key.to_json() for key in stored.context],
            "label_columns": list(stored.label_names),
            "weighted": stored.weighted,
        }
        sides = []
        for package in (self.candidate, self.production):
            table = computed_features(package, stored, index, storage, self._mask, self.max_items)
            sides.append(FeatureData.of(table, f"label data {stored.labels_id}", lineage))
        reading = self._reading(sides[0])
        ours, theirs = (
            reading.read(data, package.features)
            for data, package in zip(sides, (self.candidate, self.production), strict=True)
        )
        return score_apart(ours, theirs, self.candidate, self.production, reading), sides[0]

    def compare(self, scored: ScoredContexts, data: FeatureData) -> Comparison:
        """Compare the scores, and estimate rewards where exposures are logged."""
        notes = [*scored.notes, *self._split_notes()]
        if scored.part.unread[0]:
            notes.append(
                f"{scored.part.unread[0]:,} contexts were left out by sampling at most {self.max_items:,} items"
            )
        result = compare_scores(
            scored.candidate,
            scored.production,
            replace(scored.part, items=scored.part.items.select(list(self._items))),
            self.settings,
            names=self.names,
            data=data.name,
            notes=notes,
        )
        result = with_new_features(result, self.candidate, self.production, self.settings.margin)
        if self.exposures is None:
            return result
        estimates = estimate_rewards(
            scored.candidate,
            scored.production,
            scored.part,
            self.exposures,
            clusters=clusters_of(scored.part, self.settings.evaluation.cluster),
            bootstrap=self.settings.evaluation.bootstrap,
            names=self.names,
        )
        return with_counterfactual(result, estimates)

    def _reading(self, data: FeatureData) -> Reading:
        context = [key["name"] for key in data.lineage.get("context", ())] or [
            key.name for key in self._package_of_data.context
        ]
        columns = [*self.settings.evaluation.columns(context), *self._split_groups()]
        lists: list[str] = []
        for name in () if self.exposures is None else self.exposures.columns:
            if name in data.schema.names:
                is_list = pa.types.is_list(data.schema.field(name).type)
                (lists if is_list else columns).append(name)
            else:
                raise ComparisonError.unknown(f"column of exposures in {data.name}", name, data.schema.names)
        return Reading(
            context=tuple(context),
            items=self._items,
            columns=tuple(dict.fromkeys(columns)),
            lists=tuple(dict.fromkeys(lists)),
            label=self._label(data),
            weight=model_spec(self.candidate).weight,
            item_weight=WEIGHT_COLUMN if data.lineage.get("weighted") else None,
            max_items=self.max_items,
            seed=self.settings.evaluation.seed,
        )

    @property
    def _mixed(self) -> bool:
        """Whether only one of the packages has tasks."""
        return (self.candidate.tasks is None) is not (self.production.tasks is None)

    @property
    def _package_of_data(self) -> ModelPackage:
        """The package on whose data both are compared by default: the candidate, or the one that has tasks."""
        return self.production if self._mixed and self.candidate.tasks is None else self.candidate

    @property
    def _items(self) -> tuple[str, ...]:
        return self.tasks.items or tuple(key.name for key in self.candidate.items)

    def _split_groups(self) -> list[str]:
        """Return the variables by whose values packages were trained on some contexts and not on others."""
        return [split.group for split, _ in self.splits.values() if split is not None and split.group is not None]

    def _label(self, data: FeatureData) -> str:
        names = data.label_names
        label = self.label or model_spec(self.candidate).label
        if not names:
            raise ComparisonError.because(f"{data.name} has no label to measure rankings by", "generate it with labels")
        if label is None and len(names) > 1:
            raise ComparisonError.because(f"{data.name} has several labels: {', '.join(names)}", "choose one: --label")
        if label is not None and label not in names:
            raise ComparisonError.unknown(f"label of {data.name}", label, names)
        return label or names[0]

    def _held_out(self, reading: Reading, data: FeatureData, features: Sequence[str]) -> RankingData:
        """Read the contexts that neither package was trained on. Raises ComparisonError where there are none."""
        seen = found = 0

        def eligible(contexts: pa.Table) -> NDArray[np.bool_]:
            nonlocal seen, found
            mask = self._mask(contexts)
            seen, found = seen + len(mask), found + int(mask.sum())
            return mask

        part = reading.read(data, features, eligible)
        if seen and not found:
            raise ComparisonError.because(
                f"none of {seen:,} contexts is held out from both trainings: {self._times()}",
                "give data from after both were trained, or include all contexts: --all-contexts",
            )
        return part

    def _mask(self, contexts: pa.Table) -> NDArray[np.bool_]:
        mask = self.tasks.mask(contexts)
        for split, _ in self.splits.values():
            if split is not None:
                mask &= is_held_out(contexts, split)
        return mask

    def _times(self) -> str:
        return ", ".join(f"{who} is tested {_part_in_words(split)}" for who, (split, _) in self.splits.items() if split)

    def _split_notes(self) -> Sequence[str]:
        if not self.splits:
            return ["contexts that a package was trained on are compared too, which favours it"]
        unknown = [
            f"which contexts {who} was trained on is not known, so it may be favoured: {problem}"
            for who, (_, problem) in self.splits.items()
            if problem is not None
        ]
        known = self._times()
        return [*unknown, *([f"only contexts of both test parts: {known}"] if known else [])]


def _variables(types: dict[str, pa.DataType]) -> str:
    return ", ".join(f"{name} ({type})" for name, type in types.items()) or "nothing"  # noqa: A001  # as above


def _part_in_words(split: Split) -> str:
    group = "" if split.group is None else f"on a share of {split.shares[2]:.0%} of {split.group}"
    since = split.test_from if split.by_time else None
    time = f"from {since.isoformat(' ', 'minutes')} on" if isinstance(since, datetime) else ""
    return " ".join(filter(None, (time, group)))
