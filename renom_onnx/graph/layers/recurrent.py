"""Recurrent layers over whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar, Unpack

import numpy as np

from renom_onnx.errors import DTypeError, ShapeError
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.layer import Layer, cast_to_precision
from renom_onnx.graph.layers.size import exact_axes, known_sizes
from renom_onnx.graph.operators import apply, apply_node, integers
from renom_onnx.graph.setting import Settings
from renom_onnx.graph.site import created_at, user_site
from renom_onnx.utility.initializer import Constant, GlorotNormal, Initializer


class Rnn(Layer):
    """h = tanh(x W' + h R' + Wb + Rb), step by step over a sequence, from h = 0.

    One ONNX operator; its gradient runs over the T steps. One call is the whole sequence: no state is kept for the next
    call (ReNom's kept it until `reset`), but `return_states` gives it out and `h` takes it in.

    Args:
        units: H, the size of h.
        initializer: of w and wr, called with (F, H) and (H, H) for each gate and direction; default GlorotNormal.
        return_sequences: return h of every step, not of the last only.
        bidirectional: a second pass with weights of its own reads the sequence backwards; both h are joined.
        bias: False freezes b at 0.
        return_states: return h after the last step too, as (y, h).
        settings: see `Layer`: activation, optimizer, parameter_decay, weight_decay, checkpoint.

    Parameters, in ONNX's layout, D directions, G gates: w (D, G H, F), wr (D, G H, H), b (D, 2 G H).

    Called with x (N, T, F), returns y (N, D H), or with return_sequences (N, T, D H). Further inputs, each of which may
    be None: `lengths` (N,), integers, the steps that each sequence has: beyond them y is 0 and h stays, and the second
    direction begins at the last of them; `h` (N, D H), the state before the first step.

    Raises:
        ShapeError: x has not three axes, F is not that of the first call, or lengths or h have other sizes.
        DTypeError: lengths are no integers.
        GradientError: trained with a T that only the run will know.

    Source: Elman 1990, doi:10.1207/s15516709cog1402_1; https://onnx.ai/onnx/operators/onnx__RNN.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> rm.graph.Rnn(4, return_sequences=True)(np.zeros((2, 7, 3), np.float32)).shape
        ('N', 7, 4)
        >>> y = rm.graph.Rnn(4)(np.zeros((2, 7, 3), np.float32), lengths=np.array([7, 5]), h=np.ones((2, 4)))
    """

    op_type: ClassVar[str] = "RNN"
    n_gates: ClassVar[int] = 1
    n_states: ClassVar[int] = 1
    attributes: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        units: int = 3,
        initializer: Initializer | None = None,
        *,
        return_sequences: bool = False,
        bidirectional: bool = False,
        bias: bool = True,
        return_states: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(**settings)
        self.units = units
        self.initializer = initializer
        self.return_sequences = return_sequences
        self.bidirectional = bidirectional
        self.bias = bias
        self.return_states = return_states
        self._states: tuple[GraphElement, ...] = ()

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Connect the inputs and return the output, or a tuple of it and the states."""
        y = super().__call__(*inputs, **named)
        states, self._states = self._states, ()
        return (y, *states) if self.return_states else y

    def forward(
        self, x: GraphElement, lengths: GraphElement | None = None, h: GraphElement | None = None
    ) -> GraphElement:
        """Return h of the last step, or of all."""
        return self._run(x, lengths, h)

    def _run(self, x: GraphElement, lengths: GraphElement | None, *states: GraphElement | None) -> GraphElement:
        exact_axes(x, type(self).__name__, 3, "(N, T, F)")
        size = known_sizes(x, [2], type(self).__name__)[0]
        d, rows = 2 if self.bidirectional else 1, self.n_gates * self.units
        w = self.parameter("w", (d, rows, size), _PerGate(self.initializer, self.units))
        wr = self.parameter("wr", (d, rows, self.units), _PerGate(self.initializer, self.units))
        b = self.parameter("b", (d, 2 * rows), Constant(0), trainable=self.bias)
        n_outputs = 1 + self.n_states if self.return_states else 1 if self.return_sequences else 2
        steps = apply("Transpose", x, casts=[cast_to_precision(x)], perm=[1, 0, 2])
        node = apply_node(
            self.op_type,
            steps,
            w,
            wr,
            b,
            None if lengths is None else self._checked_lengths(lengths),
            *(
                None if state is None else self._by_direction(state, name)
                for name, state in zip("hc"[: len(states)], states, strict=True)
            ),
            *self._further(d),
            n_outputs=n_outputs,
            hidden_size=self.units,
            direction="bidirectional" if self.bidirectional else "forward",
            **self.attributes,
        )
        if self.return_states:
            self._states = tuple(self._by_row(GraphElement(state)) for state in node.outputs[1:])
        if self.return_sequences:
            y = apply("Transpose", GraphElement(node.outputs[0]), perm=[2, 0, 1, 3])  # (T, D, N, H) to (N, T, D, H)
            return apply("Reshape", y, integers([0, 0, d * self.units]))
        return self._states[0] if self.return_states else self._by_row(GraphElement(node.outputs[1]))

    def _by_row(self, state: GraphElement) -> GraphElement:
        """Return (D, N, H) as (N, D H)."""
        if not self.bidirectional:
            return apply("Squeeze", state, integers([0]))
        return apply("Reshape", apply("Transpose", state, perm=[1, 0, 2]), integers([0, 2 * self.units]))

    def _by_direction(self, state: GraphElement, name: str) -> GraphElement:
        """Return (N, D H) as (D, N, H)."""
        kind, size = type(self).__name__, self.units * (2 if self.bidirectional else 1)
        if state.shape is None or len(state.shape) != 2 or state.shape[1] != size:
            raise ShapeError(
                f"{kind}: {name} must have 2 axes, (N, D H) with D H = {size}, got {name} is {state.output}. "
                f"{created_at(user_site())}"
            )
        cast = cast_to_precision(state)
        if not self.bidirectional:
            return apply("Unsqueeze", state, integers([0]), casts=[cast, None])
        parts = apply("Reshape", state, integers([0, 2, self.units]), casts=[cast, None])
        return apply("Transpose", parts, perm=[1, 0, 2])

    def _checked_lengths(self, lengths: GraphElement) -> GraphElement:
        kind = type(self).__name__
        if lengths.shape is None or len(lengths.shape) != 1:
            raise ShapeError(
                f"{kind}: lengths must have one axis, (N,), got lengths is {lengths.output}. {created_at(user_site())}"
            )
        if lengths.dtype.kind not in "iu":
            raise DTypeError(
                f"{kind}: lengths must be integers, got lengths is {lengths.output}. Convert it with astype('int64'). "
                f"{created_at(user_site())}"
            )
        return lengths if lengths.dtype == np.int32 else apply("Cast", lengths, to=np.dtype(np.int32))

    def _further(self, n_directions: int) -> Sequence[GraphElement | None]:
        """Return the operands after the states."""
        return ()


class _PerGate(Initializer):
    """Draws (D, G H, F) as G matrices (F, H) for each direction, transposed."""

    def __init__(self, initializer: Initializer | None, units: int) -> None:
        self.initializer = initializer or GlorotNormal()
        self.units = units

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        """Return the matrices."""
        count = prod(shape[:2]) // self.units
        gates = [self.initializer((shape[2], self.units), rng, np.float64).T for _ in range(count)]
        return np.concatenate(gates).reshape(shape)


class Lstm(Rnn):
    """Long short-term memory: c = f c + i tanh(…), h = o tanh(c), from h = c = 0; gates in ONNX's order i, o, f, c.

    Args: as of `Rnn`; return_states gives (y, h, c). ReNom's had no bias, and one call was one step.

    Parameters: w (D, 4 H, F), wr (D, 4 H, H), b (D, 8 H).

    Called with x (N, T, F), and lengths, h and c, each of which may be None, as `Rnn`; c is as h. Returns (N, D H), or
    with return_sequences (N, T, D H).

    Source: Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; https://onnx.ai/onnx/operators/onnx__LSTM.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> rm.graph.Lstm(4, bidirectional=True)(np.zeros((2, 7, 3), np.float32)).shape
        ('N', 8)
    """

    op_type = "LSTM"
    n_gates = 4
    n_states = 2

    def forward(
        self,
        x: GraphElement,
        lengths: GraphElement | None = None,
        h: GraphElement | None = None,
        c: GraphElement | None = None,
    ) -> GraphElement:
        """Return h of the last step, or of all."""
        return self._run(x, lengths, h, c)


class PeepholeLstm(Lstm):
    """An Lstm whose gates i and f see the old c, and o the new c, through weights of their own.

    Args: as of `Lstm`.

    Parameters: those of `Lstm`, and wc (D, 3 H) in the order i, o, f.

    Called as `Lstm` with x (N, T, F), returns (N, D H), or with return_sequences (N, T, D H).

    Source: Gers & Schmidhuber 2000, doi:10.1109/IJCNN.2000.861302; https://onnx.ai/onnx/operators/onnx__LSTM.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> rm.graph.PeepholeLstm(4, return_sequences=True)(np.ones((2, 5, 3), np.float32)).shape
        ('N', 5, 4)
    """

    def _further(self, n_directions: int) -> Sequence[GraphElement | None]:
        wc = self.parameter("wc", (n_directions, 3 * self.units), self.initializer or GlorotNormal())
        return (wc,)


class Gru(Rnn):
    """Gated recurrent unit: h = (1 - z) tanh(x Wh' + s (h Rh' + Rbh) + Wbh) + z h, from h = 0; gates z, s (reset), h.

    The reset gate comes after the product, as in PyTorch and cuDNN. ReNom v3's was no GRU; this is that of v2.7.

    Args: as of `Rnn`.

    Parameters: w (D, 3 H, F), wr (D, 3 H, H), b (D, 6 H).

    Called as `Rnn` with x (N, T, F), returns (N, D H), or with return_sequences (N, T, D H).

    Source: Cho et al. 2014, arXiv:1406.1078; https://onnx.ai/onnx/operators/onnx__GRU.html.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> rm.graph.Gru(4)(np.ones((2, 5, 3), np.float32)).shape
        ('N', 4)
    """

    op_type = "GRU"
    n_gates = 3
    attributes: ClassVar[dict[str, Any]] = {"linear_before_reset": 1}
