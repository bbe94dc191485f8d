"""What nodes cost: hand counts, totals of published networks, and what is not counted."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters.importer import import_graph
from renom_onnx.converters.training_info import concatenate, with_graph
from renom_onnx.graph import schema
from renom_onnx.graph.cost import FAMILIES, Cost
from renom_onnx.graph.meter import Meter, total
from renom_onnx.graph.node import Input, Node, ancestors
from tests.converters.networks import Network, resnet, vgg

HEADER = '<ir_version: 10, opset_import: ["": {opset}]>'


def cost_of(text: str, sizes: dict[str, int] | None = None, opset: int = 21) -> Cost:
    """Return the cost of the nodes of a model in onnx's textual form: what stands between ``(inputs)`` and ``}``."""
    inputs, body = text.split(" => ", 1)
    model = onnx.parser.parse_model(f"{HEADER.format(opset=opset)} f ({inputs}) => (float[a] y) {{ {body} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return total((node for node, _ in import_graph(model).nodes), sizes)


N_DIRECTIONS, TIME, BATCH, INPUTS, UNITS = 2, 7, 3, 5, 4

BY_HAND = {
    # y is (2, 6, 4, 4); a filter holds 4 / 2 channels x 3 x 3
    "Conv with group, stride and bias": (
        "float[2, 4, 8, 8] x, float[6, 2, 3, 3] w, float[6] b => "
        "y = Conv<group = 2, strides = [2, 2], pads = [1, 1, 1, 1]>(x, w, b)",
        2 * 6 * 4 * 4 * (2 * 3 * 3),
        2 * 6 * 4 * 4,
    ),
    "Conv with dilation, one axis": (
        "float[1, 3, 20] x, float[5, 3, 4] w => y = Conv<dilations = [2]>(x, w)",
        5 * (20 - 2 * 3) * (3 * 4),
        0,
    ),
    # every one of 2 x 4 x 5 x 5 elements of x is spread over 6 channels x 3 x 3
    "ConvTranspose": (
        "float[2, 4, 5, 5] x, float[4, 6, 3, 3] w => y = ConvTranspose<strides = [2, 2]>(x, w)",
        2 * 4 * 5 * 5 * (6 * 3 * 3),
        0,
    ),
    "Gemm with transA and c": (
        "float[8, 3] a, float[8, 5] b, float[5] c => y = Gemm<transA = 1>(a, b, c)",
        3 * 5 * 8,
        3 * 5,
    ),
    "MatMul of stacks": ("float[6, 1, 3, 4] a, float[2, 4, 5] b => y = MatMul(a, b)", 6 * 2 * 3 * 5 * 4, 0),
    "MatMul with a vector": ("float[3, 4] a, float[4] b => y = MatMul(a, b)", 3 * 4, 0),
    "Einsum": ('float[2, 3, 4] a, float[2, 4, 5] b => y = Einsum<equation = "bij,bjk->bik">(a, b)', 2 * 3 * 4 * 5, 0),
    "Einsum with an ellipsis": (
        'float[7, 2, 3] a, float[3, 4] b => y = Einsum<equation = "...ij,jk->...ik">(a, b)',
        7 * 2 * 3 * 4,
        0,
    ),
    "Einsum of one operand": ('float[3, 4] a => y = Einsum<equation = "ij->i">(a)', 0, 12),
    "LSTM in two directions": (
        f"float[{TIME}, {BATCH}, {INPUTS}] x, float[{N_DIRECTIONS}, {4 * UNITS}, {INPUTS}] w, "
        f"float[{N_DIRECTIONS}, {4 * UNITS}, {UNITS}] r, float[{N_DIRECTIONS}, {8 * UNITS}] b => "
        f'y = LSTM<hidden_size = {UNITS}, direction = "bidirectional">(x, w, r, b)',
        N_DIRECTIONS * TIME * BATCH * 4 * UNITS * (INPUTS + UNITS),
        N_DIRECTIONS * TIME * BATCH * UNITS * (9 + 8),
    ),
    "GRU without bias": (
        f"float[{TIME}, {BATCH}, {INPUTS}] x, float[1, {3 * UNITS}, {INPUTS}] w, float[1, {3 * UNITS}, {UNITS}] r => "
        f"y = GRU<hidden_size = {UNITS}>(x, w, r)",
        TIME * BATCH * 3 * UNITS * (INPUTS + UNITS),
        TIME * BATCH * UNITS * 8,
    ),
    "RNN": (
        f"float[{TIME}, {BATCH}, {INPUTS}] x, float[1, {UNITS}, {INPUTS}] w, float[1, {UNITS}, {UNITS}] r => "
        f"y = RNN<hidden_size = {UNITS}>(x, w, r)",
        TIME * BATCH * UNITS * (INPUTS + UNITS),
        TIME * BATCH * UNITS,
    ),
    "MaxPool": (
        "float[1, 2, 8, 8] x => y = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(x)",
        0,
        2 * 3 * 3 * 9,
    ),
    "ReduceMean": ("float[3, 4] x => y = ReduceMean(x)", 0, 12),
    "Softmax": ("float[3, 4] x => y = Softmax(x)", 0, 60),
    "BatchNormalization": (
        "float[2, 3, 4] x, float[3] s, float[3] b, float[3] m, float[3] v => y = BatchNormalization(x, s, b, m, v)",
        0,
        2 * 24,
    ),
    "LayerNormalization": ("float[2, 4] x, float[4] s => y = LayerNormalization(x, s)", 0, 8 * 8),
    "LRN": ("float[1, 4, 2, 2] x => y = LRN<size = 3>(x)", 0, 16 * 10),
    "Resize, linear along two axes": (
        "float[1, 2, 3, 3] x => k = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>() "
        'y = Resize<mode = "linear">(x, , k)',
        2 * 6 * 6 * 4,
        0,
    ),
    "Resize, nearest": (
        "float[1, 2, 3, 3] x => k = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>() y = Resize(x, , k)",
        0,
        0,
    ),
    "Add with broadcasting": ("float[3, 1] a, float[4] b => y = Add(a, b)", 0, 12),
    "Sum of three": ("float[5] a, float[5] b, float[5] c => y = Sum(a, b, c)", 0, 10),
    "Transpose": ("float[3, 4] x => y = Transpose(x)", 0, 0),
    "two nodes": ("float[3, 4] x => h = Relu(x) y = Exp(h)", 0, 24),
}


@pytest.mark.parametrize(("text", "macs", "beside"), BY_HAND.values(), ids=BY_HAND.keys())
def test_cost_is_what_a_hand_counts(text: str, macs: int, beside: int):
    assert cost_of(text) == Cost(macs, 2 * macs + beside)


PUBLISHED = {
    # network: (multiply-adds in units of 1e9, parameters), as torchvision's table of models gives them
    "resnet18": (resnet(18), 1.81, 11_689_512),
    "resnet34": (resnet(34), 3.66, 21_797_672),
    "resnet50": (resnet(50), 4.09, 25_557_032),
    "vgg11": (vgg(11), 7.61, 132_863_336),
    "vgg16": (vgg(16), 15.47, 138_357_544),
}


@pytest.mark.parametrize(("network", "gmacs", "n_parameters"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_total_of_a_published_network(network: Network, gmacs: float, n_parameters: int):
    assert sum(np.prod(s) for name, s in network.shapes.items() if "running" not in name) == n_parameters
    nodes = [node for node, _ in import_graph(network.model(weights=False)).nodes]
    one, eight = total(nodes, {"N": 1}), total(nodes, {"N": 8})
    assert one.macs == pytest.approx(gmacs * 1e9, rel=0.01)
    assert eight.macs == 8 * one.macs
    assert not one.uncounted


def test_what_no_formula_counts_goes_through_its_body():
    q = "float[1, 2, 6, 8] q, float[1, 2, 6, 8] k, float[1, 2, 6, 8] v"
    found = cost_of(f"{q} => y = Attention(q, k, v)", opset=23)
    assert not found.uncounted
    assert found.macs == 2 * (2 * 6 * 6 * 8)  # q k^T and its product with v


def test_a_function_costs_what_its_body_does():
    rm.set_seed(0)
    loss = rm.graph.MeanSquared()(rm.graph.Dense(16)(np.ones((1, 8), np.float32)), np.ones((1, 16), np.float32))
    model = rm.converters.to_training_onnx(loss, rm.graph.Sgd(0.1))
    nodes = [node for node, _ in import_graph(with_graph(model, concatenate(model))).nodes]
    meter = Meter({"N": 32})
    by_name = {node.op_type: meter.read(node) for node in nodes}
    assert by_name["Gemm"].macs == 32 * 8 * 16
    assert by_name["GemmGrad"].macs == 32 * 8 * 16 + 16 * 32  # dw, and db as a product with ones; dx is not wanted
    assert by_name["SGD"] == Cost(0, 2 * 16)  # of the bias: a product and a difference for each element
    assert not any(cost.uncounted for cost in by_name.values())


def test_elements_cost_what_their_nodes_do():
    y = rm.graph.Relu()(rm.graph.Dense(4)(np.ones((2, 3), np.float32)))
    assert total(ancestors([y.output]), {"N": 10}) == Cost(120, 2 * 120 + 40 + 40)


def test_of_two_branches_the_dearer_one_counts():
    cheap, dear = "g () => (float[2] a) { a = Identity(x) }", "h () => (float[2] b) { c = Neg(x) b = Neg(c) }"
    found = cost_of(f"float[2] x, bool c => z = If<then_branch = {cheap}, else_branch = {dear}>(c) y = Exp(z)")
    assert found == Cost(0, 2 * 2 + 2)


STEP = (
    "b (int64 i, bool k, float[3] s) => (bool l, float[3] t, float[3] u) { l = Identity(k) t = Add(s, x) u = Exp(t) }"
)


def test_a_loop_counts_as_often_as_it_runs():
    found = cost_of(f"float[3] x => n = Constant<value_int = 5>() f, z = Loop<body = {STEP}>(n, , x) y = Exp(z)")
    assert found == Cost(0, 5 * (3 + 3) + 5 * 3)
    found = cost_of(f"float[3] x, int64 n => f, z = Loop<body = {STEP}>(n, , x) y = Exp(f)")
    assert found == Cost(0, 3, frozenset(["Loop"]))


def test_a_scan_counts_its_steps():
    step = "b (float[4] s, float[2] e) => (float[4] t, float[2] o) { m = MatMul(e, w) t = Add(s, m) o = Neg(e) }"
    found = cost_of(
        f"float[4] s, float[N, 7, 2] x, float[2, 4] w => q = Squeeze(x) "
        f"f, z = Scan<body = {step}, num_scan_inputs = 1>(s, q) y = Exp(z)",
        {"N": 1},
    )
    assert (found.macs, found.flops) == (7 * 8, 7 * (2 * 8 + 4 + 2) + 7 * 2)


def test_what_a_step_of_a_scan_reads_may_decide_how_much_it_does():
    """Two rows at a time of five: two rows, two, and one."""
    step = (
        "b (float[4] s, int64 i) => (float[4] t) { j = Unsqueeze(i, zero) k = Add(j, two) e = Slice(x, j, k, zero) "
        "m = MatMul(e, w) a = ReduceSum<keepdims = 0>(m, zero) t = Add(s, a) }"
    )
    found = cost_of(
        f"float[4] s, float[N, 3] x, float[3, 4] w => zero = Constant<value_ints = [0]>() "
        f"two = Constant<value_ints = [2]>() starts = Constant<value_ints = [0, 2, 4]>() "
        f"y = Scan<body = {step}, num_scan_inputs = 1>(s, starts)",
        {"N": 5},
    )
    assert found.uncounted == frozenset() and found.macs == 5 * 3 * 4


def test_what_is_not_counted_is_named():
    node = Node("Swoosh", [], [(np.dtype("float32"), (3,))], opset=1, domain="example")
    assert total([node]) == Cost(uncounted=frozenset(["example.Swoosh"]))
    assert cost_of("float[N, 3] x => y = Exp(x)") == Cost(uncounted=frozenset(["Exp"]))
    assert cost_of("float[N, 3] x => y = Exp(x)", {"N": 2}) == Cost(0, 6)
    broken = cost_of("float[2] x => y = MaxPool<kernel_shape = [2]>(x)")
    assert broken == Cost(uncounted=frozenset(["MaxPool"]))


def test_a_leaf_costs_nothing():
    assert total([Input(np.dtype("float32"), (3,), name="x")]) == Cost()


# Neither a formula nor a body that says what they cost
UNCOUNTED = {
    *("DFT", "Det", "If", "ImageDecoder", "Loop", "MaxRoiPool", "MelWeightMatrix", "NonMaxSuppression"),
    *("RegexFullMatch", "RoiAlign", "STFT", "Scan", "StringConcat", "StringNormalizer", "StringSplit"),
    "TfIdfVectorizer",
}


def test_every_operator_has_one_formula_a_body_or_is_known_not_to_be_counted():
    counts = collections.Counter(name for family in FAMILIES for name in family.operators)
    assert [name for name, n in counts.items() if n > 1] == []
    newest = onnx.defs.onnx_opset_version()
    names = set(schema.operator_names(newest))
    assert counts.keys() - names == {"Upsample"}  # of old opsets
    without = {name for name in names - counts.keys() if not schema.has_body(name, newest)}
    assert without == UNCOUNTED
