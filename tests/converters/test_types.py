"""The types that reading finds node by node are those of the values that onnxruntime computes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.backend.test.loader import load_model_tests

from renom_onnx.converters.importer import import_graph

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # making the tests computes the limits of number types
    CASES = [case for case in load_model_tests(kind="node") if case.model and len(case.model.graph.node) > 5]


def all_values(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """Return the model with these values as its outputs."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.output[:]
    result.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return result


def computed(model: onnx.ModelProto, feeds: list[np.ndarray], names: list[str]) -> dict[str, np.ndarray] | None:
    """Return the values by name, None where onnxruntime cannot run the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = all_values(model, names).SerializeToString()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        arrays = session.run(names, dict(zip([i.name for i in model.graph.input], feeds, strict=False)))
    except Exception:  # an operator or element type that this onnxruntime has no kernel for
        return None
    return dict(zip(names, arrays, strict=True))


def mismatches() -> Iterator[tuple[str, int, int]]:
    """Yield what is wrong with a model, how many values it has, and how many of unknown size."""
    for case in CASES:
        graph = import_graph(case.model)
        values = {n: v for n, v in graph.values.items() if n not in graph.inputs and v.dtype != object}
        arrays = computed(case.model, case.data_sets[0][0], list(values))
        if arrays is None:
            continue
        wrong, n_open = [], 0
        for name, value in values.items():
            got, shape = arrays[name], value.shape
            if shape is None or any(isinstance(d, str) for d in shape):
                n_open += 1
            if got.dtype != value.dtype or (
                shape is not None
                and (
                    len(shape) != got.ndim
                    or any(isinstance(d, int) and d != n for d, n in zip(shape, got.shape, strict=True))
                )
            ):
                wrong.append(f"{case.name}: {name} is {value}, got {got.dtype}{list(got.shape)}")
        yield "\n".join(wrong), len(values), n_open


@pytest.mark.slow  # runs some 300 models of the standard's tests, 20 s
def test_types_and_sizes_are_those_of_the_computed_values():
    found = list(mismatches())
    assert not [wrong for wrong, _, _ in found if wrong]
    n_values, n_open = sum(n for _, n, _ in found), sum(n for _, _, n in found)
    assert n_values > 8_000
    assert n_open < n_values // 20  # few stay open: what only the data decide
