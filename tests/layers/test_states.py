"""Recurrent layers with sequence lengths, first states and last states, against PyTorch's packed sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import renom_onnx as rm
from renom_onnx.graph.element import static
from tests.layers.oracle import assert_close, check, normal
from tests.layers.test_sequence import ORDER
from tests.messages import Cases, message_of

g = rm.graph
LENGTHS = np.array([3, 5, 1])
MODULES = {"Rnn": torch.nn.RNN, "Lstm": torch.nn.LSTM, "Gru": torch.nn.GRU}


def by_torch(kind: str, p: Any, x: Any, lengths: Any, h: Any, c: Any, *, bidirectional: bool) -> tuple[Any, ...]:
    """Return y (N, T, D H), h and c (N, D H) by PyTorch's module with the parameters in ONNX's layout."""
    n_directions, units = (2 if bidirectional else 1), p["wr"].shape[2]
    module = MODULES[kind](x.shape[2], units, batch_first=True, bidirectional=bidirectional)

    def gates(v: Any) -> Any:
        parts = v.chunk(len(ORDER[kind]))
        return torch.cat([parts[i] for i in ORDER[kind]])

    weights = {}
    for d in range(n_directions):
        end = "_reverse" if d else ""
        values = (gates(p["w"][d]), gates(p["wr"][d]), *(gates(b) for b in p["b"][d].chunk(2)))
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        weights.update({name + end: value for name, value in zip(names, values, strict=True)})
    if lengths is not None:
        x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    n = LENGTHS.size
    h, c = (
        torch.zeros(n_directions, n, units) if s is None else s.reshape(n, n_directions, units).permute(1, 0, 2)
        for s in (h, c)
    )
    state = (h, c) if kind == "Lstm" else h
    y, states = torch.func.functional_call(module, weights, (x, state))
    if lengths is not None:
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=5)
    states = states if kind == "Lstm" else (states,)
    return y, *(torch.cat(list(s), 1) for s in states)


CASES = [
    # kind, what is given of lengths, h and c, both ways, y of every step
    ("Rnn", "lengths", False, True),
    ("Rnn", "lengths h", True, False),
    ("Gru", "lengths", False, False),
    ("Gru", "lengths h", True, True),
    ("Gru", "h", False, True),
    ("Lstm", "lengths", True, False),
    ("Lstm", "h", False, False),
    ("Lstm", "c", False, True),
    ("Lstm", "lengths h c", False, True),
    ("Lstm", "lengths h c", True, True),
]


@pytest.mark.parametrize(
    ("kind", "given", "bidirectional", "return_sequences"),
    CASES,
    ids=[f"{k} {given}{' both ways' * b}{' all' * r}" for k, given, b, r in CASES],
)
def test_lengths_and_first_states_are_those_of_torch(
    kind: str, given: str, bidirectional: bool, return_sequences: bool
):
    size = 8 if bidirectional else 4
    inputs = [normal(3, 5, 2), LENGTHS, normal(3, size, seed=1), normal(3, size, seed=2)]
    used = [True, *(name in given.split() for name in ("lengths", "h", "c"))]
    layer = getattr(g, kind)(4, return_sequences=return_sequences, bidirectional=bidirectional)

    class Chosen(g.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner = layer

        def forward(self, *xs: Any) -> Any:
            rest = iter(xs)
            return self.inner(*[next(rest) if is_used else None for is_used in used[: 4 if used[3] else 3]])

    def formula(p: Any, *xs: Any) -> Any:
        rest = iter(xs)
        operands = [next(rest) if is_used else None for is_used in used]
        names = {name.removeprefix("inner."): value for name, value in p.items()}
        y, h, *_ = by_torch(kind, names, *operands, bidirectional=bidirectional)
        return y if return_sequences else h

    check(Chosen(), [x for x, is_used in zip(inputs, used, strict=True) if is_used], formula)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
@pytest.mark.parametrize("return_sequences", [False, True], ids=["last", "all"])
@pytest.mark.parametrize("kind", MODULES)
def test_the_last_states_are_returned(kind: str, return_sequences: bool, bidirectional: bool):
    options = dict(return_sequences=return_sequences, bidirectional=bidirectional)
    layer = getattr(g, kind)(4, return_states=True, **options)
    x = normal(3, 5, 2)
    found = [element.as_ndarray() for element in layer(x, lengths=LENGTHS)]
    p = {name: torch.tensor(value.array) for name, value in layer.named_parameters()}
    y, *states = by_torch(kind, p, torch.tensor(x), LENGTHS, None, None, bidirectional=bidirectional)
    assert len(found) == 1 + len(states) == (3 if kind == "Lstm" else 2)
    for name, value, expected in zip("yhc", found, [y if return_sequences else states[0], *states], strict=False):
        assert_close(value, expected.detach(), name)


@pytest.mark.parametrize("kind", [*MODULES, "PeepholeLstm"])
def test_two_halves_joined_by_the_states_are_the_whole(kind: str):
    layer = getattr(g, kind)(4, return_sequences=True, return_states=True)
    source = static(normal(3, 6, 2), is_batch=True)
    whole, *ends = layer(source)
    first, *states = layer(source[:, :4])
    second, *others = layer(source[:, 4:], None, *states)
    joined = g.concatenate([first, second], axis=1)
    for a, b in zip([whole, *ends], [joined, *others], strict=True):
        np.testing.assert_allclose(a.as_ndarray(), b.as_ndarray(), rtol=1e-5, atol=1e-6)
    gradients = [
        loss.backward().get_gradient(handle).as_ndarray()
        for handle in (source, layer.params["wr"])
        for loss in (g.square(whole).sum(), g.square(joined).sum())
    ]
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradients[2], gradients[3], rtol=1e-4, atol=1e-5)


def test_a_peephole_lstm_takes_lengths():
    layer = g.PeepholeLstm(4, return_sequences=True)
    x = normal(3, 5, 2)
    y = layer(x, LENGTHS).as_ndarray()
    for row, length in enumerate(LENGTHS):
        assert_close(y[row : row + 1, :length], layer(x[row : row + 1, :length]).as_ndarray(), f"row {row}")
        assert not y[row, length:].any()


def test_an_activation_is_of_the_output_alone():
    layer = g.Gru(4, return_states=True, activation="relu")
    y, h = (element.as_ndarray() for element in layer(normal(3, 5, 2)))
    np.testing.assert_array_equal(y, np.maximum(h, 0))
    assert h.min() < 0


X, AT = normal(3, 5, 2), "{created}"
ERRORS: Cases = {
    "axes of lengths": (
        lambda: g.Gru(4)(X, LENGTHS[:, None]),
        rm.ShapeError,
        f"Gru: lengths must have one axis, (N,), got lengths is int64[N, 1]. {AT}",
    ),
    "type of lengths": (
        lambda: g.Gru(4)(X, LENGTHS * 1.0),
        rm.DTypeError,
        f"Gru: lengths must be integers, got lengths is float64[N]. Convert it with astype('int64'). {AT}",
    ),
    "size of h": (
        lambda: g.Gru(4, bidirectional=True)(X, h=normal(3, 4)),
        rm.ShapeError,
        f"Gru: h must have 2 axes, (N, D H) with D H = 8, got h is float32[N, 4]. {AT}",
    ),
    "axes of c": (
        lambda: g.Lstm(4)(X, c=normal(1, 3, 4)),
        rm.ShapeError,
        f"Lstm: c must have 2 axes, (N, D H) with D H = 4, got c is float32[N, 3, 4]. {AT}",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_says_rule_and_what_was_got(call: Callable[[], Any], kind: Any, message: str):
    assert message_of(call, kind) == message


def test_only_an_lstm_has_a_cell():
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        g.Gru(4)(X, c=normal(3, 4))
