"""Small exports as text, so that a change of the code shows what it changes in the files.

Where the change is wanted, write the texts anew, look at the difference and commit it:

    python -m pytest tests/converters/test_golden.py --write-golden
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import to_onnx, to_training_onnx, vjp
from tests.converters.programs import Encoder, graph, integer_data, mlp

DATA = Path(__file__).parents[1] / "data"


def inference() -> onnx.ModelProto:
    return to_onnx(Encoder(), inputs={"x": ("N", 6)})


def training() -> onnx.ModelProto:
    return to_training_onnx(mlp(), graph.Sgd(0.05, momentum=0.9))


def training_adam_cnn() -> onnx.ModelProto:
    return to_training_onnx(integer_data(), graph.Adam(0.01), opset=21)


def product() -> onnx.ModelProto:
    text = "f (float[N,3] x, float[3] w) => (float[N,3] y) { a = Mul(x, w) y = Softmax(a) }"
    return vjp(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> {text}'))


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    f.__name__: f for f in (inference, training, training_adam_cnn, product)
}


def text_of(model: onnx.ModelProto) -> str:
    """The graph, the functions and, as comments, what onnx.printer leaves out of the training step."""
    parts = [onnx.printer.to_text(rounded(model))]
    for info in model.training_info:
        step = onnx.ModelProto()
        step.CopyFrom(rounded(model))
        del step.functions[:]
        for name, part in (("algorithm", info.algorithm), ("initialization", info.initialization)):
            step.graph.CopyFrom(part)
            parts.append(f"# {name}\n" + onnx.printer.to_text(rounded(step)))
        for kind in ("update_binding", "initialization_binding"):
            bindings = [f"{b.key} <- {b.value}" for b in getattr(info, kind)]
            parts.append("\n".join([f"# {kind}", *bindings]))
    text = "\n\n".join(parts).rstrip() + "\n"
    return re.sub(r"\{0(,0)+\}", "{...}", text)


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with zeros for weights, which are shown by their sizes only."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.ClearField("training_info")
    result.ClearField("producer_version")
    for tensor in result.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and array.size > 1:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(array), tensor.name))
    return result


@pytest.mark.parametrize("name", MODELS)
def test_the_export_is_the_golden_text(name: str, pytestconfig: pytest.Config):
    rm.set_seed(0)
    text = text_of(MODELS[name]())
    path = DATA / f"golden_{name}.txt"
    if pytestconfig.getoption("--write-golden"):
        path.write_text(text, "utf-8")
    golden = path.read_text("utf-8")
    assert text == golden, f"if this change is wanted: pytest {Path(__file__).name} --write-golden, and commit the text"
