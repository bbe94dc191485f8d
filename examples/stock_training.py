"""Train a file that renom_onnx wrote with onnx and onnxruntime alone: nothing here imports renom_onnx.

    python -m examples.stock_training demo-output/digits.train.onnx

The file is one that `python -m examples.digits` wrote. Its training step is joined to its graph as the ONNX
specification says (https://onnx.ai/onnx/repo-docs/IR.html#training-related-information); any runtime can do that.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from sklearn.datasets import load_digits

Array = np.ndarray[Any, Any]

BATCH_SIZE = 32


class StockTraining:
    """The training step of a file in a plain onnxruntime session.

    Args:
        path: a file with ``training_info``.

    Attributes:
        state: weights, optimizer state and step count by name; `step` replaces them.
    """

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        info = model.training_info[0]
        for field in ("node", "initializer", "input", "output"):
            getattr(model.graph, field).extend(getattr(info.algorithm, field))
        self._next_names = {binding.key: binding.value for binding in info.update_binding}
        tensors = [tensor for tensor in model.graph.initializer if tensor.name in self._next_names]
        self.state = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
        # An initializer that is also an input can be fed; one that is not would never change.
        model.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors)
        onnxruntime.set_default_logger_severity(3)  # else it warns that they can be fed
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def step(self, feeds: dict[str, Array]) -> float:
        """Take one step and return the loss of the batch before it."""
        wanted = ["loss", *self._next_names.values()]
        loss, *values = self._session.run(wanted, {**feeds, **self.state})
        self.state = dict(zip(self._next_names, values, strict=True))
        return float(loss)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a file for some epochs and print the losses."""
    description = (__doc__ or "").split(":")[0]
    parser = argparse.ArgumentParser(prog="python -m examples.stock_training", description=description)
    parser.add_argument("path", type=Path, help="a file with a training step, such as demo-output/digits.train.onnx")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the images (default: 3)")
    options = parser.parse_args(arguments)

    bunch = load_digits()
    images, labels = (bunch.images[:, None] / 16).astype(np.float32), bunch.target.astype(np.int64)
    training = StockTraining(options.path)
    for epoch in range(options.epochs):
        losses = [
            training.step(
                {
                    "x": images[start : start + BATCH_SIZE],
                    "y": labels[start : start + BATCH_SIZE],
                    "learning_rate": np.array(0.001, np.float32),
                }
            )
            for start in range(0, len(labels), BATCH_SIZE)
        ]
        print(f"epoch {epoch + 1}: mean loss {np.mean(losses):.4f}", flush=True)


if __name__ == "__main__":
    main()
