"""ONNX's own test models, and models of our layers: loaded, exported, called, and exported again."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

import renom_onnx as rm
from renom_onnx.converters import to_onnx
from renom_onnx.runtime.evaluation import evaluate

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
UNCALLED = {
    "test_identity_opt": "an optional value cannot be given as an array",
    "test_loop16_seq_none": "an optional value cannot be given as a list",
    "test_scan_sum": "the Scan of opset 8, with an axis for batches, has no form at opset 18",
}

Case = tuple[str, onnx.ModelProto, list[Any]]


@functools.cache
def cases(kind: str) -> list[Case]:
    """Return name, model and inputs of every test of a kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making the tests computes the limits of number types
        found = load_model_tests(kind=kind)
    if kind == "node":
        return [(case.name, case.model, list(case.data_sets[0][0])) for case in found]
    return [(case.name, *read(Path(str(case.model_dir)))) for case in found]


def read(folder: Path) -> tuple[onnx.ModelProto, list[Any]]:
    inputs = []
    for path in sorted(folder.glob("test_data_set_0/input_*.pb"), key=lambda p: int(p.stem.split("_")[1])):
        tensor = onnx.TensorProto()
        tensor.ParseFromString(path.read_bytes())
        inputs.append(numpy_helper.to_array(tensor))
    return onnx.load(folder / "model.onnx"), inputs


def as_bytes(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from tensors(inner)


def in_raw_data(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its initializers in the encoding of an export, in which all else must be the same."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in tensors(result.graph):
        written = numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
        if tensor.doc_string:
            written.doc_string = tensor.doc_string
        tensor.CopyFrom(written)
    return result


@pytest.mark.slow  # some 2000 models, 10 s
@pytest.mark.parametrize("kind", KINDS)
def test_an_export_is_the_model_and_the_next_one_has_the_same_bytes(kind: str):
    for name, model, _ in cases(kind):
        exported = to_onnx(rm.load(model))
        assert exported == in_raw_data(model), name
        assert as_bytes(to_onnx(rm.load(as_bytes(exported)))) == as_bytes(exported), name


def reference(model: onnx.ModelProto, feeds: list[Any]) -> list[Any] | None:
    """Return the outputs that onnxruntime computes, None where it cannot run the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(as_bytes(model), options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, dict(zip([i.name for i in model.graph.input], feeds, strict=False)))
    except Exception:  # an operator or element type that this onnxruntime has no kernel for
        return None
    return list(outputs)


@pytest.mark.slow  # opens two sessions for each of some 500 models, 30 s
@pytest.mark.parametrize("kind", KINDS)
def test_a_called_model_computes_what_onnxruntime_computes_from_the_file(kind: str):
    n_run = 0
    for name, model, feeds in cases(kind)[:: 4 if kind == "node" else 1]:
        expected = reference(model, feeds)
        if expected is None or name in UNCALLED:
            continue
        result = rm.load(model)(*feeds)
        elements = result if isinstance(result, tuple) else (result,)
        for got, want in zip(evaluate([e.output for e in elements]), expected, strict=True):
            if isinstance(want, np.ndarray) and want.dtype != object:
                assert got.dtype == want.dtype, name
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=name)
            elif isinstance(want, np.ndarray):
                assert (got == want).all(), name
            else:
                assert len(got) == len(want), name
        n_run += 1
    assert n_run > {"node": 300, "simple": 15}.get(kind, 20)


@pytest.mark.slow  # PyTorch's exporter takes some seconds for each
@pytest.mark.parametrize("name", ["cnn", "lstm", "transformer", "u-net"])
def test_what_pytorch_exports_is_written_again_and_computes_the_same(name: str):
    torch = pytest.importorskip("torch", reason="the oracle is installed on Linux only")
    pytest.importorskip("onnxscript", reason="PyTorch's exporter needs it")
    from tests.converters.test_pytorch_exports import CASES, export

    make, sizes, _ = CASES[name]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(4, *sizes)
    file = export(model, x)
    loaded = rm.load(file)
    exported = to_onnx(loaded)
    assert exported == in_raw_data(file)
    assert as_bytes(to_onnx(rm.load(as_bytes(exported)))) == as_bytes(exported)
    y = loaded(x.numpy())
    assert y.shape is not None
    assert y.shape[0] == "N"
    np.testing.assert_allclose(y.as_ndarray(), model(x).detach().numpy(), rtol=1e-4, atol=1e-5)
