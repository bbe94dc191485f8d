"""What a node costs: multiply-adds and floating-point operations, by formula for each family of operators.

A multiply-add counts as two operations. What a family does is in `FAMILIES`, one line each. `renom_onnx.graph.meter`
counts graphs: an operator of no family through the body that ONNX defines it by, a function through its own; what has
neither is named in `Cost.uncounted`, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from renom_onnx.errors import RenomError
from renom_onnx.graph import schema
from renom_onnx.graph.node import Node

Shapes = Sequence[tuple[int, ...] | None]


@dataclass(frozen=True)
class Cost:
    """What nodes cost; costs are added with ``+``.

    Attributes:
        macs: multiply-adds of products: convolutions, matrix products, recurrent layers.
        flops: all operations, two for each multiply-add.
        uncounted: operators that no formula counts, or whose sizes are not known.
    """

    macs: int = 0
    flops: int = 0
    uncounted: frozenset[str] = frozenset()

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.flops + other.flops, self.uncounted | other.uncounted)


class _UnknownSizeError(Exception):
    """A formula needs a size that only the run will know."""


class _Operands:
    """What a formula reads: sizes of inputs and outputs by position, and attributes."""

    def __init__(self, node: Node, inputs: Shapes, outputs: Shapes) -> None:
        self._node = node
        self._inputs = inputs
        self._outputs = outputs
        self.n_inputs = len(node.inputs)

    def has(self, index: int) -> bool:
        """Whether the optional input is there."""
        return index < self.n_inputs and self._node.inputs[index] is not None

    def x(self, index: int = 0) -> tuple[int, ...]:
        """Return the shape of an input."""
        return _known(self._inputs[index] if index < self.n_inputs else None)

    def y(self, index: int = 0) -> tuple[int, ...]:
        """Return the shape of an output."""
        return _known(self._outputs[index])

    def attribute(self, name: str) -> Any:
        """Return an attribute, or the schema's default."""
        operator = schema.operator(self._node.op_type, self._node.opset, self._node.domain)
        return schema.attributes_with_defaults(operator, self._node.attributes).get(name)


def _known(shape: tuple[int, ...] | None) -> tuple[int, ...]:
    if shape is None:
        raise _UnknownSizeError
    return shape


Formula = Callable[[_Operands], tuple[int, int]]
"""Returns multiply-adds, and the operations beside them."""


@dataclass(frozen=True)
class Family:
    """Operators that are counted by one formula, and the formula in words."""

    formula: str
    operators: tuple[str, ...]
    count: Formula


def _convolution(o: _Operands) -> tuple[int, int]:
    return math.prod(o.y()) * math.prod(o.x(1)[1:]), math.prod(o.y()) if o.has(2) else 0


def _quantized_convolution(o: _Operands) -> tuple[int, int]:
    return math.prod(o.y()) * math.prod(o.x(3)[1:]), math.prod(o.y()) if o.has(8) else 0


def _integer_convolution(o: _Operands) -> tuple[int, int]:
    return math.prod(o.y()) * math.prod(o.x(1)[1:]), 0


def _deformable_convolution(o: _Operands) -> tuple[int, int]:
    y = math.prod(o.y())
    return y * math.prod(o.x(1)[1:]), y if o.has(3) else 0


def _transposed_convolution(o: _Operands) -> tuple[int, int]:
    return math.prod(o.x()) * math.prod(o.x(1)[1:]), math.prod(o.y()) if o.has(2) else 0


def _gemm(o: _Operands) -> tuple[int, int]:
    inner = o.x()[0] if o.attribute("transA") else o.x()[-1]
    return math.prod(o.y()) * inner, math.prod(o.y()) if o.has(2) else 0


def _product(o: _Operands) -> tuple[int, int]:
    return math.prod(o.y()) * o.x()[-1], 0


def _einsum(o: _Operands) -> tuple[int, int]:
    terms = o.attribute("equation").replace(" ", "").split("->")[0].split(",")
    lengths: dict[str, int] = {}
    for i, term in enumerate(terms):
        shape = o.x(i)
        letters = [*term]
        if "..." in term:
            head, _, tail = term.partition("...")
            n_middle = len(shape) - len(head) - len(tail)
            letters = [*head, *(f".{k - n_middle}" for k in range(n_middle)), *tail]
        for letter, size in zip(letters, shape, strict=True):
            lengths[letter] = max(size, lengths.get(letter, 1))
    points = math.prod(lengths.values())
    return (points * (len(terms) - 1), 0) if len(terms) > 1 else (0, points)


_GATES = {"LSTM": (4, 9), "GRU": (3, 8), "RNN": (1, 1)}
"""Gates of a cell, and what it does beside them for one unit and step: functions, products, sums."""


def _recurrent(kind: str) -> Formula:
    n_gates, beside = _GATES[kind]

    def count(o: _Operands) -> tuple[int, int]:
        steps = math.prod(o.x()[:2])  # time and batch, in either layout
        n_directions, _, n_inputs = o.x(1)
        units = o.x(2)[-1]
        rows = steps * n_directions
        bias = 2 * n_gates if o.has(3) else 0
        return rows * n_gates * units * (n_inputs + units), rows * units * (bias + beside)

    return count


def _windows(o: _Operands) -> tuple[int, int]:
    return 0, math.prod(o.y()) * math.prod(o.attribute("kernel_shape"))


def _each_input(n: int) -> Formula:
    return lambda o: (0, n * math.prod(o.x()))


def _each_output(n: int) -> Formula:
    return lambda o: (0, n * math.prod(o.y()))


def _variadic(o: _Operands) -> tuple[int, int]:
    return 0, math.prod(o.y()) * max(o.n_inputs - 1, 1)


