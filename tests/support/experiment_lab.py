"""An experiment over snapshots at rest, with encoders of its own, in a folder."""

import textwrap
from pathlib import Path

import pyarrow.parquet as pq
from project_at_rest import Project, long_labels

from delorean.experiment import ExperimentSpec, load_experiment
from delorean.experiment.run import run_experiment
from snapshotter.storage import open_storage

ENCODERS = """
from encoders import feature_encoder
from project_at_rest import HISTORY, MOOD


@feature_encoder(data=[HISTORY], features=["minutes_watched"])
def minutes_watched(context, items, data, out, *, at_least: float = 0.0):
    history = data.history
    for i in range(len(items.video_id)):
        if history.present:
            out.minutes_watched[i] = 0.0
        for j in range(len(history.video_id)):
            if history.video_id[j] == items.video_id[i] and history.minutes[j] >= at_least:
                out.minutes_watched[i] += history.minutes[j]


@feature_encoder(data=[MOOD], features=["mood_known"])
def mood_known(context, items, data, out):
    for i in range(len(items.video_id)):
        out.mood_known[i] = 1.0 if data.mood.present else 0.0
"""
SPEC = """
encoders = ["MODULE:minutes_watched", "MODULE:mood_known"]

[tables]
shown = { path = "shown.parquet" }

[labels]
table = "shown"
items = ["video_id"]

[as_of.history]
max_age = "PT1H"
"""


class Lab:
    """A folder with a spec, its encoders, its labels and three runs of two services."""

    def __init__(self, folder: Path, index, module: str) -> None:
        self.folder, self.index, self.module = folder, index, module
        self.project = Project(open_storage(f"file://{folder}/store"), index)
        self.storage = self.project.storage
        self.write_encoders(ENCODERS)
        self.write_spec()
        pq.write_table(
            long_labels([(p, m, v, (p + v) % 2) for p in range(40) for m in (7, 14, 40) for v in range(4)]),
            folder / "shown.parquet",
        )
        for run in range(3):
            self.capture(run, 10 * run)

    def capture(self, run, at, profiles=range(40)):
        history = [((p,), at + p % 3, [{"video_id": p % 4, "minutes": float(p + run)}]) for p in profiles]
        self.project.history(history, f"history-{run}", 4 if run % 2 else 1)
        self.project.mood([((p,), at + 1, "good") for p in profiles if p % 5], f"mood-{run}", 2)

    def write_encoders(self, text):
        (self.folder / f"{self.module}.py").write_text(textwrap.dedent(text))

    def write_spec(self, *changes, name="lab"):
        text = SPEC.replace("MODULE", self.module)
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        (self.folder / f"{name}.toml").write_text(text)

    @property
    def spec(self) -> ExperimentSpec:
        return load_experiment(self.folder / "lab.toml", self.index)

    def run(self, spark, spec=None, **options):
        return run_experiment(spec or self.spec, self.index, self.storage, spark, **{"training": False, **options})
