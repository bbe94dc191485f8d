"""ONNX's own tests of the training operators, which onnxruntime alone cannot run."""

from __future__ import annotations

import functools
import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case import node
from onnx.backend.test.loader import load_model_tests

from renom_onnx.converters import lint, lower
from renom_onnx.runtime import InferenceSession

NODE_TESTS = [
    "test_adagrad",
    "test_adagrad_multiple",
    "test_adam",
    "test_adam_multiple",
    "test_momentum",
    "test_momentum_multiple",
    "test_nesterov_momentum",
]
MODEL_TESTS = ["test_gradient_of_add", "test_gradient_of_add_and_mul"]
TRAINING_TESTS = [*NODE_TESTS, *MODEL_TESTS]


@functools.cache
def found() -> dict[str, Any]:
    """Return ONNX's tests by name; of the node tests only those that are asked for, for all of them take a while."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in ("adagrad", "adam", "momentum"):
            importlib.import_module(f"onnx.backend.test.case.node.{module}")
        tests = [*node._NodeTestCases, *load_model_tests(kind="simple")]
    return {test.name: test for test in tests}


def run_test(name: str) -> None:
    """Lower the model of a test, run it, and compare with what ONNX expects."""
    test = found()[name]
    if test.model is not None:
        model, (inputs, outputs) = test.model, test.data_sets[0]
        inputs, outputs = (
            [numpy_helper.to_array(a) if isinstance(a, onnx.TensorProto) else np.asarray(a) for a in arrays]
            for arrays in (inputs, outputs)
        )
    else:
        folder = Path(test.model_dir)
        model = onnx.load(folder / "model.onnx")
        inputs, outputs = (
            [numpy_helper.to_array(onnx.load_tensor(str(path))) for path in sorted(folder.glob(f"*_0/{kind}_*.pb"))]
            for kind in ("input", "output")
        )
    lowered = lower(model)
    onnx.checker.check_model(lowered, full_check=True)
    assert lint(lowered) == []
    feeds = {value.name: array for value, array in zip(model.graph.input, inputs, strict=True)}
    got = InferenceSession(model, "cpu").run(feeds)  # lowers by itself
    assert list(got) == [value.name for value in model.graph.output]
    for (key, a), b in zip(got.items(), outputs, strict=True):
        np.testing.assert_allclose(a, b, rtol=test.rtol, atol=test.atol, err_msg=key)
