"""JAX: loss, gradient and update in one jitted function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.contenders.weights import read
from benchmarks.workloads import RATES, Step, Workload


def jax(workload: Workload, folder: Path, threads: int) -> Step:
    """One step is one call."""
    import jax as j
    import jax.numpy as jnp

    forward, rate = workload.jax, RATES[workload.optimizer]
    parameters = {name: jnp.asarray(a) for name, a in read(folder / f"{workload.name}.train.onnx").items()}

    def loss(p: Any, x: Any, y: Any) -> Any:
        scores = forward(p, x)
        return -jnp.take_along_axis(j.nn.log_softmax(scores), y.reshape(-1, 1), 1).mean()

    def sgd(p: Any, g: Any, state: Any) -> Any:
        return j.tree.map(lambda p, g: p - rate * g, p, g), state

    def adam(p: Any, g: Any, state: Any) -> Any:
        m, v, t = state
        t = t + 1
        m = j.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = j.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        size, scale = rate / (1 - 0.9**t), j.lax.rsqrt(1 - 0.999**t)
        p = j.tree.map(lambda p, m, v: p - size * m / (jnp.sqrt(v) * scale + 1e-8), p, m, v)
        return p, (m, v, t)

    update = sgd if workload.optimizer == "sgd" else adam
    zeros = j.tree.map(jnp.zeros_like, parameters)

    @j.jit
    def step(p: Any, state: Any, x: Any, y: Any) -> Any:
        value, g = j.value_and_grad(loss)(p, x, y)
        return value, *update(p, g, state)

    held = [parameters, (zeros, zeros, jnp.zeros(()))]

    def take(rows: Any, labels: Any) -> float:
        value, *held[:] = step(*held, rows, labels)
        return float(value)

    return take
