"""The doctor: what trains, what it takes, where it runs, held against the gradient itself and against hand counts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters.doctor import Report
from tests.converters.networks import resnet
from tests.converters.programs import Program

HEADER = '<ir_version: 10, opset_import: ["": {opset}, "my": 1, "com.microsoft": 1]>'
W = "float[3, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}"


def parsed(text: str, opset: int = 18) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"{HEADER.format(opset=opset)} f {text}")
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return model


def examined(text: str, opset: int = 18, **options: object) -> Report:
    return rm.doctor(parsed(text, opset), **options)


def statuses(report: Report) -> dict[str, tuple[str, str]]:
    return {row.op_type: (row.status, row.reason) for row in report.operators}


def test_operators_are_differentiable_constant_or_blocked():
    report = examined(
        f"(float[N, 3] x) => (float[a, b] y) <{W}> {{ h = MatMul(x, w) i = ArgMax(h) c = Cast<to = 1>(i) "
        "q = my.Swoosh(h) z = Add(c, h) y = com.microsoft.Gelu(z) }"
    )
    assert statuses(report) == {
        "MatMul": ("differentiable", ""),
        "Cast": ("differentiable", ""),
        "Add": ("differentiable", ""),
        "ArgMax": ("constant", "it is an index, which is piecewise constant"),
        "my.Swoosh": ("blocked", "ONNX has no operator Swoosh in domain my"),
        "com.microsoft.Gelu": ("blocked", "ONNX has no operator Gelu in domain com.microsoft"),
    }
    assert [row.nodes for row in report.blocked] == [("y",), ("q",)]


def test_an_operator_that_is_refused_says_why():
    report = examined(
        f"(float[N, 3] x, int64 i) => (float[a, b] y) <{W}> {{ h = MatMul(x, w) s = Optional(h) "
        "y = OptionalGetElement(s) }"
    )
    status, reason = statuses(report)["Optional"]
    assert status == "blocked"
    assert "it handles optional values" in reason
    assert [row.reason for row in report.parameters] == [f"Optional 's' is blocked: {reason}"]


def test_a_rule_that_cannot_serve_a_node_blocks_it():
    report = examined(
        f"(float[N, 3] x, float[N, 2, 2, 2] g) => (float[a, b, c, d] y) <{W}> "
        "{ s = my.Some(x) h = MatMul(s, w) y = GridSample(h, g) }"
    )
    status, reason = statuses(report)["GridSample"]
    assert status == "blocked"
    assert reason == "GridSample: the gradient must know the rank of x, got none. Give x a shape in the model."


REASONS = {
    "a weight": ("y = MatMul(x, w)", W, ""),
    "unread": ("y = Exp(x)", W, "no node reads it"),
    "constant": (
        "s = Sign(w) y = MatMul(x, s)",
        W,
        "Sign 'node' is constant: it is piecewise constant",
    ),
    "blocked": (
        "h = MatMul(x, w) y = my.Swoosh(h)",
        W,
        "Swoosh 'y' is blocked: ONNX has no operator Swoosh in domain my",
    ),
    "statistic": (
        "y = BatchNormalization(x, o, o, w, o)",
        "float[3] w = {1, 2, 3}, float[3] o = {1, 1, 1}",
        "it is a statistic of BatchNormalization, which no gradient changes",
    ),
    "setting": (
        "y = Clip(x, w)",
        "float w = {1}",
        "it is a setting or a number in a formula (Clip), not a weight",
    ),
    "one number": (
        "y = Mul(x, w)",
        "float[1] w = {1}",
        "it is a setting or a number in a formula (Mul), not a weight",
    ),
    "integers only": ("i = Cast<to = 7>(w) y = Add(i, i)", W, "no output of floats depends on it"),
}


@pytest.mark.parametrize(("nodes", "initializers", "reason"), REASONS.values(), ids=REASONS.keys())
def test_why_a_parameter_would_or_would_not_train(nodes: str, initializers: str, reason: str):
    kind = "int64" if "to = 7" in nodes else "float"
    report = examined(f"(float[N, 3] x) => ({kind}[a, b] y) <{initializers}> {{ {nodes} }}")
    row = next(row for row in report.parameters if row.name == "w")
    assert (row.would_train, row.reason.replace("'s'", "'node'")) == (not reason, reason)


def test_operand_without_gradient_is_named():
    report = examined(
        "(float[N, 3] x) => (float[a, b, c] y) <float[3] w = {2, 2, 2}> { n = Cast<to = 7>(w) y = Expand(x, n) }"
    )
    assert report.parameters[0].reason == "Expand 'y' gives its operand shape no gradient"


@pytest.mark.parametrize("loss", ["mlp", "cnn", "dropout", "shared", "frozen"])
def test_what_would_train_is_what_a_gradient_reaches(loss: str):
    """The doctor's trial and `vjp` of the same file agree on every parameter."""
    model = Program(loss, "Adam", 18).model()
    report = rm.doctor(model)
    for row in report.parameters:
        gradient = rm.converters.vjp(model, wrt=[row.name])
        n_paths = sum(node.domain == "renom_onnx" for node in gradient.graph.node)
        assert row.would_train == (n_paths > 0), row


