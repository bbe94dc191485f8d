"""Gradients of operators that move, repeat or regroup elements. Operators: https://onnx.ai/onnx/operators/."""

from renom_onnx.gradients.registry import gradient


@gradient("Reshape", "Flatten", linear_in_each=True, in_bfloat16=True)
def reshape(op, dy, y, x, shape=None):
    """dx = dy in the shape of x."""
    return op.reshape_like(dy, x)


@gradient("Squeeze", linear_in_each=True, in_bfloat16=True)
def squeeze(op, dy, y, x, axes=None):
    """dx = dy with its axes of size 1 back."""
    return op.reshape_like(dy, x) if axes is None else op.shaped(op.Unsqueeze(dy, axes), x)


@gradient("Unsqueeze", linear_in_each=True, in_bfloat16=True)
def unsqueeze(op, dy, y, x, axes):
    """dx = dy without the axes of size 1."""
    return op.shaped(op.Squeeze(dy, axes), x)


@gradient("Transpose", linear_in_each=True, in_bfloat16=True)
def transpose(op, dy, y, x, *, perm):
    """dx = dy, transposed back."""
    return op.Transpose(dy, perm=perm and sorted(range(len(perm)), key=perm.__getitem__))


@gradient("Concat", linear_in_each=True, in_bfloat16=True)
def concat(op, dy, y, *xs, axis):
    """Every x gets its part of dy."""
    sizes = op.vector(*(op.size_of(x, [axis]) for x in xs))
    parts = op.Split(dy, sizes, axis=axis, outputs=len(xs)) if len(xs) > 1 else [dy]
    return [op.shaped(part, x) for part, x in zip(parts, xs, strict=True)]


@gradient("Split", all_outputs=True, linear_in_each=True)
def split(op, dys, ys, x, split=None, *, axis):
    """dx = all dy, joined; zeros for a part that nobody used."""
    parts = [op.zeros_like(y) if dy is None else dy for dy, y in zip(dys, ys, strict=True)]
    return op.shaped(op.Concat(*parts, axis=axis), x)


@gradient("Expand", linear_in_each=True)
def expand(op, dy, y, x, shape):
    """dx = dy, summed over what was repeated: a broadcast, which the reverse walk undoes."""
    return dy


@gradient("Tile", linear_in_each=True)
def tile(op, dy, y, x, repeats):
    """dx = the sum of dy over the copies: y has the sizes (repeats_0, x_0, repeats_1, x_1, ...)."""
    pairs = op.Concat(op.Unsqueeze(repeats, [1]), op.Unsqueeze(op.shape_of(x), [1]), axis=1)
    copies = op.Reshape(dy, op.Reshape(pairs, [-1]))
    n = op.Squeeze(op.Shape(repeats), [0])
    axes = op.Range(op.constant(0, "int64"), op.Mul(n, 2), op.constant(2, "int64"))
    return op.shaped(op.ReduceSum(copies, axes if x.rank is None else range(0, 2 * x.rank, 2), keepdims=0), x)


@gradient("DepthToSpace", linear_in_each=True)
def depth_to_space(op, dy, y, x, *, blocksize, mode):
    """dx = SpaceToDepth(dy), with the channels in the order of the mode."""
    b = [blocksize]
    if mode == "DCR":
        return op.shaped(op.SpaceToDepth(dy, blocksize=blocksize), x)
    blocks = op.Reshape(dy, op.vector([0, 0], op.size_of(x, [2]), b, op.size_of(x, [3]), b))
    return op.reshape_like(op.Transpose(blocks, perm=[0, 1, 3, 5, 2, 4]), x)


@gradient("SpaceToDepth", linear_in_each=True)
def space_to_depth(op, dy, y, x, *, blocksize, mode):
    """dx = DepthToSpace(dy)."""
    return op.shaped(op.DepthToSpace(dy, blocksize=blocksize, mode=mode or "DCR"), x)


@gradient("Trilu", linear_in_each=True)
def trilu(op, dy, y, x, k=None, *, upper):
    """dx = the same triangle of dy."""
    return op.Trilu(dy, k, upper=upper)


@gradient("CumSum", linear_in_each=True)
def cumsum(op, dy, y, x, axis, *, exclusive, reverse):
    """dx = the cumulative sum of dy from the other end."""
    return op.CumSum(dy, axis, exclusive=exclusive, reverse=1 - reverse)


@gradient("CumProd")
def cumprod(op, dy, y, x, axis, *, exclusive, reverse):
    """dx = the cumulative sum of dy y from the other end, over x; at the first 0, of dy y without it; behind it 0."""

    def sum_back(value):
        return op.CumSum(value, axis, exclusive=exclusive, reverse=1 - reverse)

    is_zero = op.Cast(op.Equal(x, 0), to=x.dtype)
    n_zeros = op.CumSum(is_zero, axis, reverse=reverse)
    before, first = (op.Cast(op.Equal(n_zeros, n), to=x.dtype) for n in (0, 1))
    first = op.Mul(first, is_zero)
    others = op.CumProd(op.Add(x, first), axis, exclusive=exclusive, reverse=reverse)
    dx = op.Mul(op.Div(sum_back(op.Mul(dy, y)), op.Add(x, is_zero)), before)
    return op.Add(dx, op.Mul(sum_back(op.Mul(dy, others)), first))


@gradient("ReverseSequence", linear_in_each=True)
def reverse_sequence(op, dy, y, x, lengths, *, batch_axis, time_axis):
    """dx = dy, reversed again."""
    return op.ReverseSequence(dy, lengths, batch_axis=batch_axis, time_axis=time_axis)
