"""`GraphElement`: what layers, operators and distributors return and what a program works with."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

import numpy as np

from renom_onnx.errors import ConversionError, DTypeError, GradientError
from renom_onnx.graph import schema, tree
from renom_onnx.graph.arithmetic import Arithmetic
from renom_onnx.graph.backward import BackwardPass
from renom_onnx.graph.builder import make_node
from renom_onnx.graph.node import Leaf, Static, Value
from renom_onnx.graph.setting import ElementSettings
from renom_onnx.graph.site import created_at, user_site

if TYPE_CHECKING:
    from renom_onnx.graph.optimizer import Optimizer
    from renom_onnx.runtime.executor import TrainingExecutor
    from renom_onnx.runtime.fed_executor import Executor
    from renom_onnx.runtime.inference_executor import InferenceExecutor
    from renom_onnx.runtime.placement import Placement

Array = np.ndarray[Any, Any]


class GraphElement(Arithmetic, ElementSettings):
    """A value of a tree: evaluated when printed, never before.

    Elements are combined with operators, layers and functions of `renom_onnx.graph`; arrays and numbers are taken from
    both sides and become static variables. Operators promote as NumPy does.

    Attributes:
        output: a handle of the value, for `get_gradient`.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> a = rm.graph.StaticVariable(np.array([2]))
        >>> print(a + np.array([1.5]))
        [3.5]
    """

    __array_ufunc__ = None
    __array_priority__ = 1000

    def __init__(self, output: Value) -> None:
        self.output = output

    @property
    def shape(self) -> tuple[int | str, ...] | None:
        """The sizes; "N" is the batch size."""
        return self.output.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type."""
        return self.output.dtype

    @property
    def depth(self) -> int:
        """0 for a leaf, else one more than the deepest input."""
        return self.output.node.depth

    @property
    def name(self) -> str:
        """What `print_tree` calls the element."""
        return tree.printed_name(self.output.node)

    # Evaluation

    def feed(self, placeholder: GraphElement, value: Any) -> GraphElement:
        """Let a placeholder that this element depends on have a value, until it is fed again.

        All elements that depend on the placeholder see the value, and executors, exports and gradients do.

        Args:
            placeholder: a `Placeholder`.
            value: an array with any number of rows, a number, which is one row filled with it, or an element, whose
                tree is joined: what lies before it is trained too.

        Returns:
            The element itself.

        Raises:
            ShapeError: the value has other sizes than the placeholder.
            DTypeError: its type is of another kind.
            ConversionError: this element does not depend on the placeholder, or the value does.
        """
        from renom_onnx.graph.placeholder import feed

        feed(self, placeholder, value)
        return self

    def forward(self) -> GraphElement:
        """Return the element itself: a value is computed when somebody looks at it, not before as in ReNom."""
        return self

    def as_ndarray(self) -> Array:
        """Evaluate the element and return its value as a new array.

        Every evaluation moves the distributors that it reads on by one batch.

        Raises:
            StopIteration: a distributor has no more data.
            RunError: onnxruntime stopped; the message names the user's line.
        """
        from renom_onnx.runtime.evaluation import evaluate

        return evaluate([self.output])[0]

    def __str__(self) -> str:
        return str(self.as_ndarray())

    __repr__ = __str__

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is np.sum and args and args[0] is self:
            return self
        return self.__array__(name=f"numpy.{func.__name__}")

    def __array__(self, dtype: Any = None, copy: Any = None, *, name: str = "numpy") -> NoReturn:
        raise TypeError(
            f"{name}: an array must be given, got a GraphElement, which is not evaluated yet. Use .as_ndarray() for "
            f"its value, or the function of renom_onnx.graph. {created_at(self.output.node.site)}"
        )

    def __bool__(self) -> NoReturn:  # noqa: PLE0304  (it raises: an element has no truth value before it is evaluated)
        self.__array__(name="bool")

    # The tree

    def print_tree(self) -> None:
        """Print every element of the tree that this one is part of, a line each."""
        gc.collect()  # what the program has dropped is no follower any more
        for line in tree.lines(self.output):
            print(tree.line_text(line))

    def disconnect(self) -> GraphElement:
        """Start a new tree for this element; elements made from it before keep their inputs and still evaluate.

        Returns:
            The element itself.
        """
        node = self.output.node
        if isinstance(node, Leaf):
            self.output = node.fresh().output
            return self
        cut = make_node("Identity", [self.output], {}, opset=node.opset, is_cut=True, site=user_site())
        self.output = cut.output
        return self

    detach = disconnect

    # Gradients and updates

    def backward(self) -> GraphElement:
        """Add the backward pass to the tree; on an element that is no loss, of the Sum of its elements.

        Called again, the existing pass is kept.

        Returns:
            The element itself.

        Raises:
            GradientError: an operator between the loss and a trainable parameter has no gradient rule.
        """
        self._backward_pass()
        return self

    def _backward_pass(self) -> BackwardPass:
        node = self.output.node
        held: BackwardPass | None = node.backward_pass
        if held is None or held.root is not self.output or held.forward.is_stale():
            node.updates.clear()
            node.backward_pass = BackwardPass(self.output, opset=max(node.opset, schema.DEFAULT_OPSET))
        found: BackwardPass = node.backward_pass
        return found

    def get_gradient(self, output: Value | GraphElement) -> GraphElement:
        """Return the gradient of this root with respect to a value, summed over all its uses.

        Args:
            output: the ``.output`` of an element or parameter of the tree.

        Returns:
            An element: it is evaluated when looked at, and prints as a bare array.

        Raises:
            GradientError: `backward` was not called, or the root does not depend on the value.
        """
        value = output.output if isinstance(output, GraphElement) else output
        if not isinstance(value, Value):
            raise DTypeError(
                f"get_gradient: the handle must be the .output of an element, got {type(output).__name__}. "
                f"{created_at(user_site())}"
            )
        if self.output.node.backward_pass is None:
            raise GradientError(
                f"get_gradient: the root must have a backward pass, got an element without one. Call .backward() first."
                f" {created_at(self.output.node.site)}"
            )
        return GraphElement(self._backward_pass().gradient(value))

    def update(self, optimizer: Optimizer | None = None) -> None:
        """Take one step: evaluate loss and gradients and let the optimizer change the parameters.

        Args:
            optimizer: keeps its state from step to step; default: ``Sgd(0.01, momentum=0.4)``.

        Raises:
            ConversionError: it is no optimizer.
        """
        from renom_onnx.graph.optimizer import Optimizer
        from renom_onnx.graph.optimizers import default_optimizer
        from renom_onnx.runtime.evaluation import take_step

        if not isinstance(optimizer, Optimizer | None):
            raise ConversionError(
                f"update: the optimizer must be an Optimizer, which keeps its state from step to step, got "
                f"{optimizer!r}. {created_at(user_site())}"
            )
        take_step(self._updates(optimizer or default_optimizer()))

    def _updates(self, optimizer: Optimizer) -> Any:
        from renom_onnx.graph.update import updates

        return updates(self._backward_pass(), optimizer)

    # Executors

    def get_inference_executor(
        self, *, device: str | None = None, devices: Sequence[str] | None = None
    ) -> InferenceExecutor:
        """Return an executor that evaluates this element over all data and returns the loss of each epoch.

        Args:
            device: such as "cuda:0"; default: the best there is.
            devices: instead of one device, several, each of which is given whole batches.
        """
        from renom_onnx.runtime.inference_executor import InferenceExecutor

        return InferenceExecutor(self, device=device, devices=devices)

    def get_training_executor(
        self,
        optimizer: Optimizer | str | None = None,
        devices: Sequence[str] | None = None,
        **placement: Unpack[Placement],
    ) -> TrainingExecutor:
        """Return an executor that trains the parameters before this loss.

        Args:
            optimizer: or the name of one, such as "adam"; default: ``Sgd(0.01, momentum=0.4)``.
            devices: such as ["cuda:0"], or several, each of which is dealt a part of every batch; default: the best
                device there is.
            placement: options such as ``synchronize_batch_norm=True``, see `renom_onnx.runtime.TrainingSession` and
                `renom_onnx.runtime.ParallelTrainingSession`.

        Raises:
            ConversionError: there is no optimizer of that name.
        """
        from renom_onnx.graph.optimizers import training_optimizer
        from renom_onnx.runtime.executor import TrainingExecutor

        chosen = training_optimizer(optimizer, "get_training_executor")
        return TrainingExecutor(self, chosen, devices=devices, **placement)

    def get_executor(
        self, mode: str = "inference", optimizer: Optimizer | str | None = None, devices: Sequence[str] | None = None
    ) -> Executor:
        """Return ReNom 3.0's executor, which feeds placeholders: ``executor.execute({x: images, y: labels})``.

        Args:
            mode: "inference" or "training".
            optimizer: of a training, or its name; default: ``Sgd(0.01, momentum=0.4)``.
            devices: such as ["cuda:0"]; default: the best device there is.

        Raises:
            ConversionError: the mode is another, or there is no optimizer of that name.

        Example:
            >>> import numpy as np, renom_onnx as rm
            >>> x = rm.graph.Placeholder((None, 2))
            >>> total = rm.graph.ConstantLoss()(x * 2)
            >>> total.get_executor().step({x: np.ones((3, 2))}).item()
            12.0
        """
        from renom_onnx.graph.optimizers import training_optimizer
        from renom_onnx.runtime.fed_executor import Executor

        return Executor(self, mode, training_optimizer(optimizer, "get_executor"), devices=devices)

    def getInferenceExecutor(self) -> Any:
        """Return the seed's inference executor, whose `execute` prints the loss of every epoch."""
        from renom_onnx.runtime.inference_executor import PrintingInferenceExecutor

        return PrintingInferenceExecutor(self)

    def getTrainingExecutor(self, optimizer: Optimizer | str | None = None) -> TrainingExecutor:
        """Return `get_training_executor`, the seed's spelling."""
        return self.get_training_executor(optimizer)

    __iter__ = None  # an index alone would make it a sequence without end


def static(array: Any, *, is_batch: bool = False) -> GraphElement:
    """Return an array as an element; the symbol N stands for its rows if it is a batch.

    Example:
        >>> import numpy as np, renom_onnx as rm
        >>> rm.graph.static(np.ones((4, 3)), is_batch=True).shape
        ('N', 3)
    """
    return GraphElement(Static(as_numbers(array, "StaticVariable: an array"), is_batch=is_batch).output)


def as_numbers(given: Any, what: str) -> Array:
    """Return an array of numbers that ONNX has, in the byte order of this machine.

    Raises:
        DTypeError: ``what`` holds something else.
    """
    array: Array = np.asarray(given)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind not in "biufV" or not schema.has_element_type(array.dtype):
        raise DTypeError(f"{what} must hold numbers, got {array.dtype}. {created_at(user_site())}")
    return array
