"""Where a model can be opened: opset and IR version, operators that nobody defines, and what training needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from renom_onnx.converters.doctor.finding import NOTE, PROBLEM, Finding
from renom_onnx.converters.doctor.wording import counted
from renom_onnx.converters.importer import default_opset
from renom_onnx.converters.structure import domain_of, functions_of, key_of, opsets_of, parts
from renom_onnx.graph import schema


@dataclass(frozen=True)
class Reader:
    """A runtime, and the newest versions that it opens.

    Tried with models of one node, not read from documentation.
    """

    name: str
    opset: int
    ir_version: int


READERS = (Reader("onnxruntime-gpu 1.31.1", 26, 13), Reader("onnxruntime-web 1.30.0 (browsers)", 26, 13))
OLDEST_OPSET = 7
"""The oldest opset that onnxruntime promises to run."""


def find_problems(proto: onnx.ModelProto) -> list[Finding]:
    """Return what keeps the model from being opened or trained somewhere."""
    return [*_versions(proto), *_operators(proto)]


def _versions(proto: onnx.ModelProto) -> Iterator[Finding]:
    if not any(o.domain in ("", "ai.onnx") for o in proto.opset_import):
        yield Finding(PROBLEM, "opset", "the model imports no version of ONNX's own operators.")
    opset, ir_version = default_opset(proto), proto.ir_version
    if ir_version < 3:
        yield Finding(PROBLEM, "IR version", f"the IR version must be 3 or more, got {ir_version}.")
    for reader in READERS:
        if opset > reader.opset or ir_version > reader.ir_version:
            got = f"up to opset {reader.opset} and IR version {reader.ir_version}, this has {opset} and {ir_version}"
            yield Finding(PROBLEM, reader.name, f"it opens models {got}.")
    known = onnx.defs.onnx_opset_version()
    if opset > known:
        yield Finding(PROBLEM, f"onnx {onnx.__version__}", f"it knows opsets up to {known}, this has {opset}.")
    if opset < OLDEST_OPSET:
        yield Finding(PROBLEM, "onnxruntime", f"it runs opset {OLDEST_OPSET} and newer, this has {opset}.")
    elif opset < schema.DEFAULT_OPSET and not proto.training_info:
        text = f"training upgrades the model from opset {opset} to {schema.DEFAULT_OPSET}, by onnx's version converter."
        yield Finding(NOTE, "opset", text)
    if ir_version < 10 and any(f.overload for f in proto.functions):
        yield Finding(PROBLEM, "IR version", f"overloads of functions need IR version 10, this has {ir_version}.")


def _operators(proto: onnx.ModelProto) -> Iterator[Finding]:
    opsets, functions = opsets_of(proto), functions_of(proto)
    unknown: Counter[str] = Counter()
    for node in (node for graph in parts(proto) for node in graph.node):
        domain = domain_of(node)
        if key_of(node) in functions or domain not in ("", "ai.onnx.ml") or "" not in opsets:
            continue
        if not schema.has_operator(node.op_type, opsets.get(domain, 0), domain):
            unknown[node.op_type] += 1
    for op_type, count in sorted(unknown.items()):
        text = (
            f"ONNX has no operator {op_type} at this opset, and the file does not define it ({counted(count, 'node')})."
        )
        yield Finding(PROBLEM, "operators", text)
