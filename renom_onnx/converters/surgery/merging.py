"""`merge`: two models as one, with the training steps of both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import onnx

from renom_onnx.converters.encoding import value_type
from renom_onnx.converters.importer import default_opset, read_model
from renom_onnx.converters.structure import (
    all_nodes,
    called,
    every_node,
    functions_of,
    key_of,
    names_of,
    opsets_of,
    parts,
    rename_values,
    replace_all,
    value_names,
)
from renom_onnx.converters.surgery.inlining import inline_calls
from renom_onnx.converters.surgery.opset import convert_opset
from renom_onnx.converters.surgery.prefix import add_prefix
from renom_onnx.converters.surgery.stripping import PROGRESS
from renom_onnx.errors import ConversionError, DTypeError, ShapeError
from renom_onnx.graph import schema
from renom_onnx.graph.node import type_text

FIELDS = ("node", "initializer", "sparse_initializer", "value_info", "quantization_annotation", "metadata_props")


def merge(
    first: Any,
    second: Any,
    io_map: Mapping[str, str] | Iterable[tuple[str, str]],
    *,
    prefix1: str = "",
    prefix2: str = "",
) -> onnx.ModelProto:
    """Return one model in which outputs of the first are inputs of the second.

    The training steps of both are kept, which `onnx.compose.merge_models` drops: first those of the first, then those
    of the second. Each still updates what it did and nothing else; a step of the second now starts from the inputs of
    the first. The model of the older opset is converted to the newer one.

    Args:
        first, second: a ModelProto, path or bytes each, with or without ``training_info``.
        io_map: an output of the first and the input of the second that it feeds, pairs or a mapping, without the
            prefixes. Outputs that feed none stay outputs.
        prefix1, prefix2: see `add_prefix`; for models that have names in common.

    Raises:
        ConversionError: the models have a name in common, a pair names no output and input, training changes an
            input that is fed, or versions of a domain or metadata contradict each other.
        ShapeError, DTypeError: an output does not fit the input that it feeds.

    Example:
        >>> import numpy as np, onnx, renom_onnx as rm
        >>> text = '<ir_version: 10, opset_import: ["": 18]> f (float[N, 3] raw) => (float[N, 3] y) { y = Neg (raw) }'
        >>> loss = rm.graph.ConstantLoss()(rm.graph.Dense(2)(np.ones((1, 3), np.float32)))
        >>> model = rm.converters.merge(onnx.parser.parse_model(text), rm.converters.to_training_onnx(loss), {"y": "x"})
        >>> [value.name for value in model.graph.input], [node.op_type for node in model.graph.node]
        (['raw'], ['Neg', 'Gemm'])
        >>> rm.converters.lint(model)
        []
    """
    pairs = list(io_map.items() if isinstance(io_map, Mapping) else io_map)
    one, two = read_model(first), read_model(second)
    opset = max(default_opset(one), default_opset(two))
    one, two = (add_prefix(convert_opset(m, opset), prefix) for m, prefix in ((one, prefix1), (two, prefix2)))
    fed = {f"{prefix2}{target}": f"{prefix1}{source}" for source, target in pairs}
    if len(fed) < len(pairs):
        raise ConversionError(f"merge: an input must be fed once, got {', '.join(target for _, target in pairs)}.")
    _check_values(one, two, fed)
    _check_names(one, two, fed)
    _connect(two, fed)
    two = with_own_functions(one, two)
    one.opset_import.extend(new_imports("merge", one, two))
    one.ir_version = max(one.ir_version, two.ir_version)
    replace_all(one.metadata_props, _metadata(one, two))
    _join(one, two, set(fed.values()))
    return one


def _check_values(one: onnx.ModelProto, two: onnx.ModelProto, fed: Mapping[str, str]) -> None:
    outputs = {value.name: value for value in one.graph.output}
    inputs = {value.name: value for value in two.graph.input}
    changed = {b.key for info in two.training_info for b in [*info.update_binding, *info.initialization_binding]}
    for target, source in fed.items():
        if source not in outputs or target not in inputs:
            what, known = (
                ("an output of the first", outputs) if source not in outputs else ("an input of the second", inputs)
            )
            got = source if source not in outputs else target
            raise ConversionError(
                f"merge: io_map must name {what} model, got {got!r}. There are: {', '.join(known) or 'none'}."
            )
        if target in changed:
            raise ConversionError(f"merge: an input that is fed must be none that training changes, got {target!r}.")
        given, wanted = value_type(outputs[source].type), value_type(inputs[target].type)
        what = f"merge: {target!r} must be {type_text(*wanted)}, got {source!r}, which is {type_text(*given)}."
        if given[0] != wanted[0]:
            raise DTypeError(what)
        if given[1] is not None and wanted[1] is not None:
            sizes = list(zip(given[1], wanted[1], strict=False))
            differ = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes)
            if differ or len(given[1]) != len(wanted[1]):
                raise ShapeError(what)


def _check_names(one: onnx.ModelProto, two: onnx.ModelProto, fed: Mapping[str, str]) -> None:
    ours, theirs = (
        {name for graph in [m.graph, *(i.algorithm for i in m.training_info)] for name in value_names(graph)}
        for m in (one, two)
    )
    if common := sorted(ours & (theirs - set(fed))):
        raise ConversionError(
            f"merge: the models must have no name in common, got {', '.join(common[:5])}"
            f"{f' and {len(common) - 5} more' if len(common) > 5 else ''}. Give prefix1 or prefix2."
        )


def _connect(model: onnx.ModelProto, fed: Mapping[str, str]) -> None:
    """Let a model read what it is fed under the names of the first one."""
    replace_all(model.graph.input, [value for value in model.graph.input if value.name not in fed])
    replace_all(model.graph.initializer, [tensor for tensor in model.graph.initializer if tensor.name not in fed])
    for graph in [model.graph, *(info.algorithm for info in model.training_info)]:
        rename_values(graph, lambda name: fed.get(name, name))
    replace_all(model.graph.value_info, [value for value in model.graph.value_info if value.name not in fed.values()])


def with_own_functions(one: onnx.ModelProto, two: onnx.ModelProto) -> onnx.ModelProto:
    """Return the second model, calling functions of its own where the first has others of the same name."""
    known = functions_of(one)
    functions = functions_of(two)
    clashing = {key for key, f in functions.items() if key in known and known[key] != f}
    callers = {key for key, f in functions.items() if called(f.node, functions) & clashing}
    two = inline_calls(two, lambda key: key in callers)  # onnxruntime (1.32) finds no overload that a body calls
    overloads = {}
    for function in two.functions:
        key = key_of(function)
        if key in clashing:
            overloads[key] = hashlib.sha256(function.SerializeToString(deterministic=True)).hexdigest()[:8]
            function.overload = overloads[key]
    for node in all_nodes(two):
        if key_of(node) in overloads:
            node.overload = overloads[key_of(node)]
    if overloads:
        two.ir_version = max(two.ir_version, schema.DEFAULT_IR_VERSION)
    return two


def new_imports(caller: str, one: onnx.ModelProto, two: onnx.ModelProto) -> list[onnx.OperatorSetIdProto]:
    """Return what the second model imports and the first does not."""
    known = opsets_of(one)
    for domain, version in opsets_of(two).items():
        if known.get(domain, version) != version:
            raise ConversionError(
                f"{caller}: the models must use the same version of domain {domain}, got {known[domain]} and {version}."
            )
    return [entry for entry in two.opset_import if entry.domain not in known and entry.domain != "ai.onnx"]


def _metadata(one: onnx.ModelProto, two: onnx.ModelProto) -> list[onnx.StringStringEntryProto]:
    """Return the metadata of both; what they say of two trainings that differ is left out."""
    found = {entry.key: entry for entry in one.metadata_props}
    for entry in two.metadata_props:
        other = found.setdefault(entry.key, entry)
        if other.value != entry.value and entry.key not in PROGRESS:
            raise ConversionError(
                f"merge: the models must have the same metadata {entry.key!r} or none, got {other.value!r} and "
                f"{entry.value!r}."
            )
        if other.value != entry.value:
            del found[entry.key]
    return list(found.values())


def _join(one: onnx.ModelProto, two: onnx.ModelProto, consumed: set[str]) -> None:
    """Append the second model to the first."""
    names = names_of(one)
    for graph in parts(two):
        for node in every_node(graph.node):
            if node.name:
                node.name = names.fresh_node(node.name)
    bound = {binding.value for info in one.training_info for binding in info.update_binding}
    kept = [value for value in one.graph.output if value.name not in consumed - bound]
    typed = {value.name for value in one.graph.value_info}
    one.graph.value_info.extend(
        value for value in one.graph.output if value.name in consumed - bound and value.name not in typed
    )
    replace_all(one.graph.output, [*kept, *two.graph.output])
    one.graph.input.extend(two.graph.input)
    for field in FIELDS:
        getattr(one.graph, field).extend(getattr(two.graph, field))
    one.graph.name = f"{one.graph.name}_{two.graph.name}"
    one.training_info.extend(two.training_info)
    known = functions_of(one)
    one.functions.extend(function for function in two.functions if key_of(function) not in known)
