"""Recurrent operators in training, written out so that the gradient takes the gates from the forward pass.

A file's gradient has what the operators give out, the states, and computes the gates of all steps anew: as many
products as the forward pass has. On CPU the operator's kernel is no faster than its products, so that a Scan that keeps
the gates loses nothing in the forward pass and saves these products in the gradient. CUDA has faster kernels, and no
Scan in a captured graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper

from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.cpu.recurrent_pass import STATES, Recurrence
from renom_onnx.converters.step_graph import attribute
from renom_onnx.converters.structure import domain_of, functions_of, key_of, opsets_of, replace_all
from renom_onnx.converters.writer import digest, function_proto
from renom_onnx.gradients.recurrent_cell import CELLS
from renom_onnx.graph.function import DOMAIN, Function

_OPERANDS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_OUTPUTS = ("Y", "Y_h", "Y_c")
_SERVED = ("X", "W", "R", "B", *STATES)


def with_recurrent_passes(model: onnx.ModelProto, shapes: KnownShapes) -> onnx.ModelProto:
    """Return a step whose recurrent operators keep their gates for their gradients.

    Operators with other activations than the default ones, with lengths, peepholes or a clip, and a GRU whose reset
    comes before the product, keep the bodies of the file.

    Args:
        model: a step; its graph is looked at, not what its functions call.
        shapes: of the step's values.
    """
    functions = functions_of(model)
    gradients = [
        node
        for node in model.graph.node
        if node.domain == DOMAIN and node.op_type.removesuffix("Grad") in CELLS and key_of(node) in functions
    ]
    if not gradients:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    instead: dict[str, onnx.NodeProto] = {}  # by the first output of the node whose place it takes
    written: dict[tuple[str, str], Function] = {}
    for gradient in gradients:
        function = functions[key_of(gradient)]
        actual = dict(zip(function.input, gradient.input, strict=False))
        wanted = dict(zip(function.output, gradient.output, strict=False))
        node = _forward_node(model, gradient, actual)
        recurrence = None if node is None else _recurrence(node, actual, shapes, opsets_of(model)[""])
        if node is None or recurrence is None or _first(node) in instead:
            continue
        forth = recurrence.forward()
        kept = dict(zip(recurrence.kept_names, (f"{_first(node)}.{n}" for n in recurrence.kept_names), strict=True))
        outputs = [*_padded(node.output, len(forth.outputs) - len(kept)), *kept.values()]
        instead[_first(node)] = _call(written, forth, [actual[n] for n in recurrence.shapes], outputs)
        dys = {f"d{name}": actual[f"d{name}"] for name in _OUTPUTS if actual.get(f"d{name}")}
        ends = {name: v.shape for name, v in zip(forth.output_names, forth.outputs, strict=True)}
        back = recurrence.backward({n: ends[n[1:]] for n in dys}, {n: ends[n] for n in kept})  # type: ignore[misc]
        names = [wanted.get(name, "") for name in back.output_names]
        chosen = back.restricted(tuple(map(bool, names)))
        operands = [*dys.values(), *(actual[n] for n in recurrence.shapes), *kept.values()]
        instead[_first(gradient)] = _call(written, chosen, operands, [name for name in names if name])
    replace_all(changed.graph.node, [instead.get(_first(node), node) for node in changed.graph.node])
    changed.functions.extend(function_proto(function, overload) for (_, overload), function in written.items())
    return changed


def _forward_node(model: onnx.ModelProto, gradient: onnx.NodeProto, actual: Mapping[str, str]) -> onnx.NodeProto | None:
    """Return the node that a gradient is of: the one that wrote what it reads."""
    node: onnx.NodeProto
    for node in model.graph.node:
        if domain_of(node) == "" and f"{node.op_type}Grad" == gradient.op_type:
            operands = dict(zip(_OPERANDS, node.input, strict=False))
            outputs = dict(zip(_OUTPUTS, node.output, strict=False))
            if all(actual.get(name, "") == operands.get(name, "") for name in _OPERANDS) and all(
                actual.get(name, "") in ("", outputs.get(name)) for name in _OUTPUTS
            ):
                return node
    return None


def _recurrence(node: onnx.NodeProto, actual: Mapping[str, str], shapes: KnownShapes, opset: int) -> Recurrence | None:
    """Return what the node computes, None where the passes do not serve it."""
    given = {name: actual[name] for name in _OPERANDS if actual.get(name)}
    direction = attribute(node, "direction", "forward")
    directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
    defaults = [name.lower() for name in CELLS[node.op_type].activations] * len(directions)
    activations = [name.decode().lower() for name in attribute(node, "activations", [])] or defaults
    is_served = (
        not set(given) - set(_SERVED)
        and all(value in shapes for value in given.values())
        and activations == defaults
        and not attribute(node, "clip", 0.0)
        and not attribute(node, "layout", 0)
        and not attribute(node, "input_forget", 0)
        and (node.op_type != "GRU" or attribute(node, "linear_before_reset", 0) == 1)
    )
    if not is_served or not shapes[given["X"]][0]:
        return None
    return Recurrence(node.op_type, {name: shapes[value] for name, value in given.items()}, directions, opset)


def _call(
    written: dict[tuple[str, str], Function], function: Function, inputs: list[str], outputs: list[str]
) -> onnx.NodeProto:
    """Return a call of a function, which is noted to be written."""
    overload = digest(function)
    written.setdefault((function.name, overload), function)
    return helper.make_node(
        function.name, inputs, outputs, name=f"{outputs[-1]}/{function.name}", domain=DOMAIN, overload=overload
    )


def _first(node: onnx.NodeProto) -> str:
    return next(filter(None, node.output), "")


def _padded(names: list[str], n: int) -> list[str]:
    """Return the names of outputs, with "" for those that nobody reads."""
    return [*names, *[""] * n][:n]