def test_resnet():
    report = rm.doctor(resnet(50).model())
    assert len(report.trained) == 161
    assert sum(row.n_elements for row in report.trained) == 25_557_032
    assert {row.reason for row in report.parameters if not row.would_train} == {
        "it is a statistic of BatchNormalization, which no gradient changes"
    }
    assert report.inference.macs == pytest.approx(4.09e9, rel=0.01)
    first = 112 * 112 * 64 * 7 * 7 * 3  # the gradient of the data is not wanted
    assert report.gradient.macs == pytest.approx(2 * report.inference.macs - first, rel=1e-4)
    assert not report.inference.uncounted | report.gradient.uncounted
    assert report.optimizer_bytes == {"SGD": 0, "momentum": 4 * 25_557_032, "Adam": 8 * 25_557_032}
    assert [(p.provider, p.n_taken, p.n_gradient_taken) for p in report.providers] == [
        ("cpu", 175, 0),
        ("cuda", 175, 191),
    ]
    assert report.findings == ()
    assert report.is_sound


LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
PUBLISHED = {
    # of the light set of ONNX's own tests: parameters, multiply-adds in units of 1e9
    "bvlc_alexnet": (60_965_224, 0.655),
    "inception_v1": (6_998_552, 1.43),
    "resnet50": (25_557_032, 4.09),
    "squeezenet": (1_235_496, 0.349),
    "vgg19": (143_667_240, 19.6),
}


@pytest.mark.parametrize(("name", "n_parameters", "gmacs"), [(k, *v) for k, v in PUBLISHED.items()], ids=PUBLISHED)
def test_networks_of_the_literature(name: str, n_parameters: int, gmacs: float):
    """Opset 9, initializers that are inputs, weights that ConstantOfShape makes: all of it is seen through."""
    report = rm.doctor(LIGHT / f"light_{name}.onnx", ask_cpu=False)
    assert sum(row.n_elements for row in report.trained) == n_parameters
    assert report.inference.macs == pytest.approx(gmacs * 1e9, rel=0.01)
    assert not report.inference.uncounted | report.gradient.uncounted
    assert report.blocked == ()
    assert report.is_sound


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_what_would_train_is_what_make_trainable_trains(name: str):
    path = LIGHT / f"light_{name}.onnx"
    plan = rm.converters.FineTuning(path, loss="softmax_cross_entropy")
    assert {row.name for row in rm.doctor(path, ask_cpu=False).trained} == set(plan.trained)


def test_memory_is_what_a_hand_counts():
    """x (5, 3) -> h (5, 4) -> r (5, 4) -> y (5, 2); every value is freed after its last reader."""
    report = examined(
        f"(float[N, 3] x) => (float[a, b] y) <{W}, float[4, 2] v = {{1, 2, 3, 4, 5, 6, 7, 8}}> "
        "{ h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }",
        batch_size=5,
    )
    assert report.weight_bytes == 4 * (12 + 8)
    assert report.activation_peak.known == 4 * (5 * 4 + 5 * 4)  # h and r, while Relu runs
    assert report.kept.known == 4 * (5 * 4)  # r serves both MatMul and Relu; x is no value of the forward pass
    assert report.inference.macs == 5 * 3 * 4 + 5 * 4 * 2
    assert report.gradient.macs == report.inference.macs + 5 * 4 * 2  # no dx for the first product
    assert (report.sizes, report.is_assumed) == ({"N": 5}, False)


def test_the_batch_size_is_assumed_and_said():
    report = examined(f"(float[N, 3] x) => (float[a, b] y) <{W}> {{ y = MatMul(x, w) }}")
    assert (report.sizes, report.is_assumed, report.open_symbols) == ({"N": 1}, True, ())
    assert "Work at N = 1 (assumed)" in str(report)


def test_other_sizes_must_be_given():
    text = "(float[N, H, 3] x) => (float[a, b] y) { y = Exp(x) }"
    report = examined(text)
    assert report.open_symbols == ("H",)
    assert report.activation_peak.unknown == ("y",)
    assert report.inference.uncounted == {"Exp"}
    assert "Memory at N = 1 (assumed); no size given for H" in str(report)
    assert "more than 0 B at most at once in inference" in str(report)
    report = examined(text, sizes={"H": 7})
    assert report.inference.flops == 21
    assert report.open_symbols == ()


