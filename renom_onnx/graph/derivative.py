"""Gradient nodes: one call of a function such as GemmGrad for each differentiated node.

The body of the function is what the operator's rule builds, with the operands' conversions and broadcasting undone
around it. Nodes of one shape share one body; a function is differentiated through its own body.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from renom_onnx.errors import GradientError
from renom_onnx.graph import schema
from renom_onnx.graph.body import attribute_bodies, operand_count
from renom_onnx.graph.broadcast import unbroadcast
from renom_onnx.graph.builder import Builder, is_small_integer
from renom_onnx.graph.container import holds_floats
from renom_onnx.graph.expansion import expand, gradients_through
from renom_onnx.graph.formal import Formal
from renom_onnx.graph.function import DOMAIN, Function, call, copy_body
from renom_onnx.graph.node import BACKWARD, Constant, Input, Node, Shape, Static, Value, known_array
from renom_onnx.graph.site import created_at

if TYPE_CHECKING:
    from renom_onnx.gradients import Gradient

_bodies: dict[Any, tuple[Function, tuple[int, ...]] | None] = {}


def find(op_type: str, domain: str) -> Gradient | None:
    """Return the entry of an operator among the rules, which are imported when the first is looked for."""
    from renom_onnx import gradients

    return gradients.find(op_type, domain)


def is_differentiable(node: Node) -> bool:
    """Whether the node has a rule, or a body to differentiate."""
    entry = find(node.op_type, node.domain)
    if entry is None:
        return node.function is not None or schema.has_body(node.op_type, node.opset, node.domain)
    return entry.rule is not None


def reason_against(node: Node) -> str | None:
    """Return the stated reason why the operator's gradient is zero; None where nobody stated one."""
    entry = find(node.op_type, node.domain)
    return entry.reason if entry is not None and not entry.is_refused else None


def refusal(node: Node) -> str | None:
    """Return the stated reason why the operator's gradient, which is not zero, cannot be had; None without one."""
    entry = find(node.op_type, node.domain)
    return entry.reason if entry is not None and entry.is_refused else None


def gradient_node(
    node: Node, dys: Sequence[Value | None], *, opset: int, again: Mapping[Value, Value] | None = None
) -> dict[int, Value]:
    """Add the gradient node of a node.

    Args:
        node: a differentiable forward (or gradient) node.
        dys: gradients of its outputs, None where there is none.
        opset: opset of the body.
        again: what the body reads in the place of values that are not kept.

    Returns:
        The gradients by position of the input; inputs without one are absent.

    Raises:
        GradientError: the rule cannot serve this node.
    """
    key = _key(node, dys, opset)
    if key not in _bodies:
        if len(_bodies) > 4096:
            _bodies.clear()
        _bodies[key] = _body(node, dys, opset)
    found = _bodies[key]
    if found is None:
        return {}
    function, positions = found
    types = []
    for position, output in zip(positions, function.outputs, strict=True):
        x = node.inputs[position]
        assert x is not None
        types.append((x.dtype if holds_floats(x) else output.dtype, x.shape))
    operands = [*dys, *node.outputs, *(node.inputs[i] for i in sorted(set(_places(node))))]
    if again:  # what is not read is not computed again
        operands = [again.get(v, v) if v is not None and function.reads(i) else v for i, v in enumerate(operands)]
    gradient = call(
        function,
        operands,
        {name: node.attributes[name] for name in function.attribute_names},
        types,
        tag=BACKWARD,
        site=node.site,
        layers=node.layers,
        forward=node,
    )
    return dict(zip(positions, gradient.outputs, strict=True))


def _key(node: Node, dys: Sequence[Value | None], opset: int) -> Any:
    symbols: dict[str, int] = {}

    def canonical(shape: Shape | None) -> Any:
        if shape is None:
            return None
        return tuple(d if isinstance(d, int) else ("s", symbols.setdefault(d, len(symbols))) for d in shape)

    def types(values: Iterable[Value | None], reads: Collection[int] = ()) -> tuple[Any, ...]:
        return tuple(
            None if v is None else (v.dtype, canonical(v.shape), _known_key(v, i in reads))
            for i, v in enumerate(values)
        )

    return (
        node.op_type,
        node.domain,
        node.function,
        opset,
        schema.hashable(node.attributes),
        node.casts,
        types([_setting(node, i) for i in range(len(node.inputs))], _reads(node)),
        _places(node),
        types(node.outputs),
        types(dys),
    )


