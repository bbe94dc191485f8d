"""Gradient of If: the gradient of the branch that is taken.

Source: https://onnx.ai/onnx/operators/onnx__If.html.
"""

from renom_onnx.gradients.registry import gradient
from renom_onnx.graph.body import split_captures
from renom_onnx.graph.container import holds_floats, zeros
from renom_onnx.graph.expansion import gradients_through
from renom_onnx.graph.inside import Inside, instantiate


@gradient("If", all_outputs=True)
def if_(op, dys, ys, cond, *captured, then_branch, else_branch):
    """dx = If(cond, the gradient of one branch, the gradient of the other), 0 for what only the other one captures."""
    bodies = {"else_branch": else_branch, "then_branch": then_branch}
    own = dict(zip(bodies, split_captures(bodies, captured), strict=True))
    dys = [dy if holds_floats(y) else None for y, dy in zip(ys, dys, strict=True)]
    insides, found = {}, {}
    for name, body in bodies.items():
        inside = insides[name] = Inside(op)
        xs = {x: inside.see(x) for x in own[name]}
        ends = instantiate(body, (), [xs[x] for x in own[name]])
        wanted = [x for x in xs if holds_floats(x)]
        grads = gradients_through(op, ends, [dy and inside.see(dy) for dy in dys], [xs[x] for x in wanted])
        found[name] = dict(zip(wanted, grads, strict=True))
    floats = dict.fromkeys(x for x in captured if holds_floats(x))
    wanted = [x for x in floats if any(grads.get(x) is not None for grads in found.values())]
    if not wanted:
        return ()
    branches, outside = {}, []
    for name, inside in insides.items():
        ends = [zeros(op, inside.see(x)) if (dx := found[name].get(x)) is None else dx for x in wanted]
        branches[name], seen = inside.body(f"{name}_gradient", ends)
        outside += seen
    made = op.If(cond, *outside, **branches)
    total = dict(zip(wanted, made if isinstance(made, tuple) else [made], strict=True))
    return (None, *(op.shaped(total[x], x) if x in total else None for x in captured))
