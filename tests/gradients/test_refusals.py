"""What a gradient says that cannot be had: word for word."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from renom_onnx.converters import vjp
from renom_onnx.errors import GradientError
from renom_onnx.graph.backward import reverse_walk
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import Input

REFUSALS = {
    "x: float[N, 3] | s = Optional(x) y = OptionalGetElement(s)": (
        "OptionalGetElement: there is no gradient rule (it handles optional values, through which no gradient passes "
        "yet), but an output depends on x through it. Freeze what lies before it, or register a rule with "
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


def test_dropout_of_elements_must_give_its_mask():
    op = Builder(18)
    x, dy = (Input(np.dtype(np.float32), ("N", 3), name=name).output for name in ("x", "dy"))
    y = op.Dropout(x, None, op.constant(True))
    with pytest.raises(GradientError) as error:
        reverse_walk([(y, dy)], opset=18, wanted=[x])
    assert str(error.value) == (
        "Dropout: a node in training mode must say in its output mask which elements were kept, got none. Give it its "
        "second output."
    )


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


def test_the_mask_that_dropout_does_not_give_is_asked_for():
    body = "t = Constant<value = bool {1}>() y = Dropout(x, , t)"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 18]> f (float[N, 3] x) => (float[N, 3] y) {{ {body} }}'
    )
    nodes = vjp(model).graph.node
    assert [list(node.output) for node in nodes if node.op_type == "Dropout"] == [["y", "y:1"]]
    assert next(node.input[3] for node in nodes if node.op_type == "DropoutGrad") == "y:1"


def test_an_output_that_the_model_skips_can_be_read_by_the_gradient():
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> f (float[1, 1, 4, 4] x) => (float[1, 1, 3, 3] y) '
        "{ y, i = MaxPool<kernel_shape = [2, 2]>(x) }"
    )
    model.graph.node[0].output[1] = ""
    gradient = vjp(model)
    onnx.checker.check_model(gradient, full_check=True)
    assert gradient.graph.node[0].output[1] == "y:1"
