"""Random programs: one list of instructions, run on elements, on NumPy (values) and on PyTorch (gradients).

A program works on a growing pool of values; an instruction names positions in it, modulo its length. Bounds of the
values are kept from the start, so that nothing overflows: a value that could become large goes through tanh.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

import renom_onnx as rm

g = rm.graph

SHAPES = ((), (1,), (3,), (1, 3), (2, 1), (2, 3))
DTYPES = ("int32", "int64", "float32", "float64")
N_DENSE = 2
LARGEST = 200.0


@dataclass(frozen=True)
class Instruction:
    """A name of `OPERATIONS` and the positions of its operands."""

    name: str
    a: int
    b: int


@dataclass(frozen=True)
class Program:
    """Leaves as (dtype, shape), instructions, and which of the values at the end are roots."""

    leaves: tuple[tuple[str, tuple[int, ...]], ...]
    instructions: tuple[Instruction, ...]
    n_roots: int
    seed: int

    def arrays(self) -> list[np.ndarray]:
        """Return the values of the leaves: small, and away from the kinks of abs and relu."""
        rng = np.random.default_rng(self.seed)
        signs = (rng.choice([-1, 1], shape) for _, shape in self.leaves)
        sizes = (
            rng.integers(1, 3, shape) if d.startswith("int") else rng.uniform(0.3, 2, shape) for d, shape in self.leaves
        )
        return [(sign * size).astype(d) for sign, size, (d, _) in zip(signs, sizes, self.leaves, strict=True)]


@dataclass
class Library:
    """What one of the three sides calls."""

    unary: dict[str, Callable[[Any], Any]]
    sum: Callable[..., Any]
    mean: Callable[..., Any]
    reshape: Callable[[Any, tuple[int, ...]], Any]
    transpose: Callable[[Any], Any]
    concatenate: Callable[[list[Any]], Any]
    dense: Callable[[int, Any], Any]


@dataclass
class Run:
    """The values of a program on one side."""

    leaves: list[Any]
    pool: list[Any] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)


def number(apply: Callable[[Any], Any], bound: Callable[[float], float]) -> Any:
    return lambda lib, a, b: apply(a), lambda a, b: bound(a)


# name: (what is called, bound of the result); all take two operands.
OPERATIONS: dict[str, tuple[Callable[[Library, Any, Any], Any], Callable[[float, float], float]]] = {
    "add": (lambda lib, a, b: a + b, lambda a, b: a + b),
    "subtract": (lambda lib, a, b: a - b, lambda a, b: a + b),
    "multiply": (lambda lib, a, b: a * b, lambda a, b: a * b),
    "divide": (lambda lib, a, b: a / (b * b + 1), lambda a, b: a),
    "add a number": number(lambda a: a + 2, lambda a: a + 2),
    "a number minus": number(lambda a: 1.5 - a, lambda a: a + 1.5),
    "a number over": number(lambda a: 3 / (a * a + 1), lambda a: 3),
    "times a number": number(lambda a: 2 * a, lambda a: 2 * a),
    "square": number(lambda a: a**2, lambda a: a * a),
    "negative": number(lambda a: -a, lambda a: a),
    "absolute": number(abs, lambda a: a),
    "tanh": (lambda lib, a, b: lib.unary["tanh"](a), lambda a, b: 1),
    "exp of tanh": (lambda lib, a, b: lib.unary["exp"](lib.unary["tanh"](a)), lambda a, b: 3),
    "sigmoid": (lambda lib, a, b: lib.unary["sigmoid"](a), lambda a, b: 1),
    "relu": (lambda lib, a, b: lib.unary["relu"](a), lambda a, b: a),
    "stop": (lambda lib, a, b: lib.unary["stop"](a) + b, lambda a, b: a + b),
    "sum": (lambda lib, a, b: lib.sum(a), lambda a, b: 6 * a),
    "sum of the last axis": (lambda lib, a, b: lib.sum(a, -1, True) if a.shape else a, lambda a, b: 3 * a),
    "mean of the first axis": (lambda lib, a, b: lib.mean(a, 0) if a.shape else a, lambda a, b: a),
    "flat": (lambda lib, a, b: lib.reshape(a, (-1,)), lambda a, b: a),
    "column": (lambda lib, a, b: lib.reshape(a, (-1, 1)), lambda a, b: a),
    "matmul": (lambda lib, a, b: a @ lib.transpose(a) if len(a.shape) == 2 else a, lambda a, b: 3 * a * a),
    "twice": (lambda lib, a, b: lib.concatenate([a, a]) if a.shape == (3,) else a, lambda a, b: a),
    "dense 0": (lambda lib, a, b: lib.dense(0, a) if a.shape in {(1, 3), (2, 3)} else a, lambda a, b: 3 * a),
    "dense 1": (lambda lib, a, b: lib.dense(1, a) if a.shape in {(1, 3), (2, 3)} else a, lambda a, b: 3 * a),
}
"""Dense weights are below 1 in size, so that 3 inputs give at most three times the bound."""


def programs() -> st.SearchStrategy[Program]:
    """Draw programs with at least one float leaf."""
    leaf = st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES))
    first = st.tuples(st.sampled_from(["float32", "float64"]), st.just((2, 3)))
    instruction = st.builds(Instruction, st.sampled_from(sorted(OPERATIONS)), st.integers(0, 20), st.integers(0, 20))
    return st.builds(
        lambda a, rest, instructions, n_roots, seed: Program((a, *rest), tuple(instructions), n_roots, seed),
        first,
        st.lists(leaf, min_size=1, max_size=3),
        st.lists(instruction, min_size=4, max_size=14),
        st.integers(1, 3),
        st.integers(0, 99),
    )


def run(program: Program, library: Library, leaves: list[Any]) -> list[Any]:
    """Return the values of the roots: the last results, each a value of its own that is no leaf."""
    pool, bounds = list(leaves), [2.0] * len(leaves)
    for step in program.instructions:
        apply, bound_of = OPERATIONS[step.name]
        i, j = step.a % len(pool), step.b % len(pool)
        a, b = pool[i], pool[j]
        if not broadcast(a.shape, b.shape):
            j, b = i, a
        bound = bound_of(bounds[i], bounds[j])
        result = apply(library, a, b)
        if bound > LARGEST:
            result, bound = library.unary["tanh"](result / 64), 1.0
        pool.append(result)
        bounds.append(bound)
    known = {id(leaf) for leaf in leaves}
    results = list({id(value): value for value in pool[::-1] if id(value) not in known}.values())
    return results[: program.n_roots] or [leaves[0] + leaves[0]]  # where no instruction did anything


def broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        return False
    return True


def weights(layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Return w and b of a Dense layer, away from zero."""
    rng = np.random.default_rng(layer)
    return rng.uniform(-1, 1, (3, 3)).astype(np.float32), rng.uniform(-1, 1, (1, 3)).astype(np.float32)


