"""Unpooling: maxima back to where they came from."""

from __future__ import annotations

import numpy as np

from renom_onnx.errors import ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer
from renom_onnx.graph.operators import apply, apply_node, integers
from renom_onnx.graph.site import created_at, user_site


class UnPool(Layer):
    """Put x where a MaxPool found its maxima, between zeros; where windows overlap, add.

    Args:
        prev_pool: what the MaxPool layer returned.

    Called with x (N, C, *O), the shape of `prev_pool`, returns (N, C, *S), the shape of what was pooled.

    Raises:
        ShapeError: prev_pool is not the output of a MaxPool, or x has another shape.

    Source: Zeiler & Fergus 2014, arXiv:1311.2901; https://onnx.ai/onnx/operators/onnx__MaxUnpool.html, which does not
    add and exists for float32 on the CPU only, hence ScatterElements.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> pooled = rm.graph.MaxPool(kernel=2, stride=2)(np.arange(4.0).reshape(1, 1, 2, 2))
        >>> print(rm.graph.UnPool(pooled)(pooled))
        [[[[0. 0.]
           [0. 3.]]]]
    """

    def __init__(self, prev_pool: GraphElement) -> None:
        super().__init__()
        op_type = prev_pool.output.node.op_type
        if op_type != "MaxPool":
            got = op_type or "a leaf"
            raise ShapeError(f"UnPool: prev_pool must be the output of a MaxPool, got {got}. {created_at(user_site())}")
        self.prev_pool = prev_pool

    def forward(self, x: GraphElement) -> GraphElement:
        """Return the unpooled x."""
        pooled = self.prev_pool.output
        if x.shape is None or pooled.shape is None or x.shape[1:] != pooled.shape[1:]:
            raise ShapeError(
                f"UnPool: x must have the shape of prev_pool, got x is {x.output}, prev_pool is {pooled}. "
                f"{created_at(user_site())}"
            )
        pool = pooled.node
        image, dtype = pool.inputs[0], pooled.dtype
        if dtype == np.float16:  # a sum; and onnxruntime's CPU provider does not scatter float16
            dtype = np.dtype(np.float32)
        assert image is not None
        found = apply_node("MaxPool", image, casts=pool.casts, n_outputs=2, **pool.attributes)
        places = apply("Reshape", found.outputs[1], integers([-1]))
        shape = apply("Shape", image)
        rows = apply("ReduceProd", shape, keepdims=1)
        zeros = apply("ConstantOfShape", rows, value=np.zeros(1, dtype))
        flat, casts = apply("Reshape", x, integers([-1])), [None, None, None if x.dtype == dtype else dtype]
        filled = apply("ScatterElements", zeros, places, flat, casts=casts, axis=0, reduction="add")
        y = apply("Reshape", filled, shape)
        y.output.shape = image.shape
        return y
