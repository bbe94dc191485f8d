"""Initializers and the like."""

from renom_onnx.utility import initializer

__all__ = ["initializer"]
