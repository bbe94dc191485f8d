"""The layers that the workloads need, in JAX, on parameters by our names and in our layouts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

relu, gelu = jax.nn.relu, lambda x: jax.nn.gelu(x, approximate=False)


def clip(x: Any, limit: float) -> Any:
    return jnp.clip(x, 0, limit)


def dense(p: Any, name: str, x: Any) -> Any:
    return x @ p[f"{name}.w"] + p[f"{name}.b"]


def conv(p: Any, name: str, x: Any, padding: int = 0, stride: int = 1, groups: int = 1) -> Any:
    pads = [(padding, padding)] * 2
    y = jax.lax.conv_general_dilated(x, p[f"{name}.w"], (stride, stride), pads, feature_group_count=groups)
    bias = p.get(f"{name}.b")
    return y if bias is None else y + bias[:, None, None]


def conv_transpose(p: Any, name: str, x: Any, stride: int) -> Any:
    w = jnp.flip(p[f"{name}.w"], (2, 3))
    y = jax.lax.conv_transpose(x, w, (stride, stride), "VALID", dimension_numbers=("NCHW", "IOHW", "NCHW"))
    return y + p[f"{name}.b"][:, None, None]


def max_pool(x: Any, size: int) -> Any:
    window = (1, 1, size, size)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


def global_average(x: Any) -> Any:
    return x.mean((2, 3))


def batch_norm(p: Any, name: str, x: Any) -> Any:
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    normalized = (x - mean) / jnp.sqrt(var + 1e-5)
    return normalized * p[f"{name}.w"][:, None, None] + p[f"{name}.b"][:, None, None]


def layer_norm(p: Any, name: str, x: Any) -> Any:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5) * p[f"{name}.g"] + p[f"{name}.b"]


def attention(p: Any, name: str, x: Any, heads: int, causal: bool) -> Any:
    n, length, size = x.shape
    q, k, v = ((x @ p[f"{name}.w_{i}"] + p[f"{name}.b_{i}"]).reshape(n, length, heads, -1) for i in "qkv")
    y = jax.nn.dot_product_attention(q, k, v, is_causal=causal).reshape(n, length, size)
    return y @ p[f"{name}.w_o"] + p[f"{name}.b_o"]


def lstm(p: Any, name: str, x: Any) -> Any:
    w, wr, (b, b_recurrent) = p[f"{name}.w"][0], p[f"{name}.wr"][0], p[f"{name}.b"][0].reshape(2, -1)
    gates = jnp.swapaxes(x @ w.T + b + b_recurrent, 0, 1)
    zeros = jnp.zeros((x.shape[0], wr.shape[1]))

    def step(state: Any, a: Any) -> Any:
        h, c = state
        i, o, f, g = jnp.split(a + h @ wr.T, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), None

    return jax.lax.scan(step, (zeros, zeros), gates)[0][0]
