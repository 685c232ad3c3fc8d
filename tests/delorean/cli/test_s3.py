"""The commands over a project whose storage is in S3: workers speak to it by themselves."""

from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest

from delorean.ranking_data.feature_set_reader import read_feature_set
from snapshotter.storage import open_storage

DAY, LATER = "2026-01-05", "2099-01-01T00:00:00Z"
AGAIN = """
[experiments.again]
query = '''
    SELECT DISTINCT c.profile_id FROM contexts('everyone', '2026-01-01', :date) c
    JOIN captures('history', :date - 2, :date) h ON h.profile_id = c.profile_id AND size(h.value) > 0
    LEFT ANTI JOIN contexts('again', :date - 7, :date - 1) a ON a.profile_id = c.profile_id
'''
key = ["profile_id"]
fraction = 0.5
"""


@pytest.fixture
def storage(folder, s3, spark, monkeypatch):
    """A storage in S3 that the project's `s3.toml` names; the keys to it are in nobody's files."""
    uri = s3.new_uri()
    text = (folder / "delorean.toml").read_text()
    (folder / "s3.toml").write_text(f'storage = "{uri}"\nindex = "s3.db"\n{text}')
    for name, value in s3.environment.items():
        monkeypatch.setitem(spark.sparkContext.environment, name, value)  # of the workers
    return open_storage(uri)


def test_everything_is_done_in_s3_as_in_a_folder(storage, run, folder):
    def step(*arguments):
        return run(*arguments, "--config", "s3.toml")

    assert step("select", "experiments.toml", "--date", DAY)["contexts"] == 120
    [history] = step("snapshot", "--date", DAY)["services"]
    assert (history["asked"], history["confidence"]) == (120, 1.0)
    (folder / "again.toml").write_text(AGAIN)
    for days, left in ((1, 60), (2, 30)):
        date = (datetime.now(UTC) + timedelta(days=days)).date()
        assert step("select", "again.toml", "--date", str(date))["contexts"] == left
    step("publish", "films", "films.parquet", "--valid-from", "2026-01-05T00:00:00Z", "--version-id", "v1")
    seen = step("travel", "history", "--at", LATER, "--to", "history.parquet")
    assert (seen["count"], pq.read_table(folder / "history.parquet").num_rows) == (120, 120)
    generated = step("generate", "home.toml")
    assert generated["feature_set"] == storage.uri_of("feature_sets/home")
    learned = read_feature_set(generated["feature_set"], ["films", "seen"], ["video_id"], ["profile_id"])
    assert len(learned) == 120
    assert step("experiment", "replay", generated["run"])["identical"] is True
    assert step("paradox", "home")["version"] == 0
    trained = step("train", "home.toml", "--package", "packages/s3")
    assert trained["test"]["model"]["ndcg@10"] > trained["test"]["shuffled"]["ndcg@10"]
    written = {file.path.split("/")[0] for file in storage.list("")}
    assert written == {"context_sets", "experiments", "feature_sets", "globals", "labels", "snapshots"}


@pytest.mark.usefixtures("storage")
def test_workers_that_are_not_let_in_are_one_clear_error(run, spark, monkeypatch):
    monkeypatch.setitem(spark.sparkContext.environment, "AWS_SECRET_ACCESS_KEY", "not-the-secret")
    error = run("select", "experiments.toml", "--date", "2026-01-06", "--config", "s3.toml", code=1)
    assert "the credentials are not accepted (SignatureDoesNotMatch) → check AWS_ACCESS_KEY_ID" in error
    assert "of bucket 'bucket-" in error
    assert "not-the-secret" not in error
    assert error.count("\n") == 1
