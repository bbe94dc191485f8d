"""`summarize`: a table of nodes or layers with shapes, parameters and work, and a tree of nodes, as text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from renom_onnx.converters.doctor.reading import structure
from renom_onnx.converters.doctor.wording import counted, number
from renom_onnx.converters.importer import ImportedGraph
from renom_onnx.converters.initializer import Kind, kind_of, readers_of
from renom_onnx.converters.show.roles import FORWARD, roles
from renom_onnx.converters.show.source import open_source
from renom_onnx.converters.structure import label_of
from renom_onnx.converters.training_info import concatenate
from renom_onnx.graph.meter import Meter
from renom_onnx.graph.node import UNKNOWN_DIM, Node, Value, type_text

WIDEST = 60
"""Letters of the widest column."""
TAGS = {"forward": "Forward", "gradient": "Backward", "update": "Update"}


@dataclass(frozen=True)
class Row:
    """A node, or the nodes of a layer.

    Attributes:
        name: of the node or layer.
        op_type: the operator; of a layer the operators with their numbers.
        role: "forward", "gradient" or "update".
        depth: one more than that of the deepest node that it reads.
        outputs: types.
        n_parameters: numbers in the weights that it is the first to read.
        macs, flops: work, None where it is not known.
    """

    name: str
    op_type: str
    role: str
    depth: int
    outputs: tuple[str, ...]
    n_parameters: int
    macs: int | None
    flops: int | None


@dataclass(frozen=True)
class Summary:
    """The nodes of a model with what is known of them.

    Attributes:
        name: of the file.
        rows: in the file's order.
        inputs: types by name.
        sizes: numbers for symbols that the work is counted for.
        n_parameters, n_fixed: numbers in weights, and in other initializers.
    """

    name: str
    rows: tuple[Row, ...]
    inputs: Mapping[str, str]
    sizes: Mapping[str, int]
    n_parameters: int
    n_fixed: int

    @property
    def macs(self) -> int:
        """Multiply-adds of all nodes whose work is known."""
        return sum(row.macs or 0 for row in self.rows)

    @property
    def flops(self) -> int:
        """Operations of all nodes whose work is known."""
        return sum(row.flops or 0 for row in self.rows)

    def by_layer(self) -> Summary:
        """Return the same with one row for the nodes of each layer: those whose names begin alike."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(_layer(row.name), []).append(row)
        return dataclasses.replace(self, rows=tuple(_joined(name, rows) for name, rows in groups.items()))

    def tree(self) -> str:
        """Return a line for each node, as `print_tree` writes it, with name and type."""
        mark = {"forward": "(F)", "gradient": "(B)"}
        return "\n".join(
            f"I am a {row.op_type}{f' {mark[row.role]}' if row.role in mark else ''} at depth {row.depth} with tags: "
            f"['{TAGS[row.role]}']  {row.name}: {', '.join(row.outputs)}"
            for row in self.rows
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the summary for JSON."""
        return {**dataclasses.asdict(self), "macs": self.macs, "flops": self.flops}

    def __str__(self) -> str:
        head = ["node", "operator", "output", "parameters", "multiply-adds", "operations"]
        lines = [
            [row.name, row.op_type, ", ".join(row.outputs), f"{row.n_parameters:,}" if row.n_parameters else "",
             _work(row.macs), _work(row.flops)]
            for row in self.rows
        ]  # fmt: skip
        table = _table(head, lines, right=(3, 4, 5))
        unknown = sum(row.flops is None for row in self.rows)
        at = ", ".join(f"{symbol} = {size}" for symbol, size in self.sizes.items())
        inputs = ", ".join(f"{name} {kind}" for name, kind in self.inputs.items()) or "none"
        inputs = ", ".join(f"{name} {kind}" for name, kind in self.inputs.items()) or "none"
        fixed = f", and {counted(self.n_fixed, 'other number')}" if self.n_fixed else ""
        work = f"{number(self.macs)} multiply-adds, {number(self.flops)} operations{f' at {at}' if at else ''}"
        rest = f", without {counted(unknown, 'row')} of unknown work" if unknown else ""
        total = [
            "",
            f"{self.name}: {counted(len(self.rows), 'row')}; inputs {inputs}",
            f"{self.n_parameters:,} parameters{fixed}; {work}{rest}",
        ]
        return "\n".join([*table, *total])


def summarize(
    model: Any, *, batch_size: int = 1, sizes: Mapping[str, int] | None = None, training: bool = False
) -> Summary:
    """Return a table of a model: its nodes with output types, parameters and work.

    Args:
        model: a path, bytes, ModelProto, element, layer or loss.
        batch_size: the size of the first axis of inputs, where it is a symbol.
        sizes: numbers for other symbols.
        training: of a trainable file or a loss, the nodes of the training step too.

    Raises:
        ConversionError: it is no ONNX model, or its structure is broken.
        OSError: there is no such file.

    Example:
        >>> import renom_onnx as rm
        >>> net = rm.graph.Sequential([rm.graph.Dense(8), rm.graph.Relu(), rm.graph.Dense(2)])
        >>> print(rm.converters.summarize(rm.converters.to_onnx(net, inputs={"x": ("N", 4)})))
        node         operator  output         parameters  multiply-adds  operations
        dense1/Gemm  Gemm      float32[N, 8]          40             32          72
        relu1/Relu   Relu      float32[N, 8]                          0           8
        dense2/Gemm  Gemm      float32[N, 2]          18             16          34
        <BLANKLINE>
        a ModelProto: 3 rows; inputs x float32[N, 4]
        58 parameters; 48 multiply-adds, 114 operations at N = 1
    """
    opened = open_source(model, training=training)
    proto = opened.proto
    is_training = training and bool(proto.training_info)
    graph_proto = concatenate(proto) if is_training else proto.graph
    readers = readers_of(graph_proto.node)
    kinds = {t.name: kind_of(t, readers.get(t.name, ())) for t in graph_proto.initializer}
    if is_training:  # what a step changes is fed, whatever it is
        mutable = {b.key for info in proto.training_info for b in info.update_binding}
        kinds = {name: kind for name, kind in kinds.items() if name not in mutable}
    graph = structure(proto, graph_proto, kinds)
    initialized = {t.name for t in graph_proto.initializer}
    inputs = {name: value for name, value in graph.inputs.items() if name not in initialized}
    symbols = {v.shape[0]: batch_size for v in inputs.values() if v.shape and isinstance(v.shape[0], str)}
    known = {**{str(symbol): size for symbol, size in symbols.items()}, **(sizes or {})}
    role_of = [role for _, role in roles(proto)] if is_training else [FORWARD] * len(graph.nodes)
    weights = {t.name: math.prod(t.dims) for t in graph_proto.initializer if kinds.get(t.name) in (Kind.WEIGHT, None)}
    return Summary(
        opened.name,
        tuple(_rows(graph, role_of, weights, Meter(known))),
        {name: type_text(value.dtype, value.shape) for name, value in inputs.items()},
        {symbol: size for symbol, size in known.items() if not symbol.startswith(UNKNOWN_DIM)},
        sum(weights[t.name] for t in proto.graph.initializer if t.name in weights),
        sum(math.prod(t.dims) for t in proto.graph.initializer if t.name not in weights),
    )


def _rows(graph: ImportedGraph, role_of: Sequence[str], weights: Mapping[str, int], meter: Meter) -> Iterable[Row]:
    left = dict(weights)
    depths: dict[Value, int] = {}
    for (node, proto), role in zip(graph.nodes, role_of, strict=True):
        if node.is_leaf:
            continue
        cost = meter.read(node)
        depth = 1 + max((depths.get(value, 0) for value in node.inputs if value is not None), default=0)
        depths.update(dict.fromkeys(node.outputs, depth))
        owned = sum(left.pop(name, 0) for name in proto.input) if role == FORWARD else 0
        yield Row(
            label_of(proto),
            f"{proto.domain}.{proto.op_type}" if proto.domain and node.function is None else proto.op_type,
            role,
            depth,
            tuple(_type(value) for value in _written(node, proto)),
            owned,
            None if cost.uncounted else cost.macs,
            None if cost.uncounted else cost.flops,
        )


def _written(node: Node, proto: onnx.NodeProto) -> list[Value]:
    return [value for value, name in zip(node.outputs, proto.output, strict=False) if name]


def _type(value: Value) -> str:
    return "?" if value.dtype == object else type_text(value.dtype, value.shape)


def _layer(name: str) -> str:
    return name.strip("/").rpartition("/")[0] or name


def _joined(name: str, rows: Sequence[Row]) -> Row:
    operators: dict[str, int] = {}
    for row in rows:
        operators[row.op_type] = operators.get(row.op_type, 0) + 1
    text = ", ".join(op if n == 1 else f"{op} {n}" for op, n in operators.items())
    shown = next((row for row in reversed(rows) if row.role == FORWARD), rows[-1])
    is_known = all(row.flops is not None for row in rows)
    return Row(
        name,
        text,
        shown.role,
        shown.depth,
        shown.outputs,
        sum(row.n_parameters for row in rows),
        sum(row.macs or 0 for row in rows) if is_known else None,
        sum(row.flops or 0 for row in rows) if is_known else None,
    )


def _work(n: int | None) -> str:
    return "?" if n is None else number(n)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    cut = [[cell if len(cell) <= WIDEST else f"{cell[: WIDEST - 1]}…" for cell in line] for line in [head, *lines]]
    widths = [max(len(line[i]) for line in cut) for i in range(len(head))]
    return [
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cut
    ]
