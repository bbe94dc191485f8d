"""Gradient of Scan, by a Scan that goes through the steps from the last to the first.

Source: https://onnx.ai/onnx/operators/onnx__Scan.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from renom_onnx.gradients.registry import gradient
from renom_onnx.gradients.steps import (
    FORWARDS,
    Slices,
    StepBack,
    Steps,
    differentiate,
    known_type,
    same_value,
    shifted,
    values_of,
)
from renom_onnx.graph.body import Body, without
from renom_onnx.graph.builder import Builder
from renom_onnx.graph.container import holds_floats
from renom_onnx.graph.inside import Inside, instantiate
from renom_onnx.graph.node import Value


@gradient("Scan", all_outputs=True)
def scan(
    op, dys, ys, *inputs, body, num_scan_inputs,
    scan_input_axes, scan_input_directions, scan_output_axes, scan_output_directions,
):  # fmt: skip
    """From the last step to the first: ds = f_s ds' + g_s dy, dx = f_x ds' + g_x dy, dc = dc + f_c ds' + g_c dy."""
    dys = [dy if holds_floats(y) else None for y, dy in zip(ys, dys, strict=True)]
    n = len(body.inputs)
    n_states = n - num_scan_inputs
    steps = _Scan(
        op,
        body,
        inputs[:n_states],
        _slices(inputs[n_states:n], scan_input_axes, scan_input_directions),
        inputs[n:],
        _slices(ys[n_states:], scan_output_axes, scan_output_directions),
    )
    first, sliced, captured = differentiate(op, steps, ys[:n_states], dys[:n_states], dys[n_states:])
    return (*first, *sliced, *captured)


def _slices(values, axes, directions):
    n = len(values)
    axes, directions = axes or (0,) * n, directions or (FORWARDS,) * n
    return [Slices(*each) for each in zip(values, axes, directions, strict=True)]


class _Scan(Steps):
    def __init__(
        self,
        op: Builder,
        body: Body,
        initial: Sequence[Value],
        scanned: Sequence[Slices],
        captured: Sequence[Value],
        outputs: Sequence[Slices],
    ) -> None:
        self._op = op
        self._body = body
        self._initial = initial
        self._scanned = scanned
        self._outputs = outputs
        self.captured = captured
        states, rows = body.inputs[: len(initial)], body.inputs[len(initial) :]
        self.state_types = [known_type(v.dtype, v.shape, s) for v, s in zip(initial, states, strict=True)]
        self.slice_types = [
            known_type(s.value.dtype, without(s.value.shape, s.axis), x) for s, x in zip(scanned, rows, strict=True)
        ]

    def write(self, states: Sequence[Value], slices: Sequence[Value], captured: Sequence[Value]) -> list[Value]:
        return instantiate(self._body, [*states, *slices], captured)

    def states_before(self, numbers: Sequence[int]) -> list[Slices]:
        op, n = self._op, len(self._initial)
        found = {}
        for i in numbers:
            for output, y in zip(self._body.outputs[n:], self._outputs, strict=True):
                if same_value(output) is same_value(self._body.outputs[i]):
                    found[i] = shifted(op, self._initial[i], y)
        wanted = [i for i in numbers if i not in found]
        if wanted:
            inside = Inside(op)
            states = [inside.input(*t, f"S{i + 1}") for i, t in enumerate(self.state_types)]
            slices = [inside.input(*t, f"X{i + 1}") for i, t in enumerate(self.slice_types)]
            ends = self.write(states, slices, [inside.see(value) for value in self.captured])
            body, outside = inside.body("states", [*ends[:n], *(states[i] for i in wanted)])
            made = _scan(op, body, self._initial, self._scanned, outside)
            found |= {i: Slices(value) for i, value in zip(wanted, made[n:], strict=True)}
        return [found[i] for i in numbers]

    def read(self, number: int) -> Slices:
        return self._scanned[number]

    def stacked(self, number: int, gradient: Value) -> Slices:
        return Slices(gradient, self._outputs[number].axis, self._outputs[number].direction)

    def back(self, step: StepBack, carried: Sequence[Value], read: Sequence[Slices]) -> list[Value]:
        written = [self._scanned[j].backwards() for j in step.slices]
        made = _scan(self._op, step.body, carried, [s.backwards() for s in read], step.captured, written)
        for grad, like in zip(made[len(carried) :], written, strict=True):
            self._op.shaped(grad, like.value)
        return made


def _scan(
    op: Builder,
    body: Body,
    states: Sequence[Value],
    scanned: Sequence[Slices],
    captured: Sequence[Value],
    outputs: Sequence[Slices] = (),
) -> list[Value]:
    made = op.Scan(
        *states,
        *(s.value for s in scanned),
        *captured,
        body=body,
        num_scan_inputs=len(scanned),
        scan_input_axes=_given(s.axis for s in scanned),
        scan_input_directions=_given(s.direction for s in scanned),
        scan_output_axes=_given(s.axis for s in outputs),
        scan_output_directions=_given(s.direction for s in outputs),
    )
    return values_of(made)


def _given(numbers: Iterable[int]) -> list[int] | None:
    """Return an attribute of axes or directions, None for the default."""
    found = list(numbers)
    return found if any(found) else None
