"""The test of the test: the gradient check must see a rule that is wrong by 0.1 %."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from renom_onnx.gradients import registry
from renom_onnx.graph import derivative
from tests.gradients.cases import node_tests
from tests.gradients.check import WrongGradientError, check_gradient

WRONG = [  # node test, operator, position of the gradient that is made wrong
    ("test_relu", "Relu", 0),
    ("test_gelu_tanh_1", "Gelu", 0),
    ("test_mul_bcast", "Mul", 1),
    ("test_div", "Div", 1),
    ("test_pow_bcast_scalar", "Pow", 0),
    ("test_gemm_all_attributes", "Gemm", 0),
    ("test_gemm_all_attributes", "Gemm", 1),
    ("test_gemm_all_attributes", "Gemm", 2),
    ("test_matmul_3d", "MatMul", 1),
    ("test_softmax_axis_1", "Softmax", 0),
    ("test_reduce_mean_keepdims_random", "ReduceMean", 0),
    ("test_reduce_prod_keepdims_random", "ReduceProd", 0),
    ("test_gather_1", "Gather", 0),
    ("test_slice", "Slice", 0),
    ("test_constant_pad", "Pad", 0),
    ("test_concat_3d_axis_1", "Concat", 1),
    ("test_top_k", "TopK", 0),
    ("test_sce_mean_weight_ii_3d", "SoftmaxCrossEntropyLoss", 0),
    ("test_nllloss_NCd1d2_with_weight", "NegativeLogLikelihoodLoss", 0),
    ("test_layer_normalization_2d_axis1", "LayerNormalization", 0),
    ("test_batchnorm_example_training_mode", "BatchNormalization", 0),
    ("test_resize_upsample_sizes_cubic", "Resize", 0),
    ("test_lstm_defaults", "LSTM", 1),
    ("test_gru_defaults", "GRU", 1),
]


@pytest.fixture(autouse=True)
def _no_bodies_of_other_rules() -> Iterator[None]:
    derivative._bodies.clear()
    yield
    derivative._bodies.clear()


@pytest.mark.parametrize(("name", "op_type", "position"), WRONG)
def test_a_gradient_that_is_wrong_by_a_thousandth_is_found(
    name: str, op_type: str, position: int, monkeypatch: pytest.MonkeyPatch
):
    case = node_tests()[name]
    entry = registry.find(op_type)
    assert entry is not None and entry.rule is not None
    right = entry.rule

    def wrong(op: Any, *operands: Any, **attributes: Any) -> list[Any]:
        result = right(op, *operands, **attributes)
        gradients = list(result) if isinstance(result, tuple | list) else [result]
        gradients[position] = op.Mul(gradients[position], 1.001)
        return gradients

    check_gradient(case.model, case.feeds)
    derivative._bodies.clear()
    monkeypatch.setitem(registry._registry, ("", op_type), dataclasses.replace(entry, rule=wrong))
    with pytest.raises(WrongGradientError, match="the directional derivative must be"):
        check_gradient(case.model, case.feeds)
