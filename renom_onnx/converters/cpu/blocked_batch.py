"""Batch normalization in training in the blocked layout, of images that are made in it.

What is done to every channel alike, w x + b, is a depthwise convolution of one tap. The sums over a channel of x y are
one of as many taps as the image has pixels, and those of x a global average. Forward,

    z = x - mean,   s = sqrt(mean of z² + epsilon),   y = (scale / s) z + bias,

of which z is kept for the gradient dx = a dy + (k z + c), whose numbers are those of `batch_operator`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from renom_onnx.converters.batch_statistics import meant_number
from renom_onnx.converters.cpu.batch_operator import constant, write_running
from renom_onnx.converters.cpu.blocked_layout import BlockedWriter
from renom_onnx.converters.cpu.known_shapes import Sizes


@dataclass(frozen=True)
class Centred:
    """Names of z, blocked, and of s (C,)."""

    z: str
    s: str


def blocked_normalization(op: BlockedWriter, node: onnx.NodeProto, shape: Sizes) -> Centred:
    """Write a BatchNormalizationTrain of an image."""
    x, scale, bias = node.input[:3]
    count = math.prod(shape) // shape[1]
    mean = op.standard("Mul", channel_sums(op, op.image(x), shape), constant(op.standard, 1 / count))
    ones = op.standard("Constant", value=numpy_helper.from_array(np.ones(shape[1], np.float32)))
    z = _affine(op, shape, op.image(x), ones, op.standard("Neg", mean))
    variance = op.standard("Mul", _product_sums(op, z, z, shape), constant(op.standard, 1 / count))
    epsilon = constant(op.standard, meant_number(node, "epsilon", 1e-5))
    s = op.standard("Sqrt", op.standard("Add", variance, epsilon))
    if node.output[0]:
        op.make(node.output[0], _affine(op, shape, z, op.standard("Div", scale, s), bias), shape)
    write_running(op.standard, node, (mean, variance), count)
    return Centred(z, s)


def blocked_normalization_gradient(
    op: BlockedWriter, actual: Mapping[str, str], outputs: Mapping[str, str], shape: Sizes, centred: Centred
) -> None:
    """Write the gradient of one."""
    dy, s = op.image(actual["dY"]), centred.s
    total, along = channel_sums(op, dy, shape), _product_sums(op, dy, centred.z, shape)
    if outputs.get("dSCALE"):
        op.standard("Div", along, s, output=outputs["dSCALE"])
    if outputs.get("dBIAS"):
        op.standard("Identity", total, output=outputs["dBIAS"])
    if not outputs.get("dX"):
        return
    a = op.standard("Div", actual["SCALE"], s)
    share = op.standard("Mul", a, constant(op.standard, -shape[1] / math.prod(shape)))
    k = op.standard("Mul", share, op.standard("Div", along, op.standard("Mul", s, s)))
    moved = _affine(op, shape, centred.z, k, op.standard("Mul", share, total))
    op.make(outputs["dX"], _affine(op, shape, dy, a, "", moved), shape)


def channel_sums(op: BlockedWriter, blocked: str, shape: Sizes) -> str:
    """Return the sums of the channels of a blocked image, (C,)."""
    means = op.reshape(op.op("GlobalAveragePool", blocked), shape[:2])
    summed = op.standard("ReduceSum", means, op.integers([0]), keepdims=0)
    return op.standard("Mul", summed, constant(op.standard, math.prod(shape[2:])))


def _product_sums(op: BlockedWriter, one: str, two: str, shape: Sizes) -> str:
    """Return the sums of the channels of the product of two blocked images, (C,)."""
    n, c, *image = shape
    pixels = math.prod(image)
    values, kernel = op.reshape(one, [1, n * c, 1, pixels]), op.reshape(two, [n * c, 1, 1, pixels])
    each = op.op("Conv", values, kernel, group=n * c, kernel_shape=[1, pixels])
    return op.standard("ReduceSum", op.reshape(each, [n, c]), op.integers([0]), keepdims=0)


def _affine(op: BlockedWriter, shape: Sizes, blocked: str, w: str, b: str, *added: str) -> str:
    """Return w x + b, or w x + added, of a blocked image, where w and b are (C,)."""
    kernel = op.standard("Reshape", w, op.integers([shape[1], 1, 1, 1]))
    return op.op("Conv", blocked, kernel, b, *added, group=shape[1], kernel_shape=[1, 1])
