"""Eager evaluation: elements are run by sessions that are cached by the structure of the tree.

A loop that builds the same graph for every batch opens one session: the key is operators, attributes, edges, element
types and symbolic shapes; arrays and parameters are fed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from renom_onnx.converters.tree import TreeWriter, as_bytes, tree_opset
from renom_onnx.errors import IndexRangeError, RunError, ShapeError
from renom_onnx.graph import schema
from renom_onnx.graph.distributor import Distributor, Stream
from renom_onnx.graph.node import Constant, Input, Leaf, Mutable, Node, Static, Value, ancestors
from renom_onnx.graph.site import created_at
from renom_onnx.graph.update import Updates
from renom_onnx.runtime.device import Device
from renom_onnx.runtime.failure import placed, run_error
from renom_onnx.runtime.index_range import IndexRanges, is_of_index
from renom_onnx.runtime.opening import open_session

Array = np.ndarray[Any, Any]

CACHE_SIZE = 64


@dataclass
class _Compiled:
    session: Any
    feeds: list[tuple[int, str]]
    fetches: list[str]
    node_names: dict[str, int]


class SessionCache:
    """The least recently used sessions are closed first; `opened` counts those ever opened."""

    def __init__(self, size: int = CACHE_SIZE) -> None:
        self._size = size
        self._found: OrderedDict[Any, _Compiled] = OrderedDict()
        self.opened = 0

    def get(self, values: Sequence[Value], nodes: Sequence[Node]) -> _Compiled:
        """Return the session of a structure."""
        key = structure(values, nodes)
        compiled = self._found.get(key)
        if compiled is None:
            compiled = self._found[key] = _compile(values, nodes)
            self.opened += 1
            while len(self._found) > self._size:
                self._found.popitem(last=False)
        self._found.move_to_end(key)
        return compiled


sessions = SessionCache()


def structure(values: Sequence[Value], nodes: Sequence[Node]) -> Any:
    """Return what two trees have in common that one session can run."""
    numbers = {node: i for i, node in enumerate(nodes)}

    def place(value: Value | None) -> Any:
        return None if value is None else (numbers[value.node], value.index)

    described: list[Any] = []
    for node in nodes:
        if isinstance(node, Constant):
            described.append((node.output.dtype, node.output.shape, node.key))
        elif isinstance(node, Leaf):
            described.append((type(node).__name__, node.output.dtype, node.output.shape))
        else:
            described.append(
                (
                    node.op_type,
                    node.domain,
                    node.function,
                    node.opset,
                    schema.hashable(node.attributes),
                    node.casts,
                    len(node.outputs),
                    tuple(place(v) for v in node.inputs),
                )
            )
    return tuple(described), tuple(place(v) for v in values)


def _compile(values: Sequence[Value], nodes: Sequence[Node]) -> _Compiled:
    unique = list(dict.fromkeys(v for v in values if not isinstance(v.node, Leaf)))
    # Written out: onnxruntime's own inlining of thousands of calls is quadratic, 5.5 s instead of 0.7 s for 10,000.
    writer = TreeWriter(nodes, unique, opset=tree_opset(nodes, None), feed_all=True, inline=True)
    graph = writer.graph("evaluation", nodes, unique)
    names = {name: i for i, node in enumerate(nodes) if (name := writer.tree_names.nodes.get(node)) is not None}
    try:
        session = open_session(as_bytes(writer.model(graph)), Device("cpu"), shared_threads=False, spinning=False)
    except RunError as e:
        raise _error(e, names, nodes) from e
    fed = {i.name for i in graph.input}
    feeds = [
        (i, writer.names.of(node.output))
        for i, node in enumerate(nodes)
        if isinstance(node, Leaf) and not isinstance(node, Constant) and writer.names.of(node.output) in fed
    ]
    return _Compiled(session, feeds, [writer.names.of(v) for v in unique], names)


def evaluate(values: Sequence[Value]) -> list[Array]:
    """Return the arrays of some values, each element computed once, on the CPU.

    Raises:
        StopIteration: a distributor has no more data; then nothing was read.
        ShapeError: two batches have different rows.
        RunError: onnxruntime stopped.
    """
    nodes = ancestors(values)
    arrays, distributors = _leaf_arrays(nodes)
    return _evaluate(values, nodes, arrays, distributors)


def _evaluate(
    values: Sequence[Value],
    nodes: Sequence[Node],
    arrays: dict[Node, Array],
    distributors: dict[Distributor, list[int]],
) -> list[Array]:
    computed = list(dict.fromkeys(v for v in values if not isinstance(v.node, Leaf)))
    results: dict[Value, Array] = {}
    if computed:
        compiled = sessions.get(values, nodes)
        feeds = {name: arrays[nodes[i]] for i, name in compiled.feeds}
        if any(not array.size for array in feeds.values()):
            _refuse_empty(nodes)
        try:
            outputs = compiled.session.run(compiled.fetches, feeds)
        except Exception as e:
            raise _explained(_error(e, compiled.node_names, nodes), values, nodes, arrays) from e
        results = dict(zip(computed, outputs, strict=True))
    for distributor, indices in distributors.items():
        distributor.advance(indices)
    return [np.array(arrays[v.node]) if isinstance(v.node, Leaf) else results[v] for v in values]


def _refuse_empty(nodes: Sequence[Node]) -> None:
    """Raise RunError rather than let onnxruntime 1.32 end the process, as its CPU kernels do that get no rows."""
    for node in nodes:
        if node.op_type in {"LSTM", "GRU"}:
            raise RunError(
                f"{node.op_type}: a batch must have rows, got none. Stop before the empty batch that ends an even "
                f"division. {created_at(node.site)}"
            )


def _leaf_arrays(nodes: Sequence[Node]) -> tuple[dict[Node, Array], dict[Distributor, list[int]]]:
    arrays: dict[Node, Array] = {}
    distributors: dict[Distributor, list[int]] = {}
    for node in nodes:
        if isinstance(node, Stream):
            distributors.setdefault(node.distributor, []).append(node.index)
        elif isinstance(node, Static | Mutable | Constant):
            arrays[node] = node.array
        elif isinstance(node, Input):
            raise RunError(
                f"evaluate: every placeholder must be fed, got {node.name} ({node.output}) without a value. "
                f"{created_at(node.site)}"
            )
    batches = {d: d.batch(indices) for d, indices in distributors.items()}
    for node in nodes:
        if isinstance(node, Stream):
            arrays[node] = batches[node.distributor][node.index]
    _check_symbols(arrays)
    return arrays, distributors


def _check_symbols(arrays: Mapping[Node, Array]) -> None:
    """Raise ShapeError where a symbol stands for two sizes: kernels would broadcast or read too few labels."""
    first: dict[str, tuple[int, Node]] = {}
    for node, array in arrays.items():
        for symbol, size in zip(node.outputs[0].shape or (), array.shape, strict=False):
            if isinstance(symbol, str) and first.setdefault(symbol, (size, node))[0] != size:
                expected, other = first[symbol]
                raise ShapeError(
                    f"evaluate: {symbol} must be one size in a tree, got {expected} in {other.outputs[0]} and {size} "
                    f"in {node.outputs[0]}. Give inputs and labels the same rows. {created_at(node.site)}"
                )


def _error(error: Exception, node_names: Mapping[str, int], nodes: Sequence[Node]) -> RunError:
    origins = {name: nodes[i] for name, i in node_names.items()}
    return run_error("evaluate", error, origins, nodes[-1].site)


def _explained(
    error: RunError, values: Sequence[Value], nodes: Sequence[Node], arrays: Mapping[Node, Array]
) -> RunError:
    """Return what to raise for an error of a run: that of an index if it is one."""
    if not is_of_index(error):
        return error
    writer = TreeWriter(nodes, values, opset=tree_opset(nodes, None), feed_all=True)
    model = writer.model(writer.graph("evaluation", nodes, [v for v in values if not isinstance(v.node, Leaf)]))
    feeds = {writer.names.of(node.output): array for node, array in arrays.items() if not isinstance(node, Constant)}
    found = IndexRanges(model).explain(error, feeds)
    origins = {name: node for node, name in writer.tree_names.nodes.items()}
    return placed(found, origins) if isinstance(found, IndexRangeError) else found


def take_step(step: Updates) -> None:
    """Run a training step eagerly and keep the new parameters and state.

    The empty batch at the end of even divisions is read and changes nothing: a mean over no rows is no number.
    """
    values = list(step.next_values.values())
    nodes = ancestors(values)
    arrays, distributors = _leaf_arrays(nodes)
    if any(isinstance(node, Stream) and not len(arrays[node]) for node in nodes):
        for distributor, indices in distributors.items():
            distributor.advance(indices)
        return
    for leaf, array in zip(step.next_values, _evaluate(values, nodes, arrays, distributors), strict=True):
        leaf.array = array
