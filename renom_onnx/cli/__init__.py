"""The command renom-onnx: one file for each of its commands, and what they share."""

from renom_onnx.cli.program import main

__all__ = ["main"]
