"""Numbers that products multiply: the numbers of the portable step, and the passes that are no longer there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.inliner import inline_local_functions as inline

import renom_onnx as rm
from renom_onnx.converters.cpu.fast_form import with_fast_forms
from renom_onnx.converters.cpu.fusible import with_fusible_nodes
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.cpu.scaled_product import with_scaled_products
from renom_onnx.converters.training_info import training_step
from tests.converters.test_blocked import run

g = rm.graph
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: g.Sgd(1.0),
    "momentum": lambda: g.Sgd(1.0, momentum=0.5),
    "adam": lambda: g.Adam(0.1),
}


class Skipping(g.Model):
    """What comes before or behind Gelu is read by a sum, too."""

    def __init__(self, *, before: bool) -> None:
        super().__init__()
        self.before, self.wide, self.narrow = before, g.Dense(5), g.Dense(3)

    def forward(self, x: Any) -> Any:
        x = self.wide(x)
        y = g.gelu(x)
        return self.narrow(y) + (x if self.before else y).mean(axis=-1, keepdims=True)


def step_of(
    layer: Any, shape: tuple[int, ...] = (4, 6, 7), optimizer: str = "sgd"
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return a step with its calls written out, and what it is given."""
    rng = np.random.default_rng(0)
    x, t = (rng.standard_normal((*shape[:-1], n)).astype(np.float32) for n in (shape[-1], 3))
    loss = g.MeanSquared()(layer(x), t)
    step = training_step(rm.converters.to_training_onnx(loss, OPTIMIZERS[optimizer]()))
    names = [i.name for i in step.model.graph.input if i.name not in {**step.state, **step.optional}]
    state = {name: np.asarray(a + rng.random(a.shape), a.dtype) for name, a in step.state.items()}
    given = {**state, **step.optional, **dict(zip(names, (x, t), strict=True))}
    fusible = with_fusible_nodes(step.model, KnownShapes(step.model, {"N": shape[0]}))
    return inline(fusible), given


def mlp(*between: Any) -> Any:
    rm.set_seed(0)
    return g.Sequential([g.Dense(5), g.Gelu(), *between, g.Dense(3)])


def scaled(model: onnx.ModelProto, n: int = 4) -> onnx.ModelProto:
    return with_scaled_products(model, KnownShapes(model, {"N": n}))


def assert_alike(model: onnx.ModelProto, changed: onnx.ModelProto, given: dict[str, Any]) -> None:
    for info, a, b in zip(model.graph.output, run(model, given), run(changed, given), strict=True):
        np.testing.assert_allclose(b, a, rtol=5e-6, atol=2e-6, err_msg=info.name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("shape", [(4, 6, 7), (4, 7), (4, 2, 3, 7)], ids=["sequences", "rows", "images of rows"])
def test_a_step_has_the_numbers_of_the_portable_one(shape: tuple[int, ...], optimizer: str):
    model, given = step_of(mlp(), shape, optimizer)
    changed = scaled(model)
    assert_alike(model, changed, given)
    assert_alike(model, with_fast_forms(model, KnownShapes(model, {"N": 4})), given)
    factors = sorted(a.f for n in changed.graph.node if n.op_type == "Gemm" for a in n.attribute if a.name == "alpha")
    assert [f for f in factors if f != 1] == pytest.approx([0.5**0.5] * 3)  # forward twice, and the second weight


def test_gelu_takes_no_pass_for_its_numbers():
    model, _ = step_of(mlp())
    changed = scaled(model)
    muls = [sum(n.op_type == "Mul" for n in m.graph.node) for m in (model, changed)]
    assert muls[0] - muls[1] == 3 - 1  # by 1/sqrt 2 twice, and by 1/2; a bias is scaled


@pytest.mark.parametrize(("layer", "factors"), [
    (lambda: mlp(g.Tanh()), 1),
    (lambda: Skipping(before=False), 1),
    (lambda: Skipping(before=True), 2),
    (lambda: g.Sequential([g.Tanh(), g.Gelu(), g.Dense(3)]), 2),
], ids=["other reader behind", "two readers behind", "two readers before", "no product before"])  # fmt: skip
def test_only_what_others_do_not_read_is_scaled(layer: Callable[[], Any], factors: int):
    model, given = step_of(layer())
    changed = scaled(model)
    assert_alike(model, changed, given)
    alphas = [a.f for n in changed.graph.node if n.op_type == "Gemm" for a in n.attribute if a.name == "alpha"]
    assert sum(f != 1 for f in alphas) == factors


def test_unknown_sizes_and_other_steps_are_left_as_they_are():
    model, _ = step_of(mlp())
    assert with_scaled_products(model, KnownShapes(model, {})) is model
    plain, _ = step_of(g.Sequential([g.Dense(5), g.Relu(), g.Dense(3)]))
    assert scaled(plain) is plain