def _resampling(o: _Operands) -> tuple[int, int]:
    mode = o.attribute("mode")
    points = {"nearest": 0, "cubic": 4, "bicubic": 4}.get(mode, 2)
    changed = sum(a != b for a, b in zip(o.x(), o.y(), strict=True)) if o.x()[:2] == o.y()[:2] else len(o.y()) - 2
    return (math.prod(o.y()) * points**changed if points else 0), 0


def _local_response(o: _Operands) -> tuple[int, int]:
    return 0, math.prod(o.x()) * (o.attribute("size") * 2 + 4)


def _nothing(o: _Operands) -> tuple[int, int]:
    return 0, 0


FAMILIES: tuple[Family, ...] = (
    Family("elements of y x elements of a filter w[m]; an addition for a bias", ("Conv",), _convolution),
    Family("as Conv, of integers", ("ConvInteger",), _integer_convolution),
    Family("as Conv, of integers", ("QLinearConv",), _quantized_convolution),
    Family("as Conv; the offsets are not counted", ("DeformConv",), _deformable_convolution),
    Family("elements of x x elements of w[c]; an addition for a bias", ("ConvTranspose",), _transposed_convolution),
    Family("elements of y x length of the sum; an addition for c", ("Gemm",), _gemm),
    Family("elements of y x length of the sum", ("MatMul", "MatMulInteger", "QLinearMatMul"), _product),
    Family("product of all sizes x (operands - 1)", ("Einsum",), _einsum),
    Family(
        "time x batch x directions x 4 x units x (inputs + units); 9 for each unit and step, 8 more for a bias",
        ("LSTM",),
        _recurrent("LSTM"),
    ),
    Family(
        "time x batch x directions x 3 x units x (inputs + units); 8 for each unit and step, 6 more for a bias",
        ("GRU",),
        _recurrent("GRU"),
    ),
    Family(
        "time x batch x directions x units x (inputs + units); 1 for each unit and step, 2 more for a bias",
        ("RNN",),
        _recurrent("RNN"),
    ),
    Family("one for each element of each window", ("AveragePool", "LpPool", "MaxPool"), _windows),
    Family(
        "one for each element of x",
        (
            *("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "ReduceMax", "ReduceMean", "ReduceMin"),
            *("ReduceProd", "ReduceSum", "ArgMax", "ArgMin", "CumSum", "CumProd", "Hardmax"),
        ),
        _each_input(1),
    ),
    Family(
        "two for each element of x",
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "BatchNormalization"),
        _each_input(2),
    ),
    Family("five for each element of x", ("LogSoftmax", "Softmax", "SoftmaxCrossEntropyLoss"), _each_input(5)),
    Family("three for each element of x", ("LpNormalization",), _each_input(3)),
    Family(
        "eight for each element of x: mean, variance, quotient, scale and shift",
        ("GroupNormalization", "InstanceNormalization", "LayerNormalization", "MeanVarianceNormalization"),
        _each_input(8),
    ),
    Family("five for each element of x", ("RMSNormalization",), _each_input(5)),
    Family("size x 2 + 4 for each element of x", ("LRN",), _local_response),
    Family(
        "2 (linear) or 4 (cubic) points along each axis, for each element of y",
        ("GridSample", "Resize", "Upsample"),
        _resampling,
    ),
    Family("one for each element of y and operand after the first", ("Max", "Mean", "Min", "Sum"), _variadic),
    Family(
        "one for each element of y",
        (
            *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd"),
            *("BitwiseNot", "BitwiseOr", "BitwiseXor", "Ceil", "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear"),
            *("Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid"),
            *("HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Mish", "Mod", "Mul", "Neg"),
            *("Not", "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Shrink"),
            *("Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Swish", "Tan", "Tanh"),
            *("ThresholdedRelu", "Xor"),
        ),
        _each_output(1),
    ),
    Family(
        "none: data are moved, looked up or made",
        (
            *("Bernoulli", "BitCast", "Cast", "CastLike", "CenterCropPad", "Col2Im", "Compress", "Concat"),
            *("ConcatFromSequence", "Constant", "ConstantOfShape", "DepthToSpace", "Dropout", "Expand", "EyeLike"),
            *("Flatten", "Gather", "GatherElements", "GatherND", "Identity", "MaxUnpool", "Multinomial", "NonZero"),
            *("OneHot", "Optional", "OptionalGetElement", "OptionalHasElement", "Pad", "RandomNormal"),
            *("RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range", "Reshape", "ReverseSequence"),
            *("ScatterElements", "ScatterND", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase"),
            *("SequenceInsert", "SequenceLength", "Shape", "Size", "Slice", "SpaceToDepth", "Split"),
            *("SplitToSequence", "Squeeze", "TensorScatter", "Tile", "TopK", "Transpose", "Trilu", "Unique"),
            *("Unsqueeze", "Where"),
        ),
        _nothing,
    ),
)

_FORMULAS = {name: family.count for family in FAMILIES for name in family.operators}


def formula_cost(node: Node, inputs: Shapes, outputs: Shapes) -> Cost | None:
    """Return what a node of ONNX's own domain costs; None where no formula counts its operator.

    Args:
        node: no leaf and no call of a function.
        inputs, outputs: their shapes, None for one that is absent or not known.
    """
    formula = _FORMULAS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if formula is None:
        return None
    try:
        macs, beside = formula(_Operands(node, inputs, outputs))
    except (_UnknownSizeError, RenomError, IndexError, KeyError, TypeError, ValueError):  # a broken node has no cost
        return Cost(uncounted=frozenset([node.op_type]))
    return Cost(macs, 2 * macs + beside)
