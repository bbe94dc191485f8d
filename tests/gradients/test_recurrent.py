"""Gradients of RNN, GRU and LSTM against PyTorch: its layers, and ONNX's formulas where it has no such layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from renom_onnx.converters import vjp
from renom_onnx.errors import GradientError
from renom_onnx.gradients.recurrence import UNROLLED
from tests.gradients.check import check_gradient
from tests.gradients.session import Session
from tests.gradients.test_rules import with_free_names

T, N, F, H = 4, 3, 2, 5
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
NAMES = ("x", "w", "r", "b", "lengths", "h", "c", "p")
RESULTS = ("y", "y_h", "y_c")
FUNCTIONS = {
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Relu": torch.relu,
    "Softsign": torch.nn.functional.softsign,
    "Elu": lambda a: torch.nn.functional.elu(a, 0.3),
    "HardSigmoid": lambda a: (0.4 * a + 0.6).clamp(0, 1),
}


def model_of(
    op_type: str, feeds: dict[str, Any], n_results: int = 3, *, is_open: bool = False, **attributes: Any
) -> onnx.ModelProto:
    """Return the model of one node, with a symbol for the batch size, and for the number of steps if it is open."""
    names = [name if name in feeds else "" for name in NAMES[: 8 if op_type == "LSTM" else 6]]
    while not names[-1]:
        names.pop()
    results = list(RESULTS[: min(n_results, 3 if op_type == "LSTM" else 2)])
    node = helper.make_node(op_type, names, results, hidden_size=H, **attributes)
    inputs = []
    for name, x in feeds.items():
        element = TensorProto.INT32 if name == "lengths" else TensorProto.FLOAT
        sizes = ["N" if (name in "xhc" and i == 1) or name == "lengths" else n for i, n in enumerate(x.shape)]
        sizes[0] = "T" if name == "x" and is_open else sizes[0]
        inputs.append(helper.make_tensor_value_info(name, element, sizes))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results]
    graph = helper.make_graph([node], "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def operands(op_type: str, n_directions: int, given: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    rng, gates, d = np.random.default_rng(0), GATES[op_type], n_directions
    shapes = {
        "x": (T, N, F), "w": (d, gates * H, F), "r": (d, gates * H, H), "b": (d, 2 * gates * H), "h": (d, N, H),
        "c": (d, N, H), "p": (d, 3 * H),
    }  # fmt: skip
    arrays = {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}
    arrays["lengths"] = np.array([T, 2, 1], np.int32)
    return {name: arrays[name] for name in NAMES if name in {"x", "w", "r", *given}}


def gradients(model: onnx.ModelProto, feeds: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the model of gradients computes, and the random cotangents that it was given."""
    rng, outputs = np.random.default_rng(1), Session(model)(feeds)
    seeds = {f"{name}_grad": rng.standard_normal(y.shape).astype("f") for name, y in outputs.items()}
    return Session(vjp(model))({**feeds, **seeds}), seeds


def written_out(op_type: str, leaves: dict[str, Any], direction: str, **attributes: Any) -> list[torch.Tensor]:
    """Compute the operator as ONNX's documentation says."""
    results = []
    for d in range(2 if direction == "bidirectional" else 1):
        is_reverse = direction == "reverse" or d == 1
        one = {k: v if k in {"x", "lengths"} else v[d] for k, v in leaves.items()}
        results.append(_one_direction(op_type, one, is_reverse, d, **attributes))
    y, *states = zip(*results, strict=True)
    return [torch.stack(y, 1), *(torch.stack(s) for s in states[: 2 if op_type == "LSTM" else 1])]


