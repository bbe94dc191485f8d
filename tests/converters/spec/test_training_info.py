"""Training files as the specification writes them, with Gradient and its optimizers, made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import renom_onnx as rm
from renom_onnx.converters import lint, lower
from tests.converters.spec.test_gradient import DOMAIN, GRADIENT
from tests.converters.test_training_file import specified_concatenation, stock_session

HEADER = f'<ir_version: 8, opset_import: ["": 17, "{DOMAIN}": 1]>'
GRAPH = """regression (float[N, 3] x) => (float[N, 1] prediction)
    <float[3, 1] w = {0.5, -0.25, 1}, float[1] b = {0}> {
        h = MatMul (x, w)
        prediction = Add (h, b)
    }"""
UPDATES = {
    "Momentum": """w_new, b_new, wv_new, bv_new = Momentum <alpha = 0.9, beta = 0.5, mode = "nesterov",
        norm_coefficient = 0.01> (rate, count, w, b, dw, db, wv, bv)""",
    "Adam": """w_new, b_new, wv_new, bv_new, wh_new, bh_new = Adam (rate, count, w, b, dw, db, wv, bv, wh, bh)""",
    "Adagrad": """w_new, b_new, wh_new, bh_new = Adagrad <decay_factor = 0.1> (rate, count, w, b, dw, db, wh, bh)""",
}
STATES = {"Momentum": ("wv", "bv"), "Adam": ("wv", "bv", "wh", "bh"), "Adagrad": ("wh", "bh")}


def spec_file(optimizer: str) -> onnx.ModelProto:
    """A linear regression that the specification's operators train; count and rate are state, as the caller wants."""
    model = onnx.parser.parse_model(f"{HEADER} {GRAPH}")
    outputs = ["w", "b", *STATES[optimizer]]
    shapes = {name: "3, 1" if name[0] == "w" else "1" for name in outputs}
    values = {"3, 1": "{0, 0, 0}", "1": "{0}"}
    states = ", ".join(f"float[{shapes[n]}] {n} = {values[shapes[n]]}" for n in STATES[optimizer])
    results = ", ".join(f"float[{shapes[name]}] {name}_new" for name in outputs)
    update = UPDATES[optimizer].replace(f"= {optimizer}", f"= {DOMAIN}.{optimizer}")
    algorithm = f"""training (float[N, 1] target, float rate) => (float error, {results}, int64 count_new)
        <float rate = {{0.1}}, int64 count = {{0}}, int64 one = {{1}}, {states}> {{
            difference = Sub (prediction, target)
            square = Mul (difference, difference)
            error = ReduceMean <keepdims = 0> (square)
            dw, db = {GRADIENT} <xs = ["w", "b"], zs = ["x", "target"], y = "error"> (w, b, x, target)
            {update}
            count_new = Add (count, one)
        }}"""
    info = model.training_info.add()
    info.algorithm.CopyFrom(onnx.parser.parse_model(f"{HEADER} {algorithm}").graph)
    for name in [*outputs, "count"]:
        info.update_binding.add(key=name, value=f"{name}_new")
    return model


