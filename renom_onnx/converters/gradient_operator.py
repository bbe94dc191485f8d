"""Gradient of `ai.onnx.preview.training`, replaced by gradient nodes.

``Gradient <xs, zs, y> (values of xs, values of zs)`` is the derivative of y with respect to every x, where y is taken
for a function of xs and zs. The nodes between them are read as a graph of their own, in which every x is an input, and
differentiated. Gradients of gradients come out because a lowered Gradient is part of the graph for the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from renom_onnx.converters.addition import addition, require_types
from renom_onnx.converters.encoding import value_type
from renom_onnx.converters.importer import ImportedGraph, import_graph
from renom_onnx.converters.structure import (
    LARGEST_SETTING,
    every_node,
    functions_of,
    inferred_types,
    label_of,
    named_values,
    names_in,
    names_of,
    rename_in_node,
    replace_all,
    subgraphs,
    value_names,
)
from renom_onnx.converters.training_info import needed, read_names, with_graph
from renom_onnx.errors import ConversionError
from renom_onnx.graph import schema
from renom_onnx.graph.backward import reverse_walk
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.node import BACKWARD, Value, type_text


@dataclass(frozen=True)
class Gradient:
    """A Gradient node, understood.

    Attributes:
        label: what errors call it.
        xs, zs: names of the values that y is a function of; only those of xs are differentiated.
        y: name of the value that is differentiated.
        values: names of the values to take for xs and zs, in this order.
        outputs: name of the derivative by x, of those that are wanted.
    """

    label: str
    xs: list[str]
    zs: list[str]
    y: str
    values: list[str]
    outputs: dict[str, str]

    @classmethod
    def of(cls, node: onnx.NodeProto, known: Iterable[str]) -> Gradient:
        """Return what a node says; ``known`` are the names of all values."""
        attributes = {attribute.name: names_in(attribute) for attribute in named_values(node)}
        xs, zs, ys = (attributes.get(name, []) for name in ("xs", "zs", "y"))
        label = label_of(node)
        for name in [*xs, *zs, *ys]:
            if name not in known:
                raise ConversionError(
                    f"lower: Gradient must name values in xs, zs and y, got {name!r} in node {label!r}, which is none."
                )
        if len(xs) + len(zs) != len(node.input) or "" in node.input or len(ys) != 1:
            raise ConversionError(
                f"lower: Gradient must have a y, and an input for every name in xs and zs, got {len(node.input)} "
                f"inputs for {len(xs) + len(zs)} names in node {label!r}."
            )
        outputs = {x: output for x, output in zip(xs, node.output, strict=False) if output}
        return cls(label, xs, zs, ys[0], list(node.input), outputs)


class GradientLowering:
    """Lowers the Gradient nodes of one model, in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._names = names_of(model)
        bindings = [b for info in model.training_info for b in [*info.update_binding, *info.initialization_binding]]
        self._mutable = {binding.key for binding in bindings}

    def lower(self, graph: onnx.GraphProto, outer: onnx.GraphProto | None = None) -> None:
        """Replace every Gradient of a graph, which continues an outer one if it is an algorithm."""
        for body in (body for node in graph.node for body in subgraphs(node)):
            for node in every_node(body.node):
                if named_values(node):
                    raise ConversionError(
                        f"lower: Gradient must stand in a graph or in an algorithm, got node {label_of(node)!r} in a "
                        f"body of control flow. Move it out."
                    )
        if any(named_values(node) for node in graph.node):
            replace_all(graph.node, sorted_nodes(graph.node))
        while (position := next((i for i, n in enumerate(graph.node) if named_values(n)), None)) is not None:
            self._replace(graph, outer, position)

    def _replace(self, graph: onnx.GraphProto, outer: onnx.GraphProto | None, position: int) -> None:
        """Replace the Gradient at a position; those before it are lowered."""
        whole = _frame([graph] if outer is None else [outer, graph])
        names = value_names(graph) | (value_names(outer) if outer is not None else set())
        gradient = Gradient.of(graph.node[position], names)
        before = [*(outer.node if outer is not None else []), *graph.node[:position]]
        copies, new = self._elsewhere(gradient, before)
        before += copies
        leaves = _leaves(gradient, before, new)
        y, xs = new.get(gradient.y, gradient.y), [new.get(x, x) for x in gradient.outputs]
        part = needed(before, [y], leaves)
        imported = self._imported(gradient, whole, before, part, leaves, y)
        for value, output in zip(
            self._differentiate(gradient, imported, xs, y), gradient.outputs.values(), strict=True
        ):
            self._names.fix(value, output)
            imported.outputs[output] = value
        wanted = [imported.outputs[output] for output in gradient.outputs.values()]
        added = addition(imported, wanted, self._names, functions_of(self._model))
        added.name_outputs(part)
        made = needed([*copies, *added.nodes], gradient.outputs.values())
        replace_all(graph.node, [*graph.node[:position], *made, *graph.node[position + 1 :]])
        graph.initializer.extend(added.initializers)
        self._model.functions.extend(added.functions)

    def _elsewhere(
        self, gradient: Gradient, before: Sequence[onnx.NodeProto]
    ) -> tuple[list[onnx.NodeProto], dict[str, str]]:
        """Return the nodes between the values and y once more, from other values, and the names that are new there."""
        independent = [*gradient.xs, *gradient.zs]
        moved = {name: value for name, value in zip(independent, gradient.values, strict=True) if name != value}
        new = {name: self._names.fresh(f"{gradient.label}/{name}") for name in moved}
        copies = [
            onnx.helper.make_node("Identity", [value], [new[name]], name=new[name]) for name, value in moved.items()
        ]
        for node in needed(before, [gradient.y], independent) if moved else []:
            if not any(name in new for name in read_names(node)):
                continue
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            written = [name for name in [*node.output, *_names_inside(node)] if name and name not in independent]
            new.update((name, self._names.fresh(f"{gradient.label}/{name}")) for name in written)
            rename_in_node(copy, lambda name: new.get(name, name))
            copy.name = f"{gradient.label}/{label_of(node)}"
            copies.append(copy)
        for copy in copies:
            copy.name = self._names.fresh_node(copy.name)
        return copies, new

    def _imported(
        self,
        gradient: Gradient,
        whole: onnx.GraphProto,
        before: Sequence[onnx.NodeProto],
        part: Sequence[onnx.NodeProto],
        leaves: Iterable[str],
        y: str,
    ) -> ImportedGraph:
        """Read the nodes between the values and y as a graph, in which the values are inputs."""
        replace_all(whole.node, before)
        types = inferred_types(self._model, whole)
        cut = set(leaves)
        sub = onnx.GraphProto(name="part")
        written: set[str] = set()
        for node in part:
            copy = sub.node.add()
            copy.CopyFrom(node)
            copy.output[:] = ["" if name in cut else name for name in node.output]
            written.update(copy.output)
        read = dict.fromkeys([*(name for node in part for name in read_names(node)), *cut, y])
        fed = cut | self._mutable | {value.name for value in whole.input}
        settings = {t.name: t for t in whole.initializer if math.prod(t.dims) <= LARGEST_SETTING and t.name not in fed}
        for name in read:
            if name in settings:
                sub.initializer.append(settings[name])
            elif name and name not in written:
                sub.input.append(onnx.ValueInfoProto(name=name, type=_type(gradient, types, name)))
        sub.output.append(onnx.ValueInfoProto(name=y, type=_type(gradient, types, y)))
        sub.value_info.extend(
            onnx.ValueInfoProto(name=name, type=types[name]) for name in sorted(written - {"", y}) if name in types
        )
        imported = import_graph(with_graph(self._model, sub))
        for (read_node, _), node in zip(imported.nodes, part, strict=True):
            for value, name in zip(read_node.outputs, node.output, strict=False):
                if name in cut:  # its node is there for another output
                    value.name = name
                    self._names.fix(value, name)
        return imported

    def _differentiate(self, gradient: Gradient, graph: ImportedGraph, xs: Sequence[str], y: str) -> list[Value]:
        """Return the derivatives of y with respect to xs, each a value of its own."""
        of, by = graph.values[y], [graph.values[x] for x in xs]
        for name, value in [(gradient.y, of), *zip(gradient.outputs, by, strict=True)]:
            if not value.is_float:
                what = type_text(value.dtype, value.shape)
                raise ConversionError(
                    f"lower: Gradient must be of floats with respect to floats, got {name!r}, which is {what}, in node "
                    f"{gradient.label!r}."
                )
        require_types("lower", graph, by)
        op = Builder(graph.opset, tag=BACKWARD, site=(gradient.label, 0))
        one = op.constant(1, of.dtype)
        self._names.give(one, f"{gradient.label}/one")
        seed = one if of.shape == () else op.expand_like(one, of)
        walk = reverse_walk([(of, seed)], opset=graph.opset, wanted=by, root=gradient.y)
        found: list[Value] = []
        for x in by:
            gradient_of_x = walk.gradient(x)
            if gradient_of_x is None:
                gradient_of_x = op.zeros_like(x)
            is_own = not gradient_of_x.node.is_leaf and gradient_of_x not in found
            found.append(gradient_of_x if is_own else op.Identity(gradient_of_x))
        return found


