"""Delta tables in queries: nothing to install or to set but `format = "delta"`."""

import json
import subprocess
import sys

import pyarrow as pa
from deltalake import write_deltalake

SPEC = '''
[tables]
profiles = { path = "profiles", format = "delta" }
before = { path = "profiles", format = "delta", version = 0 }

[experiments.everyone]
query = """SELECT profile_id FROM profiles UNION ALL
    SELECT -profile_id FROM before WHERE profile_id > 1 AND :date > DATE '2026-01-01'"""
key = ["profile_id"]
quota = 100
'''


def test_contexts_are_selected_from_a_delta_table_as_it_is_now_or_was(tmp_path):
    write_deltalake(str(tmp_path / "profiles"), pa.table({"profile_id": [1, 2, 3]}))
    write_deltalake(str(tmp_path / "profiles"), pa.table({"profile_id": [4, 5]}), mode="overwrite")
    (tmp_path / "experiments.toml").write_text(SPEC)
    (tmp_path / "delorean.toml").write_text("")
    command = [sys.executable, "-m", "delorean", "select", "experiments.toml", "--date", "2026-01-05", "--json"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["contexts"] == 4  # 4, 5; -2, -3