def _reads(node: Node) -> Collection[int]:
    """Return the positions of inputs whose value the body may be written for, if it is a few constant numbers."""
    entry = find(node.op_type, node.domain)
    return (*entry.reads, *entry.settings) if entry is not None and node.function is None else ()


def _setting(node: Node, position: int) -> Value | None:
    """Return an input; where it is a setting of the operator's and static, as the constant that it is."""
    value, entry = node.inputs[position], find(node.op_type, node.domain)
    if value is None or entry is None or position not in entry.settings or not isinstance(value.node, Static):
        return value
    return value if value.node.is_batch else Constant(value.node.array).output


def _readable(value: Value | None, is_read: bool) -> np.ndarray[Any, Any] | None:
    """Return the constant that the body is written for: axes, shapes and the like, or a few numbers that are read."""
    array = known_array(value)
    return array if array is not None and (is_small_integer(array) or (is_read and array.size <= 16)) else None


def _known_key(value: Value, is_read: bool) -> bytes | None:
    array = _readable(value, is_read)
    return array.tobytes() if array is not None else None


def _places(node: Node) -> tuple[int, ...]:
    """Return for every input the position of what stands for it: a value that several bodies capture is one."""
    n, first = operand_count(node), dict[Value | None, int]()
    if n == len(node.inputs):
        return tuple(range(n))
    return tuple(i if i < n else first.setdefault(value, i) for i, value in enumerate(node.inputs))


def _formal_names(node: Node) -> tuple[list[str], list[str]]:
    """Return formal names of the outputs and of the inputs."""
    if node.function is not None:
        return list(node.function.output_names), [str(v.name) for v in node.function.inputs][: len(node.inputs)]
    if not schema.has_operator(node.op_type, node.opset, node.domain):  # of a domain that only the runtime knows
        return [f"Y{i + 1}" for i in range(len(node.outputs))], [f"X{i + 1}" for i in range(len(node.inputs))]
    op = schema.operator(node.op_type, node.opset, node.domain)

    def name(formal: Formal, index: int, first: int) -> str:
        return f"{formal.name}_{index - first + 1}" if formal.is_variadic else formal.name

    outputs = [name(op.output(i), i, len(op.outputs) - 1) for i in range(len(node.outputs))]
    inputs = [name(op.input(i), i, len(op.inputs) - 1) for i in range(operand_count(node))]
    return outputs, [*inputs, *(str(v.name) for _, body in attribute_bodies(node.attributes) for v in body.captures)]


def _body(node: Node, dys: Sequence[Value | None], opset: int) -> tuple[Function, tuple[int, ...]] | None:
    op = Builder(opset, tag=BACKWARD, site=node.site)
    output_names, input_names = _formal_names(node)
    taken: set[str] = set()

    def formal(name: str, like: Value | None, is_read: bool = False) -> Value | None:
        while name in taken:
            name += "_"
        taken.add(name)
        if like is None:
            return Input(np.dtype(np.float32), (), name=name).output  # an absent operand; its formal name is kept
        return Input(like.dtype, like.shape, name=name, known=_readable(like, is_read)).output

    reads = _reads(node)
    places = _places(node)
    own = {i: formal(input_names[i], _setting(node, i), i in reads) for i in sorted(set(places))}
    ys = [formal(name, v) for name, v in zip(output_names, node.outputs, strict=True)]
    seeds = [formal(f"d{name}", v) for name, v in zip(output_names, dys, strict=True)]
    formals = [*seeds, *ys, *own.values()]
    present = [own[i] if v is not None else None for i, v in zip(places, node.inputs, strict=True)]
    dy = [s if v is not None else None for s, v in zip(seeds, dys, strict=True)]
    grads = _differentiate(op, node, dy, [y for y in ys if y is not None], present)

    outputs, positions = [], []
    for i, (g, x, cast) in enumerate(zip(grads, present, node.casts, strict=True)):
        if g is None or x is None or i != places[i] or not _carries_gradient(node, x, cast):
            continue
        g = unbroadcast(op, g, x)
        if x.is_float and g.dtype != x.dtype:
            g = op.Cast(g, to=x.dtype)
        outputs.append(g)
        positions.append(i)
    if not outputs:
        return None
    entry = find(node.op_type, node.domain)
    function = Function(
        f"{node.op_type}Grad",
        DOMAIN,
        opset,
        tuple(v for v in formals if v is not None),
        tuple(outputs),
        tuple(f"d{input_names[i]}" for i in positions),
        tuple(sorted(node.attributes.keys() - {name for name, _ in attribute_bodies(node.attributes)})),
        entry.doc if entry is not None else "",
    )
    return function, tuple(positions)


