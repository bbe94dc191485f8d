"""Conversion between GraphElements and ONNX, in both directions."""

from renom_onnx.converters.doctor import doctor
from renom_onnx.converters.export import export, export_training, to_onnx, to_training_onnx
from renom_onnx.converters.lint import lint
from renom_onnx.converters.load import load
from renom_onnx.converters.loaded import LoadedModel
from renom_onnx.converters.lowering import lower
from renom_onnx.converters.surgery import add_prefix, convert_opset, externalize, inline, merge, strip
from renom_onnx.converters.vjp import vjp

__all__ = [
    "LoadedModel",
    "add_prefix",
    "convert_opset",
    "doctor",
    "export",
    "export_training",
    "externalize",
    "inline",
    "lint",
    "load",
    "lower",
    "merge",
    "strip",
    "to_onnx",
    "to_training_onnx",
    "vjp",
]
