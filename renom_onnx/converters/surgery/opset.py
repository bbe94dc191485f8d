"""`convert_opset`: another opset, in the graph, in its training steps and in its functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper, version_converter

from renom_onnx.converters.importer import default_opset, read_model
from renom_onnx.converters.names import Names
from renom_onnx.converters.structure import (
    LARGEST_SETTING,
    domain_of,
    every_node,
    inferred_types,
    label_of,
    names_of,
    opsets_of,
    rename_in_node,
    replace_all,
    subgraphs,
    value_names,
)
from renom_onnx.converters.training_info import concatenate
from renom_onnx.errors import ConversionError, first_line
from renom_onnx.graph import schema

OLDEST_OPSET = 7
UNCHANGED = frozenset({"Constant", "ConstantOfShape", "If", "Loop", "Scan"})
"""Operators whose versions differ in types and attributes that they take, and whose bodies or values are read here."""


def convert_opset(model: Any, opset: int) -> onnx.ModelProto:
    """Return the model at another opset of the default domain.

    Only nodes whose operator has another version there are touched; onnx's version converter says what becomes of
    each. Names, functions, metadata and training steps stay, which the version converter alone would drop.

    Args:
        model: a ModelProto, path or bytes, with or without ``training_info``.
        opset: 7 to the newest that the installed onnx knows. Newer ones than 21 lose kernels of onnxruntime's CUDA
            provider.

    Raises:
        ConversionError: the opset is out of range, or an operator has no form there.

    Example:
        >>> import onnx
        >>> from renom_onnx.converters import convert_opset
        >>> text = '<ir_version: 6, opset_import: ["": 11]> f (float[2, 1] x) => (float[2] y) { y = Squeeze (x) }'
        >>> newer = convert_opset(onnx.parser.parse_model(text.replace("Squeeze", "Squeeze <axes=[1]>")), 18)
        >>> newer.opset_import[0].version, [node.op_type for node in newer.graph.node]
        (18, ['Constant', 'Squeeze'])
    """
    newest = defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ConversionError(f"convert_opset: opset must be {OLDEST_OPSET} to {newest}, got {opset}.")
    result = onnx.ModelProto()
    result.CopyFrom(read_model(model))
    source = default_opset(result)
    names = names_of(result)
    if source != opset:
        conversion = _Conversion(source, opset, names)
        for graph, types, initializers in _typed_parts(result):
            conversion.types, conversion.constants = types, initializers
            replace_all(graph.node, conversion.nodes(graph.node))
    for function in result.functions:
        own = opsets_of(function).get("", source)
        if own != opset:
            inner = _Conversion(own, opset, Names(_function_names(function)))
            replace_all(function.node, inner.nodes(function.node))
            _set_opset(function, opset)
    _set_opset(result, opset)
    least = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    result.ir_version = max(result.ir_version, least)
    return result


def converted_nodes(nodes: Iterable[onnx.NodeProto], source: int, opset: int, names: Names) -> list[onnx.NodeProto]:
    """Return nodes of a function at another opset; what is added gets fresh names."""
    return _Conversion(source, opset, names).nodes(nodes)


def same_operators(nodes: Iterable[onnx.NodeProto], domain: str, source: int, target: int) -> bool:
    """Whether two versions of a domain mean the same for every node, and those of its bodies."""

    def version(op_type: str, opset: int) -> int | None:
        known = schema.has_operator(op_type, opset, domain)
        return schema.operator(op_type, opset, domain).since_version if known else None

    own = [node.op_type for node in every_node(nodes) if domain_of(node) == domain]
    return all(version(op, source) == version(op, target) for op in own)


def _typed_parts(
    model: onnx.ModelProto,
) -> Iterable[tuple[onnx.GraphProto, dict[str, onnx.TypeProto], dict[str, onnx.TensorProto]]]:
    """Yield every graph with the types of its values, and the small initializers that it reads."""
    joined = [concatenate(model, i) for i in range(len(model.training_info))]
    yield model.graph, inferred_types(model, model.graph), _settings(model.graph)
    for info, graph in zip(model.training_info, joined, strict=True):
        yield info.algorithm, inferred_types(model, graph), _settings(graph)
        yield info.initialization, inferred_types(model, info.initialization), _settings(info.initialization)


def _settings(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    return {t.name: t for t in graph.initializer if len(t.dims) <= 1 and sum(t.dims) <= LARGEST_SETTING}


def _function_names(function: onnx.FunctionProto) -> set[str]:
    body = onnx.GraphProto()
    body.node.extend(function.node)
    return value_names(body) | set(function.input) | set(function.output)


def _set_opset(item: onnx.ModelProto | onnx.FunctionProto, version: int) -> None:
    for entry in item.opset_import:
        if domain_of(entry) == "":
            entry.version = version
            return
    item.opset_import.append(helper.make_opsetid("", version))


class _Conversion:
    """Converts nodes one by one from one opset to another.

    Attributes:
        types: of the values, as far as they are known.
        constants: small initializers by name; onnx's converter reads some.
    """

    def __init__(self, source: int, target: int, names: Names) -> None:
        self._source = source
        self._target = target
        self._names = names
        self.types: Mapping[str, onnx.TypeProto] = {}
        self.constants: Mapping[str, onnx.TensorProto] = {}
        self._done: dict[bytes, onnx.GraphProto] = {}  # by the model of the node: a call takes milliseconds

    def nodes(self, nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Return what becomes of the nodes, in order."""
        known = dict(self.constants)
        converted = []
        for node in nodes:
            known.update(_constant(node))
            converted += self._node(node, known)
        return converted

    def _node(self, node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
        for body in subgraphs(node):
            inner = _Conversion(self._source, self._target, self._names)
            inner.types = {**self.types, **{v.name: v.type for v in [*body.input, *body.value_info, *body.output]}}
            inner.constants = {**known, **_settings(body)}
            replace_all(body.node, inner.nodes(body.node))
        if domain_of(node) or not self._has_changed(node):
            return [node]
        if node.op_type in UNCHANGED:
            self._check_attributes(node)
            return [node]
        if node.op_type == "GroupNormalization" and self._source < 21 <= self._target:
            return self._group_normalization(node)
        return self._converted(node, known)

    def _has_changed(self, node: onnx.NodeProto) -> bool:
        versions = []
        for opset in (self._source, self._target):
            if not schema.has_operator(node.op_type, opset):
                raise ConversionError(
                    f"convert_opset: every operator must exist at opset {self._source} and at {self._target}, got "
                    f"{node.op_type} in node {label_of(node)!r}, which does not at {opset}."
                )
            versions.append(schema.operator(node.op_type, opset).since_version)
        return versions[0] != versions[1]

    def _check_attributes(self, node: onnx.NodeProto) -> None:
        has_axis = node.op_type == "Scan" and min(self._source, self._target) < 9  # the first Scan had one of the batch
        known = schema.operator(node.op_type, self._target).attributes
        unknown = [attribute.name for attribute in node.attribute if attribute.name not in known]
        if unknown or has_axis:
            what = f"{unknown[0]} of {node.op_type}" if unknown else node.op_type
            raise ConversionError(
                f"convert_opset: every operator must have a form at opset {self._target}, got {what} in node "
                f"{label_of(node)!r}, which has none."
            )

    def _converted(self, node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        references = [a for a in node.attribute if a.ref_attr_name]
        replace_all(plain.attribute, [a for a in node.attribute if not a.ref_attr_name])  # lost in the conversion
        read, written = ([name for name in dict.fromkeys(names) if name] for names in (node.input, node.output))
        own = {name: name for name in [*read, *written]}
        if not subgraphs(node):  # which read by name
            own = {name: f"in.{i}" for i, name in enumerate(read)} | {n: f"out.{i}" for i, n in enumerate(written)}
            rename_in_node(plain, lambda name: own.get(name, name))
            for field in ("name", "doc_string", "metadata_props"):
                plain.ClearField(field)
        inputs, outputs = (
            [onnx.ValueInfoProto(name=own[name], type=self.types.get(name)) for name in names]
            for names in (read, written)
        )
        tensors = [_named(known[name], own[name]) for name in read if name in known]
        graph = helper.make_graph([plain], "node", inputs, outputs, tensors)
        try:
            made = self._convert(graph)
        except Exception as e:
            raise ConversionError(
                f"convert_opset: every operator must have a form at opset {self._target}, got {node.op_type} in node "
                f"{label_of(node)!r}, of which onnx's version converter says: {_reason(e)}."
            ) from e
        given = {tensor.name for tensor in tensors}
        added = [t for t in made.initializer if t.name not in given]
        constants = [helper.make_node("Constant", [], [t.name], value=_unnamed(t)) for t in added]
        given_names = {"": "", **{canonical: name for name, canonical in own.items()}}
        return self._renamed(node, [*constants, *made.node], references, given_names)

    def _convert(self, graph: onnx.GraphProto) -> onnx.GraphProto:
        """Return what onnx's converter makes of a graph, which may be changed."""
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._source)], ir_version=10)
        key = model.SerializeToString(deterministic=True)
        if key not in self._done:
            self._done[key] = version_converter.convert_version(model, self._target).graph
        made = onnx.GraphProto()
        made.CopyFrom(self._done[key])
        return made

    def _renamed(
        self,
        node: onnx.NodeProto,
        made: Sequence[onnx.NodeProto],
        references: Sequence[onnx.AttributeProto],
        given_names: Mapping[str, str],
    ) -> list[onnx.NodeProto]:
        """Return the nodes with names that are new in the file, and what the conversion forgets put back."""
        fresh: dict[str, str] = {}
        prefix = label_of(node)

        def new(name: str) -> str:
            if name in given_names:
                return given_names[name]
            if name not in fresh:
                fresh[name] = self._names.fresh(f"{prefix}/{node.op_type}")
            return fresh[name]

        same = [n for n in made if n.op_type == node.op_type]
        if references and len(same) != 1:
            raise ConversionError(
                f"convert_opset: an operator that becomes another one must have its attributes in the file, got "
                f"{node.op_type} in node {label_of(node)!r}, which takes them from a function's call. Inline it first."
            )
        for other in made:
            rename_in_node(other, new)
            other.ClearField("name")
            is_kept = other is same[0] if same else other is made[-1]
            if not is_kept:
                if node.name:
                    other.name = self._names.fresh_node(f"{prefix}/{other.op_type}")
                continue
            other.ClearField("doc_string")
            for field in ("name", "doc_string"):
                if node.HasField(field):
                    setattr(other, field, getattr(node, field))
            replace_all(other.metadata_props, node.metadata_props)
            other.attribute.extend(references)
        return list(made)

    def _group_normalization(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Repeat scale and bias of each group for its channels, as opset 21 wants them.

        Onnx's converter (1.23) leaves them as they are, and so writes a model that says something else.
        """
        prefix = label_of(node)
        groups = next(a.i for a in node.attribute if a.name == "num_groups")
        made: list[onnx.NodeProto] = []

        def add(op_type: str, *inputs: str, **attributes: Any) -> str:
            output = self._names.fresh(f"{prefix}/{op_type}")
            name = self._names.fresh_node(output)
            made.append(helper.make_node(op_type, list(inputs), [output], name=name, **attributes))
            return output

        def constant(*numbers: int) -> str:
            return add("Constant", value=numpy_helper.from_array(np.array(numbers, np.int64)))

        channels = add("Shape", node.input[0], start=1, end=2)
        sizes = add("Concat", constant(groups), add("Div", channels, constant(groups)), axis=0)
        for i in (1, 2):
            column = add("Unsqueeze", node.input[i], constant(1))
            node.input[i] = add("Reshape", add("Expand", column, sizes), constant(-1))
        return [*made, node]


def _constant(node: onnx.NodeProto) -> dict[str, onnx.TensorProto]:
    """Return the small tensor that a Constant node holds, by its name."""
    if node.op_type != "Constant" or domain_of(node) or not node.output:
        return {}
    tensors = [a.t for a in node.attribute if a.name == "value" and a.HasField("t")]
    if not tensors or len(tensors[0].dims) > 1 or sum(tensors[0].dims) > LARGEST_SETTING:
        return {}
    named = onnx.TensorProto()
    named.CopyFrom(tensors[0])
    named.name = node.output[0]
    return {named.name: named}


def _reason(error: Exception) -> str:
    """Return what the version converter says, without the place in its own source."""
    return re.sub(r"^.*Assertion `.*` failed: ?", "", first_line(error)) or "no way is known"


def _named(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _unnamed(tensor: onnx.TensorProto) -> onnx.TensorProto:
    copy = _named(tensor, "")
    copy.ClearField("name")
    return copy