def batches(n: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    xs = rng.standard_normal((n, 5, 3)).astype(np.float32)
    weights = np.array([[1], [2], [3]], np.float32)
    return [{"x": x, "target": x @ weights + 1} for x in xs]


def one_optimizer(model: onnx.ModelProto) -> ReferenceEvaluator:
    """The optimizer node of the file alone, for onnx.reference."""
    (node,) = [n for n in model.training_info[0].algorithm.node if n.domain == DOMAIN and n.op_type != "Gradient"]
    types = {t.name: t for t in [*model.graph.initializer, *model.training_info[0].algorithm.initializer]}
    types |= {"dw": types["w"], "db": types["b"]}
    inputs = [onnx.helper.make_tensor_value_info(n, types[n].data_type, types[n].dims) for n in node.input]
    outputs = [onnx.helper.make_tensor_value_info(n, types["w"].data_type, None) for n in node.output]
    return ReferenceEvaluator(
        onnx.helper.make_model(
            onnx.helper.make_graph([node], "step", inputs, outputs), opset_imports=model.opset_import
        )
    )


@pytest.mark.parametrize("optimizer", UPDATES)
def test_a_session_trains_a_file_of_the_specification(optimizer: str):
    model = spec_file(optimizer)
    assert lint(model) == []
    session = rm.runtime.TrainingSession(model, "cpu", threads=1)
    assert sorted(spec.name for spec in session.feeds) == ["rate", "target", "x"]
    step = one_optimizer(model)
    initializers = [*model.graph.initializer, *model.training_info[0].algorithm.initializer]
    state = {t.name: onnx.numpy_helper.to_array(t) for t in initializers if t.name != "one"}
    for batch in batches(6):
        difference = batch["x"] @ state["w"] + state["b"] - batch["target"]
        state["dw"] = (2 * batch["x"].T @ difference / difference.size).astype(np.float32)
        state["db"] = np.array([2 * difference.mean()], np.float32)
        loss = float(session.step(batch))
        assert loss == pytest.approx(float((difference**2).mean()), rel=1e-5)
        results = step.run(None, {name: state[name] for name in step.input_names})
        state.update(zip((name.removesuffix("_new") for name in step.output_names), results, strict=True))
        state["count"] = state["count"] + 1
    for name in ["w", "b", "count", *STATES[optimizer]]:
        np.testing.assert_allclose(session.read(name), state[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert set(session.parameters) == {"w", "b"}


@pytest.mark.parametrize("optimizer", UPDATES)
def test_the_lowered_file_trains_on_stock_onnxruntime(optimizer: str):
    lowered = lower(spec_file(optimizer))
    assert lint(lowered) == []
    joined = specified_concatenation(lowered)
    onnx.checker.check_model(joined, full_check=True)
    batch = batches(1)[0]
    names = [output.name for output in joined.graph.output]
    got = dict(zip(names, stock_session(joined).run(names, batch), strict=True))
    session = rm.runtime.TrainingSession(spec_file(optimizer), "cpu", threads=1)
    assert float(session.step(batch)) == got["error"]
    np.testing.assert_allclose(session.read("w"), got["w_new"], rtol=1e-6)


def test_a_checkpoint_keeps_the_operators_of_the_file_and_goes_on_bit_for_bit(tmp_path: Path):
    model = spec_file("Adam")
    whole, first = (rm.runtime.TrainingSession(model, "cpu", threads=1) for _ in range(2))
    losses = [float(whole.step(batch)) for batch in batches(6)]
    for batch in batches(3):
        first.step(batch)
    first.save(tmp_path / "checkpoint.onnx")
    saved = onnx.load(tmp_path / "checkpoint.onnx")
    assert saved.training_info[0].algorithm.node == model.training_info[0].algorithm.node
    assert not saved.functions and saved.opset_import == model.opset_import
    second = rm.runtime.TrainingSession(tmp_path / "checkpoint.onnx", "cpu", threads=1)
    assert [float(second.step(batch)) for batch in batches(6)[3:]] == losses[3:]
    for name, value in whole.parameters.items():
        np.testing.assert_array_equal(second.parameters[name], value)


def test_a_session_evaluates_and_is_fed_the_rate():
    session = rm.runtime.TrainingSession(spec_file("Momentum"), "cpu", threads=1)
    before = session.evaluate(batches(1)[0])
    assert set(before) == {"prediction", "error"}
    session.step({**batches(1)[0], "rate": np.array(0, np.float32)})
    after = session.evaluate(batches(1)[0])
    assert after["error"] == before["error"]


def test_a_weight_that_training_changes_is_no_constant_of_the_gradient():
    """The count is a small integer, as axes are, and the forward pass reads it."""
    graph = """f (float[N, 2] x) => (float[N, 2] y) <float[2] w = {1, 1}> { y = Mul (x, w) }"""
    algorithm = f"""t () => (float loss, float[2] w_new, int64 count_new)
        <int64[1] count = {{1}}, float rate = {{0.5}}, int64[1] one = {{1}}> {{
            float_count = Cast <to = 1> (count)
            scaled = Mul (y, float_count)
            square = Mul (scaled, scaled)
            loss = ReduceSum <keepdims = 0> (square)
            dw = {GRADIENT} <xs = ["w"], zs = ["x", "count"], y = "loss"> (w, x, count)
            step = Mul (dw, rate)
            w_new = Sub (w, step)
            count_new = Add (count, one)
        }}"""
    model = onnx.parser.parse_model(f"{HEADER} {graph}")
    info = model.training_info.add()
    info.algorithm.CopyFrom(onnx.parser.parse_model(f"{HEADER} {algorithm}").graph)
    info.algorithm.output[2].type.tensor_type.shape.dim.add(dim_value=1)
    for name in ("w", "count"):
        info.update_binding.add(key=name, value=f"{name}_new")
    session = rm.runtime.TrainingSession(model, "cpu", threads=1)
    x, w = np.array([[0.1, 0.2]], np.float32), np.ones(2)
    for count in (1, 2, 3):
        session.step({"x": x})
        w = w - 0.5 * 2 * w * x[0] ** 2 * count**2
        np.testing.assert_allclose(session.read("w"), w, rtol=1e-5)
