"""Gradients of elementwise arithmetic. Operators: https://onnx.ai/onnx/operators/.

Broadcast operands get the gradient of the broadcast shape; the reverse walk sums it back.
"""

import math

from renom_onnx.gradients.registry import gradient
from renom_onnx.graph.node import known_array


@gradient("Identity", linear_in_each=True, in_bfloat16=True)
def identity(op, dy, y, x):
    """dx = dy."""
    return dy


@gradient("Cast", linear_in_each=True, in_bfloat16=True)
def cast(op, dy, y, x, *, to):
    """dx = dy in the type of x; none through a conversion to integers, which is piecewise constant."""
    return op.Cast(dy, to=x.dtype) if to in _FLOATS else None


_FLOATS = (1, 10, 11, 16)  # ONNX's numbers of float32, float16, float64, bfloat16


@gradient("CastLike", linear_in_each=True)
def cast_like(op, dy, y, x, like):
    """dx = dy in the type of x."""
    return op.Cast(dy, to=x.dtype), None


@gradient("Add", linear_in_each=True, in_bfloat16=True)
def add(op, dy, y, a, b):
    """da = db = dy."""
    return dy, dy


@gradient("Sub", linear_in_each=True, in_bfloat16=True)
def sub(op, dy, y, a, b):
    """da = dy, db = -dy."""
    return dy, op.Neg(dy)


@gradient("Mul", linear_in_each=True, in_bfloat16=True)
def mul(op, dy, y, a, b):
    """da = dy b, db = dy a."""
    return op.Mul(dy, b), op.Mul(dy, a)


@gradient("Div")
def div(op, dy, y, a, b):
    """da = dy / b, db = -dy y / b."""
    da = op.Div(dy, b)
    return da, op.Neg(op.Mul(da, y))


@gradient("Mod")
def mod(op, dy, y, a, b):
    """da = dy, db = -dy q, where a = q b + y with an integer q; 0 at the jumps of q. Both for fmod = 0 and 1."""
    return dy, op.Neg(op.Mul(dy, op.Round(op.Div(op.Sub(a, y), b))))


@gradient("Pow", reads=(1,))
def power(op, dy, y, x, p):
    """dx = dy p x^(p-1), dp = dy y log x; dp at x = 0 is 0, as in PyTorch, and none for a constant exponent."""
    known = known_array(p)
    if known is not None and known.size == 1:
        return _constant_power(op, dy, y, x, float(known.item()))
    p = op.Cast(p, to=x.dtype)
    is_zero = op.Cast(op.Equal(p, 0), to=x.dtype)  # where p is 0, p x^(p-1) is 0 for x = 0 too
    dx = op.Mul(dy, op.Mul(p, op.Pow(x, op.Add(op.Sub(p, 1), is_zero))))
    safe = op.Add(x, op.Cast(op.Equal(x, 0), to=x.dtype))
    return dx, op.Mul(dy, op.Mul(y, op.Log(safe)))


def _constant_power(op, dy, y, x, n):
    """Return dy n x^(n-1) by the cheapest operators; a general Pow is slow."""
    if n == 0:
        return op.zeros_like(x)
    if n == 1:
        return dy
    special = {2: lambda: x, 3: lambda: op.Mul(x, x), 0.5: lambda: op.Reciprocal(y)}
    power = special.get(n, lambda: op.Pow(x, n - 1))()
    return op.Mul(dy, op.Mul(power, n))


@gradient("Neg", linear_in_each=True, in_bfloat16=True)
def neg(op, dy, y, x):
    """dx = -dy."""
    return op.Neg(dy)


@gradient("Abs")
def absolute(op, dy, y, x):
    """dx = dy sign(x); 0 at 0."""
    return op.Mul(dy, op.Sign(x))


@gradient("Sqrt")
def sqrt(op, dy, y, x):
    """dx = dy / 2y."""
    return op.Div(dy, op.Mul(y, 2))


@gradient("Exp")
def exp(op, dy, y, x):
    """dx = dy y."""
    return op.Mul(dy, y)


@gradient("Log")
def log(op, dy, y, x):
    """dx = dy / x."""
    return op.Div(dy, x)


@gradient("Reciprocal")
def reciprocal(op, dy, y, x):
    """dx = -dy y²."""
    return op.Neg(op.Mul(dy, op.Mul(y, y)))


@gradient("Erf")
def erf(op, dy, y, x):
    """dx = dy 2/√π exp(-x²)."""
    return op.Mul(dy, op.Mul(op.Exp(op.Neg(op.Mul(x, x))), 2 / math.sqrt(math.pi)))


