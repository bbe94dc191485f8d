"""What a gradient says that cannot be had: word for word."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from renom_onnx.converters import vjp
from renom_onnx.errors import GradientError

TRUE = "t = Constant<value = bool {1}>()"
REFUSALS = {
    f"x: float[N, 3] | {TRUE} y = Dropout(x, , t)": (
        "Dropout: a node in training mode must say in its output mask which elements were kept, got none. Give it its "
        "second output."
    ),
    "x: float[N, 3] | s = SequenceConstruct(x) i = Constant<value = int64 {0}>() y = SequenceAt(s, i)": (
        "SequenceAt: there is no gradient rule (it handles sequences or optional values, through which no gradient "
        "passes yet), but an output depends on x through it. Freeze what lies before it, or register a rule with "
        "renom_onnx.gradients.gradient. It is node 'y' of the model."
    ),
    "x: float[N, K, K] | y = Det(x)": (
        "Det: the gradient must know the size of the matrix, got x is float32[N, K, K]. Give x a shape of numbers."
    ),
    "x: float[N, 2, H, 4], r: float[R, 5] | y = MaxRoiPool<pooled_shape = [1, 1]>(x, r)": (
        "MaxRoiPool: the gradient must know the height and width of x, got x is float32[N, 2, H, 4]."
    ),
    "x: float[N, K, 3], s: int64[4] | y = AffineGrid(x, s)": (
        "AffineGrid: the gradient must know the sizes of theta, got theta is float32[N, K, 3]."
    ),
}


@pytest.mark.parametrize("program", REFUSALS)
def test_refusal_says_why(program: str):
    operands, body = program.split(" | ")
    inputs = ", ".join(f"{kind} {name}" for name, kind in _operands(operands))
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> f ({inputs}) => (float y) {{ {body} }}')
    with pytest.raises(GradientError) as error:
        vjp(model)
    assert str(error.value) == REFUSALS[program]


def _operands(text: str) -> list[tuple[str, str]]:
    """Return names and types of ``x: float[N, 3], s: int64[4]``."""
    parts = [part.split(": ") for part in text.replace("], ", "]; ").split("; ")]
    return [(name, kind) for name, kind in parts]


def test_settings_that_are_initializers_are_read():
    """A ratio is no data: no product with it is left in the gradient of inference."""
    body = "y, m = Dropout(x, r, t)"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 18]> f (float[N, 3] x) => (float y) {{ {body} }}'
    )
    for name, value in (("r", np.array(0.5, "f")), ("t", np.array(False))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    assert not {"Mul", "Where"}.intersection(node.op_type for node in vjp(model, "x", inline=True).graph.node)
