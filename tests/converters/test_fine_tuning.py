"""`make_trainable`: a model that knows nothing of training becomes one that infers as before and trains."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import renom_onnx as rm
from renom_onnx.converters import FineTuning, lint, replace_head, to_onnx

g = rm.graph


def classifier(*, softmax: bool = False) -> onnx.ModelProto:
    rm.set_seed(0)
    layers = [g.Conv(4, kernel=3), g.BatchNormalize(), g.Relu(), g.Flatten(), g.Dense(6), g.Relu(), g.Dense(3)]
    return to_onnx(g.Sequential([*layers, g.Softmax()] if softmax else layers), inputs={"x": ("N", 1, 5, 5)})


def batch(rows: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(rows, 1, 5, 5)).astype(np.float32), "labels": rng.integers(0, 3, rows)}


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def test_the_inference_reading_is_the_model_that_was_given(tmp_path):
    model = classifier()
    trainable = rm.make_trainable(model, tmp_path / "t.onnx", loss="softmax_cross_entropy", optimizer="adam")
    assert list(trainable.graph.node) == list(model.graph.node)
    assert lint(trainable) == []
    assert onnx.load(tmp_path / "t.onnx") == trainable
    np.testing.assert_array_equal(run(trainable, batch())[0], run(model, batch())[0])


def test_a_step_follows_pytorch():
    torch = pytest.importorskip("torch", reason="the oracle is installed on Linux only")
    model = classifier()
    weights = {name: torch.tensor(array.copy()) for name, array in initializers(model).items()}
    learned = {n: w.requires_grad_() for n, w in weights.items() if not n.endswith((".mean", ".var"))}
    optimizer = torch.optim.Adam(learned.values(), 0.01)
    session = rm.runtime.TrainingSession(
        rm.make_trainable(model, loss="softmax_cross_entropy", optimizer=g.Adam(0.01)), device="cpu"
    )
    feeds = batch()
    for _ in range(5):
        f = torch.nn.functional
        y = f.conv2d(torch.tensor(feeds["x"]), weights["conv1.w"], weights["conv1.b"])
        names = ("mean", "var", "w", "b")
        y = f.batch_norm(y, *(weights[f"batch_normalize1.{name}"] for name in names), training=False)
        y = f.relu(y).flatten(1) @ weights["dense1.w"] + weights["dense1.b"]
        y = f.relu(y) @ weights["dense2.w"] + weights["dense2.b"]
        loss = f.cross_entropy(y, torch.tensor(feeds["labels"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert float(session.step(feeds)) == pytest.approx(loss.item(), rel=1e-5)
    for name, weight in learned.items():
        np.testing.assert_allclose(session.read(name), weight.detach().numpy(), rtol=1e-3, atol=1e-5)


def test_training_the_last_layer_leaves_the_rest_bit_for_bit():
    model = classifier()
    session = rm.runtime.TrainingSession(
        rm.make_trainable(model, loss="softmax_cross_entropy", optimizer=g.Sgd(0.1), trainable="last"), device="cpu"
    )
    losses = [float(session.step(batch())) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    after, before = initializers(session.to_model()), initializers(model)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"dense2.w", "dense2.b"}


@pytest.mark.parametrize(
    ("choice", "trained"),
    [
        (dict(trainable="dense*"), ["dense1.w", "dense1.b", "dense2.w", "dense2.b"]),
        (dict(trainable=["conv1.w", "dense2.b"]), ["conv1.w", "dense2.b"]),
        (dict(freeze=["*.b", "conv*", "batch*"]), ["dense1.w", "dense2.w"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_patterns_choose_what_trains(choice, trained):
    plan = FineTuning(classifier(), loss="softmax_cross_entropy", **choice)
    assert list(plan.trained) == trained
    keys = {b.key for b in plan.to_model().training_info[0].update_binding}
    assert {key for key in keys if key in initializers(classifier())} == set(trained)


def test_probabilities_at_the_end_are_left_out_of_the_loss():
    plan = FineTuning(classifier(softmax=True), loss="softmax_cross_entropy", optimizer=g.Sgd(0.1))
    session = rm.runtime.TrainingSession(plan.to_model(), device="cpu")
    plain = rm.runtime.TrainingSession(
        rm.make_trainable(classifier(), loss="softmax_cross_entropy", optimizer=g.Sgd(0.1)), device="cpu"
    )
    assert float(session.step(batch())) == float(plain.step(batch()))
    np.testing.assert_allclose(session.evaluate({"x": batch()["x"]})["output"].sum(axis=1), 1, rtol=1e-5)


def test_probabilities_that_an_old_softmax_made_of_a_map_are_left_out_too():
    text = """<ir_version: 8, opset_import: ["": 9]> f (float[N,2,1,1] x) => (float[N,3,1,1] y)
        <float[3,2,1,1] w = {1, 2, 3, 4, 5, 6}> { a = Conv(x, w) y = Softmax(a) }"""
    plan = FineTuning(onnx.parser.parse_model(text), loss="softmax_cross_entropy", optimizer=g.Sgd(0.1))
    assert "it takes scores, not probabilities" in plan.notes[0]
    session = rm.runtime.TrainingSession(plan.to_model(), device="cpu")
    x = np.array([1, -1], np.float32).reshape(1, 2, 1, 1)
    assert float(session.step({"x": x, "labels": np.array([0])})) == pytest.approx(np.log(3), rel=1e-5)


@pytest.mark.parametrize("loss", ["mean_squared", "smooth_l1", "sigmoid_cross_entropy"])
def test_losses_with_float_labels_take_them_in_the_output_s_shape(loss):
    session = rm.runtime.TrainingSession(
        rm.make_trainable(classifier(), loss=loss, optimizer=g.Sgd(0.01), labels="target"), device="cpu"
    )
    assert [str(spec) for spec in session.targets] == ["target"]
    feeds = {"x": batch()["x"], "target": np.eye(3, dtype=np.float32)[batch()["labels"]]}
    losses = [float(session.step(feeds)) for _ in range(4)]
    assert losses == sorted(losses, reverse=True)


def test_one_hot_rows_are_asked_for_by_their_type():
    labels = {"labels": ("float32", ("N", 3))}
    model = rm.make_trainable(classifier(), loss="softmax_cross_entropy", optimizer=g.Sgd(0.1), labels=labels)
    rows = np.eye(3, dtype=np.float32)[batch()["labels"]]
    indices = rm.make_trainable(classifier(), loss="softmax_cross_entropy", optimizer=g.Sgd(0.1))
    a, b = (rm.runtime.TrainingSession(m, device="cpu") for m in (model, indices))
    assert float(a.step({"x": batch()["x"], "labels": rows})) == pytest.approx(float(b.step(batch())), rel=1e-6)


def test_a_function_of_elements_can_be_the_loss():
    def loss(output, labels):
        return g.mean(g.square(output - labels))

    model = rm.make_trainable(classifier(), loss=loss, optimizer=g.Sgd(0.1))
    session = rm.runtime.TrainingSession(model, device="cpu")
    target = np.zeros((8, 3), np.float32)
    expected = (run(classifier(), batch())[0] ** 2).mean()
    assert float(session.step({"x": batch()["x"], "labels": target})) == pytest.approx(float(expected), rel=1e-5)


def test_a_loss_of_the_library_can_be_the_loss():
    named, given = (
        rm.make_trainable(classifier(), loss=loss, optimizer="sgd")
        for loss in ("softmax_cross_entropy", rm.graph.SoftmaxCrossEntropy())
    )
    assert given == named
    weighed = rm.make_trainable(classifier(), loss=rm.graph.SoftmaxCrossEntropy("sum"), optimizer="sgd")
    assert weighed.training_info[0].algorithm.input[0] == named.training_info[0].algorithm.input[0]
    without = rm.make_trainable(classifier(), loss=rm.graph.ConstantLoss(), optimizer="sgd")
    assert [value.name for value in without.training_info[0].algorithm.input] == ["learning_rate"]
    with pytest.raises(rm.ConversionError, match=r"a loss or a function, got <class .*MeanSquared'>\.$"):
        rm.make_trainable(classifier(), loss=rm.graph.MeanSquared)


def test_an_output_of_the_model_can_be_the_loss():
    text = """<ir_version: 10, opset_import: ["": 18]> f (float[N,2] x, float[N,1] t) => (float[N,1] y, float loss)
        <float[2,1] w = {1, 2}> { y = MatMul(x, w) d = Sub(y, t) s = Mul(d, d) loss = ReduceMean<keepdims=0>(s) }"""
    model = onnx.parser.parse_model(text)
    session = rm.runtime.TrainingSession(rm.make_trainable(model, loss="loss", optimizer=g.Sgd(0.1)), device="cpu")
    feeds = {"x": np.eye(2, dtype=np.float32), "t": np.zeros((2, 1), np.float32)}
    assert float(session.step(feeds)) == pytest.approx(2.5)
    np.testing.assert_allclose(session.read("w"), [[0.9], [1.8]], rtol=1e-6)


def test_constants_that_are_weights_become_weights():
    model = classifier()
    (moved,) = (t for t in model.graph.initializer if t.name == "dense1.w")
    constant = helper.make_node("Constant", [], ["dense1.w"], value=moved)
    model.graph.node.insert(0, constant)
    model.graph.initializer.remove(moved)
    plan = FineTuning(model, loss="softmax_cross_entropy")
    assert "dense1.w" in plan.trained
    assert plan.notes[0] == "1 constant became weights: dense1.w."


def test_a_model_without_batch_normalization_says_that_it_may_be_folded():
    model = to_onnx(g.Sequential([g.Conv(2, kernel=3), g.Flatten(), g.Dense(2)]), inputs={"x": ("N", 1, 5, 5)})
    notes = FineTuning(model, loss="softmax_cross_entropy").notes
    assert notes == [
        "There is no BatchNormalization: if the original had any, the exporter folded it into the convolutions, where "
        "it stays."
    ]


def test_the_bias_of_a_single_unit_trains_and_a_single_number_elsewhere_does_not():
    text = """<ir_version: 10, opset_import: ["": 18]> f (float[N,2] x) => (float[N,1] y)
        <float[2,1] w = {1, 2}, float[1] b = {0}, float[1] half = {0.5}>
        { a = MatMul(x, w) c = Add(a, b) y = Mul(c, half) }"""
    assert list(FineTuning(onnx.parser.parse_model(text), loss="mean_squared").trained) == ["w", "b"]


def test_a_batch_size_that_a_reshape_repeats_is_freed():
    text = """<ir_version: 10, opset_import: ["": 18]> f (float[1,2,2] x) => (float[1,3] y)
        <int64[2] s = {1, 4}, float[4,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>
        { a = Reshape(x, s) y = MatMul(a, w) }"""
    fixed = onnx.parser.parse_model(text)
    model = rm.load(fixed, inputs={"x": ("N", 2, 2)})
    assert model.outputs["y"].shape == ("N", 3)
    x = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    rows = [run(fixed, {"x": row[None]})[0] for row in x]
    np.testing.assert_array_equal(run(model.to_proto(), {"x": x})[0], np.concatenate(rows))
    session = rm.runtime.TrainingSession(
        rm.make_trainable(model, loss="softmax_cross_entropy", optimizer=g.Sgd(0.001)), device="cpu"
    )
    losses = [float(session.step({"x": x, "labels": np.array([0, 1])})) for _ in range(3)]
    assert losses == sorted(losses, reverse=True)


def test_weights_with_several_readers_are_noted():
    text = """<ir_version: 10, opset_import: ["": 18]> f (float[N,2] x) => (float[N,2] y)
        <float[2,2] w = {1, 2, 3, 4}> { h = MatMul(x, w) y = MatMul(h, w) }"""
    plan = FineTuning(onnx.parser.parse_model(text), loss="mean_squared")
    assert plan.notes == ["1 weight with several readers, each trained as one: w."]


@pytest.mark.parametrize("options", [{}, {"train_statistics": True}])
def test_running_statistics_move_only_when_asked(options):
    model = classifier()
    plan = FineTuning(model, loss="softmax_cross_entropy", **options)
    what = "move with the batches" if options else "stay as they are"
    assert plan.notes == [f"2 running statistics of BatchNormalization {what}."]
    session = rm.runtime.TrainingSession(plan.to_model(), device="cpu")
    session.step(batch())
    after, before = initializers(session.to_model()), initializers(model)
    for name in ("batch_normalize1.mean", "batch_normalize1.var"):
        assert np.array_equal(before[name], after[name]) is not bool(options)


def test_dropout_is_added_before_the_head():
    model = classifier()
    trainable = rm.make_trainable(model, loss="softmax_cross_entropy", optimizer=g.Sgd(0.0), dropout=0.5)
    assert [n.op_type for n in trainable.graph.node][-2:] == ["Dropout", "Gemm"]
    session = rm.runtime.TrainingSession(trainable, device="cpu")
    losses = {float(session.step(batch())) for _ in range(4)}
    assert len(losses) == 4  # other elements are dropped at every step
    x = {"x": batch()["x"]}
    np.testing.assert_allclose(session.evaluate(x)["output"], run(model, batch())[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("transposed", [False, True], ids=["(in, out)", "(out, in)"])
def test_a_new_head_has_other_units_and_the_same_body(transposed):
    model = classifier()
    if transposed:
        (w,) = (t for t in model.graph.initializer if t.name == "dense2.w")
        w.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(w).T.copy(), w.name))
        node = model.graph.node[-1]
        node.attribute.append(helper.make_attribute("transB", 1))
    loaded = replace_head(model, 7)
    found = initializers(loaded.to_proto())
    assert found["dense2.w"].shape == ((7, 6) if transposed else (6, 7))
    assert not found["dense2.b"].any() and found["dense2.b"].shape == (1, 7)
    assert run(loaded.to_proto(), batch())[0].shape == (8, 7)
    for name, array in initializers(model).items():
        if not name.startswith("dense2"):
            np.testing.assert_array_equal(found[name], array)


def test_a_convolution_can_be_a_head():
    layers = [g.Conv(5, kernel=3), g.Relu(), g.Conv(4, kernel=1), g.GlobalAvgPool()]
    model = to_onnx(g.Sequential(layers), inputs={"x": ("N", 1, 5, 5)})
    trainable = rm.make_trainable(replace_head(model, 3), loss="softmax_cross_entropy", optimizer=g.Sgd(0.1))
    session = rm.runtime.TrainingSession(trainable, device="cpu")
    losses = [float(session.step(batch())) for _ in range(3)]
    assert losses == sorted(losses, reverse=True)


def two_outputs() -> onnx.ModelProto:
    text = """<ir_version: 10, opset_import: ["": 18]> f (float[N,2] x) => (float[N,2] a, float[N,2] b)
        <float[2,2] w = {1, 2, 3, 4}> { a = MatMul(x, w) b = Relu(a) }"""
    return onnx.parser.parse_model(text)


def headless() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> f (float[N] x) => (float[N] y) { y = Exp(x) }'
    )


def shapeless() -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 18]> f (float[N] x, int64[R] s) => (float y)
        <float[1] w = {2}, float[2] b = {1, 2}> { a = Reshape(x, s) y = Add(a, b) }"""
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


ERRORS = [
    (
        lambda: rm.make_trainable(two_outputs(), loss="mean_squared"),
        "make_trainable: output must be one of a, b, got none. It is what the loss compares with the labels.",
    ),
    (
        lambda: rm.make_trainable(two_outputs(), loss="mean_squared", output="c"),
        "make_trainable: output must be one of a, b, got 'c'. It is what the loss compares with the labels.",
    ),
    (
        lambda: rm.make_trainable(classifier(), loss="softmax"),
        "make_trainable: loss must be one of softmax_cross_entropy, sigmoid_cross_entropy, cross_entropy, mean_squared,"
        " smooth_l1, an output of the model (output), a loss or a function, got 'softmax'.",
    ),
    (
        lambda: rm.make_trainable(classifier(), loss="mean_squared", optimizer="adem"),
        "make_trainable: an optimizer must be an Optimizer or one of adadelta, adagrad, adam, adamax, adamw, lamb, "
        "lion, rmsprop, sgd, got 'adem'.",
    ),
    (
        lambda: rm.make_trainable(classifier(), loss="mean_squared", trainable="fc.*"),
        "make_trainable: trainable must match parameters, got 'fc.*', which matches none of conv1.w, conv1.b, "
        "batch_normalize1.w, batch_normalize1.b, dense1.w, dense1.b, dense2.w, dense2.b.",
    ),
    (
        lambda: rm.make_trainable(classifier(), loss="mean_squared", freeze="*"),
        "make_trainable: at least one parameter must train, got none of conv1.w, conv1.b, batch_normalize1.w, "
        "batch_normalize1.b, dense1.w, dense1.b, dense2.w, dense2.b.",
    ),
    (
        lambda: rm.make_trainable(classifier(), loss="mean_squared", labels="x"),
        "make_trainable: labels must be a new input, got 'x', which the model has. Name it otherwise.",
    ),
    (
        lambda: rm.make_trainable(classifier(), loss=lambda output: 3),
        "make_trainable: a loss function must return an element, got int. Use the functions of renom_onnx.graph in it.",
    ),
    (
        lambda: rm.make_trainable(classifier(), loss="mean_squared", dropout=1.5),
        "dropout: the ratio must be from 0 to 1, got 1.5.",
    ),
    (lambda: replace_head(classifier(), 0), "replace_head: units must be 1 or more, got 0."),
    (
        lambda: replace_head(headless(), 2),
        "head: a Gemm, MatMul, Conv or ConvTranspose with weights must lead to the output 'y', got none. Name another "
        "output, or name the parameters.",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message[:50] for _, message in ERRORS])
def test_errors_say_what_to_do(call, message):
    with pytest.raises(rm.ConversionError, match=rf"^{re.escape(message)}( Created at test_fine_tuning.py:\d+\.)?$"):
        call()


def test_the_shape_of_the_output_must_be_known():
    with pytest.raises(rm.ConversionError) as caught:
        rm.make_trainable(shapeless(), loss="mean_squared")
    assert str(caught.value) == (
        "make_trainable: the shape of output 'y' must be known, got float32[...]. Say what the labels are: "
        'labels={"labels": ("float32", ("N", ...))}.'
    )


def test_a_head_may_read_its_weights_rearranged_but_is_not_replaced_then():
    text = """<ir_version: 10, opset_import: ["": 18]> f (float[N,2] x) => (float[N,3] y)
        <float[2,2] u = {1, 2, 3, 4}, float[3,2] w = {1, 2, 3, 4, 5, 6}>
        { a = MatMul(x, u) v = Transpose<perm = [1, 0]>(w) y = MatMul(a, v) }"""
    model = onnx.parser.parse_model(text)
    assert list(FineTuning(model, loss="mean_squared", trainable="last").trained) == ["w"]
    with pytest.raises(rm.ConversionError) as caught:
        replace_head(model, 2)
    assert str(caught.value) == (
        "replace_head: the head must read its weights as they are, got 'w' through 'v'. Name another output, or write "
        "the rearranged weights into the model."
    )


def test_a_bias_that_is_no_bias_is_no_head():
    text = """<ir_version: 10, opset_import: ["": 18]> f (float[N,2] x) => (float[N,3] y)
        <float[2,3] w = {1, 2, 3, 4, 5, 6}, float[3,3] v = {1, 2, 3, 4, 5, 6, 7, 8, 9}>
        { a = MatMul(x, w) y = Mul(a, v) }"""
    with pytest.raises(rm.ConversionError) as caught:
        replace_head(onnx.parser.parse_model(text), 5)
    assert str(caught.value) == (
        "replace_head: what the head and the nodes after it read must be a bias of 3 numbers, got 'v' of shape [3, 3] "
        "after MatMul ''. Name another output, or change the model where it was made."
    )
