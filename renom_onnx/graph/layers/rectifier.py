"""Rectifiers: activations that are linear where x is positive."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.elementwise import Elementwise
from renom_onnx.graph.layers.size import axes_of, known_sizes
from renom_onnx.graph.node import Constant as ConstantLeaf
from renom_onnx.graph.operators import apply
from renom_onnx.graph.setting import Settings
from renom_onnx.utility.initializer import Constant


class Relu(Elementwise):
    """max(x, 0), element by element; the gradient is 0 where y is 0.

    Source: https://onnx.ai/onnx/operators/onnx__Relu.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.Relu()(np.array([[-1.0, 2.0]])))
        [[0. 2.]]
    """

    op_type = "Relu"


class Relu6(Layer):
    """min(max(x, 0), 6), element by element. Source: https://onnx.ai/onnx/operators/onnx__Clip.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.Relu6()(np.array([[-1.0, 2.0, 7.0]])))
        [[0. 2. 6.]]
    """

    def forward(self, x: GraphElement) -> GraphElement:
        """Return x between 0 and 6."""
        cast = cast_to_precision(x)
        low, high = (ConstantLeaf(np.array(n, cast or x.dtype)).output for n in (0, 6))
        return apply("Clip", x, low, high, casts=[cast, None, None])


class LeakyRelu(Elementwise):
    """x where x > 0, else slope x, element by element.

    Args:
        slope: default 0.01.

    Source: https://onnx.ai/onnx/operators/onnx__LeakyRelu.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.LeakyRelu(0.5)(np.array([[-1.0, 2.0]])))
        [[-0.5  2. ]]
    """

    op_type = "LeakyRelu"

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__(alpha=float(slope))


class PRelu(Layer):
    """x where x > 0, else slope x, element by element, with a slope that is learned.

    Args:
        slope: what it starts from.
        per_channel: one slope for each channel (axis 1) instead of one for all.
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters: slope (1,), or (C, 1, …) per channel.

    Source: He et al. 2015, arXiv:1502.01852; https://onnx.ai/onnx/operators/onnx__PRelu.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> print(rm.graph.PRelu()(np.array([[-1.0, 2.0]])))
        [[-0.25  2.  ]]
    """

    def __init__(self, slope: float = 0.25, *, per_channel: bool = False, **settings: Unpack[Settings]) -> None:
        super().__init__(**settings)
        self.slope = slope
        self.per_channel = per_channel

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the rectified x."""
        shape = [1]
        if self.per_channel:
            rank = len(axes_of(x, "PRelu", 2, "(N, C, *S)"))
            shape = [*known_sizes(x, [1], "PRelu"), *[1] * (rank - 2)]
        slope = self.parameter("slope", shape, Constant(self.slope))
        return apply("PRelu", x, slope, casts=[cast_to_precision(x), None])


class Elu(Elementwise):
    """x where x > 0, else alpha (e^x - 1), element by element.

    Args:
        alpha: default 1, the paper's and the field's (ReNom's was 0.01).

    Source: Clevert et al. 2016, arXiv:1511.07289; https://onnx.ai/onnx/operators/onnx__Elu.html.
    """

    op_type = "Elu"

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha=float(alpha))


class Selu(Elementwise):
    """gamma x where x > 0, else gamma alpha (e^x - 1), element by element; alpha = 1.67326…, gamma = 1.05070….

    Source: Klambauer et al. 2017, arXiv:1706.02515; https://onnx.ai/onnx/operators/onnx__Selu.html.
    """

    op_type = "Selu"


class Celu(Elementwise):
    """max(x, 0) + min(0, alpha (e^(x / alpha) - 1)), element by element.

    Args:
        alpha: default 1.

    Source: Barron 2017, arXiv:1704.07483; https://onnx.ai/onnx/operators/onnx__Celu.html.
    """

    op_type = "Celu"

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha=float(alpha))