def test_constants_that_are_weights_are_parameters():
    """As `make_trainable` takes them: those that are written as nodes become initializers."""
    numbers = ", ".join(map(str, range(6)))
    report = examined(
        f"(float[N, 2] x) => (float[a, b] y) <int64[1] n = {{3}}> "
        f"{{ c = Constant<value = float[2, 3] {{ {numbers} }}>() b = ConstantOfShape<value = float[1] {{0.5}}>(n) "
        "h = MatMul(x, c) y = Add(h, b) }"
    )
    assert [(row.name, row.shape, row.would_train, row.made_by) for row in report.parameters] == [
        ("c", (2, 3), True, "Constant"),
        ("b", (3,), True, "ConstantOfShape"),
    ]
    assert (report.n_other_initializers, report.weight_bytes) == (1, 4 * (6 + 3) + 8)
    assert "  c  float32[2, 3]  6  (a Constant node, to be made an initializer)" in str(report)
    assert report.providers[0].n_nodes == 3  # of the file as it is


def test_a_training_file_tells_its_step():
    model = Program("cnn", "Adam", 18).model()
    report = rm.doctor(model)
    assert report.training.loss == "loss"
    assert report.training.n_nodes == len(model.training_info[0].algorithm.node)
    assert set(report.training.weights) == {t.name for t in model.graph.initializer}
    assert report.training.state_bytes == 2 * report.weight_bytes + 8  # two moments, and the step count
    assert [p.n_nodes for p in report.providers] == [len(model.graph.node) + report.training.n_nodes] * 2
    assert "Training step in the file: " in str(report)


def test_old_opsets_are_upgraded_for_the_gradient_and_looked_at_as_they_are():
    text = "(float[N, 3] x) => (float[a] y) <float[3] w = {1, 2, 3}> { h = Mul(x, w) y = ReduceSum<axes = [1]>(h) }"
    report = examined(text, opset=11)
    assert report.parameters[0].would_train
    assert report.opset == 11
    assert [(f.level, f.text) for f in report.findings] == [
        ("note", "training upgrades the model from opset 11 to 18, by onnx's version converter.")
    ]
    assert report.providers[0].n_taken == 2


def test_cuda_and_cpu_lists():
    text = "(float[N, 3, 8, 8] x) => (float[a, b] y) { h = MaxPool<kernel_shape = [2, 2]>(x) y = Col2Im(h, h, h) }"
    cuda = examined(text, opset=22).providers[1]
    assert cuda.missed == (
        ("Col2Im", "CUDA has no such kernel", ("y",)),
        ("MaxPool", "CUDA has a kernel at opset 21, not at 22", ("h",)),
    )
    double = examined("(double[N, 3, 8, 8] x, double[3, 3, 1, 1] w) => (double[a] y) { y = Conv(x, w) }").providers[0]
    assert (double.n_nodes, double.n_taken) == (1, 0)
    assert double.missed == (("Conv", "Could not find an implementation for Conv(11) node with name ''", ("y",)),)
    integers = examined("(int32[N] x) => (int32[a] y) { y = Relu(x) }").providers[1]
    assert integers.missed == (("Relu", "CUDA has no kernel of version 18 for int32", ("y",)),)


def test_nodes_inside_control_flow_are_looked_at():
    branch = "then_branch = g () => (float[a] t) { t = Atan(x) }, else_branch = k () => (float[a] e) { e = Neg(x) }"
    cpu, cuda = examined(f"(float[N] x, bool c) => (float[a] y) {{ y = If<{branch}>(c) }}").providers
    assert (cpu.n_taken, cuda.n_taken) == (1, 0)
    assert cuda.missed == (("Atan", "CUDA has no such kernel", ("y",)),)


def test_the_cpu_need_not_be_asked(monkeypatch: pytest.MonkeyPatch):
    text = "(float[N] x) => (float[a] y) { y = Exp(x) }"
    assert examined(text, ask_cpu=False).providers[0].not_asked == "not asked"
    monkeypatch.setattr("renom_onnx.runtime.acceptance.release", _no_onnxruntime)
    report = examined(text)
    assert report.providers[0].not_asked == "none is installed"
    assert "  CPU   not known: none is installed" in str(report)


def _no_onnxruntime() -> str:
    raise rm.DeviceError("none is installed")


def test_a_broken_graph_is_a_finding():
    report = examined("(float[N] x) => (float[a] y) { y = Add(x, nobody) }")
    (finding,) = report.findings
    assert (finding.level, finding.where) == ("problem", "graph")
    assert finding.text == (
        "it cannot be read: load: every input must be written before it is read, got nobody read by node Add."
    )
    assert not report.is_sound
    assert str(report).endswith("Verdict: 1 problem found; nothing in it can be trained.")