class Given(rm.utility.initializer.Initializer):
    """The weights above."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def draw(self, shape, rng):
        return weights(self.layer)[0]


def elements(program: Program) -> tuple[list[Any], list[Any], list[Any]]:
    """Return roots, leaves and layers: the Dense ones and a Relu."""
    layers: list[Any] = [*(g.Dense(3, initializer=Given(i)) for i in range(N_DENSE)), g.Relu()]

    def dense(i, x):
        if not layers[i].params:
            layers[i].parameter("w", (3, 3), layers[i].initializer)
            layers[i].parameter("b", (1, 3), _Bias(i))
        return layers[i](x)

    library = Library(
        unary={"tanh": g.tanh, "exp": g.exp, "sigmoid": g.sigmoid, "relu": layers[-1], "stop": g.stop_gradient},
        sum=g.sum,
        mean=g.mean,
        reshape=g.reshape,
        transpose=g.transpose,
        concatenate=g.concatenate,
        dense=dense,
    )
    leaves = [g.StaticVariable(array) for array in program.arrays()]
    return run(program, library, leaves), leaves, layers


class _Bias(Given):
    def draw(self, shape, rng):
        return weights(self.layer)[1]


def numpys(program: Program) -> list[np.ndarray]:
    """Return the roots as NumPy computes them; layers compute in float32."""

    def dense(i, x):
        w, b = weights(i)
        return x.astype(np.float32) @ w + b

    library = Library(
        unary={
            "tanh": np.tanh,
            "exp": np.exp,
            "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
            "relu": lambda x: np.maximum(x.astype(np.float32), 0),
            "stop": np.positive,
        },
        sum=lambda x, axis=None, keepdims=False: np.sum(x, axis=axis, keepdims=keepdims),
        mean=lambda x, axis: np.mean(x, axis=axis),
        reshape=np.reshape,
        transpose=np.transpose,
        concatenate=np.concatenate,
        dense=dense,
    )
    return [np.asarray(root) for root in run(program, library, program.arrays())]


def torchs(program: Program) -> tuple[list[torch.Tensor], list[torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return roots, leaves and Dense weights as PyTorch computes them in float64, integers too."""

    def variable(array):
        return torch.tensor(array, dtype=torch.float64, requires_grad=True)

    parameters = [(variable(w), variable(b)) for w, b in map(weights, range(N_DENSE))]
    library = Library(
        unary={
            "tanh": torch.tanh,
            "exp": torch.exp,
            "sigmoid": torch.sigmoid,
            "relu": torch.relu,
            "stop": torch.detach,
        },
        sum=lambda x, axis=None, keepdims=False: x.sum() if axis is None else x.sum(axis, keepdims),
        mean=lambda x, axis: x.mean(axis),
        reshape=torch.reshape,
        transpose=lambda x: x.permute(*reversed(range(x.ndim))),
        concatenate=torch.cat,
        dense=lambda i, x: x @ parameters[i][0] + parameters[i][1],
    )
    leaves = [variable(array) for array in program.arrays()]
    return run(program, library, leaves), leaves, parameters
