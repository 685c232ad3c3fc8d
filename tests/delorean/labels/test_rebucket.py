"""Label data in another number of buckets: as if it had been materialised so, byte for byte."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import HISTORY, long_labels

from delorean.feature_sets.digest import digest_rows
from delorean.generation import generate
from delorean.labels import LabelColumns, load_labels
from delorean.labels.materialise import materialise_labels
from delorean.labels.rebucket import rebucket
from encoders import FeatureModel, feature_encoder
from schemas.errors import ConfigError, DataKeyError, MissingFileError
from schemas.hashing import bucket_of
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import read_parquet

COLUMNS = LabelColumns(items=("video_id",))
COUNTS = st.sampled_from([1, 2, 4, 16])
ROWS = st.lists(
    st.tuples(st.integers(-9, 9), st.integers(0, 3), st.integers(0, 5), st.integers(0, 1)),
    min_size=1,
    max_size=40,
    unique_by=lambda row: row[:3],
)


@feature_encoder(data=[HISTORY], features=["minutes_watched"])
def minutes_watched(context, items, data, out):
    for i in range(len(items.video_id)):
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.minutes_watched[i] = data.history.minutes[j]


def contents(labels):
    return [(file.bucket, file.rows, file.bytes, file.checksum) for file in labels.files]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, before=COUNTS, after=COUNTS)
def test_the_files_are_those_of_labels_materialised_in_so_many_buckets(rows, before, after, tmp_path):
    storage = open_storage(f"file://{tmp_path}")
    first = materialise_labels(long_labels(rows), COLUMNS, storage, buckets=before)
    second = rebucket(first, after, storage)
    direct = materialise_labels(long_labels(rows), COLUMNS, storage, buckets=after)
    assert contents(second) == contents(direct)
    assert second.labels_id != first.labels_id
    assert (second.contexts, second.item_count) == (first.contexts, first.item_count)
    assert (second.earliest, second.latest) == (first.earliest, first.latest)
    assert load_labels(second.labels_id, storage) == second
    for file in second.files:
        assert set(bucket_of(read_parquet(storage, file)["profile_id"], after)) == {file.bucket}


def test_both_give_equal_features(project):
    for run, buckets in (("one", 1), ("eight", 8)):
        rows = [((p,), 10, [{"video_id": p % 4, "minutes": float(p)}]) for p in range(50)]
        project.history(rows, run, buckets)
    rows = long_labels([(p, m, v, v % 2) for p in range(50) for m in (5, 15) for v in range(4)])
    labels = materialise_labels(rows, COLUMNS, project.storage, buckets=4)
    found = set()
    for number, again in enumerate((labels, *(rebucket(labels, n, project.storage, f"may-{n}") for n in (1, 2, 32)))):
        result = generate(again, FeatureModel([minutes_watched]), project.index, project.storage, f"f{number}")
        digest = digest_rows(result.to_arrow(), result.context, result.items, result.features)
        found.add((digest.rows, digest.keys, digest.features["minutes_watched"]))
    assert len(found) == 1


def test_wrong_counts_taken_ids_and_lost_files_are_refused(tmp_path):
    storage = open_storage(f"file://{tmp_path}")
    labels = materialise_labels(long_labels([(1, 0, 1, 0), (2, 0, 1, 1)]), COLUMNS, storage, labels_id="may", buckets=1)
    with pytest.raises(DataKeyError, match="bucket count is 3, expected a power of two"):
        rebucket(labels, 3, storage)
    with pytest.raises(ConfigError, match="'may' exists already"):
        rebucket(labels, 2, storage, labels_id="may")
    assert load_labels("may", storage) == labels
    assert labels.contexts == 2
    storage.delete([labels.files[0].path])
    with pytest.raises(MissingFileError):
        rebucket(labels, 2, storage, labels_id="june")
