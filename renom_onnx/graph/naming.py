"""Names of an export: given when a tree is exported, from the program's structure alone.

A parameter is called by the attribute path in its Model (`encoder.fc1.w`), else by layer kind and ordinal in tree order
(`dense1.w`); nodes are called by the layer that made them (`dense1/Gemm`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from renom_onnx.graph.layer import Layer, Sequential
from renom_onnx.graph.node import BACKWARD, UPDATE, Leaf, Mutable, Node, State
from renom_onnx.graph.parameter import Parameter


class TreeNames:
    """Names of layers, parameters and nodes, for nodes in tree order."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._layers: dict[Layer, str] = {}
        self._ordinals: dict[tuple[str, str], int] = {}
        self._taken: set[str] = set()
        stacks = [node.layers for node in nodes] + [(n.owner,) for n in nodes if isinstance(n, Parameter) and n.owner]
        used = {layer for stack in stacks[: len(nodes)] for layer in stack}
        stacks = [stack for i, stack in enumerate(stacks) if i < len(nodes) or stack[0] not in used]
        self._roots = self._root_prefixes(stack[0] for stack in stacks if stack)
        for stack in stacks:
            self._name_layers(stack)
        self.nodes = self._name_nodes(nodes)

    def _root_prefixes(self, roots: Iterable[Layer]) -> dict[Layer, str]:
        """Return a prefix for every outermost model: none if there is one, kind and ordinal if there are several."""
        models = [layer for layer in dict.fromkeys(roots) if _names_by_attribute(layer) and any(layer.layers())]
        if len(models) <= 1:
            return dict.fromkeys(models, "")
        return {layer: f"{self._ordinal('', layer.kind)}." for layer in models}

    def _ordinal(self, prefix: str, kind: str) -> str:
        while True:
            number = self._ordinals[prefix, kind] = self._ordinals.get((prefix, kind), 0) + 1
            name = f"{prefix}{kind}{number}"
            if name not in self._taken:
                self._taken.add(name)
                return name

    def _name_layers(self, stack: tuple[Layer, ...]) -> None:
        prefix, holder = "", None
        for depth, layer in enumerate(stack):
            if layer not in self._layers:
                self._layers[layer] = self._name(layer, holder, prefix, is_root=depth == 0)
            name = self._layers[layer]
            prefix, holder = f"{name}." if name else "", layer

    def _name(self, layer: Layer, holder: Layer | None, prefix: str, *, is_root: bool) -> str:
        if is_root and layer in self._roots:
            return self._roots[layer].rstrip(".")
        if holder is not None and _names_by_attribute(holder):
            for attribute, child in holder.layers():
                if child is layer:
                    return f"{prefix}{attribute}"
        if is_root and any(layer.layers()):
            return ""  # a Sequential around everything
        return self._ordinal(prefix, layer.kind)

    def layer(self, layer: Layer) -> str:
        """Return the name of a layer."""
        return self._layers[layer]

    def parameter(self, parameter: Parameter) -> str:
        """Return the name of a parameter."""
        if parameter.name:
            return parameter.name
        owner = self._layers.get(parameter.owner, "")
        return f"{owner}.{parameter.key}" if owner else parameter.key

    def _name_nodes(self, nodes: Sequence[Node]) -> dict[Node, str]:
        names: dict[Node, str] = {}
        counts: dict[str, int] = {}
        for node in nodes:
            if isinstance(node, Leaf):
                continue
            given = node.note.name if node.note is not None else ""
            base = given or self._base(node, names)
            counts[base] = number = counts.get(base, 0) + 1
            is_plain = not (given or _scope(node)) and node.origin is None and node.tag not in (BACKWARD, UPDATE)
            names[node] = f"{base}{number}" if is_plain else base if number == 1 else f"{base}_{number}"
            if given.startswith(node.op_type) and given[len(node.op_type) :].isdigit():  # a plain name of an export
                counts[node.op_type] = max(counts.get(node.op_type, 0), int(given[len(node.op_type) :]))
        return names

    def _base(self, node: Node, names: dict[Node, str]) -> str:
        if node.origin is not None and node.origin in names:
            suffix = "train" if node.tag != BACKWARD else "after" if node.op_type == "After" else "again"
            return f"{names[node.origin]}.{suffix}"
        if node.tag == UPDATE and isinstance(node.forward, Parameter):
            return f"{self.parameter(node.forward)}/{node.op_type}"
        if node.tag == BACKWARD and node.forward is not None and node.forward in names:
            suffix = node.op_type if node.op_type == "Ones" else "Grad"
            return f"{names[node.forward]}{'.' if suffix == 'Ones' else ''}{suffix}"
        scope = _scope(node)
        layer = scope if isinstance(scope, str) else self._layers[scope]
        return f"{layer}/{node.op_type}" if layer else node.op_type


def _scope(node: Node) -> Layer | str:
    """Return the layer that made the node, "" for none; a sum of gradients of a file's node is in that one's scope."""
    if node.layers:
        layer: Layer = node.layers[-1]
        return layer
    is_sum_of_gradients = node.tag == BACKWARD and node.op_type == "Sum"
    return node.site[0].rpartition("/")[0] if is_sum_of_gradients and node.site[1] == 0 else ""


def _names_by_attribute(layer: Layer) -> bool:
    return not isinstance(layer, Sequential)


def mutable_name(names: TreeNames, leaf: Mutable) -> str:
    """Return the name of a parameter, of a state (``dense1.w.adam_m``, ``step``), or of the learning rate."""
    if isinstance(leaf, Parameter):
        return names.parameter(leaf)
    if isinstance(leaf, State) and leaf.name is None:
        owner = leaf.owner
        if owner is None:
            return leaf.suffix
        return f"{names.parameter(owner) if isinstance(owner, Parameter) else names.layer(owner)}.{leaf.suffix}"
    return str(leaf.name)