@gradient("Sum", linear_in_each=True)
def sum_(op, dy, y, *xs):
    """dx = dy for every x."""
    return [dy] * len(xs)


@gradient("Mean", linear_in_each=True)
def mean(op, dy, y, *xs):
    """dx = dy / n for each of n operands."""
    return [op.Mul(dy, 1 / len(xs))] * len(xs)


@gradient("Max", "Min")
def maximum(op, dy, y, *xs):
    """dx = dy [x = y] / (number of operands that equal y): ties share evenly, as in PyTorch."""
    if len(xs) == 1:
        return dy
    hits = [op.Cast(op.Equal(x, y), to=dy.dtype) for x in xs]
    share = op.Div(dy, op.Sum(*hits))
    return [op.Mul(share, hit) for hit in hits]


@gradient("Clip")
def clip(op, dy, y, x, low=None, high=None):
    """dx = dy [y = x]: the bounds belong to the inside, as in PyTorch; outside, dy goes to the bound that holds."""
    inside = op.Cast(op.Equal(x, y), to=dy.dtype)
    dx = op.Mul(dy, inside)
    if low is None:
        return dx, None, op.Sub(dy, dx)
    below = op.Mul(op.Cast(op.Less(x, low), to=dy.dtype), op.Cast(op.Equal(y, low), to=dy.dtype))
    d_low = op.Mul(dy, below)
    return dx, d_low, op.Sub(op.Sub(dy, dx), d_low)


@gradient("Where", linear_in_each=True)
def where(op, dy, y, condition, a, b):
    """da = dy [condition], db = dy [not condition]."""
    chosen = op.Cast(condition, to=dy.dtype)
    return None, op.Mul(dy, chosen), op.Mul(dy, op.Sub(op.constant(1, dy.dtype), chosen))


@gradient("Range")
def range_(op, dy, y, start, limit, delta):
    """y_i = start + i delta: d_start = sum of dy, d_delta = sum of i dy; none for the limit."""
    n = op.Squeeze(op.Shape(dy), [0])
    i = op.Cast(op.Range(op.constant(0, "int64"), n, op.constant(1, "int64")), to=dy.dtype)
    return op.ReduceSum(dy, keepdims=0), None, op.ReduceSum(op.Mul(dy, i), keepdims=0)


@gradient("Sin")
def sin(op, dy, y, x):
    """dx = dy cos x."""
    return op.Mul(dy, op.Cos(x))


@gradient("Cos")
def cos(op, dy, y, x):
    """dx = -dy sin x."""
    return op.Neg(op.Mul(dy, op.Sin(x)))


@gradient("Tan")
def tan(op, dy, y, x):
    """dx = dy (1 + y²)."""
    return op.Mul(dy, op.Add(op.Mul(y, y), 1))


@gradient("Asin")
def asin(op, dy, y, x):
    """dx = dy / √(1 - x²)."""
    return op.Div(dy, op.Sqrt(_one_minus_square(op, x)))


@gradient("Acos")
def acos(op, dy, y, x):
    """dx = -dy / √(1 - x²)."""
    return op.Neg(op.Div(dy, op.Sqrt(_one_minus_square(op, x))))


@gradient("Atan")
def atan(op, dy, y, x):
    """dx = dy / (1 + x²)."""
    return op.Div(dy, op.Add(op.Mul(x, x), 1))


@gradient("Sinh")
def sinh(op, dy, y, x):
    """dx = dy cosh x."""
    return op.Mul(dy, op.Cosh(x))


@gradient("Cosh")
def cosh(op, dy, y, x):
    """dx = dy sinh x."""
    return op.Mul(dy, op.Sinh(x))


@gradient("Asinh")
def asinh(op, dy, y, x):
    """dx = dy / √(x² + 1)."""
    return op.Div(dy, op.Sqrt(op.Add(op.Mul(x, x), 1)))


@gradient("Acosh")
def acosh(op, dy, y, x):
    """dx = dy / √(x² - 1)."""
    return op.Div(dy, op.Sqrt(op.Neg(_one_minus_square(op, x))))


@gradient("Atanh")
def atanh(op, dy, y, x):
    """dx = dy / (1 - x²)."""
    return op.Div(dy, _one_minus_square(op, x))


def _one_minus_square(op, x):
    """Return (1 - x)(1 + x), exact near 1, where 1 - x² cancels."""
    return op.Mul(op.Sub(op.constant(1, x.dtype), x), op.Add(x, 1))
