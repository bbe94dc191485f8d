"""The public names: sorted, importable, documented, and the seed's spellings among them."""

import importlib
import inspect
import re
import subprocess
import sys

import numpy as np
import pytest

import renom_onnx as rm

MODULES = [
    "renom_onnx",
    "renom_onnx.converters",
    "renom_onnx.eager",
    "renom_onnx.errors",
    "renom_onnx.gradients",
    "renom_onnx.graph",
    "renom_onnx.graph.core",
    "renom_onnx.graph.schedule",
    "renom_onnx.graph.train",
    "renom_onnx.runtime",
    "renom_onnx.runtime.renom_cuda",
    "renom_onnx.utility",
    "renom_onnx.utility.initializer",
]
USER_MODULES = [
    module for module in MODULES if module != "renom_onnx.gradients"
]  # whose names are for writers of rules
NAMES = [(module, name) for module in MODULES for name in importlib.import_module(module).__all__]
USER_NAMES = [(module, name) for module, name in NAMES if module in USER_MODULES]


def thing(module: str, name: str) -> object:
    return getattr(importlib.import_module(module), name)


def names_id(value: str) -> str:
    return value.removeprefix("renom_onnx.")


def kind_and_name(name: str) -> tuple[object, ...]:
    """Sort as ruff does (RUF022): constants, classes, functions; numbers in names by their size."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@pytest.mark.parametrize("module", MODULES)
def test_the_names_of_a_module_are_sorted_and_each_there_once(module):
    names = importlib.import_module(module).__all__
    assert list(names) == sorted(set(names), key=kind_and_name)


@pytest.mark.parametrize(("module", "name"), NAMES, ids=names_id)
def test_a_public_name_is_there_and_has_a_docstring(module, name):
    found = thing(module, name)
    if inspect.isclass(found) or inspect.isroutine(found):
        assert found.__doc__, f"{module}.{name}"
    assert name in dir(importlib.import_module(module))


SAYS_MORE = re.compile(
    r">>>"  # an example
    r"|[=+*]|e\^|\bmax\("  # a formula
    r"|Source: "
    r"|^(?:Args|Attributes):$"
    r"|`[\w.]+`"  # another name that says it
    r"|^Base of ",
    re.MULTILINE,
)


@pytest.mark.parametrize(("module", "name"), USER_NAMES, ids=names_id)
def test_the_docstring_of_a_public_name_has_an_example_a_formula_or_says_where_one_is(module, name):
    found = thing(module, name)
    is_error = inspect.isclass(found) and issubclass(found, Exception)
    if (inspect.isclass(found) or inspect.isroutine(found)) and not is_error:
        assert SAYS_MORE.search(inspect.getdoc(found) or ""), inspect.getdoc(found)


ERRORS = sorted(kind.__name__ for kind in rm.RenomError.__subclasses__())


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_a_renom_error_and_a_builtin_one(name):
    kind = getattr(rm, name)
    builtin = {
        "ShapeError": ValueError,
        "DTypeError": TypeError,
        "GradientError": NotImplementedError,
        "ConversionError": ValueError,
        "DeviceError": RuntimeError,
        "RunError": RuntimeError,
    }
    assert kind.__bases__ == (rm.RenomError, builtin[name])


def test_an_index_out_of_range_is_an_error_of_a_run_and_a_builtin_one():
    assert rm.IndexRangeError.__bases__ == (rm.RunError, IndexError)


# The seed's spelling, and what it is another name of
ALIASES = {
    "AddElement": "Add",
    "ConstantLossElement": "ConstantLoss",
    "ConvolutionalGraphElement": "Conv",
    "DenseGraphElement": "Dense",
    "MaxPoolGraphElement": "MaxPool",
    "MeanSquaredGraphElement": "MeanSquared",
    "ReluGraphElement": "Relu",
    "SequentialSubGraph": "Sequential",
    "SigmoidGraphElement": "Sigmoid",
    "SoftmaxCrossEntropyGraphElement": "SoftmaxCrossEntropy",
    "SoftmaxGraphElement": "Softmax",
    "TanhGraphElement": "Tanh",
    "adam_update": "Adam",
}


@pytest.mark.parametrize(("seeds", "ours"), ALIASES.items())
def test_the_seeds_spelling_is_the_same_thing(seeds, ours):
    assert getattr(rm.graph, seeds) is getattr(rm.graph, ours)


METHODS = {
    "getInferenceExecutor": "get_inference_executor",
    "getTrainingExecutor": "get_training_executor",
    "disconnect": "detach",
}


@pytest.mark.parametrize(("seeds", "ours"), METHODS.items())
def test_the_seeds_methods_are_there(seeds, ours):
    assert callable(getattr(rm.graph.GraphElement, seeds))
    assert callable(getattr(rm.graph.GraphElement, ours))


def test_what_the_notebook_uses_is_there():
    distributor = rm.graph.DistributorElement(np.ones((2, 1)), np.ones((2, 1)), batch_size=1, shuffle=False)
    assert len(distributor.getOutputGraphs()) == 2
    for name in ("Dense", "NdarrayDistributor", "Sgd", "sum", "graph", "utility", "precision"):
        assert hasattr(rm, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'renom_onnx' has no attribute 'Nothing'"):
        _ = rm.Nothing


def test_importing_the_package_imports_no_runtime():
    """onnxruntime is looked for at first use: a program that only builds or exports needs none."""
    program = (
        "import sys, renom_onnx as rm, numpy as np; rm.graph.Dense(2)(np.ones((1, 2))).backward();"
        "print(sorted({'onnxruntime', 'torch', 'renom_onnx.runtime'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found == "[]\n"
