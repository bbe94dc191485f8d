"""Models and points for the gradient check: ONNX's node tests in several forms, and some of our own."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests

from renom_onnx.gradients import Gradient, find
from renom_onnx.graph.schema import DEFAULT_OPSET
from tests.gradients.reference import FLOATS, UncheckableError, is_float
from tests.gradients.session import Session, element_of

NEWEST_OPSET = defs.onnx_opset_version()
OLDEST_OPSET = 13
OF_ANY_SIZE = {"Loop", "Range", "Unique"}  # how much comes out depends on the values
CROPPED = {"test_averagepool_3d_default", "test_lppool_3d_default", "test_maxpool_3d_default"}


@dataclass(frozen=True)
class Case:
    """A model and a point.

    Attributes:
        about: the operator that the model is there for, if it has several.
    """

    name: str
    model: onnx.ModelProto
    feeds: dict[str, np.ndarray[Any, Any]]
    about: str = ""

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """All nodes but constants."""
        return [node for node in self.model.graph.node if node.op_type != "Constant"]

    @property
    def operators(self) -> list[str]:
        """The type of every node but constants, each once."""
        return sorted({node.op_type for node in self.nodes})

    @property
    def subject(self) -> str:
        """The operator that the case is about, "" if it is one of many."""
        return self.about or (self.operators[0] if self.is_one_operator else "")

    @property
    def opset(self) -> int:
        """What `vjp` takes it for."""
        return max(int(opset_import(self.model).version), DEFAULT_OPSET)

    @property
    def entries(self) -> list[Gradient | None]:
        """What the registry knows of each of the operators."""
        domains = {node.op_type: node.domain for node in self.nodes}
        return [find(op_type, domains[op_type]) for op_type in self.operators]

    @property
    def is_one_operator(self) -> bool:
        return len(self.nodes) == 1

    @property
    def is_linear_in_each(self) -> bool:
        entry = self.entries[0]
        return self.is_one_operator and entry is not None and entry.linear_in_each


@functools.cache
def all_node_tests() -> list[Any]:
    """Return ONNX's node tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(load_model_tests(kind="node"))


@functools.cache
def node_tests() -> dict[str, Case]:
    """Return those of ONNX's node tests that have a float input, by name; an input may be a sequence of arrays."""
    cases = {}
    for test in all_node_tests():
        graph = test.model.graph
        if not any(element_of(info.type) in FLOATS for info in graph.input) or not test.data_sets:
            continue
        feeds = {info.name: _array(x) for info, x in zip(graph.input, test.data_sets[0][0], strict=True)}
        case = Case(test.name, test.model, feeds)
        results = {info.name: _array(x) for info, x in zip(graph.output, test.data_sets[0][1], strict=True)}
        case = of_tensors(case, results)
        if OF_ANY_SIZE.intersection(case.operators):
            case = Case(case.name, _without_result_shapes(_copy(case.model)), case.feeds)
        cases[test.name] = cropped(case) if test.name in CROPPED else case
    return cases


def of_tensors(case: Case, results: dict[str, Any]) -> Case:
    """Return the case with sequences made of tensors that go in, and tensors taken out of those that come out."""
    model, feeds = _copy(case.model), dict(case.feeds)
    inputs, outputs = list(model.graph.input), list(model.graph.output)
    values = [(info, {**case.feeds, **results}[info.name]) for info in [*inputs, *outputs] if _is_sequence(info)]
    if not values or not all(x and all(isinstance(item, np.ndarray) for item in x) for _, x in values):
        return case
    for info, items in values:
        names = [f"{info.name}_{i}" for i in range(len(items))]
        element = element_of(info.type)
        infos = [helper.make_tensor_value_info(n, element, x.shape) for n, x in zip(names, items, strict=True)]
        if info in inputs:
            model.graph.input.remove(info)
            model.graph.input.extend(infos)
            model.graph.node.insert(0, helper.make_node("SequenceConstruct", names, [info.name]))
            feeds.update(zip(names, feeds.pop(info.name), strict=True))
        else:
            model.graph.output.remove(info)
            model.graph.output.extend(infos)
            for i, name in enumerate(names):
                model.graph.node.append(helper.make_node("Constant", [], [f"{name}.place"], value_int=i))
                model.graph.node.append(helper.make_node("SequenceAt", [info.name, f"{name}.place"], [name]))
    return Case(case.name, model, feeds)


def _is_sequence(info: onnx.ValueInfoProto) -> bool:
    return info.type.WhichOneof("value") == "sequence_type"


