"""What docs/TASKS.md shows is read as it is written, and does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
from project_at_rest import minutes

from delorean.experiment import load_experiment
from schemas.tables import TIME
from snapshotter.storage import open_storage

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "TASKS.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_spec_is_one_of_two_tasks(tmp_path: Path) -> None:
    [text] = [code for language, code in BLOCKS if language == "toml"]
    path = tmp_path / "members.toml"
    path.write_text(text)
    spec = load_experiment(path)
    assert spec.task_set is not None
    homepage, similar = spec.task_set.tasks
    assert (homepage.without, similar.without) == ((), ("in_my_list", "days_in_my_list"))
    assert [selection.id for selection in spec.selections] == ["members-homepage"]
    assert spec.task_weights == {"homepage": 1.0, "similar": 2.0}
    assert not spec.label_spec.incremental  # because of the quota, as the page says


def test_the_code_runs_as_it_is_written(tmp_path: Path) -> None:
    def rows(key: str, ids: range) -> pa.Table:
        return pa.table(
            {
                key: pa.array([*ids], pa.int64()),
                "country": ["US" if each < 2 else "DE" for each in ids],
                "video_id": pa.array([1 for _ in ids], pa.int64()),
                "time": pa.array([minutes(0) for _ in ids], TIME),
                "outcome_at": pa.array([minutes(1) for _ in ids], TIME),
                "label": pa.array([each % 2 for each in ids], pa.float32()),
            }
        )

    names = {
        "shown": rows("profile_id", range(5)),
        "played_after": rows("seed_id", range(4)),
        "storage": open_storage(f"file://{tmp_path}"),
    }
    for language, code in BLOCKS:
        if language == "python":
            exec(compile(code, "TASKS.md", "exec"), names)
