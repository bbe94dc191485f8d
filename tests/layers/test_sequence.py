"""Recurrent layers, embeddings and attention against PyTorch."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import renom_onnx as rm
from renom_onnx.graph.element import static
from tests.layers.oracle import assert_close, check, normal

g = rm.graph
ORDER = {"Rnn": [0], "Lstm": [0, 2, 3, 1], "Gru": [1, 0, 2]}
"""Where torch's gates are in ONNX's order: i f g o in i o f c, r z n in z r h."""
ORACLE = {"Rnn": torch.rnn_tanh, "Lstm": torch.lstm, "Gru": torch.gru}


def recurrent(kind, units, *, return_sequences, bidirectional):
    """Return PyTorch's operator with the parameters in ONNX's layout."""

    def gates(v):
        parts = v.chunk(len(ORDER[kind]))
        return torch.cat([parts[i] for i in ORDER[kind]])

    def formula(p, x):
        flat = []
        n_directions = 2 if bidirectional else 1
        for d in range(n_directions):
            flat += [gates(p["w"][d]), gates(p["wr"][d]), *(gates(b) for b in p["b"][d].chunk(2))]
        h = torch.zeros(n_directions, x.shape[0], units)
        state = (h, h) if kind == "Lstm" else h
        y, h, *_ = ORACLE[kind](x, state, flat, True, 1, 0.0, True, bidirectional, True)
        return y if return_sequences else torch.cat(list(h), 1)

    return formula


@pytest.mark.parametrize("kind", ["Rnn", "Lstm", "Gru"])
@pytest.mark.parametrize("return_sequences", [False, True], ids=["last", "all"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
def test_recurrent_layer_is_that_of_torch(kind, return_sequences, bidirectional):
    options = dict(return_sequences=return_sequences, bidirectional=bidirectional)
    layer = getattr(g, kind)(4, **options)
    check(layer, [normal(3, 5, 2)], recurrent(kind, 4, **options))


def test_recurrent_layer_of_one_step_and_without_bias():
    layer = g.Lstm(4, bias=False)
    x = normal(3, 1, 2)
    assert layer(x).shape == ("N", 4)
    assert [name for name, p in layer.named_parameters() if p.trainable] == ["w", "wr"]
    check(g.Gru(2), [x], recurrent("Gru", 2, return_sequences=False, bidirectional=False))


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
def test_peephole_lstm_is_its_formula(bidirectional):
    def formula(p, x):
        ys = []
        for d in range(p["w"].shape[0]):
            h = c = torch.zeros(x.shape[0], 4)
            pi, po, pf = p["wc"][d].chunk(3)
            outputs = {}
            steps = range(x.shape[1]) if d == 0 else reversed(range(x.shape[1]))
            for t in steps:
                gates = x[:, t] @ p["w"][d].T + h @ p["wr"][d].T + sum(p["b"][d].chunk(2))
                i, o, f, new = gates.chunk(4, 1)
                i, f = torch.sigmoid(i + pi * c), torch.sigmoid(f + pf * c)
                c = f * c + i * torch.tanh(new)
                h = torch.sigmoid(o + po * c) * torch.tanh(c)
                outputs[t] = h
            ys.append(torch.stack([outputs[t] for t in range(x.shape[1])], 1))
        return torch.cat(ys, 2)

    layer = g.PeepholeLstm(4, return_sequences=True, bidirectional=bidirectional)
    check(layer, [normal(3, 5, 2)], formula)


def test_stacked_recurrent_layers_learn():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6, 1)).astype(np.float32)
    t = x.sum(1)
    model = g.Sequential([g.Lstm(8, return_sequences=True), g.Gru(8), g.Dense(1)])
    loss = g.MeanSquared()(model(x), t)
    first = loss.as_ndarray()
    optimizer = g.Adam(0.02)
    for _ in range(60):
        loss.backward().update(optimizer)
    assert loss.as_ndarray() < first / 5


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_embedding(shape, dtype):
    x = np.random.default_rng(0).integers(0, 7, shape).astype(dtype)
    check(g.Embedding(4, vocabulary=7), [x], lambda p, x: functional.embedding(x.long(), p["w"]))


def test_positional_embedding_is_learned_or_sinusoidal():
    check(g.PositionalEmbedding(), [normal(2, 5, 4)], lambda p, x: x + p["w"])
    check(g.PositionalEmbedding(9), [normal(2, 5, 4)], lambda p, x: x + p["w"][:5])
    t, i = np.mgrid[0:5, 0:4]
    angle = t / 10000 ** (i // 2 * 2 / 4)
    table = torch.tensor(np.where(i % 2, np.cos(angle), np.sin(angle)).astype(np.float32))
    check(g.PositionalEmbedding(sinusoidal=True), [normal(2, 5, 4)], lambda p, x: x + table)


def attention(heads, causal=False):
    def formula(p, query, key=None, value=None):
        key = query if key is None else key
        value = key if value is None else value
        bias = torch.cat([p["b_q"], p["b_k"], p["b_v"]])
        y, _ = functional.multi_head_attention_forward(
            query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1), query.shape[2], heads, None, bias, None,
            None, False, 0.0, p["w_o"].T, p["b_o"], use_separate_proj_weight=True, q_proj_weight=p["w_q"].T,
            k_proj_weight=p["w_k"].T, v_proj_weight=p["w_v"].T, need_weights=False, is_causal=False,
            attn_mask=torch.ones(query.shape[1], key.shape[1], dtype=torch.bool).triu(1) if causal else None,
        )  # fmt: skip
        return y.transpose(0, 1)

    return formula


@pytest.mark.parametrize("causal", [False, True])
def test_self_attention(causal):
    check(g.MultiHeadAttention(2, causal=causal), [normal(3, 5, 8)], attention(2, causal), tolerance=2e-5)


def test_cross_attention():
    query, key, value = normal(3, 5, 8), normal(3, 4, 6, seed=1), normal(3, 4, 7, seed=2)
    check(g.MultiHeadAttention(4), [query, key], attention(4), tolerance=2e-5)
    check(g.MultiHeadAttention(4), [query, key, value], attention(4), tolerance=2e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_a_length_that_only_the_run_knows(causal):
    x = static(normal(3, 5, 8), is_batch=True)
    x.output.shape = ("N", "T", 8)
    check(g.MultiHeadAttention(2, causal=causal), [x], attention(2, causal), tolerance=2e-5)


def test_decoder_of_any_length_infers_and_trains_from_one_file():
    tokens, following = (g.Placeholder((None, "T"), np.int64, name=name) for name in ("tokens", "following"))
    layers = [g.Embedding(8, 11), g.PositionalEmbedding(6), g.MultiHeadAttention(2, causal=True), g.Dense(11)]
    model = g.Sequential(layers)
    scores = g.transpose(model(tokens), (0, 2, 1))
    loss = g.SoftmaxCrossEntropy()(scores, following)
    file = rm.converters.to_training_onnx(loss, g.Sgd(0.1))
    assert rm.converters.lint(file) == []
    session = rm.runtime.TrainingSession(file, device="cpu")
    x = np.random.default_rng(0).integers(0, 11, (3, 6))
    whole = session.evaluate({"tokens": x})["output"]
    for length in (1, 4, 6):
        assert_close(session.evaluate({"tokens": x[:, :length]})["output"], whole[..., :length], f"{length} tokens")
        found = loss.feed(tokens, x[:, :length]).feed(following, x[:, -length:]).as_ndarray()
        assert_close(float(session.evaluate({"tokens": x[:, :length], "following": x[:, -length:]})["loss"]), found, "")
    for length in (6, 4, 6, 2):
        session.step({"tokens": x[:, :length], "following": x[:, -length:]})
    assert np.isfinite(session.read("positional_embedding1.w")).all()


def test_attention_of_each_query_has_a_mask_of_its_own():
    query, key = normal(3, 5, 8), normal(3, 4, 6, seed=1)
    mask = np.random.default_rng(2).random((3, 5, 4)) < 0.6
    mask[..., 0] = True

    def formula(p, q, k, is_seen):
        def heads(x, name):
            return (x @ p[f"w_{name}"] + p[f"b_{name}"]).unflatten(2, (2, 4)).transpose(1, 2)

        y = functional.scaled_dot_product_attention(
            heads(q, "q"), heads(k, "k"), heads(k, "v"), attn_mask=is_seen.bool()[:, None]
        )
        return y.transpose(1, 2).flatten(2) @ p["w_o"] + p["b_o"]

    layer = g.MultiHeadAttention(2)
    y = layer(query, key, None, mask)
    wanted = formula(
        {n: torch.tensor(p.array) for n, p in layer.named_parameters()}, *map(torch.tensor, (query, key, mask))
    )
    assert_close(y.as_ndarray(), wanted, "value", 2e-5)
    assert_close(layer(query, key, mask=mask.astype(np.int64)).as_ndarray(), wanted, "numbers, by name", 2e-5)


def test_attention_drops_shares_in_training_only():
    x = normal(3, 5, 8)
    layer, plain = g.MultiHeadAttention(2, dropout_rate=0.5), g.MultiHeadAttention(2)
    y, _ = layer(x), plain(x)
    for (_, p), (_, q) in zip(layer.named_parameters(), plain.named_parameters(), strict=True):
        q.array = p.array
    assert_close(y.as_ndarray(), plain(x).as_ndarray(), "inference")
    file = rm.converters.to_training_onnx(g.ConstantLoss()(y * x), g.Sgd(0.0))
    session = rm.runtime.TrainingSession(file, device="cpu")
    assert len({float(session.step({"x": x})) for _ in range(4)}) == 4
    with pytest.raises(rm.ShapeError, match=r"^Dropout: the rate must be in \[0, 1\), got 1.5"):
        g.MultiHeadAttention(2, dropout_rate=1.5)


def test_mask_of_attention_has_two_or_three_axes(message):
    text = "MultiHeadAttention: mask must have 2 axes, (N, S), or 3, (N, T, S), got mask is bool[N]."
    with message(rm.ShapeError, text + " Created at test_sequence.py:{line}."):
        g.MultiHeadAttention(2)(normal(2, 3, 4), mask=np.ones(2, bool))


def test_positions_of_a_length_that_only_the_run_knows():
    x = static(normal(2, 5, 4), is_batch=True)
    x.output.shape = ("N", "T", 4)
    check(g.PositionalEmbedding(9), [x], lambda p, x: x + p["w"][:5])
    found, wanted = (g.PositionalEmbedding(n, sinusoidal=True) for n in (9, None))
    assert_close(found(x).as_ndarray(), wanted(normal(2, 5, 4)).as_ndarray(), "sinusoidal")


def test_masked_attention_does_not_see_the_masked_keys():
    x, mask = normal(3, 5, 8), np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0]])
    layer = g.MultiHeadAttention(2)
    y = layer(x, x, x, mask).as_ndarray()
    assert_close(layer(x, x, x, mask.astype(bool)).as_ndarray(), y, "booleans")
    assert_close(layer(x[1:2], x[1:2, :2]).as_ndarray(), y[1:2], "the keys that are seen alone")
    assert_close(layer(x[2:], x[2:, 2:4]).as_ndarray(), y[2:], "the keys that are seen alone")


@pytest.mark.parametrize("kind", [g.Rnn, g.Gru, g.Lstm])
def test_training_does_not_need_a_known_length(kind: type[g.Rnn]):
    x, layer = normal(2, 5, 3), kind(4, bidirectional=True)
    found = []
    for sizes in (("N", 5, 3), ("N", "T", 3)):
        steps = rm.graph.StaticVariable(x)
        steps.output.shape = sizes
        loss = g.ConstantLoss()(layer(steps) ** 2)
        loss.backward()
        found.append([loss.get_gradient(parameter).as_ndarray() for parameter in layer.params.values()])
    for known, open_ in zip(*found, strict=True):
        assert_close(open_, known, "gradient")


def test_input_of_recurrent_layer_gets_a_gradient_through_both_directions():
    x = static(normal(2, 3, 2), is_batch=True)
    loss = g.ConstantLoss()(g.Lstm(2, bidirectional=True)(x))
    assert_close(loss.backward().get_gradient(x).as_ndarray().shape, (2, 3, 2), "shape")
