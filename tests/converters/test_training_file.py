"""What every file with a training step must be, judged by onnx and a stock onnxruntime."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import defs

import renom_onnx as rm
from renom_onnx.converters import lint
from tests.converters.programs import LOSSES, PROGRAMS, Program, feeds

ROOT = Path(__file__).parents[2]
OUR_DOMAIN = "renom_onnx"

every_program = pytest.mark.parametrize("program", PROGRAMS, ids=str)


def specified_concatenation(model: onnx.ModelProto) -> onnx.ModelProto:
    """Graph and algorithm joined as https://onnx.ai/onnx/repo-docs/IR.html says, written here anew."""
    joined = onnx.ModelProto()
    joined.CopyFrom(model)
    algorithm = model.training_info[0].algorithm
    joined.graph.node.extend(algorithm.node)
    joined.graph.initializer.extend(algorithm.initializer)
    joined.graph.input.extend(algorithm.input)
    joined.graph.output.extend(algorithm.output)
    joined.graph.value_info.extend(algorithm.value_info)
    del joined.training_info[:]
    return joined


def stock_session(model: onnx.ModelProto | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def inference_feeds(model: onnx.ModelProto, rows: int) -> dict[str, np.ndarray]:
    names = {info.name for info in model.graph.input}
    return {name: array for name, array in feeds(model, rows).items() if name in names}


@every_program
def test_the_file_passes_the_checker(program: Program):
    onnx.checker.check_model(program.model(), full_check=True)


@every_program
def test_the_concatenation_of_graph_and_algorithm_passes_the_checker_and_loads(program: Program):
    joined = specified_concatenation(program.model())
    onnx.checker.check_model(joined, full_check=True)
    onnx.shape_inference.infer_shapes(joined, check_type=True, strict_mode=True)
    assert len(stock_session(joined).get_outputs()) == len(joined.graph.output)


@every_program
def test_lint_has_nothing_to_say(program: Program):
    assert lint(program.model()) == []


@pytest.mark.parametrize("loss", LOSSES)
def test_stock_onnxruntime_infers_from_the_very_file_at_any_batch_size(loss: str, tmp_path: Path):
    rm.set_seed(0)
    path = tmp_path / "train.onnx"
    rm.export_training(LOSSES[loss](), rm.graph.Adam(), path)
    model = onnx.load(path)
    session = stock_session(str(path))
    for rows in (1, 5, 8):
        for value in session.run(None, inference_feeds(model, rows)):
            assert value.shape[0] == rows and np.isfinite(value).all()


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_training_step_takes_any_batch_size(loss: str, opset: int):
    model = Program(loss, "momentum", opset).model()
    session = rm.runtime.TrainingSession(model, "cpu", threads=1)
    losses = [float(session.step(feeds(model, rows))) for rows in (8, 1, 5, 3, 4, 7)]
    assert np.isfinite(losses).all()


def undefined_operators(nodes: Iterable[onnx.NodeProto], model: onnx.ModelProto, opset: int) -> list[str]:
    """Operators that neither the default domain nor, by default-domain operators, a function of the file defines."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    found, seen, stack = [], set(), list(nodes)
    while stack:
        node = stack.pop()
        key = (node.domain, node.op_type, node.overload)
        if node.domain == "":
            if not defs.has(node.op_type, domain="", max_inclusive_version=opset):
                found.append(f"{node.op_type} is no operator of opset {opset}")
        elif node.domain != OUR_DOMAIN or key not in functions:
            found.append(f"{key} is not defined in the file")
        elif key not in seen:
            seen.add(key)
            stack.extend(functions[key].node)
    return found


@every_program
def test_every_node_is_standard_or_a_function_of_the_file_made_of_standard_operators(program: Program):
    model = program.model()
    info = model.training_info[0]
    nodes = [*model.graph.node, *info.algorithm.node, *info.initialization.node]
    assert undefined_operators(nodes, model, program.opset) == []
    assert {o.domain: o.version for o in model.opset_import} == {"": program.opset, OUR_DOMAIN: 1}
    assert {o.version for f in model.functions for o in f.opset_import if o.domain == ""} == {program.opset}
    assert not [f for f in model.functions if f.domain != OUR_DOMAIN]


@every_program
def test_inference_calls_no_function(program: Program):
    assert {node.domain for node in program.model().graph.node} == {""}


@every_program
def test_what_training_changes_is_an_initializer_and_no_input(program: Program):
    model = program.model()
    info = model.training_info[0]
    initializers = {t.name for t in [*model.graph.initializer, *info.algorithm.initializer]}
    inputs = {i.name for i in [*model.graph.input, *info.algorithm.input]}
    outputs = {o.name for o in info.algorithm.output}
    assert {b.key for b in info.update_binding} <= initializers - inputs
    assert {b.value for b in info.update_binding} <= outputs
    assert {b.key for b in info.initialization_binding} <= {b.key for b in info.update_binding}


@every_program
def test_the_initialization_starts_state_and_counters_at_zero(program: Program):
    model = program.model()
    info = model.training_info[0]
    start = onnx.helper.make_model(info.initialization, opset_imports=list(model.opset_import), ir_version=10)
    onnx.checker.check_model(start, full_check=True)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in info.algorithm.initializer}
    names = [b.value for b in info.initialization_binding]
    values = stock_session(start).run(names, {}) if names else []
    for binding, value in zip(info.initialization_binding, values, strict=True):
        np.testing.assert_array_equal(value, stored[binding.key], strict=True)
        assert not value.any()


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        ("mlp", {"x": "float32[N, 6]", "y": "int64[N]"}),
        ("distributed", {"data": "float32[N, 6]", "label": "int64[N]"}),
        ("integer_data", {"x": "float32[N, 2, 8, 8]", "y": "int64[N]"}),
        ("double_data", {"x": "float32[N, 6]", "y": "int64[N, 1]"}),
        ("probabilities", {"x": "float32[N, 6]", "y": "float32[N, 3]"}),
        ("regression", {"x": "float32[N, 6]", "y": "float32[N, 3]"}),
    ],
)
def test_the_file_asks_for_float32_and_int64_whatever_the_data_were(loss: str, inputs: dict[str, str]):
    session = rm.runtime.TrainingSession(Program(loss, "Sgd", 18).model(), "cpu", threads=1)
    declared = {f.name: f"{f.dtype.name}[{', '.join(map(str, f.shape))}]" for f in session.feeds if f.shape}
    assert declared == inputs


@pytest.mark.parametrize(
    ("loss", "trained"),
    [
        ("shared", ["dense1.w", "dense1.b", "dense2.w", "dense2.b"]),
        ("frozen", ["dense1.b", "dense2.w", "dense2.b"]),
        ("named", ["fc1.w", "fc1.b", "heads.0.w", "heads.0.b", "heads.1.w", "heads.1.b"]),
    ],
)
def test_each_trainable_parameter_is_bound_once(loss: str, trained: list[str]):
    info = Program(loss, "Sgd", 18).model().training_info[0]
    assert [b.key for b in info.update_binding] == trained


def test_a_frozen_parameter_keeps_its_value_and_has_no_gradient():
    model = Program("frozen", "Adam", 18).model()
    before = onnx.numpy_helper.to_array(model.graph.initializer[0])
    session = rm.runtime.TrainingSession(model, "cpu", threads=1)
    for i in range(3):
        session.step(feeds(model, 4, i))
    after = {t.name: onnx.numpy_helper.to_array(t) for t in session.to_model().graph.initializer}
    np.testing.assert_array_equal(after["dense1.w"], before)
    assert not any("dense1.w.grad" in node.output for node in model.training_info[0].algorithm.node)


DIGESTS = """
import hashlib, json
from renom_onnx.converters.tree import as_bytes
from tests.converters.programs import PROGRAMS
print(json.dumps({str(p): hashlib.sha256(as_bytes(p.model())).hexdigest() for p in PROGRAMS}))
"""


def test_every_program_writes_the_same_bytes_whatever_the_hash_seed():
    digests = [
        json.loads(
            subprocess.run(
                [sys.executable, "-W", "error", "-c", DIGESTS],
                env={**os.environ, "PYTHONHASHSEED": seed},
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for seed in ("1", "2")
    ]
    assert digests[0] == digests[1]
    here = {str(p): hashlib.sha256(p.model().SerializeToString(deterministic=True)).hexdigest() for p in PROGRAMS}
    assert here == digests[0]
