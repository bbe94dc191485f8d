"""Gradients of matrix products. Operators: https://onnx.ai/onnx/operators/."""

import string

import numpy as np

from renom_onnx.errors import GradientError
from renom_onnx.gradients.registry import gradient


@gradient("Gemm", linear_in_each=True, in_bfloat16=True)
def gemm(op, dy, y, a, b, c=None, *, alpha, beta, transA, transB):
    """Y = alpha a' b' + beta c:  da' = alpha dy b'^T,  db' = alpha a'^T dy,  dc = beta dy."""
    if transA:
        da = op.Gemm(b, dy, alpha=alpha, transA=transB, transB=1)
    else:
        da = op.Gemm(dy, b, alpha=alpha, transB=1 - transB)
    if transB:
        db = op.Gemm(dy, a, alpha=alpha, transA=1, transB=transA)
    else:
        db = op.Gemm(a, dy, alpha=alpha, transA=1 - transA)
    return da, db, dy if beta == 1 else op.Mul(dy, beta)


@gradient("MatMul", linear_in_each=True, in_bfloat16=True)
def matmul(op, dy, y, a, b):
    """da = dy b^T, db = a^T dy; a vector is a matrix of one row (on the left) or one column (on the right)."""
    if a.rank == 1 and b.rank == 1:
        return op.Mul(dy, b), op.Mul(dy, a)
    if a.rank == 1:
        rows, column = op.Unsqueeze(dy, [-2]), op.Unsqueeze(a, [1])
        return op.Squeeze(op.MatMul(rows, _transpose(op, b)), [-2]), op.Mul(column, rows)
    if b.rank == 1:
        columns = op.Unsqueeze(dy, [-1])
        return op.Mul(columns, b), op.Squeeze(op.MatMul(_transpose(op, a), columns), [-1])
    if a.rank == 2 and b.rank == 2:
        return op.Gemm(dy, b, transB=1), op.Gemm(a, dy, transA=1)
    da = op.MatMul(dy, _transpose(op, b))
    if b.rank == 2 and a.rank is not None:  # one product over all rows, instead of one per matrix and their sum
        return da, op.shaped(op.Gemm(_rows(op, a), _rows(op, dy), transA=1), b)
    if _is_wider(a, dy):  # the smaller one is turned; behind heads of attention the other Transpose joins theirs
        return da, _transpose(op, op.MatMul(_transpose(op, dy), a))
    return da, op.MatMul(_transpose(op, a), dy)


def _is_wider(a, dy):
    """Whether the last axis of a is known to be longer than that of dy."""
    wide, narrow = (None if value.shape is None else value.shape[-1] for value in (a, dy))
    return isinstance(wide, int) and isinstance(narrow, int) and wide > narrow


def _transpose(op, x):
    """Return x with its last two axes swapped."""
    if x.rank is None:
        return op.Einsum(x, equation="...ij->...ji")
    n = x.rank
    return op.Transpose(x, perm=[*range(n - 2), n - 1, n - 2])


def _rows(op, x):
    """Return x as a matrix of its last axis."""
    return op.Reshape(x, op.vector([-1], op.size_of(x, [-1])))


@gradient("Einsum", linear_in_each=True)
def einsum(op, dy, y, *xs, equation):
    """dx = the same sum with dy in the place of x; over labels that only x has, the result is repeated."""
    terms, out = _labels(equation)
    gradients = []
    for i, (term, x) in enumerate(zip(terms, xs, strict=True)):
        labels, eyes = _distinct(op, term, x)
        operands = [(out, dy), *((t, v) for j, (t, v) in enumerate(zip(terms, xs, strict=True)) if j != i), *eyes]
        found = set().union(*(t for t, _ in operands))
        dots = "..." if "." in found else ""  # axes that x lacks or has at size 1 are summed by the reverse walk
        left, right = ",".join(t for t, _ in operands), "".join(label for label in labels if label in found)
        g = op.Einsum(*(v for _, v in operands), equation=f"{left}->{dots}{right}")
        missing = [k - len(labels) for k, label in enumerate(labels) if label not in found]
        gradients.append(op.expand_like(op.Unsqueeze(g, missing), x) if missing else g)
    return gradients


def _labels(equation):
    """Return the labels of every operand and of the result; without "->" these are the ones that occur once."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    if not arrow:
        once = sorted(c for c in set(left) - set(".,") if left.count(c) == 1)
        out = ("..." if "..." in left else "") + "".join(once)
    return left.split(","), out


def _distinct(op, term, x):
    """Return the labels of x, each once, and an identity matrix for each that was there twice: a diagonal."""
    labels, eyes = list(term.replace("...", "")), []
    unused = iter(sorted(set(string.ascii_letters) - set(labels), reverse=True))
    for k, label in enumerate(labels):
        if label in labels[:k]:
            labels[k] = next(unused)
            size = op.size_of(x, [k - len(labels)])
            square = op.ConstantOfShape(op.vector(size, size), value=np.ones(1, x.dtype))
            eyes.append((label + labels[k], op.EyeLike(square)))
    return labels, eyes


@gradient("Det")
def det(op, dy, y, x):
    """dx = dy times the matrix of cofactors, whose elements are determinants of x without one row and column."""
    n = x.shape[-1] if x.shape is not None else None
    if not isinstance(n, int):
        raise GradientError(
            f"Det: the gradient must know the size of the matrix, got x is {x}. Give x a shape of numbers."
        )
    if n == 1:
        return op.reshape_like(dy, x)
    kept = op.constant([[j for j in range(n) if j != i] for i in range(n)], np.int64)
    minors = op.Gather(op.Gather(x, kept, axis=-2), kept, axis=-1)  # (..., i, n - 1, j, n - 1)
    r = x.rank
    minors = op.Det(op.Transpose(minors, perm=[*range(r - 1), r, r - 1, r + 1]))
    signs = op.constant((-1.0) ** np.add.outer(np.arange(n), np.arange(n)), x.dtype)
    return op.Mul(op.Unsqueeze(dy, [-1, -2]), op.Mul(minors, signs))