def _one_direction(
    op_type: str,
    v: dict[str, Any],
    is_reverse: bool,
    d: int,
    *,
    activations: Any = None,
    clip: float = 0,
    **options: Any,
) -> tuple[torch.Tensor, ...]:
    x = v["x"]
    lengths = v.get("lengths", torch.full([x.shape[1]], T))
    h = v.get("h", torch.zeros(x.shape[1], H))
    c = v.get("c", torch.zeros(x.shape[1], H))
    wb, rb = v["b"].chunk(2) if "b" in v else (torch.zeros(len(v["w"])), torch.zeros(len(v["w"])))
    default = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}[op_type]
    n = len(default)
    f = [FUNCTIONS[name] for name in (activations[d * n : d * n + n] if activations else default)]
    ys: list[Any] = [None] * T

    def bounded(a: torch.Tensor) -> torch.Tensor:
        return a.clamp(-clip, clip) if clip else a

    for t in range(T):
        rows = [(int(k) - 1 - t if is_reverse else t) if t < k else t for k in lengths]
        kept = (t < lengths).float()[:, None]
        xw = torch.stack([x[row, i] for i, row in enumerate(rows)]) @ v["w"].T + wb
        rh = h @ v["r"].T + rb
        new_c = c
        if op_type == "RNN":
            new_h = f[0](bounded(xw + rh))
        elif op_type == "GRU":
            (xz, xr, xn), (rz, rr, rn) = xw.chunk(3, 1), rh.chunk(3, 1)
            z, reset = f[0](bounded(xz + rz)), f[0](bounded(xr + rr))
            if options.get("linear_before_reset"):
                n_ = f[1](bounded(xn + reset * rn))
            else:
                n_ = f[1](bounded(xn + (reset * h) @ v["r"][2 * H :].T + rb[2 * H :]))
            new_h = (1 - z) * n_ + z * h
        else:
            i, o, forget, g = (xw + rh).chunk(4, 1)
            pi, po, pf = v["p"].chunk(3) if "p" in v else (0, 0, 0)
            i = f[0](bounded(i + pi * c))
            forget = 1 - i if options.get("input_forget") else f[0](bounded(forget + pf * c))
            new_c = forget * c + i * f[1](bounded(g))
            new_h = f[0](bounded(o + po * new_c)) * f[2](new_c)
        h, c = kept * new_h + (1 - kept) * h, kept * new_c + (1 - kept) * c
        for i, row in enumerate(rows):
            ys[row] = ys[row] or {}
            ys[row][i] = (kept * new_h)[i]
    return torch.stack([torch.stack([y[i] for i in range(len(lengths))]) for y in ys]), h, c