def _carries_gradient(node: Node, x: Value, cast: np.dtype[Any] | None) -> bool:
    """Floats do; integers do where arithmetic promoted them, or went on in integers that were promoted later.

    So do the integers that stand for numbers in training with quantized values.
    """
    entry = find(node.op_type, node.domain)
    if entry is not None and entry.is_straight_through:
        return True
    return holds_floats(x) or cast is not None or not node.output.is_float


def _differentiate(
    op: Builder, node: Node, dys: list[Value | None], ys: list[Value], xs: list[Value | None]
) -> list[Value | None]:
    xs = [x if x is None or cast is None else op.Cast(x, to=cast) for x, cast in zip(xs, node.casts, strict=True)]
    entry = find(node.op_type, node.domain)
    if node.function is not None and (entry is None or entry.rule is None):
        return gradients_through(op, copy_body(node.function, xs), dys, xs)
    if entry is None:
        return gradients_through(op, expand(op, node, xs), dys, xs)
    if attribute_bodies(node.attributes) or schema.is_container(ys[0].dtype):  # of several types
        return _apply_rule(op, entry, node, dys, ys, xs)
    narrow = {*([] if entry.in_bfloat16 else ["bfloat16"]), *(["float16"] if entry.in_float32 else [])}
    dys, xs = [_widened(op, dy, narrow) for dy in dys], [_widened(op, x, narrow) for x in xs]
    ys = [_widened(op, y, narrow) for y in ys]
    first = next(dy for dy in dys if dy is not None)
    if entry.is_straight_through:
        return _apply_rule(op, entry, node, dys, ys, xs)
    if not ys[0].is_float and schema.has_operator(node.op_type, node.opset, node.domain):
        # integer arithmetic whose result was promoted later: differentiated in the type of dy
        dtype = ys[0].dtype
        ys = [op.Cast(y, to=first.dtype) if y.dtype == dtype else y for y in ys]
        operator = schema.operator(node.op_type, node.opset, node.domain)
        variable = operator.output(0).type_variable  # axes and indices, of another variable, stay integers
        xs = [
            op.Cast(x, to=first.dtype) if x is not None and operator.input(i).type_variable == variable else x
            for i, x in enumerate(xs)
        ]
    elif first.dtype != ys[0].dtype:
        dys = [None if dy is None else op.Cast(dy, to=ys[0].dtype) for dy in dys]
    return _apply_rule(op, entry, node, dys, ys, xs)


def _widened(op: Builder, value: Any, narrow: Collection[str]) -> Any:
    """Return a value of one of these types in float32."""
    return op.Cast(value, to=np.float32) if value is not None and value.dtype.name in narrow else value


def _apply_rule(
    op: Builder, entry: Gradient, node: Node, dys: list[Value | None], ys: list[Value], xs: list[Value | None]
) -> list[Value | None]:
    assert entry.rule is not None
    values: Mapping[str, Any] = {**(node.function.defaults if node.function else {}), **node.attributes}
    if node.function is None and schema.has_operator(node.op_type, node.opset, node.domain):
        operator = schema.operator(node.op_type, node.opset, node.domain)
        values = schema.attributes_with_defaults(operator, node.attributes)
    attributes = {name: values.get(name) for name in entry.attribute_names}
    if entry.all_outputs:
        result = entry.rule(op, tuple(dys), tuple(ys), *xs, **attributes)
    else:
        if any(dy is not None for dy in dys[1:]):
            names = [_formal_names(node)[0][i] for i, dy in enumerate(dys) if i and dy is not None]
            raise GradientError(
                f"{node.op_type}: the gradient must come from its first output, got one of {', '.join(names)}. "
                f"{created_at(node.site)}"
            )
        result = entry.rule(op, dys[0], ys[0], *xs, **attributes)
    grads = list(result) if isinstance(result, tuple | list) else [result]
    return (grads + [None] * len(xs))[: len(xs)]  # gradients of absent trailing operands are dropped