def _array(value: Any) -> Any:
    if value is None or isinstance(value, list):
        return [_array(v) for v in value or ()]
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def cropped(case: Case) -> Case:
    """Return the case with small images: the reference needs seconds for 32 x 32 x 32 pixels."""
    feeds = {name: x[(slice(None), slice(None), *[slice(9)] * (x.ndim - 2))] for name, x in case.feeds.items()}
    case = Case(case.name, _without_result_shapes(_copy(case.model)), feeds)
    return Case(case.name, with_sizes(case), feeds)


def opset_import(model: onnx.ModelProto | onnx.FunctionProto) -> onnx.OperatorSetIdProto:
    return next((o for o in model.opset_import if o.domain in {"", "ai.onnx"}), model.opset_import[0])


def is_valid(model: onnx.ModelProto) -> bool:
    """Whether the operators have these operands and attributes at the model's opset; results may lack a shape."""
    bare = _copy(model)
    bare.graph.ClearField("output")
    try:
        onnx.checker.check_model(bare)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        return "is deprecated" in str(e)
    return True


def at_both_ends(case: Case) -> Iterator[onnx.ModelProto]:
    """Yield the model at the oldest and the newest opset, where it still means what it meant."""
    try:
        expected = Session(case.model)(case.feeds)
    except UncheckableError:
        return
    for opset in (DEFAULT_OPSET, NEWEST_OPSET):
        if opset == max(opset_import(case.model).version, DEFAULT_OPSET):
            continue  # as the model is, or as `vjp` upgrades it
        model = at_opset(case.model, opset)
        if not is_valid(model):
            continue
        try:
            got = Session(model)(case.feeds)
        except UncheckableError:
            continue
        if all(np.array_equal(got[k], y, equal_nan=is_float(y)) for k, y in expected.items()):
            yield model


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the same nodes under another opset."""
    model = _copy(model)
    for imports in (model, *model.functions):
        opset_import(imports).version = opset
    model.ir_version = max(model.ir_version, 10)
    return model


def with_symbols(case: Case, n_inputs: int | None = None) -> onnx.ModelProto:
    """Return the model with a symbol for the first size of (the first n) float inputs; equal sizes share a symbol."""
    model = _copy(case.model)
    for info in list(model.graph.input)[:n_inputs]:
        x = case.feeds[info.name]
        if x.ndim and is_float(x):
            info.type.tensor_type.shape.dim[0].dim_param = f"N{x.shape[0]}"
    return _without_result_shapes(model)


def without_shapes(case: Case) -> onnx.ModelProto:
    """Return the model with float inputs of unknown rank."""
    model = _copy(case.model)
    for info in model.graph.input:
        if is_float(case.feeds[info.name]):
            info.type.tensor_type.ClearField("shape")
    return _without_result_shapes(model)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _without_result_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.ClearField("value_info")
    for info in model.graph.output:
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")
    return model


def known(*values: int | float) -> onnx.TensorProto:
    """Return what `case_of` writes as a constant: int64 values, or one float32 number."""
    return numpy_helper.from_array(np.array(values[0], "f") if isinstance(values[0], float) else np.array(values, "q"))


def case_of(name: str, body: str, **operands: Any) -> Case:
    """Return a case of nodes in ONNX's text form that compute y, at the default opset.

    Operands are constants (`known`) or inputs; the first size of a float input is a symbol, and so are those of others.
    """
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {DEFAULT_OPSET}]> f () => (y) {{ {body} }}')
    graph, feeds = model.graph, {}
    constants = {key: x for key, x in operands.items() if isinstance(x, TensorProto)}
    for key, x in reversed(constants.items()):
        graph.node.insert(0, helper.make_node("Constant", [], [key], value=x))
    for key, x in operands.items():
        if key not in constants:
            array = np.asarray(x)
            feeds[key] = array.astype(np.float32) if is_float(array) else array
            element = helper.np_dtype_to_tensor_dtype(feeds[key].dtype)
            sizes = [f"N{array.shape[0]}", *array.shape[1:]] if array.ndim and is_float(array) else [None] * array.ndim
            graph.input.append(helper.make_tensor_value_info(key, element, sizes))
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return Case(name, model, feeds)


def sized(case: Case) -> Case:
    """Return the case with the sizes of all inputs, for rules that must know them."""
    return Case(case.name, with_sizes(case), case.feeds)


def with_sizes(case: Case) -> onnx.ModelProto:
    """Return the model with the sizes of all inputs."""
    model = _copy(case.model)
    for info in model.graph.input:
        for dim, size in zip(info.type.tensor_type.shape.dim, case.feeds[info.name].shape, strict=True):
            dim.dim_value = size
    return model
