"""`make_trainable`: an ONNX model from wherever, and what it takes to train it, as one file with two readings."""

from __future__ import annotations

import fnmatch
import inspect
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from renom_onnx.converters.export import to_training_onnx, write_file
from renom_onnx.converters.head import find_head, with_dropout
from renom_onnx.converters.importer import read_model
from renom_onnx.converters.load import load
from renom_onnx.converters.loaded import LoadedModel
from renom_onnx.converters.promotion import with_weights_of_constants
from renom_onnx.errors import ConversionError
from renom_onnx.graph import schema
from renom_onnx.graph.backward import BackwardPass
from renom_onnx.graph.element import GraphElement
from renom_onnx.graph.function import read_by
from renom_onnx.graph.losses import (
    CrossEntropy,
    Loss,
    MeanSquared,
    SigmoidCrossEntropy,
    SmoothL1,
    SoftmaxCrossEntropy,
)
from renom_onnx.graph.node import BACKWARD, BATCH, Dim, Input, Node, Value, ancestors
from renom_onnx.graph.operators import apply, integers
from renom_onnx.graph.optimizer import Optimizer
from renom_onnx.graph.optimizers import training_optimizer
from renom_onnx.graph.parameter import Parameter, Statistic
from renom_onnx.graph.segment import Chain

LOSSES: Mapping[str, type[Loss]] = {
    "softmax_cross_entropy": SoftmaxCrossEntropy,
    "sigmoid_cross_entropy": SigmoidCrossEntropy,
    "cross_entropy": CrossEntropy,
    "mean_squared": MeanSquared,
    "smooth_l1": SmoothL1,
}
LOGITS = {"softmax_cross_entropy": ("Softmax", "LogSoftmax"), "sigmoid_cross_entropy": ("Sigmoid",)}
"""Losses that take scores, and the operators at the end of a model whose input these are."""

