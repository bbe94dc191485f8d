"""Networks on sequences: an LSTM, a transformer block, a decoder of the GPT kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.workloads.workload import Array, Workload

SIZE, HEADS, LENGTH, VOCABULARY = 128, 4, 64, 256


def sequences(length: int, size: int) -> Any:
    def data(rng: np.random.Generator, rows: int) -> tuple[Array, Array]:
        return rng.normal(size=(rows, length, size)).astype(np.float32), rng.integers(0, 10, rows)

    return data


def tokens(rng: np.random.Generator, rows: int) -> tuple[Array, Array]:
    text = rng.integers(0, VOCABULARY, (rows, LENGTH + 1))
    return text[:, :-1].copy(), text[:, 1:].copy()


def lstm() -> Any:
    from renom_onnx import graph as g

    return g.Sequential([g.Lstm(128), g.Dense(10)])


def torch_lstm(t: Any) -> Any:
    class Lstm(t.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = t.nn.LSTM(28, 128, batch_first=True), t.nn.Linear(128, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(x)[0][:, -1])

    return Lstm()


def jax_lstm(p: Any, x: Any) -> Any:
    from benchmarks.contenders.jax_layers import dense, lstm

    return dense(p, "dense1", lstm(p, "lstm1", x))


def block(causal: bool) -> Any:
    from renom_onnx import graph as g

    class Block(g.Model):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.attention = g.LayerNormalize(), g.MultiHeadAttention(HEADS, causal=causal)
            self.norm2, self.wide, self.narrow = g.LayerNormalize(), g.Dense(4 * SIZE), g.Dense(SIZE)

        def forward(self, x: Any) -> Any:
            x = x + self.attention(self.norm1(x))
            return x + self.narrow(g.gelu(self.wide(self.norm2(x))))

    return Block()


def torch_block(t: Any, causal: bool) -> Any:
    n = t.nn

    class Block(n.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm1 = n.LayerNorm(SIZE)
            self.q, self.k, self.v, self.o = (n.Linear(SIZE, SIZE) for _ in range(4))
            self.norm2, self.wide, self.narrow = n.LayerNorm(SIZE), n.Linear(SIZE, 4 * SIZE), n.Linear(4 * SIZE, SIZE)

        def heads(self, x: Any) -> Any:
            return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)

        def forward(self, x: Any) -> Any:
            y = self.norm1(x)
            q, k, v = (self.heads(f(y)) for f in (self.q, self.k, self.v))
            y = n.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
            x = x + self.o(y.transpose(1, 2).reshape(x.shape))
            return x + self.narrow(n.functional.gelu(self.wide(self.norm2(x))))

    return Block()


def jax_block(p: Any, name: str, x: Any, causal: bool) -> Any:
    from benchmarks.contenders.jax_layers import attention, dense, gelu, layer_norm

    x = x + attention(p, f"{name}.attention", layer_norm(p, f"{name}.norm1", x), HEADS, causal)
    return x + dense(p, f"{name}.narrow", gelu(dense(p, f"{name}.wide", layer_norm(p, f"{name}.norm2", x))))


def transformer() -> Any:
    from renom_onnx import graph as g

    class Classifier(g.Model):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = block(causal=False), g.Dense(10)

        def forward(self, x: Any) -> Any:
            return self.head(self.block(x).mean(axis=1))

    return Classifier()


def torch_transformer(t: Any) -> Any:
    class Classifier(t.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = torch_block(t, causal=False), t.nn.Linear(SIZE, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.block(x).mean(1))

    return Classifier()


def jax_transformer(p: Any, x: Any) -> Any:
    from benchmarks.contenders.jax_layers import dense

    return dense(p, "head", jax_block(p, "block", x, causal=False).mean(1))


def decoder(depth: int = 2) -> Any:
    from renom_onnx import graph as g

    class Decoder(g.Model):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.position = g.Embedding(SIZE, VOCABULARY), g.PositionalEmbedding()
            self.blocks = [block(causal=True) for _ in range(depth)]
            self.norm, self.head = g.LayerNormalize(), g.Dense(VOCABULARY)

        def forward(self, x: Any) -> Any:
            x = self.position(self.embed(x))
            for each in self.blocks:
                x = each(x)
            return self.head(self.norm(x))

    return Decoder()


def torch_decoder(t: Any) -> Any:
    n = t.nn

    class Decoder(n.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.position = n.Embedding(VOCABULARY, SIZE), n.Embedding(LENGTH, SIZE)
            self.blocks = n.ModuleList([torch_block(t, causal=True) for _ in range(2)])
            self.norm, self.head = n.LayerNorm(SIZE), n.Linear(SIZE, VOCABULARY)

        def forward(self, x: Any) -> Any:
            x = self.embed(x) + self.position.weight
            for each in self.blocks:
                x = each(x)
            return self.head(self.norm(x)).flatten(0, 1)

    return Decoder()


def jax_decoder(p: Any, x: Any) -> Any:
    from benchmarks.contenders.jax_layers import dense, layer_norm

    x = p["embed.w"][x] + p["position.w"]
    for i in range(2):
        x = jax_block(p, f"blocks.{i}", x, causal=True)
    return dense(p, "head", layer_norm(p, "norm", x)).reshape(-1, VOCABULARY)


WORKLOADS = [
    Workload("lstm", 64, "sgd", sequences(28, 28), lstm, torch_lstm, jax_lstm, steps=40),
    Workload(
        "transformer", 16, "sgd", sequences(LENGTH, SIZE), transformer, torch_transformer, jax_transformer, steps=30
    ),
    Workload("decoder", 8, "adam", tokens, decoder, torch_decoder, jax_decoder, steps=20),
]
