"""Errors of onnxruntime, answered with the user's line where they name a node that a program made."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from renom_onnx.errors import IndexRangeError, RunError, first_line
from renom_onnx.graph.naming import TreeNames
from renom_onnx.graph.node import Node, Value, ancestors
from renom_onnx.graph.site import Site, created_at

_NODE = re.compile(r"It is node '([^']*)' of the model\.$")


def run_error(
    caller: str, error: Exception, origins: Mapping[str, Node] | None = None, site: Site | None = None
) -> RunError:
    """Return what to raise for an error of onnxruntime.

    Args:
        caller: what ran.
        error: what onnxruntime raised.
        origins: the nodes that the program made, by their names in the model.
        site: the user's line where the error names no node of theirs.

    Example:
        >>> run_error("InferenceSession.run", ValueError("no memory. "))
        RunError('InferenceSession.run: onnxruntime stopped, got: no memory.')
    """
    text = first_line(error)
    text = re.sub(r"/\S+:\d+ \S.* was false\. (?=\S)", "", text)  # a place in onnxruntime's own source
    node = _named_node(text, origins or {})
    if node is not None and _says_rule(text, node):
        return RunError(f"{text}. {created_at(node.site)}")
    if node is not None:
        detail = text.split("Status Message: ")[-1]
        if "MLFloat16 data type is not supported" in detail:
            return RunError(
                f"{node.op_type}: onnxruntime's CPU provider must have a kernel for float16, got none. Convert the "
                f"operands to float32. {created_at(node.site)}"
            )
        return RunError(f"{node.op_type}: onnxruntime stopped, got: {detail}. {created_at(node.site)}")
    closing = f" {created_at(site)}" if site is not None else ""
    return RunError(f"{caller}: onnxruntime stopped, got: {text}.{closing}")


def _named_node(text: str, origins: Mapping[str, Node]) -> Node | None:
    found = re.search(r"(?:Name:|with name )'([^']*)'", text)
    name = found[1] if found is not None else ""
    while name and name not in origins:  # the nodes of a call that is written out are called after the call
        name = name.rpartition("/")[0] if "/" in name else name[:-1]
    return origins.get(name)


def _says_rule(text: str, node: Node) -> bool:
    """Whether the text of an error is ours already."""
    return text.startswith(f"{node.op_type}: ")


@contextlib.contextmanager
def user_lines(caller: str, values: Sequence[Value], again: Callable[[], object] | None = None) -> Iterator[None]:
    """Give the errors of a session that runs a tree the user's lines.

    Args:
        caller: what ran.
        values: the outputs of the tree, the one that the user knows last.
        again: runs the tree once more with every call written out: in a call onnxruntime names no node.
    """
    try:
        with index_lines(values):
            yield
    except IndexRangeError:
        raise
    except RunError as e:
        cause = e.__cause__
        if not isinstance(cause, Exception):
            raise
        if again is not None and "Name:''" in str(cause):
            cause = _cause_of(again) or cause
        origins = _origins(values)
        node = _named_node(str(e), origins)
        known = e if node is not None and _says_rule(str(e), node) else cause
        raise run_error(caller, known, origins, values[-1].node.site) from cause


@contextlib.contextmanager
def index_lines(values: Sequence[Value]) -> Iterator[None]:
    """Give the errors of labels and indices alone the user's lines."""
    try:
        yield
    except IndexRangeError as e:
        raise placed(e, _origins(values)) from e.__cause__


def placed(error: IndexRangeError, origins: Mapping[str, Node]) -> IndexRangeError:
    """Return an error that names a node of the model with the user's line in its place."""
    found = _NODE.search(str(error))
    node = origins.get(found[1]) if found is not None else None
    return error if node is None else IndexRangeError(_NODE.sub(lambda _: created_at(node.site), str(error)))


def _origins(values: Sequence[Value]) -> dict[str, Node]:
    return {name: node for node, name in TreeNames(ancestors(values)).nodes.items()}


def _cause_of(again: Callable[[], object]) -> Exception | None:
    try:
        again()
    except RunError as e:
        return e.__cause__ if isinstance(e.__cause__, Exception) else None
    return None
