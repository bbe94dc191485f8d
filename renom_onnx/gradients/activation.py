"""Gradients of activations. Operators: https://onnx.ai/onnx/operators/.

Masks are made by Cast and Mul: on CPU, Where takes six times as long.
"""

import math

from renom_onnx.gradients.registry import gradient
from renom_onnx.graph.function import DOMAIN


def _mask(op, condition, dy):
    """Return 1 where the condition holds, else 0."""
    return op.Cast(condition, to=dy.dtype)


@gradient("Relu", in_bfloat16=True)
def relu(op, dy, y, x):
    """dx = dy [y > 0]; 0 at 0. From y, so that x need not be kept."""
    if y.dtype.name == "bfloat16":  # which the CUDA provider does not compare; of floats, Sign is slower
        return op.Mul(dy, op.Sign(y))
    return op.Mul(dy, _mask(op, op.Greater(y, op.zero(y)), dy))


@gradient("LeakyRelu")
def leaky_relu(op, dy, y, x, *, alpha):
    """dx = dy (x > 0 ? 1 : alpha)."""
    slope = op.Add(op.Mul(_mask(op, op.Greater(x, 0), dy), 1 - alpha), alpha)
    return op.Mul(dy, slope)


@gradient("PRelu")
def prelu(op, dy, y, x, slope):
    """dx = dy (x > 0 ? 1 : slope), d_slope = dy min(x, 0)."""
    positive = _mask(op, op.Greater(x, 0), dy)
    negative = op.Sub(op.constant(1, dy.dtype), positive)
    return op.Mul(dy, op.Add(positive, op.Mul(negative, slope))), op.Mul(dy, op.Mul(x, negative))


@gradient("ThresholdedRelu")
def thresholded_relu(op, dy, y, x, *, alpha):
    """dx = dy [x > alpha]."""
    return op.Mul(dy, _mask(op, op.Greater(x, alpha), dy))


@gradient("Shrink")
def shrink(op, dy, y, x, *, lambd):
    """dx = dy [|x| > lambd]."""
    return op.Mul(dy, _mask(op, op.Greater(op.Abs(x), lambd), dy))


@gradient("Elu")
def elu(op, dy, y, x, *, alpha):
    """dx = dy (x > 0 ? 1 : alpha exp x)."""
    return op.Mul(dy, _elu_slope(op, dy, x, alpha))


@gradient("Selu")
def selu(op, dy, y, x, *, alpha, gamma):
    """dx = dy gamma (x > 0 ? 1 : alpha exp x)."""
    return op.Mul(dy, op.Mul(_elu_slope(op, dy, x, alpha), gamma))


def _elu_slope(op, dy, x, alpha):
    slope = op.Exp(op.Min(x, op.zero(x)))  # 1 for x > 0, without a mask and without overflow
    if alpha == 1:
        return slope
    return op.Add(op.Mul(slope, alpha), op.Mul(_mask(op, op.Greater(x, 0), dy), 1 - alpha))


@gradient("Celu")
def celu(op, dy, y, x, *, alpha):
    """dx = dy exp(min(x, 0) / alpha)."""
    return op.Mul(dy, op.Exp(op.Mul(op.Min(x, op.zero(x)), 1 / alpha)))


@gradient("Sigmoid")
def sigmoid(op, dy, y, x):
    """dx = dy y (1 - y)."""
    return op.Mul(dy, op.Mul(y, op.Sub(op.constant(1, y.dtype), y)))


@gradient("Tanh")
def tanh(op, dy, y, x):
    """dx = dy (1 - y²)."""
    return op.Mul(dy, op.Sub(op.constant(1, y.dtype), op.Mul(y, y)))


@gradient("HardSigmoid")
def hard_sigmoid(op, dy, y, x, *, alpha):
    """dx = dy alpha [0 < y < 1]; 0 at both kinks."""
    return op.Mul(dy, op.Mul(_within_unit(op, dy, y), alpha))


@gradient("HardSwish")
def hard_swish(op, dy, y, x):
    """Y = x h, h = max(0, min(1, x/6 + 1/2)): dx = dy (h + x/6 [0 < h < 1])."""
    h = op.HardSigmoid(x, alpha=1 / 6, beta=0.5)
    return op.Mul(dy, op.Add(h, op.Mul(op.Mul(x, 1 / 6), _within_unit(op, dy, h))))


def _within_unit(op, dy, y):
    return _mask(op, op.And(op.Greater(y, 0), op.Less(y, 1)), dy)


@gradient("Softplus")
def softplus(op, dy, y, x):
    """dx = dy sigmoid(x)."""
    return op.Mul(dy, op.Sigmoid(x))


@gradient("Softsign")
def softsign(op, dy, y, x):
    """dx = dy / (1 + |x|)²."""
    denominator = op.Add(op.Abs(x), 1)
    return op.Div(dy, op.Mul(denominator, denominator))


@gradient("Gelu")
@gradient("Gelu", domain=DOMAIN)
def gelu(op, dy, y, x, *, approximate):
    """Y = x Φ(x): dx = dy (Φ(x) + x Φ'(x)), with Φ the normal distribution or its tanh form (arXiv:1606.08415).

    Written with the terms of the function `Gelu`, which the runtime then computes once. For z = x / sqrt 2 the second
    term is x Φ'(x) = z exp(-z² - log(pi) / 2).
    """
    if approximate == "tanh":
        c = math.sqrt(2 / math.pi)
        square = op.Mul(x, x)
        t = op.Tanh(op.Mul(op.Add(x, op.Mul(op.Mul(x, square), 0.044715)), c))
        slope = op.Add(op.Mul(square, 3 * 0.044715 * c), c)
        density = op.Mul(op.Mul(op.Sub(op.constant(1, x.dtype), op.Mul(t, t)), slope), op.Mul(x, 0.5))
    else:
        z = op.Mul(x, math.sqrt(1 / 2))
        t = op.Erf(z)
        density = op.Mul(z, op.Exp(op.Sub(op.constant(-math.log(math.pi) / 2, x.dtype), op.Mul(z, z))))
    return op.Mul(dy, op.Add(op.Mul(op.Add(t, 1), 0.5), density))


@gradient("Mish")
def mish(op, dy, y, x):
    """Y = x t, t = tanh(softplus x): dx = dy (t + x (1 - t²) sigmoid(x)); arXiv:1908.08681."""
    t = op.Tanh(op.Softplus(x))
    slope = op.Mul(op.Sub(op.constant(1, x.dtype), op.Mul(t, t)), op.Sigmoid(x))
    return op.Mul(dy, op.Add(t, op.Mul(x, slope)))


@gradient("Swish")
def swish(op, dy, y, x, *, alpha):
    """Y = x s, s = sigmoid(alpha x): dx = dy (s + alpha y (1 - s)); arXiv:1710.05941."""
    return op.Mul(dy, _swish_slope(op, x, alpha)[1])


@gradient("SwiGLU")
def swiglu(op, dy, y, a, b, *, alpha):
    """Y = swish(a) b: da = dy b swish'(a), db = dy swish(a); arXiv:2002.05202."""
    swished, slope = _swish_slope(op, a, alpha)
    return op.Mul(op.Mul(dy, b), slope), op.Mul(dy, swished)


def _swish_slope(op, x, alpha):
    """Return x s and its derivative s + alpha x s (1 - s)."""
    s = op.Sigmoid(op.Mul(x, alpha) if alpha != 1 else x)
    y = op.Mul(x, s)
    return y, op.Add(s, op.Mul(op.Mul(y, alpha), op.Sub(op.constant(1, x.dtype), s)))