def _frame(graphs: Iterable[onnx.GraphProto]) -> onnx.GraphProto:
    """Return graphs as one, without nodes and without the data of large initializers."""
    frame = onnx.GraphProto(name="whole")
    for graph in graphs:
        for field in ("input", "output", "value_info"):
            getattr(frame, field).extend(getattr(graph, field))
        for tensor in graph.initializer:
            if math.prod(tensor.dims) <= LARGEST_SETTING:
                frame.initializer.append(tensor)
            else:
                frame.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return frame


def _leaves(gradient: Gradient, before: Sequence[onnx.NodeProto], new: Mapping[str, str]) -> set[str]:
    """Return the names at which the way back from y ends: xs, and those of zs that would lead on to one of xs."""
    leaves = {new.get(name, name) for name in [*gradient.xs, *(z for z in gradient.zs if z in new)]}
    reached = set(gradient.xs)
    for node in before:
        if any(name in reached for name in read_names(node)):
            reached.update(node.output)
    return leaves | {z for z in gradient.zs if z not in new and z in reached}


def _names_inside(node: onnx.NodeProto) -> set[str]:
    """Return the names that the bodies in a node declare."""
    names: set[str] = set()
    for body in subgraphs(node):
        names.update(value.name for value in [*body.input, *body.initializer])
        for inner in body.node:
            names.update(inner.output)
            names |= _names_inside(inner)
    return names


def _type(gradient: Gradient, types: Mapping[str, onnx.TypeProto], name: str) -> onnx.TypeProto:
    found = types.get(name)
    if found is None or schema.encoded_type(value_type(found)[0]) == b"":
        raise ConversionError(
            f"lower: the element type of every value must be known, got {name!r} without one, which Gradient needs in "
            f"node {gradient.label!r}. Give it a value_info."
        )
    return found


def sorted_nodes(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the nodes, writers before readers, else in the order given. A Gradient reads its y."""
    writers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    order: list[onnx.NodeProto] = []
    is_open, is_done = [False] * len(nodes), [False] * len(nodes)
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            i = stack[-1]
            if not is_open[i]:
                is_open[i] = True
                ahead = [writers[name] for name in read_names(nodes[i]) if name in writers]
                stack += [w for w in ahead[::-1] if not is_open[w]]
                continue
            stack.pop()
            if not is_done[i]:
                is_done[i] = True
                order.append(nodes[i])
    return order
