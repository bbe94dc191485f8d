"""What the doctor found, for people (`str`) and for machines (`to_dict`)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from renom_onnx.converters.doctor.finding import NOTE, Finding
from renom_onnx.converters.doctor.memory import STATE, Bytes
from renom_onnx.graph.cost import Cost


@dataclass(frozen=True)
class OperatorRow:
    """Nodes of one operator with one fate.

    Attributes:
        op_type: with its domain where that is not ONNX's own.
        status: "differentiable", "constant" or "blocked".
        reason: why it is not differentiable.
        nodes: names of the nodes.
    """

    op_type: str
    status: str
    reason: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class ParameterRow:
    """An initializer that holds floats, or a constant written as a node that is a weight.

    Attributes:
        name: of the value.
        dtype, shape: its type.
        n_elements, n_bytes: its size.
        would_train: whether a gradient reaches it and it is a weight.
        reason: why not.
        made_by: the operator of the node that it is written as, which `make_trainable` turns into an initializer.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_elements: int
    n_bytes: int
    would_train: bool
    reason: str
    made_by: str = ""


@dataclass(frozen=True)
class ProviderRow:
    """Which nodes a provider takes.

    Attributes:
        provider: "cpu" or "cuda".
        source: who was asked, or whose list of kernels this is.
        n_nodes, n_taken: of the model.
        n_gradient_nodes, n_gradient_taken: of the gradient that training would add.
        missed: operator, reason, and the nodes.
        unknown: nodes that nobody can tell of.
        not_asked: why nothing is known.
    """

    provider: str
    source: str
    n_nodes: int = 0
    n_taken: int = 0
    n_gradient_nodes: int = 0
    n_gradient_taken: int = 0
    missed: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    unknown: tuple[str, ...] = ()
    not_asked: str = ""


@dataclass(frozen=True)
class TrainingRow:
    """The training step that a file carries.

    Attributes:
        loss: its name.
        n_nodes: of the step without the inference graph.
        weights: initializers of the graph that the step changes.
        state_bytes: of what it changes beside them: the optimizer's state and counters.
    """

    loss: str
    n_nodes: int
    weights: tuple[str, ...]
    state_bytes: int


@dataclass(frozen=True)
class Report:
    """What would happen to a model, before anything runs.

    Attributes:
        name: of the file.
        n_bytes: of the file without external data.
        opset, ir_version, producer: as the file says.
        inputs, outputs: types by name.
        n_nodes: of the inference graph.
        operators: what can be differentiated.
        parameters: the initializers that hold floats.
        n_other_initializers: integers and the like.
        training: the training step that the file carries.
        sizes: numbers for symbols, given or assumed.
        is_assumed: whether the batch size was assumed.
        open_symbols: symbols of inputs without a number.
        weight_bytes: of all initializers.
        activation_peak: the most that activations take at once in inference.
        kept: what a gradient needs of the forward pass.
        inference, gradient: work of one pass and of the gradient of it; gradient is None where there is none.
        providers: who takes which nodes.
        findings: dangers, problems and notes.
    """

    name: str
    n_bytes: int
    opset: int
    ir_version: int
    producer: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    n_nodes: int
    operators: tuple[OperatorRow, ...]
    parameters: tuple[ParameterRow, ...]
    n_other_initializers: int
    training: TrainingRow | None
    sizes: dict[str, int]
    is_assumed: bool
    open_symbols: tuple[str, ...]
    weight_bytes: int
    activation_peak: Bytes | None
    kept: Bytes | None
    inference: Cost | None
    gradient: Cost | None
    providers: tuple[ProviderRow, ...]
    findings: tuple[Finding, ...]

    @property
    def trained(self) -> tuple[ParameterRow, ...]:
        """The parameters that would train."""
        return tuple(row for row in self.parameters if row.would_train)

    @property
    def blocked(self) -> tuple[OperatorRow, ...]:
        """Operators through which no gradient goes though there is one."""
        return tuple(row for row in self.operators if row.status == "blocked")

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found that is more than a note."""
        return all(finding.level == NOTE for finding in self.findings)

    @property
    def optimizer_bytes(self) -> dict[str, int]:
        """Bytes of the state that an optimizer keeps for the parameters that would train."""
        trained = sum(row.n_bytes for row in self.trained)
        return {name: copies * trained for name, copies in STATE.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as numbers, text, lists and dicts, for JSON."""
        plain = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        trained = self.trained
        return {
            **plain,
            "n_trained": sum(row.n_elements for row in trained),
            "optimizer_bytes": self.optimizer_bytes,
            "is_sound": self.is_sound,
        }

    def __str__(self) -> str:
        from renom_onnx.converters.doctor.text import report_text

        return report_text(self)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
