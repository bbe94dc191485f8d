"""Random programs: print, elements and export agree; values are NumPy's, gradients are PyTorch's."""

import gc
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from onnx import numpy_helper

import renom_onnx as rm
from renom_onnx.graph import GraphElement
from renom_onnx.graph.node import Constant, Leaf, Node
from renom_onnx.runtime.evaluation import evaluate
from tests.graph.printed import printed
from tests.graph.programs import N_DENSE, Program, elements, numpys, programs, torchs


def ancestors(elements_) -> list[Node]:
    """Return every node that the elements need; an oracle of its own, by recursion."""
    found: dict[Node, None] = {}

    def visit(node: Node) -> None:
        if node not in found:
            for value in node.inputs:
                if value is not None:
                    visit(value.node)
            found[node] = None

    for element in elements_:
        visit(element.output.node)
    return list(found)


def walk(start: Node) -> list[Node]:
    """Return the nodes of a forward tree in the order of renom-v3.md 2.3, by recursion."""
    order, marked = [], set()

    def visit(node: Node) -> None:
        if node in marked:
            return
        marked.add(node)
        for value in node.inputs:
            if value is not None and not isinstance(value.node, Constant):
                visit(value.node)
        order.append(node)
        followers = [follower for value in node.outputs for follower in value.followers]
        for follower in sorted(followers, key=lambda n: n.depth):
            if follower.depth == node.depth + 1:
                visit(follower)

    visit(start)
    return order


def signatures(nodes, inputs_of, kind_of, leaf_of) -> Counter:
    """Count the nodes by what they compute: operator, and the same of every operand."""
    numbers: dict = {}
    known: dict = {}

    def number(key) -> int:
        return numbers.setdefault(key, key)

    for name, node in nodes:
        operands = tuple(known[i] if i in known else leaf_of(i) for i in inputs_of(node))
        known[name] = hash(number((kind_of(node), operands)))
    return Counter(known.values())


def of_tree(nodes: list[Node]) -> Counter:
    forward = [(node.output, node) for node in nodes if not isinstance(node, Leaf)]

    def leaf(value):
        return "" if value is None else bytes_of(value.node.array)

    return signatures(forward, lambda n: n.inputs, lambda n: n.op_type, leaf)


def of_model(model: onnx.ModelProto) -> Counter:
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    alias: dict[str, str] = {}  # what a conversion, which belongs to the element that reads it, converts
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Cast" and "/Cast" in node.name:
            alias[node.output[0]] = node.input[0]
        else:
            nodes.append((node.output[0], node))

    def inputs(node):
        return [alias.get(name, name) for name in node.input]

    return signatures(nodes, inputs, lambda n: n.op_type, lambda name: "" if not name else bytes_of(tensors[name]))


def bytes_of(array) -> tuple:
    return array.dtype.str, array.shape, array.tobytes()


def named(roots):
    return {f"r{i}": root for i, root in enumerate(roots)}


@given(programs())
@settings(max_examples=150)
def test_print_elements_and_export_agree(program: Program):
    roots, _, layers = elements(program)
    nodes = ancestors(roots)
    gc.collect()  # what the program computed and dropped is no part of the tree; a layer keeps its last output
    kept = ancestors([*roots, *(layer.last_output() for layer in layers if layer.last_output() is not None)])
    forward = [node for node in nodes if not isinstance(node, Leaf)]
    printable, alive = ({node for node in some if not isinstance(node, Constant)} for some in (nodes, kept))
    model = rm.converters.to_onnx(roots, outputs=named(roots))
    onnx.checker.check_model(model, full_check=True)

    assert of_model(model) == of_tree(nodes), "every node of the export is one element, with the same operands"
    assert len(of_model(model)) <= len(forward)
    seen: set[Node] = set()
    for root in roots:
        expected = walk(root.output.node)
        lines = printed(root).splitlines()
        assert [line.split(" at depth ")[1] for line in lines] == [
            f"{n.depth} with tags: ['Forward']" for n in expected
        ]
        assert len(lines) == len(set(expected)), "one line for every element"
        assert alive >= set(expected) >= {n for n in ancestors([root]) if not isinstance(n, Constant)}
        seen.update(expected)
    assert alive >= seen >= printable, "every element is printed for one root or another, and nothing else"


@given(programs())
@settings(max_examples=150)
def test_values_are_numpys(program: Program):
    roots, _, _ = elements(program)
    expected = numpys(program)
    values = [root.as_ndarray() for root in roots]
    exported = onnxruntime.InferenceSession(
        rm.converters.to_onnx(roots, outputs=named(roots)).SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, {})
    for element, value, other, wanted in zip(roots, values, exported, expected, strict=True):
        assert (value.dtype, value.shape) == (element.dtype, element.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(value, other, "a stock runtime reads the same from the export")


@given(programs())
@settings(max_examples=150)
def test_gradients_are_pytorchs(program: Program):
    roots, leaves, layers = elements(program)
    references, torch_leaves, parameters = torchs(program)
    variables = [*torch_leaves, *(p for pair in parameters for p in pair)]
    handles = [leaf.output for leaf in leaves]
    for layer in layers[:N_DENSE]:
        handles += [layer.params[k].output if layer.params else None for k in "wb"]
    for root, reference in zip(roots, references, strict=True):
        root.backward()
        expected = (
            torch.autograd.grad(reference.sum(), variables, allow_unused=True, retain_graph=True)
            if reference.requires_grad
            else []
        )
        found = [(h, e) for h, e in zip(handles, expected, strict=False) if e is not None]
        gradients = [root.get_gradient(handle) for handle, _ in found]
        for (handle, wanted), gradient, value in zip(
            found, gradients, evaluate([e.output for e in gradients]) if gradients else [], strict=True
        ):
            assert value.shape == handle.shape
            assert value.dtype == gradient.dtype
            assert value.dtype == handle.dtype or handle.dtype.kind == "i", "integers have a float gradient"
            scale = max(1.0, float(wanted.abs().max()))
            np.testing.assert_allclose(value, wanted, rtol=1e-3, atol=1e-3 * scale)
        absent = [h for h, e in zip(handles, expected, strict=False) if e is None and h is not None]
        for handle in absent:
            with pytest.raises(rm.GradientError):
                root.get_gradient(handle)


@given(programs())
@settings(max_examples=40)
def test_update_elements_are_the_exports_training_nodes(program: Program):
    roots, leaves, layers = elements(program)
    root = rm.graph.sum(roots[0] * 1.0) + rm.graph.sum(layers[0](leaves[0]))
    optimizer = rm.graph.Sgd(0.01, momentum=0.9)
    step = root._updates(optimizer)
    model = rm.converters.to_training_onnx(root, optimizer)
    forward = set(ancestors([root, GraphElement(step.loss)]))
    added = [n for n in ancestors(map(GraphElement, step.next_values.values())) if n not in forward]
    exported = [n.op_type for n in [*model.graph.node, *model.training_info[0].algorithm.node] if "/Cast" not in n.name]
    operators = [n.op_type for n in [*forward, *added] if not isinstance(n, Leaf)]
    assert Counter(exported) == Counter(operators)
    text = printed(root)
    tags = [n.tag for n in added]
    assert text.count("['Update']") == tags.count("Update")
    assert text.count("['Backward']") >= tags.count("Backward"), "a line for every operand, pruned in the export"