def test_the_text_is_the_whole_report():
    model = parsed(f"(float[N, 3] x) => (float[a, b] y) <{W}> {{ h = MatMul(x, w) y = Relu(h) }}")
    text = str(rm.doctor(model, ask_cpu=False))
    assert text == (
        "a ModelProto: 2 nodes, opset 18, IR version 10\n"
        "  inputs   x float32[N, 3]\n"
        "  outputs  y float32[...]\n"
        "\n"
        "Gradients\n"
        "  differentiable  MatMul 1, Relu 1\n"
        "\n"
        "Parameters: 1 of 1 array of floats would train, 12 numbers\n"
        "  w  float32[3, 4]  12\n"
        "\n"
        "Memory at N = 1 (assumed)\n"
        "  weights      48 B\n"
        "  to train     gradients 48 B; state of SGD 0 B, momentum 48 B, Adam 96 B\n"
        "  activations  32 B at most at once in inference\n"
        "               16 B kept for the gradient\n"
        "\n"
        "Work at N = 1 (assumed)\n"
        "  inference    12 multiply-adds, 28 operations\n"
        "  gradient     12 multiply-adds, 32 operations\n"
        "\n"
        "Providers\n"
        "  CPU   not known: not asked\n"
        "  CUDA  all 2 nodes; of the gradient 2 of 2 (kernels of onnxruntime-gpu 1.31.1)\n"
        "\n"
        "Verdict: no dangers or problems found; it can be trained (1 parameter)."
    )


def test_long_lists_are_cut():
    nodes = " ".join(f"h{i} = Sign({f'h{i - 1}' if i else 'x'})" for i in range(9))
    weights = ", ".join(f"float[2] w{i} = {{1, 2}}" for i in range(15))
    terms = " ".join(f"s{i} = Mul({f's{i - 1}' if i else 'x'}, w{i})" for i in range(15))
    text = str(examined(f"(float[2] x) => (float[2] y) <{weights}> {{ {nodes} {terms} y = Add(h8, s14) }}"))
    assert "constant        Sign 9: it is piecewise constant (h0, h1, h2, h3 and 5 more)" in text
    assert "  and 3 more parameters, smaller ones" in text


def test_the_dict_is_json_and_says_the_same():
    report = rm.doctor(Program("cnn", "Adam", 18).model())
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["n_nodes"] == report.n_nodes
    assert plain["n_trained"] == sum(row["n_elements"] for row in plain["parameters"]) == 166
    assert plain["inference"] == {"macs": report.inference.macs, "flops": report.inference.flops, "uncounted": []}
    assert plain["operators"][0] == {
        "op_type": "Conv",
        "status": "differentiable",
        "reason": "",
        "nodes": ["conv1/Conv", "conv2/Conv"],
    }
    assert plain["providers"][1]["provider"] == "cuda"


ERRORS = {
    "no model": (lambda: rm.doctor(3), "doctor: the model must be a path, bytes or a ModelProto, got int."),
    "garbage": (
        lambda: rm.doctor(b"\xff\xff"),
        "doctor: the model must be a complete ONNX file, got the bytes: Error parsing message with type "
        "'onnx.ModelProto': Wire format was corrupt.",
    ),
    "no graph": (
        lambda: rm.doctor(onnx.ModelProto(ir_version=10).SerializeToString()),
        "doctor: the model must be a complete ONNX file, got the bytes, which holds no graph.",
    ),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_what_is_no_model_is_refused(call, message: str):
    with pytest.raises(rm.ConversionError) as caught:
        call()
    assert str(caught.value) == message


def test_a_file_of_more_than_two_gigabytes_is_refused_unread(tmp_path: Path):
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse: takes no room
    with pytest.raises(rm.ConversionError) as caught:
        rm.doctor(path)
    assert str(caught.value) == (
        f"doctor: a model must be smaller than 2 GiB, its external data apart, got {path} of {2**31} bytes. "
        "Export it with external data."
    )


def test_a_missing_file_is_an_os_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        rm.doctor(tmp_path / "nothing.onnx")


@pytest.mark.skipif(sys.platform != "linux", reason="counts opened files by an audit hook's path")
def test_external_data_are_not_read(tmp_path: Path):
    model = parsed(f"(float[N, 3] x) => (float[a, b] y) <{W}> {{ y = MatMul(x, w) }}")
    path = tmp_path / "m.onnx"
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones((3, 4), np.float32), "w"))
    onnx.save_model(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").chmod(0)
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    report = rm.doctor(path, batch_size=2)
    assert not any("m.data" in name for name in opened)
    assert [row.would_train for row in report.parameters] == [True]
    assert report.weight_bytes == 48
    assert [f.text for f in report.findings] == ["1 tensor in 'm.data', beside the model."]
    assert np.prod(report.parameters[0].shape) == report.parameters[0].n_elements == 12
