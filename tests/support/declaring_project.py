"""A project's folder with a module of encoders that can be imported anew, as another process would."""

import sys
from importlib.util import cache_from_source
from pathlib import Path

from project_at_rest import PROFILE, Project, long_labels

from delorean import LabelColumns, materialise_labels, open_project
from delorean.project.open_project import OpenProject
from schemas.data_keys import service_element
from schemas.services import Service

OLD = "list<struct<video_id: int64, minutes: float>>"
NEW = "list<struct<video_id: int64, minutes: double, plays: int32>>"
SERVICES = """
[services.history]
type = "{type}"
key = {{ profile_id = "int64" }}
url = "http://127.0.0.1:{port}/{{profile_id}}"
{more}
"""
ENCODERS = """
from delorean import data_key, feature_encoder

HISTORY = data_key("history")


@feature_encoder(data=[HISTORY], features=["minutes"])
def minutes(context, items, data, out):
    for i in range(len(items.video_id)):
        out.minutes[i] = 0.0
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.minutes[i] += data.history.minutes[j]
"""
SPEC = """
encoders = ["{module}:{encoder}"]
[tables]
shown = {{ path = "shown.parquet" }}
[labels]
id = "shown"
table = "shown"
items = ["video_id"]
[model]
estimator = "sklearn.tree:DecisionTreeClassifier"
parameters = {{ max_depth = 2 }}
"""


class Folder:
    """A project's folder, whose module is imported under a name of its own and can be imported anew."""

    def __init__(self, path, module):
        self.path, self.module = path, module
        (path / "delorean.toml").write_text(f'storage = "store"\nindex = "index.db"\nencoders = ["{module}"]\n')
        self.declare(OLD)
        self.encoders(ENCODERS)

    def declare(self, of_type, more="", port=1):
        (self.path / "services.toml").write_text(SERVICES.format(type=of_type, more=more, port=port))

    def encoders(self, text, encoder="minutes"):
        module = self.path / f"{self.module}.py"
        module.write_text(text)
        # Python takes bytecode for that of a text of the same second and length: another version, in a quick process.
        Path(cache_from_source(str(module))).unlink(missing_ok=True)
        (self.path / "spec.toml").write_text(SPEC.format(module=self.module, encoder=encoder))
        self.forget()

    def forget(self):
        """Import the module anew, as another process would."""
        sys.modules.pop(self.module, None)

    def open(self) -> OpenProject:
        return open_project(self.path)


def capture(project, of_type, rows, run):
    key = service_element("history", of_type)
    Project(project.storage, project.index).publish(Service("history", key, (PROFILE,)), rows, run)


def shown(project, profiles=range(12)):
    rows = long_labels([(p, 10 + 10 * n, v, (p + v) % 2) for p in profiles for n in range(8) for v in (0, 1, 2)])
    return materialise_labels(rows, LabelColumns(items=("video_id",)), project.storage, labels_id="shown")
