"""Every notebook runs from top to bottom, over a small demo's project."""

import ast
import json
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
NOTES = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.zpln"))


@pytest.fixture
def project(demo, tmp_path):
    """The folder of notebooks, the demo's project where they look for it."""
    shutil.copytree(demo.folder, tmp_path / ".demo" / "latest", ignore=shutil.ignore_patterns("logs", "package"))
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, project):
    notebook = nbformat.read(path, as_version=4)
    ran = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(project)}}).execute()
    last = [cell for cell in ran.cells if cell.cell_type == "code"][-2]
    assert last.outputs[0].output_type == "execute_result"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_not_committed(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


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
