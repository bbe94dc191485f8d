"""Gradients against PyTorch's, above all where a derivative is a convention: ties, bounds, zeros, duplicates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own name for it)

from renom_onnx.converters import vjp
from tests.gradients.cases import Case, case_of, known
from tests.gradients.session import Session

X = np.random.default_rng(0).standard_normal((2, 3, 4))
TIES = np.array([[1, 3, 3, 2], [3, 1, 1, 3], [0, 0, 0, 0]], float)


def assert_same(case: Case, function: Callable[..., Any], atol: float = 1e-6) -> None:
    """Compare output and gradients of a case with those of a function of PyTorch's, of the operands in order."""
    session = Session(vjp(case.model))
    operands = {name: torch.tensor(x, requires_grad=x.dtype.kind == "f") for name, x in case.feeds.items()}
    y = function(*operands.values())
    dy = torch.tensor(np.random.default_rng(1).standard_normal(tuple(y.shape)).astype("f"))
    y.backward(dy)
    got = session({**case.feeds, "y_grad": dy.numpy()})
    np.testing.assert_allclose(got["y"], y.detach(), rtol=1e-5, atol=1e-6)
    for name, x in operands.items():
        if x.requires_grad:
            want = torch.zeros_like(x) if x.grad is None else x.grad
            np.testing.assert_allclose(got[f"{name}_grad"], want, rtol=1e-4, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 4), (4, 5)), ((4,), (4,)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (2, 4, 5)), ((2, 3, 4), (4,)),
        ((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5)), ((2, 3, 4), (2, 4, 5)), ((1, 3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (5, 4, 2)), ((2, 5, 3, 4), (5, 4, 1)),
    ],
)  # fmt: skip
def test_matmul_broadcasts_like_torch(a: tuple[int, ...], b: tuple[int, ...]):
    rng = np.random.default_rng(0)
    assert_same(case_of("", "y = MatMul(a, b)", a=rng.standard_normal(a), b=rng.standard_normal(b)), torch.matmul)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis: int):
    assert_same(case_of("", f"y = Softmax<axis={axis}>(x)", x=X * 5), lambda x: torch.softmax(x, axis))
    assert_same(case_of("", f"y = LogSoftmax<axis={axis}>(x)", x=X * 5), lambda x: torch.log_softmax(x, axis))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignore_index", [None, 1, -1, 255])
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("spatial", [(), (2,), (2, 3)])
@pytest.mark.parametrize("loss", ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"])
def test_loss(reduction: str, ignore_index: int | None, is_weighted: bool, spatial: tuple[int, ...], loss: str):
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal((4, 5, *spatial)), rng.integers(0, 5, (4, *spatial))
    if ignore_index is not None:
        labels.flat[::2] = ignore_index
    ignore = "" if ignore_index is None else f", ignore_index={ignore_index}"
    weights = {"w": rng.uniform(0.5, 2, 5)} if is_weighted else {}
    body = f'y = {loss}<reduction="{reduction}"{ignore}>({", ".join(["x", "i", *weights])})'
    is_cross_entropy = loss == "SoftmaxCrossEntropyLoss"
    ignored = -100 if ignore_index is None else ignore_index

    def torch_loss(x: Any, i: Any, w: Any = None) -> Any:
        """Compute what PyTorch computes, from parts that have a gradient of the weights too."""
        log_prob = torch.log_softmax(x, 1) if is_cross_entropy else x
        kept = i != ignored
        weight = kept * (torch.ones(5) if w is None else w)[i * kept]
        each = -weight * log_prob.gather(1, (i * kept)[:, None])[:, 0]
        y = each if reduction == "none" else each.sum() / (weight.sum() if reduction == "mean" else 1)
        of_torch = F.cross_entropy if is_cross_entropy else F.nll_loss
        fixed = None if w is None else w.detach()
        torch.testing.assert_close(y, of_torch(x, i, fixed, reduction=reduction, ignore_index=ignored))
        return y

    assert_same(case_of("", body, x=scores, i=labels, **weights), torch_loss)


def test_loss_of_ignored_labels_only_has_gradient_zero():
    case = case_of("", "y = SoftmaxCrossEntropyLoss<ignore_index=7>(x, i)", x=X[0], i=[7, 7, 7])
    got = Session(vjp(case.model))({**case.feeds, "y_grad": np.float32(1)})
    np.testing.assert_array_equal(got["x_grad"], np.zeros((3, 4)))


def test_log_prob_of_the_loss_has_a_gradient_too():
    body = "l, p = SoftmaxCrossEntropyLoss(x, i) s = ReduceSum(p, a) y = Add(l, s)"
    case = case_of("", body, x=X[0], i=[1, 3, 3], a=known(0, 1))
    assert_same(case, lambda x, i: F.cross_entropy(x, i) + torch.log_softmax(x, 1).sum().reshape(1, 1))


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize(("op", "function"), [("ReduceMax", torch.amax), ("ReduceMin", torch.amin)])
def test_ties_share_evenly(op: str, function: Callable[..., Any], axes: tuple[int, ...], keepdims: int):
    case = case_of("", f"y = {op}<keepdims={keepdims}>(x, axes)", x=TIES, axes=known(*axes))
    assert_same(case, lambda x: function(x, axes, bool(keepdims)))


@pytest.mark.parametrize(("op", "function"), [("Max", torch.maximum), ("Min", torch.minimum)])
def test_ties_of_two_operands_share_evenly(op: str, function: Callable[..., Any]):
    assert_same(case_of("", f"y = {op}(a, b)", a=TIES, b=TIES[::-1].copy()), function)


def test_products_with_zeros():
    zeros = X[0] * [[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 1, 0]]
    assert_same(case_of("", "y = ReduceProd<keepdims=0>(x, a)", x=zeros, a=known(1)), lambda x: x.prod(1))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("is_constant", [True, False])
def test_power_of_zero_and_of_negative_numbers(exponent: float, is_constant: bool):
    x = np.array([0.0, 1.0, 2.0] if exponent % 1 else [0.0, -1.0, -2.0, 3.0])
    case = case_of("", "y = Pow(x, p)", x=x, p=known(exponent) if is_constant else exponent)
    dy = np.ones_like(case.feeds["x"])
    got = Session(vjp(case.model))({**case.feeds, "y_grad": dy})
    t = torch.tensor(case.feeds["x"], requires_grad=True)
    (t**exponent).sum().backward()
    np.testing.assert_allclose(got["x_grad"], t.grad)


def test_exponent_of_zero_base_has_gradient_zero():
    assert_same(case_of("", "y = Pow(x, p)", x=np.array([0.0, 0.0, 2.0]), p=np.array([0.0, 1.5, 1.5])), torch.pow)


def test_bounds_belong_to_the_inside_of_clip():
    case = case_of("", "y = Clip(x, low, high)", x=np.array([-2.0, -1, 0, 1, 2]), low=known(-1.0), high=known(1.0))
    assert_same(case, lambda x: x.clamp(-1, 1))


@pytest.mark.parametrize(
    ("op", "function"),
    [
        ("Abs", torch.abs), ("Relu", torch.relu), ("LeakyRelu<alpha=0.01>", F.leaky_relu), ("Elu", F.elu),
        ("Selu<alpha=1.6732632423543772, gamma=1.0507009873554805>", F.selu), ("Celu", F.celu),
        ("HardSigmoid<alpha=0.16666667>", F.hardsigmoid), ("HardSwish", F.hardswish), ("Softsign", F.softsign),
        ("Softplus", F.softplus), ("Mish", F.mish), ("ReduceL2", lambda x: torch.linalg.vector_norm(x).reshape(1)),
    ],
    ids=lambda p: p.split("<")[0] if isinstance(p, str) else None,
)  # fmt: skip
def test_kinks(op: str, function: Callable[..., Any]):
    for x in (np.array([-3.0, -1, 0, 1, 3]), np.zeros(3)):
        assert_same(case_of("", f"y = {op}(x)", x=x), function)


@pytest.mark.parametrize("p", [1, 2])
def test_norm_of_zeros_has_gradient_zero(p: int):
    case = case_of("", f"y = LpNormalization<p={p}>(x)", x=np.array([[3.0, 0, -1], [0, 0, 0]]))
    rows = Session(vjp(case.model))({**case.feeds, "y_grad": np.ones((2, 3), "f")})["x_grad"]
    x = torch.tensor(case.feeds["x"][:1], requires_grad=True)
    F.normalize(x, p, 1).sum().backward()
    np.testing.assert_allclose(rows, [x.grad[0].tolist(), [0, 0, 0]], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("step", [-1, -2, 2])
def test_slice_with_steps(step: int):
    start, end = (100, -100) if step < 0 else (0, 100)
    operands = dict(s=known(start), e=known(end), a=known(2), t=known(step))
    case = case_of("", "y = Slice(x, s, e, a, t)", x=X, **operands)
    index = list(range(4))[::step]
    assert_same(case, lambda x: x[..., index])


def test_slice_backwards_to_the_first_element():
    operands = dict(s=known(-1), e=known(-(2**63) + 1), a=known(0), t=known(-1))
    assert_same(case_of("", "y = Slice(x, s, e, a, t)", x=X, **operands), lambda x: x.flip(0))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_of_duplicates(axis: int):
    i = [[0, 1, 1], [0, 0, -1]]
    assert_same(case_of("", f"y = Gather<axis={axis}>(x, i)", x=X, i=i), lambda x, i: x[(slice(None),) * axis + (i,)])


def test_gather_of_many_duplicates_loses_nothing():
    rows, i = X.reshape(6, 4), np.random.default_rng(0).integers(0, 6, 100_000)
    case = case_of("", "y = Gather(x, i)", x=rows, i=i)
    got = Session(vjp(case.model))({**case.feeds, "y_grad": np.ones((i.size, 4), "f")})
    np.testing.assert_array_equal(got["x_grad"], np.repeat(np.bincount(i)[:, None], 4, axis=1))


def test_pad_with_negative_pads():
    case = case_of("", "y = Pad(x, p)", x=X[0], p=known(-1, 2, 0, -1))
    assert_same(case, lambda x: F.pad(x, (2, -1, -1, 0)))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize(
    "body", ["y = Gather(x, i)", "y = SoftmaxCrossEntropyLoss(x, i)", "y = Exp(x)", "y = Pow(x, x)"]
)
def test_gradients_have_the_type_of_the_operand(dtype: str, body: str):
    operands = {"x": np.abs(X[0]), "i": [1, 1, 0]}
    case = case_of("", body, **{k: v for k, v in operands.items() if f"{k})" in body or f"{k}," in body})
    want = Session(vjp(case.model))({**case.feeds, "y_grad": (dy := np.ones(shape_of_y(case), "f"))})["x_grad"]
    element = {"float16": 10, "float64": 11}[dtype]
    case.model.graph.input[0].type.tensor_type.elem_type = element
    case.model.graph.output[0].type.tensor_type.elem_type = element
    got = Session(vjp(case.model))({**case.feeds, "y_grad": dy})["x_grad"]
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=1e-2 if dtype == "float16" else 1e-5, atol=1e-3)


def shape_of_y(case: Case) -> tuple[int, ...]:
    return Session(case.model)(case.feeds)["y"].shape
