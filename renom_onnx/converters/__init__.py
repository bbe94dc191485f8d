"""Conversion between GraphElements and ONNX, in both directions."""

from renom_onnx.converters.doctor import doctor
from renom_onnx.converters.export import export, export_training, to_onnx, to_training_onnx
from renom_onnx.converters.fine_tuning import FineTuning, make_trainable
from renom_onnx.converters.head import replace_head
from renom_onnx.converters.lint import lint
from renom_onnx.converters.load import load
from renom_onnx.converters.loaded import LoadedModel
from renom_onnx.converters.lora import adapter_base, lora, merge_lora
from renom_onnx.converters.lowering import lower
from renom_onnx.converters.show import summarize, write_page
from renom_onnx.converters.surgery import add_prefix, append_training, convert_opset, externalize, inline, merge, strip
from renom_onnx.converters.vjp import vjp

__all__ = [
    "FineTuning",
    "LoadedModel",
    "adapter_base",
    "add_prefix",
    "append_training",
    "convert_opset",
    "doctor",
    "export",
    "export_training",
    "externalize",
    "inline",
    "lint",
    "load",
    "lora",
    "lower",
    "make_trainable",
    "merge",
    "merge_lora",
    "replace_head",
    "strip",
    "summarize",
    "to_onnx",
    "to_training_onnx",
    "vjp",
    "write_page",
]
