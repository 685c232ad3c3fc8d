"""Describes experiments, their recorded runs, replays and differences between runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from delorean.display.description import describes
from delorean.display.descriptions import comparison
from delorean.display.descriptions.encoders import EncoderNode, feature_graph
from delorean.display.descriptions.snapshots import CONFIDENT
from delorean.display.parts import Code, Facts, Headline, Note, Part, ShareBar, Table
from delorean.experiment.diff import RunDiff
from delorean.experiment.record import RunRecord
from delorean.experiment.replay import Replay
from delorean.experiment.spec import ExperimentSpec
from delorean.experiment.task_spec import TaskSpec, encoder_specs
from schemas.errors import DeloreanError


@describes(ExperimentSpec)
def _spec(spec: ExperimentSpec) -> Iterator[Part]:
    yield from _graph(spec, {})
    queries = {} if spec.labels is None else {"labels": spec.labels.sql}
    queries |= {f"labels of {name}": task.labels.sql for name, task in spec.tasks.items()}
    queries |= {} if spec.contexts is None else {"contexts": spec.contexts.query}
    code = {name: Code(" ".join(query.split())) for name, query in queries.items()}
    fields = spec.to_json()
    rest = {name: fields[name] for name in fields if name not in ("name", "labels", "tasks", "encoders", "contexts")}
    yield Facts({**code, "items": spec.label_spec.items, "context": spec.label_spec.context, **rest})
    yield Table([_task_row(name, task) for name, task in spec.tasks.items()], "tasks")


def _task_row(name: str, task: TaskSpec) -> dict[str, Any]:
    sample = task.sample
    drawn = None if sample is None else f"{sample.fraction:.0%}" if sample.quota is None else sample.quota
    return {
        "task": name,
        "context": ", ".join(task.labels.context or ()),
        "items": ", ".join(task.labels.items),
        "weight": task.weight,
        "sample": drawn,
        "encoders of its own": ", ".join(each.encoder for each in encoder_specs(task.encoders)) or None,
    }


def _graph(spec: ExperimentSpec, served: Mapping[str, str]) -> Iterator[Part]:
    """Draw what an experiment computes from what, and note which encoders cannot be imported here.

    served: element → what served it, such as "6 snapshots"; others are described by their kind
    """
    nodes, elements, problems = [], dict(served), []
    for each in spec.encoder_specs:
        try:
            encoder = each.load()
        except DeloreanError as error:
            nodes.append(EncoderNode(each.encoder, (), tuple(each.rename.values()) or ("?",)))
            problems.append(Note(str(error), strong=True))
        else:
            nodes.append(EncoderNode.of(encoder))
            for key in encoder.data:
                elements.setdefault(key.name, key.kind.value.removesuffix("_element"))
    labels = spec.label_spec.id or spec.label_spec.table or ("of tasks" if spec.tasks else "of a query")
    yield feature_graph(nodes, elements, f"labels {labels}", spec.model.name)
    yield from problems


@describes(RunRecord, RunRecord.to_json)
def _run(record: RunRecord) -> Iterator[Part]:
    features = record.features
    steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in record.seconds.items())
    yield Facts(
        {
            "feature set": f"{features.feature_set}, version {features.version}",
            **({"copied": features.copied} if features.copied else {}),
            "labels": record.labels.id,
            "rows dropped": features.dropped,
            "leaks": (record.leaks or {}).get("verdict", "not measured"),
            "seconds": f"{sum(record.seconds.values()):.1f}: {steps}",
            "digest": Code(features.digest.keys),
        }
    )
    if record.training is not None:
        training = record.training
        yield Facts(
            {
                "model": training.model if training.rounds is None else f"{training.model}, {training.rounds} rounds",
                "trained by": training.by,
                **({"package": training.package, "its digest": Code(str(training.digest))} if training.package else {}),
            }
        )
        yield Table([{"": part, **sizes} for part, sizes in training.sizes.items()], "sizes")
    yield Table([{"": who, **parts["test"]} for who, parts in (record.metrics or {}).items()], "on the test part")
    served = {name: f"{len(runs)} snapshots" for name, runs in record.snapshots.items()}
    served |= {name: f"{len(versions)} versions" for name, versions in record.globals.items()}
    yield from _graph(record.experiment, served)
    absent = [{"element": name, "rows": rows} for name, rows in features.absent.items() if rows]
    yield Table(absent, "rows without an element")
    yield Table(features.impossible, "features that tasks cannot have")
    yield Table(features.spread, "capture spread")
    yield Table(_elements(record), "state that could be seen")
    encoders = [
        {"encoder": name, "parameters": encoder["parameters"] or None, "fingerprint": encoder["fingerprint"][:12]}
        for name, encoder in record.encoders.items()
    ]
    yield Table(encoders, "encoders")
    yield Table([{"table": name, **table} for name, table in record.labels.tables.items()], "tables")
    yield Facts(record.versions)
    yield from (Note(note) for note in record.notes)


def _elements(record: RunRecord) -> list[dict[str, Any]]:
    """A table's row for each element: how many runs or versions of it could be seen, the first and the last."""
    rows = []
    for element, seen in {**record.snapshots, **record.globals}.items():
        confidence = record.confidence.get(element, {}).values()
        rows.append(
            {
                "element": element,
                "runs_or_versions": len(seen),
                "first": seen[0] if seen else None,
                "last": seen[-1] if seen else None,
                "lowest_confidence": ShareBar(min(confidence), enough=CONFIDENT) if confidence else None,
            }
        )
    return rows


def _replay_document(replay: Replay) -> dict[str, Any]:
    return {
        "run": replay.record.run_id,
        "identical": replay.identical,
        "differing": list(replay.differing),
        "feature_set": replay.features.uri,
        "version": replay.features.version,
        "contexts": replay.features.rows,
        "items": replay.features.item_count,
    }


@describes(Replay, _replay_document)
def _replay(replay: Replay) -> Iterator[Part]:
    before, now = replay.record.features, replay.features
    rows = [
        {"": "run", "features": f"{before.feature_set}, version {before.version}", "rows": before.rows},
        {"": "replay", "features": f"{now.uri}, version {now.version}", "rows": now.rows},
    ]
    yield Table(rows)


def _diff_document(diff: RunDiff) -> dict[str, Any]:
    """The difference's fields; of features, those that are not equal."""
    compared = {} if diff.features is None else comparison.document(diff.features)
    moved = [row for row in compared.pop("features", []) if row["status"] != "equal"]
    return {
        "before": diff.before,
        "after": diff.after,
        "same": diff.same,
        **{kind: list(rows) for kind, rows in diff.changes.items()},
        "features": moved,
        **({"compared": compared} if compared else {}),
        "notes": list(diff.notes),
    }


@describes(RunDiff, _diff_document)
def _diff(diff: RunDiff) -> Iterator[Part]:
    yield from (Table(rows, kind) for kind, rows in diff.changes.items())
    yield from (Note(note, strong=True) for note in diff.notes)
    if diff.features is not None:
        yield Headline(repr(diff.features))
        yield from comparison.parts(diff.features)
