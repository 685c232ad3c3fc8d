"""Encoders in a notebook's cells: they run at once, edited ones are new, and mistakes stand against their own lines."""

import re

import pytest
from cells import run_cells

PRELUDE = """
    import sys

    sys.path[:0] = ["{root}", "{root}/tests/support"]  # in this order: tests has folders of these names
    from project_at_rest import HISTORY, Project, long_labels

    from delorean import TimeMachine, generate, materialise_labels
    from delorean.project.config import Project as Config, load_project
    from delorean.experiment import load_experiment
    from delorean.experiment.record import find_run
    from delorean.labels import LabelColumns
    from encoders import feature_encoder
    from snapshotter.index import open_index
    from snapshotter.storage import open_storage

    index, storage = open_index("sqlite:///{folder}/index.db"), open_storage("file://{folder}/store")
    project = Project(storage, index)
    project.history([((k,), 0, [{{"video_id": k, "minutes": float(k)}}]) for k in range(8)], "r", buckets=4)
    rows = long_labels([(k, 10, video, 0.0) for k in range(8) for video in range(3)])
    labels = materialise_labels(rows, LabelColumns(("video_id",)), storage, buckets=4)
    machine = TimeMachine(index, storage)
    spark = Config().spark_session()


    def generated():
        there = generate(labels, minutes, index, storage, "f", spark=spark)
        here = generate(labels, minutes, index, storage, "f")
        assert there.digest == here.digest
        values = there.to_arrow()["minutes"].combine_chunks().flatten()
        return round(sum(values.to_pylist()), 3), minutes.fingerprint
    """
ENCODER = """
    @feature_encoder(data=[HISTORY], features=["minutes"])
    def minutes(context, items, data, out):
        history = data.history
        for i in range(len(items.video_id)):
            {line}
    generated()
    """


def encoder(line):
    return ENCODER.replace("{line}", line)


CELLS = {
    "constant": "FACTOR = 2.0",
    "helper": """
        def scaled(x):
            return x * FACTOR
        """,
    "first": encoder("out.minutes[i] = scaled(history.minutes[0])"),
    "again": "generated()",
    "edited": encoder("out.minutes[i] = 1.0 + scaled(history.minutes[0])"),
    "helper edited": """
        def scaled(x):
            return x * FACTOR - 1
        """,
    "after helper": "generated()",
    "constant edited": "FACTOR = 3.0",
    "after constant": "generated()",
    "closure": """
        def weighing(weight):
            @feature_encoder(features=["minutes"])
            def minutes(context, items, data, out):
                for i in range(len(items.video_id)):
                    out.minutes[i] = weight
            return minutes

        first = weighing(0.5).fingerprint
        minutes = weighing(0.25)
        first != minutes.fingerprint, generated()
        """,
    "undeclared": encoder("out.minutes[i] = len(data.histori.minutes)"),
    "no such field": encoder("out.minutes[i] = history.minute[0]"),
    "no such variable": encoder("out.minutes[i] = items.video[i]"),
    "not compiled": encoder('out.minutes[i] = "a" + 1'),
    "not defined": encoder("out.minutes[i] = nothing_there"),
    "out of bounds": encoder("out.minutes[i] = history.minutes[5]"),
    "wrong helper": """
        def scaled(x):
            # so that lines differ
            return x // 0
        """,
    "by helper": encoder("out.minutes[i] = scaled(i)"),
    "plain": """
        @feature_encoder(data=[HISTORY], features=["minutes"], compiled=False)
        def minutes(context, items, data, out):
            out.minutes[0] = {}["no such"]
        generated()
        """,
    "moment": 'machine.at("nonsense")',
    "experiment": 'machine.at("2026-05-02T00:00:00Z").for_experiment("nope")',
    "spec": """
        with open("broken.toml", "w") as file:
            file.write("encoders = [")
        load_experiment("broken.toml")
        """,
    "run": 'find_run("nope", storage)',
    "index": 'TimeMachine(open_index("sqlite:///nowhere.db"), storage).at("2026-05-02T00:00:00Z")["history"]',
    "everything": "import traceback; traceback.print_last()",
    "java": """
        spark.stop()
        import os, shutil
        os.environ["PATH"] = "/nowhere"; os.environ.pop("JAVA_HOME", None)
        Config().spark_session()
        """,
    "project": 'load_project("nope.toml")',
}
HERE = r"at cell In\[{own}\], line"
MISTAKES = {
    "undeclared": rf"UndeclaredKeyError: encoder 'minutes' {HERE} 5 \(`out.*`\): unknown data element 'histori'",
    "no such field": rf"EncoderError: encoder 'minutes' {HERE} 5 .*field of 'history' 'minute' → did you mean",
    "no such variable": r"UndeclaredKeyError: encoder 'minutes' reads items.video: unknown item variable 'video'",
    "not compiled": rf"EncoderError: encoder 'minutes' {HERE} 5 \(`.*`\): it computes with a text →",
    "not defined": rf"EncoderError: encoder 'minutes' uses 'nothing_there', which is not defined, {HERE} 5",
    "out of bounds": rf"EncoderError: encoder 'minutes' failed {HERE} 5 .*profile_id=\d.*index 5 is out of bounds",
    "by helper": r"EncoderError: .* failed at cell In\[{helper}\], line 3 \(`return x // 0`\).*ZeroDivisionError",
    "plain": rf"EncoderError: encoder 'minutes' failed {HERE} 3 .*KeyError: 'no such'",
    "moment": "ConfigError: 'nonsense' is not a time → write one such as 2026-01-31T12:00:00Z",
    "experiment": "NotInIndexError: experiment 'nope' has no context set up to 2026-05-02 → select contexts first",
    "spec": "ConfigError: broken.toml, line 1: is not TOML",
    "run": "ReplayError: unknown experiment run 'nope'",
    "index": "NotInIndexError: nothing is published in sqlite:///.*nowhere.db yet",
    "java": "SetupError: .*Java",
    "project": "ConfigError: there is no project file nope.toml → ",
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What stands below all cells, run once in one kernel."""
    folder = tmp_path_factory.mktemp("cells")
    root = __file__.rpartition("/tests/")[0]
    cells = {"prelude": PRELUDE.format(root=root, folder=folder), **CELLS}
    return run_cells(cells, folder)


def test_an_encoder_of_a_cell_runs_on_executors_and_edited_it_is_the_new_one(shown):
    assert shown["prelude"].error == ""
    found = [shown[name].result for name in ("first", "again", "edited", "after helper", "after constant")]
    sums = [float(result.strip("()").split(",")[0]) for result in found]
    # 0 to 7 minutes and three items each: doubled; the same; one more each; one less each; tripled
    assert sums == [168.0, 168.0, 192.0, 168.0, 252.0]
    prints = [result.split("'")[1] for result in found]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4
    assert shown["closure"].result.split()[:2] == ["(True,", "(6.0,"]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_against_the_line_that_made_it(shown, name):
    cell = shown[name]
    first, *where = cell.error.splitlines()
    pattern = MISTAKES[name].format(own=cell.number, helper=shown["wrong helper"].number)
    assert re.match(pattern, first), cell.error
    assert where[0].startswith(f"  cell In[{cell.number}], line ")
    assert all(re.match(r"  cell In\[1\], line \d+: there = generate\(", line) for line in where[1:])
    assert len(where) <= 2
    assert "Exception" not in cell.printed
    assert "java" not in cell.printed


def test_whoever_wants_to_know_all_is_told_all(shown):
    assert "Traceback (most recent call last)" in shown["everything"].printed
    assert "NotInIndexError" in shown["everything"].printed
