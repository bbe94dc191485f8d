"""Whether two trainable models are the same to whoever trains or runs them, and small models as text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

import renom_onnx as rm
from tests.converters.programs import PROGRAMS, Program, feeds
from tests.converters.test_training_file import stock_session

ONE_OF_EACH = [p for p in PROGRAMS if (p.optimizer, p.opset) == ("Adam", 18)]
"""A program for each kind of data and layer."""


def train(
    model: onnx.ModelProto | str, batches: list[dict[str, np.ndarray]], training_info: int = 0
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Return the losses of a few steps, and all weights and states after them."""
    session = rm.runtime.TrainingSession(model, "cpu", threads=1)
    losses = [float(session.step(batch)) for batch in batches]
    trained = session.to_model()
    tensors = [*trained.graph.initializer, *trained.training_info[training_info].algorithm.initializer]
    return losses, {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}


def assert_trains_alike(
    model: onnx.ModelProto | str, original: onnx.ModelProto, rename: Callable[[str], str] = lambda name: name
) -> None:
    """Compare losses, weights and states, all bits of them."""
    batches = [feeds(original, 6, i) for i in range(4)]
    losses, values = train(original, batches)
    got_losses, got = train(model, [{rename(name): array for name, array in batch.items()} for batch in batches])
    assert got_losses == losses
    for name, value in values.items():
        np.testing.assert_array_equal(got[rename(name)], value, strict=True, err_msg=name)


def assert_infers_alike(
    model: onnx.ModelProto, original: onnx.ModelProto, rename: Callable[[str], str] = lambda name: name
) -> None:
    """Compare all outputs of a stock onnxruntime, all bits of them."""
    names = {value.name for value in original.graph.input} - {t.name for t in original.graph.initializer}
    given = feeds(original, 5) if original.training_info else {}
    batch = {name: array for name, array in given.items() if name in names}
    wanted = stock_session(original).run(None, batch)
    got = stock_session(model).run(None, {rename(name): array for name, array in batch.items()})
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def adam() -> onnx.ModelProto:
    """A perceptron with the optimizer that has the most state."""
    return Program("mlp", "Adam", 18).model()


def parsed(text: str, opset: int = 18, ir_version: int = 10, functions: str = "") -> onnx.ModelProto:
    """Return a model from ONNX's text: ``f (float[N] x) => (float[N] y) { y = Neg (x) }``."""
    own = ', "own": 1' if functions else ""
    return onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}{own}]> {text} {functions}')
