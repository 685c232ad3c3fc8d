"""Packages from strangers: whatever they hold is a PackageError, within bounded memory and time."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper
from sklearn.ensemble import RandomForestClassifier

from delorean.packaging import trial as package_trial
from delorean.packaging.files import FILES, MANIFEST, read_json, write_json
from delorean.packaging.golden_rows import read_data_maps, write_arrow
from delorean.packaging.package import load_package
from delorean.packaging.trial import try_package
from delorean.scoring.onnx_rules import check_model
from delorean.scoring.onnx_scorer import OnnxScorer
from delorean.training.onnx_model import to_onnx
from schemas.errors import PackageError

sys.path.insert(0, str(Path(__file__).parents[1] / "company"))  # its encoders are imported by their module's name

import company  # found through the line above

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)


def model(nodes: list[Any], initializers: Any = (), x: Any = X, **more: Any) -> bytes:
    graph = helper.make_graph(nodes, "g", [x], [Y], list(initializers), **more)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString())


def outside(name: str = "w") -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def inside(name: str, values: Any, dtype: Any = np.int64) -> Any:
    return onnx.numpy_helper.from_array(np.array(values, dtype=dtype), name)


def sparse(values: Any, indices: Any) -> Any:
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[2])


def scan(body_nodes: list[Any], initializers: Any = (), over: str = "x") -> Any:
    row = helper.make_tensor_value_info("row", TensorProto.FLOAT, None)
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    body = helper.make_graph(body_nodes, "body", [row], [out], list(initializers))
    return helper.make_node("Scan", [over], ["y"], body=body, num_scan_inputs=1)


def constant(**attributes: Any) -> bytes:
    return model([helper.make_node("Constant", [], ["c"], **attributes), helper.make_node("Identity", ["x"], ["y"])])


ONE = inside("i", [0])
OUTSIDE = {
    "initializer": lambda: model([helper.make_node("MatMul", ["x", "w"], ["y"])], [outside()]),
    "attribute": lambda: constant(value=outside()),
    "sparse values": lambda: constant(sparse_value=sparse(outside(), ONE)),
    "sparse indices": lambda: constant(sparse_value=sparse(inside("w", [1], np.float32), outside("i"))),
    "sparse initializer": lambda: model(
        [helper.make_node("Identity", ["x"], ["y"])], sparse_initializer=[sparse(outside(), ONE)]
    ),
    "sparse initializer's indices": lambda: model(
        [helper.make_node("Identity", ["x"], ["y"])],
        sparse_initializer=[sparse(inside("w", [1], np.float32), outside("i"))],
    ),
    "body's initializer": lambda: model([scan([helper.make_node("Add", ["row", "w"], ["out"])], [outside()])]),
    "body's attribute": lambda: model([scan([helper.make_node("Constant", [], ["out"], value=outside())])]),
    "list of tensors": lambda: model(
        [helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_tensor=outside())]
    ),
}


@pytest.mark.parametrize("place", sorted(OUTSIDE))
def test_data_in_other_files_is_refused_wherever_the_standard_allows_it(place: str) -> None:
    with pytest.raises(PackageError, match="from another file, expected all data inside"):
        check_model(OUTSIDE[place]())


def loop() -> bytes:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )
    nodes = [helper.make_node("Loop", ["", "true"], [], body=body), helper.make_node("Identity", ["x"], ["y"])]
    return model(nodes, [inside("true", True, np.bool_)])


@pytest.mark.parametrize("operator", ["Expand", "Tile", "Resize", "Range", "Pad", "RandomNormal", "NonZero", "If"])
def test_operators_that_no_learner_needs_are_refused(operator: str) -> None:
    with pytest.raises(PackageError, match=f"the operator '{operator}', which no learner's model needs"):
        check_model(model([helper.make_node(operator, ["x", "s"], ["y"])], [inside("s", [9, 9])]))


def test_a_loop_is_refused_also_within_another_operator() -> None:
    with pytest.raises(PackageError, match="the operator 'Loop'"):
        check_model(loop())
    inner = onnx.load_model_from_string(loop()).graph.node[0]
    with pytest.raises(PackageError, match="the operator 'Loop'"):
        check_model(model([scan([inner, helper.make_node("Identity", ["row"], ["out"])])]))


def test_sizes_computed_from_features_are_refused() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["n"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["n", "flat"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["y"]),
    ]
    with pytest.raises(PackageError, match="computes the output size of 'ConstantOfShape' from features"):
        check_model(model(nodes, [inside("flat", [-1])]))


def test_functions_and_what_is_not_onnx_are_refused() -> None:
    whole = onnx.load_model_from_string(model([helper.make_node("Identity", ["x"], ["y"])]))
    whole.functions.append(helper.make_function("d", "f", ["a"], ["b"], [helper.make_node("Loop", ["a"], ["b"])], []))
    with pytest.raises(PackageError, match="defines its own functions"):
        check_model(bytes(whole.SerializeToString()))
    for data in (b"", b"not onnx", b"\x08\x01\x12\x04ORTM"):
        with pytest.raises(PackageError):
            OnnxScorer(data)


@pytest.mark.parametrize("shape", [[None, "width"], [None, None], ["rows", 0], [None, -1]])
def test_a_width_that_is_no_number_is_refused(shape: list[Any]) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    with pytest.raises(PackageError, match="features, expected 1 or more"):
        OnnxScorer(model([helper.make_node("Identity", ["x"], ["y"])], x=x))


def test_what_fails_while_it_scores_or_scores_too_much_is_a_package_error() -> None:
    wide = OnnxScorer(model([helper.make_node("Concat", ["x", "x"], ["y"], axis=1)]))
    with pytest.raises(PackageError, match=r"scores 64 rows as \(64, 4\), expected one number or two"):
        wide.score(np.zeros((1, 2), np.float32))
    broken = OnnxScorer(model([helper.make_node("Gather", ["x", "far"], ["y"])], [inside("far", [1 << 40])]))
    with pytest.raises(PackageError, match="the ONNX model cannot score: "):
        broken.score(np.zeros((1, 2), np.float32))


def doubled(times: int) -> bytes:
    nodes = [helper.make_node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(times)]
    return model(
        [helper.make_node("Identity", ["x"], ["v0"]), *nodes, helper.make_node("Identity", [f"v{times}"], ["y"])]
    )


def forest_with_a_cycle() -> bytes:
    random = np.random.default_rng(0)
    features = random.normal(size=(50, 2)).astype(np.float32)
    fitted = RandomForestClassifier(1, random_state=0).fit(features, (features[:, 0] > 0).astype(int))
    whole = onnx.load_model_from_string(to_onnx(fitted, 2))
    for attribute in whole.graph.node[0].attribute:
        if attribute.name in ("nodes_truenodeids", "nodes_falsenodeids"):
            attribute.ints[0] = 0
    return bytes(whole.SerializeToString())


def slow(depth: int) -> bytes:
    """Scans within scans: each goes through a thousand rows."""
    nodes: list[Any] = [helper.make_node("ReduceSum", ["row"], ["out"], keepdims=0)]
    for _ in range(depth):
        inner = scan(nodes, over="many")
        inner.output[0] = "all"
        nodes = [inner, helper.make_node("ReduceSum", ["all"], ["out"], keepdims=0)]
    last = [scan(nodes, over="many")]
    return model([helper.make_node("ConstantOfShape", ["thousand"], ["many"]), *last], [inside("thousand", [1_000])])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: doubled(28), id="small becomes large"),
        pytest.param(
            lambda: model([helper.make_node("ConstantOfShape", ["s"], ["y"])], [inside("s", [1 << 34])]),
            id="a huge shape",
        ),
        pytest.param(forest_with_a_cycle, id="a tree that is a circle"),
        pytest.param(lambda: slow(4), id="years of work"),
    ],
)
def test_models_that_take_too_much_are_given_up(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_trial, "_PROCESSOR_SECONDS", 2)
    content = data()
    check_model(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert try_package({"model.onnx": content}, 2) is not None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024  # kilobytes


def bomb() -> bytes:
    """98 KB that unpack to 3.2 GB."""
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"items": pa.array(np.zeros(8 << 20, dtype=np.int64))})
    with pa.ipc.new_file(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for _ in range(50):
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def test_arrow_files_that_unpack_to_gigabytes_are_given_up() -> None:
    data = bomb()
    assert len(data) < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fine = model([helper.make_node("Identity", ["x"], ["y"])])
    problem = try_package({"model.onnx": fine, "golden/data_maps.arrow": data}, 2)
    assert problem is not None
    assert "golden/data_maps.arrow" in problem
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
    assert try_package({"model.onnx": fine}, 2) is None


def as_maps(**parts: pa.Array) -> bytes:
    whole = {
        "contexts": pa.array([{"time": 1}]),
        "items": pa.array([{"id": 1}]),
        "item_offsets": pa.array([0, 1], pa.int64()),
        **parts,
    }
    return write_arrow(
        pa.table({n: pa.ListArray.from_arrays(pa.array([0, len(a)], pa.int32()), a) for n, a in whole.items()})
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"values of a": pa.nulls(1 << 30), "rows of a": pa.array([0])}, "expected values without dictionaries"),
        ({"items": pa.StructArray.from_arrays([pa.nulls(9)], ["id"])}, "expected values without dictionaries"),
        ({"items": pa.array([{}] * 9)}, "expected values without dictionaries"),
        (
            {"values of a": pa.array(["x" * 100] * 9).dictionary_encode(), "rows of a": pa.array([0])},
            "values without dictionaries",
        ),
        (
            {"items": pa.StructArray.from_arrays([pa.array(np.zeros((1 << 20) + 1, np.bool_))], ["id"])},
            "more than 1048576",
        ),
        ({"values of a": pa.array([1] * 9), "rows of a": pa.array([0])}, "more values than contexts"),
        ({"values of a": pa.array([1])}, "does not hold data maps"),
        (
            {"values of a": pa.array([1]), "rows of a": pa.array([1])},
            "'a' does not have one value, or none, per context",
        ),
        ({"values of a": pa.array([1]), "rows of a": pa.array([-2])}, "'a' does not have one value"),
        ({"values of a": pa.array([1]), "rows of a": pa.array([None], pa.int64())}, "does not hold data maps"),
        ({"item_offsets": pa.array([0, 9])}, "its items are not one list per context"),
        ({"item_offsets": pa.array([1, 1])}, "its items are not one list per context"),
        ({"item_offsets": pa.array(["a", "b"])}, "does not hold data maps"),
    ],
)
def test_golden_rows_that_take_no_room_for_what_they_hold_are_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        read_data_maps("golden/data_maps.arrow", as_maps(**parts))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": "\xff"}', "is not JSON"),
        ('{"a": 1}'.encode("utf-16"), "is not JSON"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "an object has the name 'c' twice"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": -Infinity}', "-Infinity is not a finite number"),
        (b"[" * 100_000, "is not JSON"),
        (b"1" * 5_000, "is not JSON"),
    ],
)
def test_json_is_read_strictly(data: bytes, message: str) -> None:
    with pytest.raises(PackageError, match=f"'f.json' .*{message}"):
        read_json("f.json", data)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return company.write_company(tmp_path_factory.mktemp("packages") / "company", company.train_company()).path


def forged(package: Path, folder: Path, changed: dict[str, bytes]) -> Path:
    """A copy with other files, and their checksums."""
    copy = Path(shutil.copytree(package, folder))
    manifest = json.loads((copy / MANIFEST).read_text())
    for name, data in changed.items():
        (copy / name).write_bytes(data)
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (copy / MANIFEST).write_bytes(write_json(manifest))
    return copy


def test_every_forged_file_is_a_package_error(package: Path, tmp_path: Path) -> None:
    wide = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1 << 40])
    cases = [
        *((name, b'{"a": "\xff"}') for name in FILES if name.endswith(".json")),
        *((name, b"[" * 100_000) for name in FILES if name.endswith(".json")),
        *((name, b'[{"a": [1]}]') for name in FILES if name.endswith(".json")),
        ("model.onnx", loop()),
        ("model.onnx", model([helper.make_node("Identity", ["x"], ["y"])], x=wide)),
        ("model.onnx", OUTSIDE["sparse indices"]()),
        ("golden/data_maps.arrow", bomb()),
        ("trees.arrow", bomb()),
        ("trees.arrow", as_maps()),
        ("golden/expected.arrow", bomb()),
        ("golden/data_maps.arrow", as_maps()),
        ("keys.json", b'{"context": [], "items": []}'),
    ]
    for number, (name, data) in enumerate(cases):
        folder = forged(package, tmp_path / str(number), {name: data})
        with pytest.raises(PackageError):
            load_package(folder, modules=company.MODULES).check_golden_rows()
    (tmp_path / "manifest").mkdir()
    (tmp_path / "manifest" / MANIFEST).write_bytes(b'{"files": "\xff"}')
    with pytest.raises(PackageError, match="'MANIFEST.json' is not JSON"):
        load_package(tmp_path / "manifest")


@pytest.mark.parametrize("name", ["C# shop", "100%", "späti ☕", "a;b?c=d&e", "tab\there", "-rf", "#", "file:x"])
def test_a_package_loads_from_a_folder_of_any_name(package: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / name
    written = company.write_company(folder, company.train_company()) if name == "C# shop" else None
    copied = folder if written else Path(shutil.copytree(package, folder))
    loaded = load_package(copied, modules=company.MODULES)
    loaded.check_golden_rows()
    assert loaded.path == folder


ENDLESS = """
import signal, sys
from numba import njit
from delorean.serving.serve import interruptibly

@njit(nogil=True)
def for_ever(n):
    while n > 0:
        n += n % 2
    return n

for_ever(0)
try:
    print("begins", flush=True)
    interruptibly(lambda: for_ever(1 << 40))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_ends_a_warm_up_that_does_not_end() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begins\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=120)[0] == "interrupted\n"
            assert process.returncode == 0
        finally:
            process.kill()
