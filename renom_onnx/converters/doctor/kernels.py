"""Which nodes a provider of onnxruntime has kernels for, by the list of kernels that a release registers.

onnxruntime takes a kernel that is registered for versions 11 to 21 of an operator for each of these, but one that is
registered "from 12 on" only for version 12 itself: an operator that a later opset defines anew has no kernel until
somebody registers it again. So newer opsets lose kernels.

Source: `KernelRegistry::VerifyKernelDef` and `VerifyVersion`, onnxruntime/core/framework/kernel_registry.cc.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from renom_onnx.errors import RenomError
from renom_onnx.graph import schema
from renom_onnx.graph.formal import Operator
from renom_onnx.graph.node import Node

CPU, CUDA = "cpu", "cuda"
OWN_SINCE = {"com.microsoft": 1}
"""Domains that ONNX does not know and onnxruntime does, with the version of their operators."""


@dataclass(frozen=True)
class Kernel:
    """A registered kernel: the versions it was written for, and the element types by type parameter."""

    first: int
    last: int | None
    types: Mapping[str, frozenset[str]]

    def serves(self, version: int) -> bool:
        """Whether onnxruntime takes the kernel for an operator of this version."""
        if self.last is None:
            return version == self.first
        return self.first <= version <= self.last


Table = Mapping[tuple[str, str], tuple[Kernel, ...]]


@functools.cache
def kernels(provider: str) -> Table:
    """Return the kernels of a provider by domain and operator."""
    found: dict[tuple[str, str], list[Kernel]] = {}
    for line in _text().splitlines()[3:]:
        of, domain, op_type, first, last, *types = line.split(" ")
        if of == provider:
            allowed = {name: frozenset(kinds.split(",")) for name, _, kinds in (t.partition("=") for t in types)}
            kernel = Kernel(int(first), None if last == "+" else int(last), allowed)
            found.setdefault(("" if domain == "-" else domain, op_type), []).append(kernel)
    return {key: tuple(entries) for key, entries in found.items()}


@functools.cache
def release() -> str:
    """Return whose kernels these are, such as "onnxruntime-gpu 1.31.1"."""
    return _text().split("that ", 1)[1].split(" registers", 1)[0]


@functools.cache
def _text() -> str:
    return resources.files("renom_onnx.converters.doctor").joinpath("kernels.txt").read_text("utf-8")


def has_kernel(node: Node, provider: str, opset: int | None = None, table: Table | None = None) -> bool:
    """Whether the provider has a kernel for a node of an operator: version and element types fit.

    Args:
        node: no call of a function.
        provider: "cpu" or "cuda".
        opset: in the place of the node's own.
        table: the kernels, by default those of the list.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    entries = (kernels(provider) if table is None else table).get((domain, node.op_type), ())
    if not entries:
        return False
    try:
        operator = schema.operator(node.op_type, opset or node.opset, domain)
    except RenomError:  # of a vendor: ONNX knows neither versions nor types
        since = OWN_SINCE.get(domain)
        return since is not None and any(kernel.serves(since) for kernel in entries)
    types = _types(node, operator)
    return any(kernel.serves(operator.since_version) and _fit(kernel, types) for kernel in entries)


def _fit(kernel: Kernel, types: Mapping[str, Sequence[str]]) -> bool:
    return all(found in allowed for name, allowed in kernel.types.items() for found in types.get(name, ()))


def _types(node: Node, operator: Operator) -> dict[str, list[str]]:
    """Return the element types of the node's operands and outputs by type parameter and by formal name."""
    found: dict[str, list[str]] = {}
    formals = operator.inputs
    n_operands = len(node.inputs) if formals and formals[-1].is_variadic else len(formals)  # not what subgraphs read
    operands = [None if t is None else t[0] for t in node.operand_types()][:n_operands]
    given = [(operator.input(i), dtype) for i, dtype in enumerate(operands)]
    given += [(operator.output(i), v.dtype) for i, v in enumerate(node.outputs) if operator.outputs]
    for formal, dtype in given:
        name = None if dtype is None else schema.tensor_type_name(dtype)
        if name is not None:
            found.setdefault(formal.type_variable, []).append(name)
            found.setdefault(formal.name, []).append(name)
    return found
