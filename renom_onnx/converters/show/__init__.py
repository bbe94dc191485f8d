"""Showing a model: a table, a tree, and a page for the browser."""

from renom_onnx.converters.show.page import write_page
from renom_onnx.converters.show.summary import Row, Summary, summarize

__all__ = ["Row", "Summary", "summarize", "write_page"]
