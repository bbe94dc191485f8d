"""`doctor`: the examination of a model, part by part, into one report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from renom_onnx.converters.doctor import providers
from renom_onnx.converters.doctor.dangers import find_dangers
from renom_onnx.converters.doctor.finding import DANGER, PROBLEM, Finding
from renom_onnx.converters.doctor.kernels import CUDA, release
from renom_onnx.converters.doctor.memory import Bytes, inference_peak, kept_for_gradients
from renom_onnx.converters.doctor.portability import find_problems
from renom_onnx.converters.doctor.reading import Opened, n_elements, open_model, skeleton, structure
from renom_onnx.converters.doctor.report import OperatorRow, ParameterRow, ProviderRow, Report, TrainingRow
from renom_onnx.converters.doctor.trial import BLOCKED, Trial, try_gradient, verdict
from renom_onnx.converters.encoding import value_type
from renom_onnx.converters.importer import ImportedGraph, at_least_opset, default_opset, import_graph
from renom_onnx.converters.initializer import Kind, kind_of, readers_of
from renom_onnx.converters.promotion import weights_of_constants
from renom_onnx.converters.training_info import concatenate
from renom_onnx.errors import DeviceError, RenomError
from renom_onnx.graph import schema
from renom_onnx.graph.cost import Cost
from renom_onnx.graph.meter import Meter
from renom_onnx.graph.node import UNKNOWN_DIM, is_float, type_text


def doctor(
    model: onnx.ModelProto | str | os.PathLike[str] | bytes,
    *,
    batch_size: int | None = None,
    sizes: Mapping[str, int] | None = None,
    ask_cpu: bool = True,
) -> Report:
    """Return what would happen to a model, before anything runs: what trains, what it takes, where it runs.

    Nothing of the model is run and no file but the one named is opened; external data are known by their directory
    entries.

    Args:
        model: a path, bytes or ModelProto; a trainable file too.
        batch_size: rows of a batch, for memory and work; default 1, and the report says that it was assumed.
        sizes: numbers for other symbols in the shapes of inputs, such as ``{"height": 224}``.
        ask_cpu: ask the installed onnxruntime which nodes its CPU provider takes, by opening a session for each kind of
            node.

    Raises:
        ConversionError: it is no ONNX model, or its structure is broken.
        OSError: there is no such file.

    Example:
        >>> import renom_onnx as rm
        >>> model = rm.converters.to_onnx(rm.graph.Dense(2), inputs={"x": ("N", 3)})
        >>> report = rm.doctor(model)
        >>> [row.name for row in report.parameters if row.would_train], report.inference.macs
        (['dense1.w', 'dense1.b'], 6)
    """
    opened = open_model(model, "doctor")
    findings = [*find_dangers(opened), *find_problems(opened.proto)]
    examined = _Examined(opened.proto)
    if not any(finding.level == DANGER and "negative" in finding.text for finding in findings):
        try:
            examined.look(batch_size, dict(sizes or {}), ask_cpu=ask_cpu)
        except RenomError as e:
            findings.append(Finding(PROBLEM, "graph", f"it cannot be read: {e}"))
    return examined.report(opened, findings, is_assumed=batch_size is None)


@dataclass
class _Examined:
    """What is known so far of a model."""

    proto: onnx.ModelProto
    kinds: dict[str, Kind] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)
    constants: list[tuple[onnx.NodeProto, onnx.TensorProto]] = field(default_factory=list)
    trial: Trial | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    peak: Bytes | None = None
    kept: Bytes | None = None
    inference: Cost | None = None
    gradient: Cost | None = None
    providers: tuple[ProviderRow, ...] = ()
    training: TrainingRow | None = None

    def look(self, batch_size: int | None, sizes: dict[str, int], *, ask_cpu: bool) -> None:
        """Examine the graph: its gradient, memory and work, providers."""
        graph_proto = self.proto.graph
        readers = readers_of(graph_proto.node)
        self.kinds = {t.name: kind_of(t, readers.get(t.name, ())) for t in graph_proto.initializer}
        self.readers = {name: [entry.node.op_type for entry in entries] for name, entries in readers.items()}
        graph = structure(self.proto, graph_proto, self.kinds)
        self._choose_sizes(graph, batch_size or 1, sizes)
        self.constants = weights_of_constants(graph_proto)
        trained = graph
        if graph.opset < schema.DEFAULT_OPSET or self.constants:  # training would change it
            tensors = [tensor for _, tensor in self.constants]
            self.kinds.update({t.name: kind_of(t, readers.get(t.name, ())) for t in tensors})
            changed = skeleton(self.proto, graph_proto, self.kinds, tensors)
            trained = import_graph(at_least_opset(changed, schema.DEFAULT_OPSET))
        self.trial = trial = try_gradient(trained, [trained.values[name] for name in self._weights()])
        meter = Meter(self.sizes)
        nodes = [node for node, _ in graph.nodes]
        self.inference = meter.read_all(nodes)
        self.peak = inference_peak(nodes, graph.outputs.values(), meter)
        if trial.backward:
            forward = [node for node, _ in trained.nodes]
            meter = Meter(self.sizes)
            meter.read_all(forward)
            self.gradient = meter.read_all(trial.backward)
            self.kept = kept_for_gradients(forward, trial.backward, meter)
        if self.proto.training_info:
            graph = self._look_at_training()
        self.providers = (_ask_cpu(self.proto, graph) if ask_cpu else _not_asked("not asked"), self._on_cuda(graph))

    def _weights(self) -> list[str]:
        return [name for name, kind in self.kinds.items() if kind is Kind.WEIGHT]

    def _choose_sizes(self, graph: ImportedGraph, batch_size: int, given: dict[str, int]) -> None:
        initializers = {t.name for t in self.proto.graph.initializer}
        inputs = [value for name, value in graph.inputs.items() if name not in initializers]
        shapes = [value.shape for value in inputs if value.shape]
        batches = {shape[0] for shape in shapes if isinstance(shape[0], str)}
        self.sizes = {**{str(symbol): batch_size for symbol in batches}, **given}
        symbols = dict.fromkeys(d for shape in shapes for d in shape if isinstance(d, str))
        named = [symbol for symbol in symbols if symbol not in self.sizes]
        self.missing = tuple("?" if symbol.startswith(UNKNOWN_DIM) else symbol for symbol in named)

    def _look_at_training(self) -> ImportedGraph:
        """Return graph and training step together."""
        info = self.proto.training_info[0]
        together = concatenate(self.proto)
        next_names = {binding.value for binding in info.update_binding}
        mutable = {binding.key for binding in info.update_binding}
        own = {t.name for t in self.proto.graph.initializer}
        losses = [output.name for output in info.algorithm.output if output.name not in next_names]
        state = [t for t in together.initializer if t.name in mutable and t.name not in own]
        self.training = TrainingRow(
            losses[0] if losses else "",
            len(info.algorithm.node),
            tuple(t.name for t in together.initializer if t.name in mutable and t.name in own),
            sum(_tensor_bytes(t) for t in state),
        )
        readers = readers_of(together.node)
        kinds = {t.name: kind_of(t, readers.get(t.name, ())) for t in together.initializer if t.name not in mutable}
        return structure(self.proto, together, kinds)

    def _on_cuda(self, graph: ImportedGraph) -> ProviderRow:
        backward = self.trial.backward if self.trial is not None and self.training is None else []
        forward = providers.on_cuda((node.site[0], node) for node, _ in graph.nodes)
        gradient = providers.on_cuda((f"gradient of {node.site[0]}", node) for node in backward)
        missed: dict[tuple[str, str], dict[str, None]] = {}
        for name, misses in [*forward.missed, *gradient.missed]:
            for miss in misses:
                missed.setdefault((miss.op_type, miss.reason), {})[name] = None
        n_nodes = sum(not node.is_leaf for node, _ in graph.nodes)
        return ProviderRow(
            CUDA,
            release(),
            n_nodes,
            forward.taken,
            len(backward),
            gradient.taken,
            tuple((op, reason, tuple(names)) for (op, reason), names in sorted(missed.items())),
        )

    def report(self, opened: Opened, findings: Sequence[Finding], *, is_assumed: bool) -> Report:
        """Return everything together."""
        proto = self.proto
        initialized = {t.name for t in proto.graph.initializer}
        inputs = [value for value in proto.graph.input if value.name not in initialized]
        parameters = self._parameters()
        return Report(
            name=opened.name,
            n_bytes=opened.n_bytes,
            opset=default_opset(proto),
            ir_version=proto.ir_version,
            producer=f"{proto.producer_name} {proto.producer_version}".strip(),
            inputs={value.name: _type_text(value) for value in inputs},
            outputs={value.name: _type_text(value) for value in proto.graph.output},
            n_nodes=len(proto.graph.node),
            operators=self._operators(),
            parameters=parameters,
            n_other_initializers=len(proto.graph.initializer) - sum(not row.made_by for row in parameters),
            training=self.training,
            sizes={symbol: size for symbol, size in self.sizes.items() if not symbol.startswith(UNKNOWN_DIM)},
            is_assumed=is_assumed and bool(self.sizes),
            open_symbols=self.missing,
            weight_bytes=sum(_tensor_bytes(t) for t in [*proto.graph.initializer, *(t for _, t in self.constants)]),
            activation_peak=self.peak,
            kept=self.kept,
            inference=self.inference,
            gradient=self.gradient,
            providers=self.providers,
            findings=tuple(findings),
        )

    def _operators(self) -> tuple[OperatorRow, ...]:
        if self.trial is None:
            return ()
        groups: dict[tuple[str, str, str], list[str]] = {}
        for node, (status, reason) in self.trial.status.items():
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            groups.setdefault((status, operator, reason), []).append(node.site[0])
        rank = {"differentiable": 0, "constant": 1, BLOCKED: 2}
        rows = sorted(groups.items(), key=lambda item: (rank[item[0][0]], -len(item[1]), item[0][1]))
        return tuple(OperatorRow(op, status, reason, tuple(names)) for (status, op, reason), names in rows)

    def _parameters(self) -> tuple[ParameterRow, ...]:
        rows = []
        made = [(tensor, node.op_type) for node, tensor in self.constants]
        for tensor, op_type in [*((tensor, "") for tensor in self.proto.graph.initializer), *made]:
            dtype = _dtype(tensor)
            if dtype is None or not is_float(dtype):
                continue
            value = self.trial.graph.values.get(tensor.name) if self.trial is not None else None
            would_train, reason = False, "the graph cannot be read"
            if self.trial is not None and value is not None:
                found = verdict(self.trial, value, self.kinds[tensor.name], self.readers.get(tensor.name, ()))
                would_train, reason = found.would_train, found.reason
            size = max(n_elements(tensor), 0)
            facts = (tensor.name, dtype.name, tuple(tensor.dims), size, _tensor_bytes(tensor), would_train, reason)
            rows.append(ParameterRow(*facts, op_type))
        return tuple(rows)


def _type_text(value: onnx.ValueInfoProto) -> str:
    try:
        return type_text(*value_type(value.type))
    except RenomError:
        return "?"


def _dtype(tensor: onnx.TensorProto) -> np.dtype[Any] | None:
    try:
        return schema.dtype_of(tensor.data_type)
    except RenomError:
        return None


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    dtype = _dtype(tensor)
    return 0 if dtype is None else max(n_elements(tensor), 0) * dtype.itemsize


def _not_asked(why: str) -> ProviderRow:
    return ProviderRow("cpu", "", not_asked=why)


def _ask_cpu(proto: onnx.ModelProto, graph: ImportedGraph) -> ProviderRow:
    """Ask the installed onnxruntime about one node of each kind."""
    from renom_onnx.runtime import acceptance  # the runtime stands above this

    answers: dict[bytes | None, str | None] = {}
    missed: dict[tuple[str, str], list[str]] = {}
    unknown, n_nodes = [], 0
    try:
        source = acceptance.release()
    except DeviceError as e:
        return _not_asked(str(e))
    for node, node_proto in graph.nodes:
        if node.is_leaf:
            continue
        n_nodes += 1
        question = providers.question(proto, node_proto, graph.values)
        if question is None:
            unknown.append(node.site[0])
            continue
        if question not in answers:
            answers[question] = acceptance.refusal(question)
        reason = answers[question]
        if reason is not None:
            missed.setdefault((node.op_type, reason), []).append(node.site[0])
    rows = tuple((op, reason, tuple(names)) for (op, reason), names in sorted(missed.items()))
    n_missed = sum(len(names) for _, _, names in rows)
    return ProviderRow("cpu", source, n_nodes, n_nodes - n_missed - len(unknown), missed=rows, unknown=tuple(unknown))