SAME_NUMBERS = {"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
"""Operators that an exporter or the version converter puts behind these."""

Checkpoint = bool | int | str | Sequence[str]
Labels = str | Mapping[str, tuple[Any, Sequence[Dim]]]
LossFunction = Callable[..., GraphElement]


def make_trainable(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    loss: str | LossFunction,
    optimizer: Optimizer | str | None = None,
    output: str | None = None,
    labels: Labels = "labels",
    trainable: str | Sequence[str] = "all",
    freeze: str | Sequence[str] = (),
    train_statistics: bool = False,
    dropout: float | None = None,
    checkpoint: Checkpoint = False,
) -> onnx.ModelProto:
    """Turn an ONNX model into one file that infers as before and also trains.

    Args:
        model: a path, bytes, a ModelProto, or what `renom_onnx.load` returned.
        path: where to write the file; None writes none.
        loss: what training makes small:
            "softmax_cross_entropy" (labels: int64 class indices (N,)), "sigmoid_cross_entropy", "cross_entropy",
            "mean_squared" or "smooth_l1" (labels: floats of the output's shape);
            the name of an output that is a loss already;
            a loss of `renom_onnx.graph`, such as ``SoftmaxCrossEntropy(weight=...)``;
            or a function of elements: called with the output, and with the labels if it takes a second argument.
        optimizer: an optimizer of `renom_onnx.graph`, or its name such as "adam"; default ``Sgd(0.01, momentum=0.4)``.
        output: the output that the loss compares; default: the only one.
        labels: name of the input that the loss adds; or ``{name: (dtype, shape)}`` where it is of another type, such as
            ``{"labels": ("float32", ("N", 10))}`` for one-hot rows.
        trainable: "all", "last" (the last product with weights and what follows it), or name patterns with the
            wildcards of `fnmatch`, such as ``"fc.*"``.
        freeze: name patterns of parameters that stay as they are.
        train_statistics: BatchNormalization normalises by the batch in training and moves its running statistics; by
            default they are frozen, which is right for small batches.
        dropout: ratio of a Dropout to add before the head; exporters leave out those of the original.
        checkpoint: what the backward pass computes again, so that training takes less memory and more time. "auto":
            all but what takes the least memory to keep; a number: of segments, at whose ends values are kept; or the
            names of the nodes or outputs whose values are kept, with wildcards, such as ``"layer*/Add"``. What follows
            the last of them is kept too.

    Returns:
        The trainable model. `FineTuning` tells more: which parameters train, and what was noticed.

    Raises:
        ConversionError: a name means nothing in this model, or the loss does not fit the output.
        GradientError: an operator between the loss and a trainable parameter has no gradient. Freeze what lies before.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> file = rm.converters.to_onnx(rm.graph.Dense(2), inputs={"x": ("N", 3)})
        >>> trainable = rm.make_trainable(file, loss="softmax_cross_entropy", optimizer=rm.graph.Sgd(0.1))
        >>> session = rm.runtime.TrainingSession(trainable, device="cpu")
        >>> batch = {"x": np.eye(3, dtype=np.float32), "labels": np.array([0, 1, 1])}
        >>> losses = [float(session.step(batch)) for _ in range(3)]
        >>> losses[0] > losses[1] > losses[2]
        True
    """
    result = FineTuning(
        model,
        loss=loss,
        optimizer=optimizer,
        output=output,
        labels=labels,
        trainable=trainable,
        freeze=freeze,
        train_statistics=train_statistics,
        dropout=dropout,
        checkpoint=checkpoint,
    ).to_model()
    if path is not None:
        write_file(result, path)
    return result


class FineTuning:
    """What `make_trainable` does, step by step; takes the same arguments.

    Attributes:
        model: the loaded model.
        loss: the loss element, from which executors can be made.
        optimizer: how it is made small.
        trained: the parameters that training changes, by name.
        frozen: those that it leaves alone, by name.
        notes: sentences about what was noticed and decided.

    Example:
        >>> import renom_onnx as rm
        >>> network = rm.graph.Sequential([rm.graph.Dense(4), rm.graph.Relu(), rm.graph.Dense(2), rm.graph.Softmax()])
        >>> file = rm.converters.to_onnx(network, inputs={"x": ("N", 3)})
        >>> plan = rm.converters.FineTuning(file, loss="softmax_cross_entropy", trainable="last")
        >>> list(plan.trained)
        ['dense2.w', 'dense2.b']
        >>> print(plan.notes[0])
        The loss reads what goes into Softmax 'softmax1/Softmax': it takes scores, not probabilities.
    """

    def __init__(
        self,
        model: Any,
        *,
        loss: str | LossFunction,
        optimizer: Optimizer | str | None = None,
        output: str | None = None,
        labels: Labels = "labels",
        trainable: str | Sequence[str] = "all",
        freeze: str | Sequence[str] = (),
        train_statistics: bool = False,
        dropout: float | None = None,
        checkpoint: Checkpoint = False,
    ) -> None:
        self.notes: list[str] = []
        self.optimizer = training_optimizer(optimizer, "make_trainable")
        self.model = self._loaded(model, output, dropout)
        self._name = self._chosen(loss, output)
        self._labels = labels
        if train_statistics:
            self.model.train_statistics(True)
        self._freeze(trainable, freeze)
        made = self.model(*self.model.inputs.values())
        values = made if isinstance(made, tuple) else (made,)
        self._outputs = dict(zip(self.model.outputs, values, strict=True))
        self.loss = self._loss(loss, self._outputs[self._name])
        self._note_statistics(train_statistics)
        self._note_shared()
        if checkpoint is not False:
            self._compute_again(checkpoint)

    @property
    def trained(self) -> dict[str, Parameter]:
        """The parameters that training changes."""
        return {name: p for name, p in self.model.named_parameters() if p.trainable}

    @property
    def frozen(self) -> dict[str, Parameter]:
        """The parameters that training leaves alone."""
        return {name: p for name, p in self.model.named_parameters() if not p.trainable}

    def to_model(self) -> onnx.ModelProto:
        """Return the file with two readings: all outputs of the model, and the training step."""
        outputs = {name: e for name, e in self._outputs.items() if e.output is not self.loss.output}
        return to_training_onnx(self.loss, self.optimizer, outputs=outputs or None)

    def _loaded(self, model: Any, output: str | None, dropout: float | None) -> LoadedModel:
        if isinstance(model, LoadedModel) and dropout is None:
            return model
        proto = model.to_proto() if isinstance(model, LoadedModel) else read_model(model)
        proto, names = with_weights_of_constants(proto)
        if names:
            self.notes.append(f"{_counted(names, 'constant')} became weights: {_some(names)}.")
        return load(proto if dropout is None else with_dropout(proto, dropout, output=output))

    def _chosen(self, loss: str | LossFunction, output: str | None) -> str:
        names = list(self.model.outputs)
        if output is None and isinstance(loss, str) and loss in names:
            return loss
        if output is None and len(names) == 1:
            return names[0]
        if output is None or output not in names:
            got = "none" if output is None else repr(output)
            raise ConversionError(
                f"make_trainable: output must be one of {', '.join(names) or 'none'}, got {got}. It is what the loss "
                f"compares with the labels."
            )
        return output

    def _freeze(self, trainable: str | Sequence[str], freeze: str | Sequence[str]) -> None:
        parameters = {name: p for name, p in self.model.named_parameters() if not isinstance(p, Statistic)}
        if trainable == "last":
            head = find_head(self.model.to_proto().graph, self._name)
            chosen = {name for name in head.parameters if name in parameters}
        elif trainable == "all":
            chosen = {name for name, p in parameters.items() if p.trainable}
        else:
            chosen = _matching("trainable", trainable, parameters)
        chosen -= _matching("freeze", freeze, parameters)
        if not chosen:
            raise ConversionError(
                f"make_trainable: at least one parameter must train, got none of {_some(list(parameters))}."
            )
        for name, parameter in parameters.items():
            parameter.trainable = name in chosen

    def _loss(self, loss: str | LossFunction, prediction: GraphElement) -> GraphElement:
        name = loss if isinstance(loss, str) else next((n for n, kind in LOSSES.items() if type(loss) is kind), "")
        if name in LOSSES:
            scores = self._one_row_each(self._scores(name, prediction))
            function = LOSSES[name]() if isinstance(loss, str) else loss
            return function(scores, self._targets(name, scores))
        if isinstance(loss, str) and loss in self._outputs:
            given: GraphElement = self._outputs[loss]
            return given
        if callable(loss) and not isinstance(loss, type):
            return self._called(loss, prediction)
        raise ConversionError(
            f"make_trainable: loss must be one of {', '.join(LOSSES)}, an output of the model "
            f"({', '.join(self._outputs)}), a loss or a function, got {loss!r}."
        )

    def _called(self, loss: LossFunction, prediction: GraphElement) -> GraphElement:
        function = loss.forward if isinstance(loss, Loss) else loss
        takes_labels = len(inspect.signature(function).parameters) > 1
        found: Any = loss(prediction, self._targets("", prediction)) if takes_labels else loss(prediction)
        if not isinstance(found, GraphElement):
            raise ConversionError(
                f"make_trainable: a loss function must return an element, got {type(found).__name__}. Use the "
                f"functions of renom_onnx.graph in it."
            )
        element: GraphElement = found
        return element

    def _scores(self, loss: str, prediction: GraphElement) -> GraphElement:
        node: Node = prediction.output.node
        while node.op_type in SAME_NUMBERS and not node.domain and node.inputs[0] is not None:
            node = node.inputs[0].node
        if node.op_type not in LOGITS.get(loss, ()) or node.domain or node.inputs[0] is None:
            return prediction
        self.notes.append(
            f"The loss reads what goes into {node.op_type} {node.site[0]!r}: it takes scores, not probabilities."
        )
        return GraphElement(node.inputs[0])

    def _one_row_each(self, scores: GraphElement) -> GraphElement:
        """Return (N, K, 1, 1), as a pooling leaves it, as (N, K)."""
        shape = scores.shape
        if shape is None or len(shape) < 3 or any(size != 1 for size in shape[2:]):
            return scores
        return apply("Squeeze", scores, integers(list(range(2, len(shape)))))

    def _targets(self, loss: str, scores: GraphElement) -> GraphElement:
        if isinstance(self._labels, str):
            name = self._labels
            dtype, shape = scores.dtype, scores.shape
            if loss == "softmax_cross_entropy":
                dtype = np.dtype(np.int64)
                shape = None if shape is None else (*shape[:1], *shape[2:])
            if shape is None:
                raise ConversionError(
                    f"make_trainable: the shape of output {self._name!r} must be known, got {scores.output}. Say what "
                    f'the labels are: labels={{"{name}": ("float32", ("{BATCH}", ...))}}.'
                )
        else:
            ((name, (type_name, sizes)),) = self._labels.items()
            dtype, shape = schema.dtype_named(str(np.dtype(type_name).name)), tuple(sizes)
        if name in self.model.inputs:
            raise ConversionError(
                f"make_trainable: labels must be a new input, got {name!r}, which the model has. Name it otherwise."
            )
        return GraphElement(Input(dtype, shape, name=name).output)

    def _compute_again(self, chosen: Checkpoint) -> None:
        """Mark what the backward pass computes again."""
        own = set(ancestors(e.output for e in self._outputs.values()))
        needed = ancestors([self.loss.output])
        read = [v for node in needed if node not in own for v in node.inputs if v is not None]
        chain = Chain([node for node in needed if node in own], [*read, self.loss.output], self._read_by_gradients())
        if chosen is True or chosen == "auto":
            cuts = chain.best_cuts()
        elif isinstance(chosen, int):
            if chosen < 2:
                raise ConversionError(f"make_trainable: checkpoint must be 2 segments or more, got {chosen}.")
            cuts = chain.cuts_into(chosen)
        else:
            cuts, lost = chain.cuts_at([chosen] if isinstance(chosen, str) else chosen)
            if lost:
                names = [str(node.note.name if node.note else node.output.name) for node in chain.nodes]
                raise ConversionError(
                    f"make_trainable: checkpoint must name nodes or outputs between the first weight that trains and "
                    f"the loss, got {lost[0]!r}, which names none of {_some(names)}."
                )
        n_again = chain.mark(cuts)
        if not n_again:
            self.notes.append("The backward pass computes nothing again: it would save no memory.")
            return
        again, kept = _counted(range(n_again), "segment"), _counted(cuts, "place")
        self.notes.append(f"The backward pass computes {again} again; values are kept at {kept}.")

    def _read_by_gradients(self) -> set[Value]:
        """Return the values of the forward pass that gradients read where nothing is computed again."""
        trial = BackwardPass(self.loss.output, opset=max(self.loss.output.node.opset, schema.DEFAULT_OPSET))
        gradients = [g for p in self.trained.values() if (g := trial.walk.gradient(p.output)) is not None]
        read = {v for node in ancestors(gradients) if node.tag == BACKWARD for v in read_by(node)}
        return {v if v.node.origin is None else v.node.origin.outputs[v.index] for v in read}

    def _note_shared(self) -> None:
        """Say which weights several nodes read: some exporters write equal arrays as one."""
        counts = Counter(
            value
            for node in ancestors(e.output for e in self._outputs.values())
            for value in dict.fromkeys(node.inputs)
            if value is not None
        )
        shared = [name for name, parameter in self.trained.items() if counts[parameter.output] > 1]
        if shared:
            self.notes.append(
                f"{_counted(shared, 'weight')} with several readers, each trained as one: {_some(shared)}."
            )

    def _note_statistics(self, train_statistics: bool) -> None:
        statistics = [name for name, p in self.model.named_parameters() if isinstance(p, Statistic)]
        operators = {node.op_type for node in ancestors(e.output for e in self._outputs.values())}
        if statistics:
            what = "move with the batches" if train_statistics else "stay as they are"
            self.notes.append(f"{_counted(statistics, 'running statistic')} of BatchNormalization {what}.")
        elif "Conv" in operators and "BatchNormalization" not in operators:
            self.notes.append(
                "There is no BatchNormalization: if the original had any, the exporter folded it into the "
                "convolutions, where it stays."
            )


def _matching(what: str, patterns: str | Sequence[str], parameters: Mapping[str, Parameter]) -> set[str]:
    """Return the names that match; a pattern that matches none is an error."""
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matched = {name for name in parameters if fnmatch.fnmatchcase(name, pattern)}
        if not matched:
            raise ConversionError(
                f"make_trainable: {what} must match parameters, got {pattern!r}, which matches none of "
                f"{_some(list(parameters))}."
            )
        found |= matched
    return found


def _counted(names: Sequence[object], noun: str) -> str:
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"


def _some(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit]) or "none"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
