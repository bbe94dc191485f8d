"""Gradient of Resize. Operator: https://onnx.ai/onnx/operators/onnx__Resize.html.

Resizing is linear, one axis after the other: y = M_a x along axis a, in every mode. The matrix M_a is what Resize makes
of the identity, so no interpolation is written here a second time; onnxruntime computes it once where sizes and scales
are constants.
"""

import numpy as np

from renom_onnx.errors import GradientError
from renom_onnx.gradients.registry import gradient
from renom_onnx.graph.node import known_array


@gradient("Resize", linear_in_each=True, settings=(1, 2))
def resize(
    op, dy, y, x, roi=None, scales=None, sizes=None, *, mode, axes, coordinate_transformation_mode, nearest_mode,
    antialias, cubic_coeff_a, exclude_outside, keep_aspect_ratio_policy,
):  # fmt: skip
    """dx = dy times the interpolation matrix of each axis; a repeated pixel sums its copies."""
    if x.rank is None:
        raise GradientError("Resize: the gradient must know the rank of x, got none. Give x a shape in the model.")
    axes = [a % x.rank for a in axes] if axes else list(range(x.rank))
    is_cropped = coordinate_transformation_mode == "tf_crop_and_resize"
    ratios = known_array(scales)
    if (
        mode == "nearest"
        and _repeats(ratios, coordinate_transformation_mode, nearest_mode)
        and axes[0] < 2 <= x.rank - 1
    ):
        return _sum_blocks(op, dy, x, axes, ratios)
    how = dict(mode=mode, coordinate_transformation_mode=coordinate_transformation_mode, nearest_mode=nearest_mode)
    how |= dict(antialias=antialias, cubic_coeff_a=cubic_coeff_a, exclude_outside=exclude_outside)
    policy = sizes is not None and keep_aspect_ratio_policy not in {None, "stretch"}
    common = _common_scale(op, x, axes, sizes, keep_aspect_ratio_policy) if policy else None
    for k, axis in reversed(list(enumerate(axes))):
        if ratios is not None and ratios[k] == 1 and not is_cropped:
            continue
        n, m = op.size_of(x, [axis]), op.size_of(y, [axis])
        scale = op.Slice(scales, [k], [k + 1]) if scales is not None else common
        crop = op.Gather(op.Cast(roi, to=np.float32), op.constant([k, k + len(axes)], np.int64)) if is_cropped else None
        matrix = _matrix(op, n, m, scale, policy, crop, how)
        dy = _along(op, dy, op.Cast(matrix, to=x.dtype) if x.dtype != np.float32 else matrix, axis, x.rank)
    return op.shaped(dy, x)


def _repeats(ratios, coordinates, rounding):
    """Whether every pixel is repeated the same number of times."""
    if ratios is None or (ratios % 1).any() or (ratios < 1).any():
        return False
    return (coordinates, rounding) in {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")}


def _sum_blocks(op, dy, x, axes, ratios):
    """Return the sums over the copies of each pixel: their mean times their number, by the fastest of kernels."""
    factor = dict(zip(axes, ratios.astype(int).tolist(), strict=True))
    if factor.get(0, 1) == factor.get(1, 1) == 1 and x.rank > 2 and x.dtype == np.float32:
        kernel = [factor.get(axis, 1) for axis in range(2, x.rank)]
        return op.shaped(op.Mul(op.AveragePool(dy, kernel_shape=kernel, strides=kernel), int(np.prod(kernel))), x)
    pairs = [v for axis in range(x.rank) for v in (op.size_of(x, [axis]), [factor.get(axis, 1)])]
    return op.shaped(op.ReduceSum(op.Reshape(dy, op.vector(*pairs)), list(range(1, 2 * x.rank, 2)), keepdims=0), x)


def _common_scale(op, x, axes, sizes, policy):
    """Return the scale that all axes share where the aspect ratio is kept."""
    each = op.Div(op.Cast(sizes, to=np.float32), op.Cast(op.size_of(x, axes), to=np.float32))
    return op.ReduceMin(each, keepdims=1) if policy == "not_larger" else op.ReduceMax(each, keepdims=1)


def _matrix(op, n, m, scale, is_rounded, crop, how):
    """Return the matrix (n, m) whose row i says where pixel i goes: the resized identity.

    Where the size is the scaled one *rounded*, the identity is prolonged at its edge, so that enough comes out.
    """
    rows = known_array(n)
    eye = (
        op.constant(np.eye(rows[0]), np.float32)
        if rows is not None
        else op.EyeLike(op.ConstantOfShape(op.vector(n, n), value=np.zeros(1, np.float32)))
    )
    roi = None if crop is None else op.Concat([0.0], op.Gather(crop, [0]), [1.0], op.Gather(crop, [1]), axis=0)
    if scale is None:
        return op.Resize(eye, roi, None, op.vector(n, m), **how)
    scales = op.Concat(op.constant([1], np.float32), op.Cast(scale, to=np.float32), axis=0)
    if is_rounded:
        more = op.Cast(op.Ceil(op.Reciprocal(scale)), to=np.int64)
        eye = op.Pad(eye, op.vector([0, 0, 0], more), mode="edge")
    matrix = op.Resize(eye, roi, scales, **how)
    return op.Slice(matrix, op.constant([0], np.int64), m, [1]) if is_rounded else matrix


def _along(op, dy, matrix, axis, rank):
    """Return dy multiplied by the matrix (n, m) along one axis of size m."""
    if axis == rank - 1:
        return op.MatMul(dy, op.Transpose(matrix, perm=[1, 0]))
    if axis == rank - 2:
        return op.MatMul(matrix, dy)
    perm = [*(a for a in range(rank) if a != axis), axis]
    last = op.MatMul(op.Transpose(dy, perm=perm), op.Transpose(matrix, perm=[1, 0]))
    return op.Transpose(last, perm=sorted(range(rank), key=perm.__getitem__))
