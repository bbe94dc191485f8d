"""Tools that change a model and keep its training steps, which onnx's own drop or corrupt."""

from renom_onnx.converters.surgery.entries import append_training
from renom_onnx.converters.surgery.external import externalize
from renom_onnx.converters.surgery.inlining import inline
from renom_onnx.converters.surgery.merging import merge
from renom_onnx.converters.surgery.opset import convert_opset
from renom_onnx.converters.surgery.prefix import add_prefix
from renom_onnx.converters.surgery.stripping import strip

__all__ = ["add_prefix", "append_training", "convert_opset", "externalize", "inline", "merge", "strip"]