CASES = [
    *((op, direction, given, {}) for op in GATES for direction in ("forward", "reverse", "bidirectional")
      for given in ((), ("b", "h", "c"), ("b", "lengths"))),
    *((op, "bidirectional", ("b", "lengths", "h"), {}) for op in GATES),
    ("GRU", "forward", ("b", "h"), {"linear_before_reset": 1}),
    ("GRU", "bidirectional", ("lengths",), {"linear_before_reset": 1}),
    ("GRU", "forward", ("b",), {"activations": ["HardSigmoid", "Softsign"], "activation_alpha": [0.4],
                                "activation_beta": [0.6]}),
    ("RNN", "bidirectional", ("b",), {"activations": ["Relu", "Elu"], "activation_alpha": [0.3]}),
    ("RNN", "forward", ("b",), {"clip": 0.5}),
    ("LSTM", "forward", ("b", "p"), {}),
    ("LSTM", "bidirectional", ("b", "lengths", "h", "c", "p"), {}),
    ("LSTM", "forward", ("b",), {"input_forget": 1}),
    ("LSTM", "forward", ("b",), {"clip": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op_type", "direction", "given", "attributes"),
    CASES,
    ids=[f"{c[0]}-{c[1]}-{'-'.join([*c[2], *c[3]])}" for c in CASES],
)
@pytest.mark.parametrize("n_results", [1, 3])
@pytest.mark.parametrize("is_open", [False, True], ids=["written out", "scan"])
def test_gradients_are_those_of_the_formulas(
    op_type: str, direction: str, given: tuple[str, ...], attributes: dict[str, Any], n_results: int, is_open: bool
):
    given = given if op_type == "LSTM" else tuple(name for name in given if name not in "cp")
    feeds = operands(op_type, 2 if direction == "bidirectional" else 1, given)
    model = model_of(op_type, feeds, n_results, is_open=is_open, direction=direction, **attributes)
    got, seeds = gradients(model, feeds)
    leaves = {k: torch.tensor(v, requires_grad=v.dtype.kind == "f") for k, v in feeds.items()}
    values = dict(zip(RESULTS, written_out(op_type, leaves, direction, **attributes), strict=False))
    sum((values[k.removesuffix("_grad")] * torch.tensor(dy)).sum() for k, dy in seeds.items()).backward()
    for name in (k.removesuffix("_grad") for k in seeds):
        np.testing.assert_allclose(got[name], values[name].detach(), rtol=1e-4, atol=1e-5, err_msg=name)
    for name, leaf in leaves.items():
        if leaf.requires_grad:
            want = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            np.testing.assert_allclose(got[f"{name}_grad"], want, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("op_type", "order"), [("RNN", [0]), ("GRU", [1, 0, 2]), ("LSTM", [0, 2, 3, 1])])
@pytest.mark.parametrize("is_open", [False, True], ids=["written out", "scan"])
def test_gradients_are_those_of_torch_layers(op_type: str, order: list[int], is_open: bool):
    """PyTorch orders the gates r z n and i f g o; its GRU is the one with linear_before_reset."""
    layer = getattr(torch.nn, op_type)(F, H, bidirectional=True)
    x = torch.tensor(np.random.default_rng(0).standard_normal((T, N, F)).astype("f"), requires_grad=True)

    def onnx_order(parts: list[torch.Tensor]) -> torch.Tensor:
        ordered = []
        for part in parts:
            chunks = part.chunk(len(order))
            ordered.append(torch.cat([chunks[order.index(k)] if op_type != "LSTM" else chunks[[0, 3, 1, 2][k]]
                                      for k in range(len(order))]))  # fmt: skip
        return torch.stack(ordered)

    def grouped(kind: str, of: Any) -> torch.Tensor:
        return onnx_order([of(getattr(layer, f"{kind}_l0{end}")) for end in ("", "_reverse")])

    def weights(of: Any) -> dict[str, torch.Tensor]:
        b = torch.cat([grouped("bias_ih", of), grouped("bias_hh", of)], 1)
        return {"w": grouped("weight_ih", of), "r": grouped("weight_hh", of), "b": b}

    feeds = {"x": x.detach().numpy(), **{k: v.numpy() for k, v in weights(lambda p: p.detach()).items()}}
    attributes = {"linear_before_reset": 1} if op_type == "GRU" else {}
    model = model_of(op_type, feeds, 1, is_open=is_open, direction="bidirectional", **attributes)
    got, seeds = gradients(model, feeds)
    y = layer(x)[0].reshape(T, N, 2, H).permute(0, 2, 1, 3)
    y.backward(torch.tensor(seeds["y_grad"]))
    np.testing.assert_allclose(got["y"], y.detach(), rtol=1e-4, atol=1e-5)
    for name, want in {"x": x.grad, **weights(lambda p: p.grad)}.items():
        np.testing.assert_allclose(got[f"{name}_grad"], want, rtol=2e-4, atol=2e-5, err_msg=name)


def scans(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Scan" for node in vjp(model, inline=True).graph.node)


@pytest.mark.parametrize("op_type", GATES)
def test_many_steps_go_into_a_scan(op_type: str):
    """The cell of an LSTM is in no output, so that a Scan of its own finds it."""
    n = 2 if op_type == "LSTM" else 1
    x = np.zeros((UNROLLED, N, F), np.float32)
    feeds = operands(op_type, 1, ("b",))
    assert scans(model_of(op_type, {**feeds, "x": x})) == 0
    assert scans(model_of(op_type, {**feeds, "x": np.concatenate([x, x[:1]])})) == n
    assert scans(model_of(op_type, feeds, is_open=True)) == n


@pytest.mark.parametrize("op_type", GATES)
def test_one_trained_file_serves_sequences_of_all_lengths(op_type: str):
    feeds = operands(op_type, 1, ("b",))
    session, short = (Session(vjp(model_of(op_type, feeds, 1, is_open=is_open))) for is_open in (True, False))
    seeds = {"y_grad": np.random.default_rng(1).standard_normal((T, 1, N, H)).astype("f")}
    got, wanted = session({**feeds, **seeds}), short({**feeds, **seeds})
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    padded = {
        **feeds,
        "x": np.concatenate([feeds["x"], feeds["x"]]),
        "y_grad": np.pad(seeds["y_grad"], [(0, T), *[(0, 0)] * 3]),
    }
    longer = session(padded)
    np.testing.assert_allclose(longer["x_grad"][:T], wanted["x_grad"], rtol=1e-4, atol=1e-5)
    assert not longer["x_grad"][T:].any()


@pytest.mark.parametrize("op_type", GATES)
def test_gradient_through_a_scan_has_a_gradient(op_type: str):
    feeds = operands(op_type, 1, ("b",))
    product = with_free_names(vjp(model_of(op_type, feeds, 1, is_open=True), inline=True))
    dy = np.random.default_rng(0).standard_normal((T, 1, N, H)).astype("f")
    assert check_gradient(product, {**feeds, "d_y": dy}, n_cotangents=1).n_proved == 5


def test_size_of_the_states_must_be_known():
    model = model_of("RNN", operands("RNN", 1, ()), 1)
    model.graph.node[0].ClearField("attribute")
    for info in model.graph.input:
        info.type.tensor_type.ClearField("shape")
    with pytest.raises(GradientError) as error:
        vjp(model)
    assert str(error.value) == (
        "RNN: the gradient must know the size of the states, got r is float32[...]. Give the node its hidden_size."
    )
