"""Activation layers: most are the operator of their name. Rectifiers and gated activations have files of their own."""

from __future__ import annotations

from renom_onnx.errors import ConversionError, ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.elementwise import Elementwise
from renom_onnx.graph.layers.gate import Gelu, HardSwish, Mish, Silu, Swish
from renom_onnx.graph.layers.rectifier import Celu, Elu, LeakyRelu, PRelu, Relu, Relu6, Selu
from renom_onnx.graph.layers.size import axes_of, known_sizes
from renom_onnx.graph.operators import apply, integers
from renom_onnx.graph.site import created_at, user_site


class Sigmoid(Elementwise):
    """1 / (1 + e^-x), element by element. Source: https://onnx.ai/onnx/operators/onnx__Sigmoid.html."""

    op_type = "Sigmoid"


class Tanh(Elementwise):
    """(e^x - e^-x) / (e^x + e^-x), element by element. Source: https://onnx.ai/onnx/operators/onnx__Tanh.html."""

    op_type = "Tanh"


class Softmax(Elementwise):
    """e^x / sum(e^x) along an axis.

    Args:
        axis: default 1, the classes.

    Called with x (N, K, *S), returns the same shape.

    Source: https://onnx.ai/onnx/operators/onnx__Softmax.html.
    """

    op_type = "Softmax"

    def __init__(self, axis: int = 1) -> None:
        super().__init__(axis=axis)


class Softplus(Elementwise):
    """log(1 + e^x), element by element; it does not overflow, as ReNom's did.

    Source: https://onnx.ai/onnx/operators/onnx__Softplus.html.
    """

    op_type = "Softplus"


class Softsign(Elementwise):
    """x / (1 + |x|), element by element. Source: https://onnx.ai/onnx/operators/onnx__Softsign.html."""

    op_type = "Softsign"


class HardSigmoid(Elementwise):
    """max(0, min(1, alpha x + beta)), element by element.

    Args:
        alpha, beta: default 0.2 and 0.5, as in ReNom and ONNX (PyTorch has 1/6 and 1/2).

    Source: https://onnx.ai/onnx/operators/onnx__HardSigmoid.html.
    """

    op_type = "HardSigmoid"

    def __init__(self, alpha: float = 0.2, beta: float = 0.5) -> None:
        super().__init__(alpha=float(alpha), beta=float(beta))


class Maxout(Layer):
    """The largest of every `slice_size` neighbours along axis 1; ties share the gradient.

    Args:
        slice_size: how many neighbours make one output; the last group may be short.

    Called with x (N, D, *S), returns (N, ceil(D / slice_size), *S).

    Raises:
        ShapeError: x has fewer than two axes, D or a size of S is not known, or slice_size is not positive.

    Source: Goodfellow et al. 2013, arXiv:1302.4389.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.Maxout(2)(np.array([[1.0, 3.0, 2.0, 0.0, 5.0]])))
        [[3. 2. 5.]]
    """

    def __init__(self, slice_size: int = 1) -> None:
        super().__init__()
        if slice_size < 1:
            raise ShapeError(f"Maxout: slice_size must be positive, got {slice_size}. {created_at(user_site())}")
        self.slice_size = slice_size

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the maxima."""
        rank = len(axes_of(x, "Maxout", 2, "(N, D, *S)"))
        d, *rest = known_sizes(x, range(1, rank), "Maxout")
        size = self.slice_size
        whole = d // size * size
        if cast := cast_to_precision(x):
            x = apply("Cast", x, to=cast)
        parts = []
        if whole:
            part = x if whole == d else apply("Slice", x, integers([0]), integers([whole]), integers([1]))
            groups = apply("Reshape", part, integers([0, whole // size, size, *rest]))
            parts.append(apply("ReduceMax", groups, integers([2]), keepdims=0))
        if whole < d:
            part = apply("Slice", x, integers([whole]), integers([d]), integers([1]))
            parts.append(apply("ReduceMax", part, integers([1]), keepdims=1))
        return parts[0] if len(parts) == 1 else apply("Concat", *parts, axis=1)


_NAMED: dict[str, type[Layer]] = {
    "celu": Celu,
    "elu": Elu,
    "gelu": Gelu,
    "hard sigmoid": HardSigmoid,
    "hard swish": HardSwish,
    "leaky relu": LeakyRelu,
    "maxout": Maxout,
    "mish": Mish,
    "prelu": PRelu,
    "relu": Relu,
    "relu6": Relu6,
    "selu": Selu,
    "sigmoid": Sigmoid,
    "silu": Silu,
    "softmax": Softmax,
    "softplus": Softplus,
    "softsign": Softsign,
    "swish": Swish,
    "tanh": Tanh,
}


def Activation(name: str) -> Layer:
    """Return the activation layer of that name, with its defaults.

    Args:
        name: such as "relu", "leaky relu" or "leaky_relu"; upper and lower case are the same.

    Raises:
        ConversionError: there is none of that name.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.Activation("relu")(np.array([[-1.0, 2.0]])))
        [[0. 2.]]
    """
    known = name.lower().replace("_", " ")
    if known not in _NAMED:
        raise ConversionError(
            f"Activation: the name must be one of {', '.join(_NAMED)}, got {name!r}. {created_at(user_site())}"
        )
    return _NAMED[known]()
