"""Straight-through gradients of quantization against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from renom_onnx.converters import vjp
from tests.gradients.cases import Case, at_opset, case_of
from tests.gradients.session import Session, runs
from tests.gradients.versions import versions

X = np.random.default_rng(0).standard_normal((4, 3, 5)) * 3
Record = Callable[[str, str], None]


@pytest.mark.parametrize("version", versions("QuantizeLinear"))
@pytest.mark.parametrize("per_channel", [False, True])
def test_fake_quantization_passes_gradients_inside_the_range(per_channel: bool, version: int, record_property: Record):
    scale = np.array([0.02, 0.03, 0.05]) if per_channel else np.array(0.03)
    zero = np.array([3, -5, 0], np.int8) if per_channel else np.array(7, np.int8)
    body = "q = QuantizeLinear<axis=1>(x, s, z) y = DequantizeLinear<axis=1>(q, s, z)"
    case = case_of("", body, x=X, s=scale, z=zero)
    case.model.graph.input[2].type.tensor_type.shape.CopyFrom(case.model.graph.input[1].type.tensor_type.shape)
    case = Case("", at_opset(case.model, version), case.feeds)
    if not runs(case.model, case.feeds):
        pytest.skip("onnxruntime's CPU provider does not run it")
    dy = np.random.default_rng(1).standard_normal(X.shape).astype("f")
    got = Session(vjp(case.model))({**case.feeds, "y_grad": dy})
    x, s = (torch.tensor(case.feeds[k], requires_grad=True) for k in ("x", "s"))
    z = torch.tensor(zero).float()
    if per_channel:
        y = torch._fake_quantize_learnable_per_channel_affine(x, s, z, 1, -128, 127, 1.0)
    else:
        y = torch._fake_quantize_learnable_per_tensor_affine(x, s.reshape(1), z.reshape(1), -128, 127, 1.0)
    y.backward(torch.tensor(dy))
    np.testing.assert_allclose(got["y"], y.detach(), rtol=1e-5, atol=1e-6)
    assert (got["x_grad"] == 0).any()
    assert (got["x_grad"] != 0).any()
    np.testing.assert_allclose(got["x_grad"], x.grad, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["s_grad"], s.grad, rtol=1e-3, atol=1e-4)
    record_property("version", f"QuantizeLinear {version}")
    record_property("proved", "QuantizeLinear")
    record_property("proved", "DequantizeLinear")


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16"])
def test_scales_of_blocks_sum_over_their_blocks(kind: str):
    """The last block of an axis may be shorter; inside the range, dx = dy and ds = dy (round(q) - q), q = x / s."""
    scale, zero = np.array([[0.3, 0.7], [0.5, 0.2]], "f"), np.array([[3, 1], [0, 2]], kind)
    body = "q = QuantizeLinear<axis=1, block_size=3>(x, s, z) y = DequantizeLinear<axis=1, block_size=3>(q, s, z)"
    x = X[:2, 0] if kind.startswith("i") else np.abs(X[:2, 0])
    case = case_of("", body, x=x, s=scale, z=zero)
    case.model.graph.input[2].type.tensor_type.shape.CopyFrom(case.model.graph.input[1].type.tensor_type.shape)
    case = Case("", at_opset(case.model, 21), case.feeds)
    dy = np.random.default_rng(1).standard_normal(x.shape).astype("f")
    got = Session(vjp(case.model))({**case.feeds, "y_grad": dy})
    each = scale.repeat(3, 1)[:, :5]
    q = case.feeds["x"] / each
    np.testing.assert_allclose(got["y"], np.round(q) * each, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["x_grad"], dy, rtol=1e-5)
    sums = np.add.reduceat(dy * (np.round(q) - q), [0, 3], axis=1)
    np.testing.assert_allclose(got["s_grad"], sums, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["float8e4m3fn", "float8e5m2"])
def test_a_float_of_8_bits_passes_gradients_up_to_its_greatest_number(kind: str):
    body = f"z = Constant<value = {kind} {{0}}>() q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s)"
    greatest = {"float8e4m3fn": 448, "float8e5m2": 57344}[kind]
    x = np.array([0.3, -2.7, 0.9 * greatest, 1.1 * greatest, -3 * greatest])
    case = case_of("", body, x=x, s=0.5)
    case = Case("", at_opset(case.model, 19), case.feeds)
    got = Session(vjp(case.model, "x"))({**case.feeds, "y_grad": np.arange(1, 6, dtype="f")})
    np.testing.assert_array_equal(got["x_grad"], [1, 2, 0, 0, 0])


def test_dynamic_quantization_passes_gradients(record_property: Record):
    record_property("proved", "DynamicQuantizeLinear")
    case = case_of("", "q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z)", x=X)
    dy = np.random.default_rng(1).standard_normal(X.shape).astype("f")
    got = Session(vjp(case.model))({**case.feeds, "y_grad": dy})
    x = case.feeds["x"]
    ends = [np.unravel_index(index, x.shape) for index in (x.argmax(), x.argmin())]
    through_scale = got["x_grad"] - dy
    others = np.ones(x.shape, bool)
    others[ends[0]] = others[ends[1]] = False
    np.testing.assert_allclose(through_scale[others], 0, atol=1e-6)
    scale = (x.max() - x.min()) / 255
    share = (dy * got["y"]).sum() / scale / 255
    np.testing.assert_allclose([through_scale[e] for e in ends], [share, -share], rtol=1e-3)
