"""Every notebook runs from top to bottom, over a small demo's project; what a kernel shows and completes."""

import ast
import json
import shutil
from pathlib import Path
from textwrap import dedent

import nbformat
import pytest
from cells import run_notebook

NAMES = ["1_travel_in_time", "2_new_encoder", "3_experiment", "4_snapshot_quality"]
NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
NOTES = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.zpln"))


@pytest.fixture
def project(demo, tmp_path):
    """The folder of notebooks, the demo's project where they look for it."""
    shutil.copytree(demo.folder, tmp_path / ".demo" / "latest", ignore=shutil.ignore_patterns("logs", "packages"))
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def test_there_are_these_notebooks():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom_and_starts_no_jvm(path, project):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("import pyspark\npyspark.SparkContext._gateway"))
    ran = run_notebook(notebook, project)
    *_, last, closing, gateway = (cell for cell in ran.cells if cell.cell_type == "code")
    assert last.outputs[0].output_type == "execute_result"
    assert not closing.outputs
    assert not gateway.outputs  # None: nobody asked for a JVM
    shown = [output.data for cell in ran.cells for output in cell.get("outputs", []) if "data" in output]
    ours = [data for data in shown if data.get("text/html", "").startswith('<div class="dl">')]
    assert len(ours) >= 3
    assert all("cannot be shown" not in data["text/html"] for data in ours)
    assert all(data["text/plain"].splitlines()[0] in str(data) for data in ours)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_not_committed(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


KERNEL = [
    # A bar for what takes longer than a moment, and none for what does not.
    """
    from snapshotter.spark import progress
    progress._BRIEF_SECONDS = 0.0
    with progress.shown_progress(None) as report:
        for done in range(3):
            report("features", done, 2)
    """,
    """
    progress._BRIEF_SECONDS = 3_600.0
    with progress.shown_progress(None) as report:
        report("features", 1, 2)
    """,
    """
    from delorean.project.open_project import Shelf
    shelf = Shelf("thing", lambda: ["viewing_history", "my_list"], str)
    """,
    """
    from IPython.core.completer import provisionalcompleter
    with provisionalcompleter():
        complete = get_ipython().Completer.completions
        found = [each.text for text in ('shelf["vi', "delorean.compare_") for each in complete(text, len(text))]
    found
    """,
    "shelf",
]


def test_a_kernel_draws_bars_completes_keys_and_shows_text_beside_html(tmp_path):
    cells = [nbformat.v4.new_code_cell(dedent(source)) for source in ("import delorean", *KERNEL)]
    _, bar, none, _, completed, shelf = run_notebook(nbformat.v4.new_notebook(cells=cells), tmp_path).cells
    [drawn] = bar.outputs
    assert drawn.output_type == "display_data"  # one, which was changed as the work went on
    assert "2 of 2 in " in drawn.data["text/plain"]
    assert drawn.data["text/html"].startswith("<pre>")
    assert "2 of 2 in " in drawn.data["text/html"]
    assert not none.outputs
    found = completed.outputs[0].data["text/plain"]
    assert "viewing_history" in found
    assert "compare_encoders" in found
    assert shelf.outputs[0].data["text/plain"].startswith("things: 2\n\nname\n────")
    assert shelf.outputs[0].data["text/html"].startswith('<div class="dl">')


class Zeppelin:
    """What the note asks of Zeppelin's `z`."""

    def textbox(self, name, default):
        return default


def run_paragraph(text, names):
    """Run a paragraph as Zeppelin's plain interpreter does: without comments, each statement by itself."""
    kept = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    tree = compile("\n".join(kept), "<stdin>", "exec", ast.PyCF_ONLY_AST, 1)
    for node in tree.body:
        exec(compile(ast.Module([node], []), "<stdin>", "exec", dont_inherit=True), names)


@pytest.mark.parametrize("path", NOTES, ids=lambda path: path.stem)
def test_a_zeppelin_note_runs_paragraph_by_paragraph_without_ipython(path, project, spark, capsys, monkeypatch):
    note = json.loads(path.read_text())
    assert {"paragraphs", "name", "id", "config", "info"} <= note.keys()
    monkeypatch.chdir(project.parent)
    names = {"spark": spark, "sc": spark.sparkContext, "z": Zeppelin()}
    shown = []
    for paragraph in note["paragraphs"]:
        assert "results" not in paragraph
        interpreter, _, text = paragraph["text"].partition("\n")
        if interpreter == "%spark.pyspark":
            run_paragraph(text, names)
            shown.append(capsys.readouterr().out)
    names["index"].close()
    assert [out.partition(" ")[0] for out in shown] == ["%table", "%html", "%table", "", "", "%table", "%html"]
    assert shown[2].startswith("%table profile_id\t")
    assert shown[5].count("\n") > 20


def test_there_is_a_zeppelin_note():
    assert NOTES
