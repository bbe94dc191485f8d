"""`merge`: two models as one that trains as both did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import add_prefix, convert_opset, lint, merge
from tests.converters.programs import LOSSES, Program, features, feeds
from tests.converters.surgery.alike import adam, parsed, train
from tests.converters.test_training_file import stock_session

SCALE = "f (float[N, 6] raw) => (float[N, 6] scaled) <float factor = {0.5}> { scaled = Mul (raw, factor) }"
ARGMAX = "f (float[N, 3] scores) => (int64[N] class) { class = ArgMax <axis = 1, keepdims = 0> (scores) }"
WIDEN = "f (float[N, 3] narrow) => (float[N, 6] wide) { wide = Concat <axis = 1> (narrow, narrow) }"


def scaled(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {("raw" if name == "x" else name): array * 2 if name == "x" else array for name, array in batch.items()}


def test_a_preprocessing_before_a_trainable_model_trains_to_the_same_bits():
    model = adam()
    merged = merge(parsed(SCALE), model, {"scaled": "x"})
    assert lint(merged) == []
    assert [value.name for value in merged.graph.input] == ["raw"]
    assert [value.name for value in merged.graph.output] == ["output"]
    batches = [feeds(model, 6, i) for i in range(4)]
    losses, values = train(model, batches)
    got_losses, got = train(merged, [scaled(batch) for batch in batches])
    assert got_losses == losses
    for name, value in values.items():
        np.testing.assert_array_equal(got[name], value, strict=True, err_msg=name)
    assert got["factor"] == 0.5


def test_a_postprocessing_after_a_trainable_model_trains_to_the_same_bits():
    model = Program("dropout", "Adam", 18).model()
    merged = merge(model, parsed(ARGMAX), [("output", "scores")])
    assert lint(merged) == []
    assert [value.name for value in merged.graph.output] == ["class"]
    batches = [feeds(model, 6, i) for i in range(4)]
    (losses, values), (got_losses, got) = train(model, batches), train(merged, batches)
    assert got_losses == losses
    for name, value in values.items():
        np.testing.assert_array_equal(got[name], value, strict=True, err_msg=name)
    session = rm.runtime.TrainingSession(merged, "cpu")
    assert session.evaluate({"x": batches[0]["x"]})["class"].shape == (6,)


def test_the_steps_of_both_are_kept_and_each_trains_its_own():
    first, second = adam(), Program("dropout", "momentum", 18).model()
    middle = merge(first, parsed(WIDEN), {"output": "narrow"})
    merged = merge(middle, second, {"wide": "x"}, prefix1="a/", prefix2="b/")
    assert lint(merged) == []
    assert len(merged.training_info) == 2
    keys = [{b.key for b in info.update_binding} for info in merged.training_info]
    assert all(key.startswith("a/") for key in keys[0]) and all(key.startswith("b/") for key in keys[1])
    batch = feeds(first, 6)
    losses, values = train(first, [batch])
    got_losses, got = train(merged, [{f"a/{name}": array for name, array in batch.items()}])
    assert got_losses == losses
    np.testing.assert_array_equal(got["a/dense1.w"], values["dense1.w"])
    before = {t.name: onnx.numpy_helper.to_array(t) for t in second.graph.initializer}
    for name, value in before.items():
        np.testing.assert_array_equal(got[f"b/{name}"], value)


def test_the_merged_model_computes_one_after_the_other():
    first, second = adam(), Program("regression", "Sgd", 18).model()
    merged = merge(merge(first, parsed(WIDEN), {"output": "narrow"}), second, {"wide": "x"}, prefix2="b/")
    x = feeds(first, 5)["x"]
    (hidden,) = stock_session(first).run(None, {"x": x})
    (wanted,) = stock_session(second).run(None, {"x": np.concatenate([hidden, hidden], 1)})
    (got,) = stock_session(merged).run(None, {"x": x})
    np.testing.assert_array_equal(got, wanted)


def test_the_older_opset_is_converted_to_the_newer():
    merged = merge(parsed(SCALE.replace("Mul (raw, factor)", "Mul (raw, factor)"), opset=13), convert_opset(adam(), 21),
                   {"scaled": "x"})  # fmt: skip
    assert {o.domain: o.version for o in merged.opset_import}[""] == 21
    assert lint(merged) == []


def test_functions_of_one_name_and_two_bodies_stay_apart():
    losses = [rm.graph.ConstantLoss()(rm.graph.Dense(6, bias=bias)(features(4))) for bias in (True, False)]
    one, two = (rm.converters.to_training_onnx(loss, rm.graph.Sgd(0.1)) for loss in losses)
    overloads = [{f.name: f.overload for f in model.functions} for model in (one, two)]
    assert overloads[0]["GemmGrad"] == overloads[1]["GemmGrad"] == ""
    merged = merge(one, two, {"output": "x"}, prefix1="a/", prefix2="b/")
    (plain, other) = [f for f in merged.functions if f.name == "GemmGrad"]
    assert plain.overload == "" and len(other.overload) == 8
    assert [f.name for f in merged.functions].count("SGD") == 1
    assert lint(merged) == []
    batch = feeds(one, 4)
    assert train(merged, [{"a/x": batch["x"]}])[0] == train(one, [batch])[0]


def test_a_function_that_a_clashing_one_is_called_by_is_written_out():
    own = '<domain: "own", opset_import: ["": 18, "own": 1]>'
    functions = [
        f"{own} outer (X) => (Y) {{ H = own.inner (X) Y = Neg (H) }} {own} inner (X) => (Y) {{ Y = {op} (X) }}"
        for op in ("Exp", "Abs")
    ]
    one = parsed("f (float[3] x) => (float[3] y) { y = own.outer (x) }", functions=functions[0])
    two = parsed("g (float[3] p) => (float[3] q) { q = own.outer (p) }", functions=functions[1])
    merged = merge(one, two, {"y": "p"})
    onnx.checker.check_model(merged, full_check=True)
    x = np.array([-1, 0.5, 2], np.float32)
    np.testing.assert_allclose(stock_session(merged).run(None, {"x": x})[0], -np.abs(-np.exp(x)), rtol=1e-6)


def test_an_output_that_feeds_two_inputs_and_one_that_feeds_none():
    one = parsed("f (float[3] x) => (float[3] y, float[3] rest) { y = Neg (x) rest = Exp (x) }")
    two = parsed("g (float[3] p, float[3] q) => (float[3] z) { z = Add (p, q) }")
    merged = merge(one, two, [("y", "p"), ("y", "q")])
    assert [value.name for value in merged.graph.output] == ["rest", "z"]
    x = np.array([1, 2, 3], np.float32)
    np.testing.assert_array_equal(stock_session(merged).run(["z"], {"x": x})[0], -2 * x)


def test_a_default_of_an_input_gives_way_to_what_feeds_it():
    two = parsed("g (float[3] p) => (float[3] z) <float[3] p = {1, 1, 1}> { z = Neg (p) }")
    merged = merge(parsed("f (float[3] x) => (float[3] y) { y = Exp (x) }"), two, {"y": "p"})
    assert not merged.graph.initializer
    onnx.checker.check_model(merged, full_check=True)


def test_an_output_that_a_binding_takes_stays_an_output():
    text = "f (float[3] x) => (float[3] y) <float[3] w = {0, 0, 0}> { y = Add (x, w) }"
    one = parsed(text)
    info = one.training_info.add()
    info.algorithm.CopyFrom(parsed("t () => (float loss) { loss = ReduceSum <keepdims = 0> (y) }").graph)
    info.update_binding.add(key="w", value="y")
    merged = merge(one, parsed("g (float[3] p) => (float[3] q) { q = Neg (p) }"), {"y": "p"})
    assert [value.name for value in merged.graph.output] == ["y", "q"]
    assert lint(merged) == []


def test_metadata_of_both_are_kept_and_contradictions_about_training_left_out():
    one, two = adam(), add_prefix(Program("mlp", "Sgd", 18).model(), "b/")
    two.metadata_props.add(key="author", value="somebody")
    merged = merge(merge(one, parsed(WIDEN), {"output": "narrow"}), two, {"wide": "b/x"})
    found = {entry.key: entry.value for entry in merged.metadata_props}
    assert (found["author"], found["epoch"]) == ("somebody", "0")
    assert "optimizer" not in found


def test_the_models_that_are_merged_stay_as_they_are():
    one, two = parsed(SCALE), adam()
    before = one.SerializeToString(), two.SerializeToString()
    merge(one, two, {"scaled": "x"}, prefix1="a/", prefix2="b/")
    assert (one.SerializeToString(), two.SerializeToString()) == before


# Errors


def model_with(**metadata: str) -> onnx.ModelProto:
    model = parsed("f (float[3] x) => (float[3] y) { y = Neg (x) }")
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model


def model_of(text: str, **domains: int) -> onnx.ModelProto:
    model = parsed(text)
    model.opset_import.extend(onnx.helper.make_opsetid(f"ai.onnx.{name}", v) for name, v in domains.items())
    return model


MANY = """m (float[3] a) => (float[3] g) {
    b = Neg (a) c = Neg (b) d = Neg (c) e = Neg (d) f = Neg (e) g = Neg (f) }"""
P = "g (float[3] p) => (float[3] q) { q = Neg (p) }"
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "an output that nobody has": (
        lambda: merge(parsed(SCALE), adam(), {"nobody": "x"}), rm.ConversionError,
        "merge: io_map must name an output of the first model, got 'nobody'. There are: scaled."),
    "an input that nobody has": (
        lambda: merge(parsed(SCALE), adam(), {"scaled": "y"}), rm.ConversionError,
        "merge: io_map must name an input of the second model, got 'y'. There are: x."),
    "an input that is fed twice": (
        lambda: merge(parsed("f (float[N, 6] r) => (float[N, 6] a, float[N, 6] b) { a = Neg (r) b = Abs (r) }"), adam(),
                      [("a", "x"), ("b", "x")]), rm.ConversionError,
        "merge: an input must be fed once, got x, x."),
    "another type": (
        lambda: merge(parsed("f (double[N, 6] r) => (double[N, 6] s) { s = Neg (r) }"), adam(), {"s": "x"}),
        rm.DTypeError,
        "merge: 'x' must be float32[N, 6], got 's', which is float64[N, 6]."),
    "another size": (
        lambda: merge(parsed("f (float[N, 5] r) => (float[N, 5] s) { s = Neg (r) }"), adam(), {"s": "x"}),
        rm.ShapeError,
        "merge: 'x' must be float32[N, 6], got 's', which is float32[N, 5]."),
    "another rank": (
        lambda: merge(parsed("f (float[N] r) => (float[N] s) { s = Neg (r) }"), adam(), {"s": "x"}), rm.ShapeError,
        "merge: 'x' must be float32[N, 6], got 's', which is float32[N]."),
    "names in common": (
        lambda: merge(parsed(WIDEN.replace("wide", "loss").replace("narrow", "x")), adam(), {"loss": "x"}),
        rm.ConversionError,
        "merge: the models must have no name in common, got loss. Give prefix1 or prefix2."),
    "many names in common": (
        lambda: merge(parsed(MANY), parsed(MANY), {"g": "a"}), rm.ConversionError,
        "merge: the models must have no name in common, got b, c, d, e, f and 1 more. Give prefix1 or prefix2."
    ),
    "metadata that contradict each other": (
        lambda: merge(model_with(author="a"), model_with(author="b"), {"y": "x"}, prefix2="b/"), rm.ConversionError,
        "merge: the models must have the same metadata 'author' or none, got 'a' and 'b'."),
    "versions that contradict each other": (
        lambda: merge(model_of("f (float[3] x) => (float[3] y) { y = Neg (x) }", ml=3), model_of(P, ml=4), {"y": "p"}),
        rm.ConversionError,
        "merge: the models must use the same version of domain ai.onnx.ml, got 3 and 4."),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_merged_is_an_error(name: str):
    call, kind, message = REFUSED[name]
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message


def test_an_input_that_training_changes_is_an_error():
    two = adam()
    two.graph.input.append(onnx.helper.make_tensor_value_info("dense1.w", onnx.TensorProto.FLOAT, [6, 8]))
    one = parsed("f (float[6, 8] r) => (float[6, 8] s) { s = Neg (r) }")
    with pytest.raises(rm.ConversionError) as error:
        merge(one, two, {"s": "dense1.w"})
    assert str(error.value) == "merge: an input that is fed must be none that training changes, got 'dense1.w'."


@pytest.mark.parametrize("loss", LOSSES)
def test_every_program_takes_a_prefix_and_a_head(loss: str):
    model = Program(loss, "Sgd", 18).model()
    output = model.graph.output[0]
    width = output.type.tensor_type.shape.dim[1].dim_value
    head = parsed(f"f (float[N, {width}] s) => (float[N, {width}] t) {{ t = Neg (s) }}")
    merged = merge(model, head, {output.name: "s"}, prefix1="a/", prefix2="b/")
    assert lint(merged) == []
    assert merged.graph.output[-1].name == "b/t"
