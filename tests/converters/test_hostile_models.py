"""Broken and hostile models: handled, or refused with an error of ours; nothing crashes, hangs or reads other files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import renom_onnx as rm
from renom_onnx.converters import to_onnx

ROOT = Path(__file__).parents[2]
N_MODELS = 400
FLOAT = TensorProto.FLOAT


@pytest.mark.slow  # 400 models, 20 s
def test_a_broken_model_is_loaded_or_refused():
    command = [sys.executable, "-W", "error", "-m", "tests.converters.fuzz_load", "0", str(N_MODELS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"crash at seed {done.stderr.splitlines()[-1:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    unexpected = [end for end in found["ends"] if end not in ("works", "raises")]
    assert not unexpected, "\n".join(unexpected)
    assert min(found["ends"].values()) > N_MODELS // 10
    assert found["longest_s"] < 5
    assert found["memory_mb"] < 500


def info(name: str, shape: Any = (2,), kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(
    nodes: list[onnx.NodeProto], *, tensors: Any = (), inputs: Any = None, functions: Any = (), sparse: Any = ()
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", inputs or [info("x")], [info("y", None)], list(tensors), sparse_initializer=list(sparse)
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10)


def node(op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, outputs, **attributes)


def tensor(name: str, dims: list[int], data: bytes = b"", kind: int = FLOAT) -> onnx.TensorProto:
    return TensorProto(name=name, dims=dims, data_type=kind, raw_data=data)


def elsewhere(name: str, location: str) -> onnx.TensorProto:
    found = TensorProto(name=name, dims=[2], data_type=FLOAT, data_location=TensorProto.EXTERNAL)
    found.external_data.add(key="location", value=location)
    return found


def function(name: str, *calls: tuple[str, str]) -> onnx.FunctionProto:
    nodes = [node(op_type, ["a" if i == 0 else f"t{i - 1}"], [f"t{i}"], domain=domain)
             for i, (op_type, domain) in enumerate(calls)]  # fmt: skip
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["a"], [f"t{len(calls) - 1}"], nodes, imports)


def doubling(depth: int) -> onnx.ModelProto:
    """Functions that each call the next one twice: 2 to the power of the depth when written out."""
    functions = [function("f0", ("Neg", ""), ("Neg", ""))]
    functions += [function(f"f{i}", (f"f{i - 1}", "f"), (f"f{i - 1}", "f")) for i in range(1, depth)]
    return model_of([node(f"f{depth - 1}", ["x"], ["y"], domain="f")], functions=functions)


def chain(depth: int) -> onnx.ModelProto:
    functions = [function("f0", ("Neg", "")), *(function(f"f{i}", (f"f{i - 1}", "f")) for i in range(1, depth))]
    return model_of([node(f"f{depth - 1}", ["x"], ["y"], domain="f")], functions=functions)


def sparse(dims: list[int], places: list[int]) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.ones(len(places), np.float32), "w")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(places, np.int64), "w_places"), dims)


NEG = node("Neg", ["x"], ["y"])
ADD = node("Add", ["x", "w"], ["y"])
HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "sizes of petabytes": (
        lambda: model_of([ADD], tensors=[tensor("w", [1 << 25, 1 << 25])]),
        "load: a tensor must hold what its type and sizes say, got 'w': cannot reshape array of size 0 into shape "
        "(33554432,33554432).",
    ),
    "sizes beyond 64 bits": (
        lambda: model_of([ADD], tensors=[tensor("w", [1 << 62, 1 << 62])]),
        "load: a tensor must hold what its type and sizes say, got 'w': ",
    ),
    "a negative size": (
        lambda: model_of([ADD], tensors=[tensor("w", [-1], b"\0" * 8)]),
        "load: a tensor must hold what its type and sizes say, got 'w': a size of -1.",
    ),
    "a sparse tensor of petabytes": (
        lambda: model_of([ADD], sparse=[sparse([1 << 25, 1 << 25], [0])]),
        "load: a sparse tensor must have at most 268435456 bytes when written out, got 'w' of sizes [33554432, "
        "33554432].",
    ),
    "a sparse tensor with places outside": (
        lambda: model_of([ADD], sparse=[sparse([4], [7])]),
        "load: a sparse tensor must have a value for each of its places, got 'w': index 7 is out of bounds for axis 0 "
        "with size 4.",
    ),
    "a sparse tensor with a place below 0": (
        lambda: model_of([ADD], sparse=[sparse([4], [-2])]),
        "load: a sparse tensor must have a value for each of its places, got 'w': 1 values at 1 places.",
    ),
    "a cycle": (
        lambda: model_of([node("Add", ["x", "z"], ["y"]), node("Neg", ["y"], ["z"])]),
        "load: every input must be written before it is read, got z read by node Add.",
    ),
    "a name that is written twice": (
        lambda: model_of([NEG, node("Exp", ["x"], ["y"])]),
        "load: a name must be given to one value, got 'y' of node 'y' again.",
    ),
    "a node that writes an input": (
        lambda: model_of([node("Neg", ["x"], ["x"]), NEG]),
        "load: a name must be given to one value, got 'x' of node 'x' again.",
    ),
    "two initializers of one name": (
        lambda: model_of([ADD], tensors=[tensor("w", [2], b"\0" * 8)] * 2),
        "load: an initializer must have a name of its own, got 'w' twice.",
    ),
    "two inputs of one name": (
        lambda: model_of([NEG], inputs=[info("x"), info("x")]),
        "load: an input must have a name of its own, got 'x' twice.",
    ),
    "two functions of one name": (
        lambda: model_of([NEG], functions=[function("a", ("Neg", ""))] * 2),
        "load: a function must be defined once, got f.a twice.",
    ),
    "a function that calls itself": (
        lambda: model_of([node("a", ["x"], ["y"], domain="f")], functions=[function("a", ("a", "f"))]),
        "load: a function must not call itself, got f.a.",
    ),
    "functions that call each other": (
        lambda: model_of(
            [node("a", ["x"], ["y"], domain="f")], functions=[function("a", ("b", "f")), function("b", ("a", "f"))]
        ),
        "load: a function must not call itself, got f.a.",
    ),
    "functions that double": (
        lambda: doubling(60),
        "load: a function must stand for 1000000 nodes at most, got f.f19 of 1048576.",
    ),
    "an attribute of another type": (
        lambda: model_of([node("Softmax", ["x"], ["y"], axis=0.5, name="s")]),
        "load: the attribute axis of Softmax must be of type int, got float in node 's'.",
    ),
    "text that is none": (
        lambda: onnx.ModelProto.FromString(
            model_of([node("Neg", ["x"], ["y"], name="abcd")]).SerializeToString().replace(b"abcd", b"\xff\xfeab")
        ),
        "load: text must be UTF-8, got b'\\xff\\xfeab' as name of a NodeProto.",
    ),
    "functions of functions of functions": (
        lambda: chain(1000),
        "load: graphs and functions must be nested a few hundred deep at most, got more.",
    ),
    "a constant that is elsewhere": (
        lambda: model_of([node("Constant", [], ["w"], value=elsewhere("t", "pyproject.toml")), ADD]),
        "load: a model must hold the data of its tensors or be given as a path beside their file, got 't', which is "
        "elsewhere.",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_refused(name: str):
    make, message = HOSTILE[name]
    model = make()
    tracemalloc.start()
    with pytest.raises(rm.ConversionError) as error:
        rm.load(model)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(error.value).startswith(message) if message.endswith(": ") else str(error.value) == message
    assert peak < 50e6


def test_functions_that_double_a_few_times_are_written_again():
    model = doubling(10)
    assert to_onnx(rm.load(model)) == model
    np.testing.assert_array_equal(rm.load(model)(np.array([1, 2], np.float32)).as_ndarray(), [1, 2])


def test_a_negative_size_of_an_input_is_one_that_nobody_knows():
    model = model_of([NEG], inputs=[info("x", (-1, 2))])
    loaded = rm.load(model)
    assert str(loaded.inputs["x"].output) == "float32[?, 2]"
    assert to_onnx(loaded) == model


def beside(path: Path, location: str) -> Path:
    model = model_of([ADD], tensors=[elsewhere("w", location)])
    path.write_bytes(model.SerializeToString())
    return path


def test_data_beside_the_model_are_read(tmp_path: Path):
    (tmp_path / "w.bin").write_bytes(np.array([1, 2], np.float32).tobytes())
    model = rm.load(beside(tmp_path / "m.onnx", "w.bin"))
    np.testing.assert_array_equal(model.params["w"].as_ndarray(), [1, 2])
    assert to_onnx(model).graph.initializer[0].raw_data == np.array([1, 2], np.float32).tobytes()


def absolute(folder: Path) -> str:
    return str(folder / "secret.bin")


def symbolic(folder: Path) -> str:
    (folder / "model" / "link.bin").symlink_to(folder / "secret.bin")
    return "link.bin"


def hard(folder: Path) -> str:
    os.link(folder / "secret.bin", folder / "model" / "hard.bin")
    return "hard.bin"


@pytest.mark.parametrize("place", [lambda _: "../secret.bin", absolute, symbolic, hard, lambda _: "nowhere.bin"],
                         ids=["above", "absolute", "symbolic link", "hard link", "nowhere"])  # fmt: skip
def test_data_outside_of_the_models_folder_are_refused(place: Callable[[Path], str], tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 8)
    path = beside(tmp_path / "model" / "m.onnx", place(tmp_path))
    with pytest.raises((rm.ConversionError, OSError)) as error:
        rm.load(path)
    assert isinstance(error.value, rm.ConversionError)
    assert str(error.value).startswith(f"load: the model must be a complete ONNX file, got {path}: ")


def test_a_scan_over_more_inputs_than_it_has_is_refused_and_not_allocated():
    text = """<ir_version: 10, opset_import: ["": 18]> f (float[2,3] x) => (float[2,3] y)
        { y = Scan<num_scan_inputs = 1, body = g (float[3] a) => (float[3] b) { b = Neg(a) }>(x) }"""
    model = onnx.parser.parse_model(text)
    for attribute in model.graph.node[0].attribute:
        if attribute.name == "num_scan_inputs":
            attribute.i = 2**62
    try:
        rm.load(model)
    except rm.RenomError:
        return
    with pytest.raises(rm.RenomError):
        rm.load(model)(np.zeros((2, 3), np.float32)).as_ndarray()
