"""`StepModel`: what becomes of a step, of one stage of it, or of an evaluation when device and sizes are known."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from renom_onnx.converters.cpu.joined_update import Joined, join_updates
from renom_onnx.converters.cpu.known_shapes import KnownShapes
from renom_onnx.converters.importer import default_opset
from renom_onnx.converters.in_place import in_place
from renom_onnx.converters.signature import ModelProto
from renom_onnx.converters.training_info import TrainingStep
from renom_onnx.converters.tree import as_bytes, of_bytes
from renom_onnx.converters.variants import for_device
from renom_onnx.runtime.assignment import check_assignment
from renom_onnx.runtime.chain import Chain, Memory
from renom_onnx.runtime.cuda import CudaOptions, provider_names
from renom_onnx.runtime.opening import open_session
from renom_onnx.runtime.specialization import for_sizes
from renom_onnx.runtime.tuning import tuned

MAX_PLANNED = 1 << 24
"""Bytes of all values that a step on a CPU makes, up to which its session plans their memory."""
KEPT_BYTES = 1 << 24
"""Of a model that is kept for the next device of the same sizes; one that is larger has weights that nobody trains."""


def for_kind(step: TrainingStep, kind: str) -> tuple[TrainingStep, Joined]:
    """Return a step as a kind of device runs it, and which weights and states lie behind one another for it."""
    return join_updates(step) if kind == "cpu" else (step, {})


class StepModel:
    """Opens the sessions of a step, of one stage of it, or of an evaluation.

    Args:
        model: its graph.
        kind: of the devices.
        options: of all sessions, for `open_session`.
        writes: next value by name of the state that it may write over, where it is safe.
        joined: which weights and states lie behind one another.
        survives_errors: whether a run that ends with an error must leave all state as it was.
        tune: on the CPU, choose forms by measuring them.

    Attributes:
        in_place: states that every session of it writes over.
        is_captured: whether runs are to be captured as CUDA graphs.
    """

    def __init__(
        self,
        model: ModelProto,
        kind: str,
        options: Mapping[str, Any],
        *,
        writes: Mapping[str, str] | None = None,
        joined: Mapping[str, Sequence[str]] | None = None,
        survives_errors: bool = False,
        tune: bool = False,
    ) -> None:
        self._bytes = as_bytes(for_device(model, kind))
        self._kind = kind
        self._opset = default_opset(model)
        self._options = options
        cuda: CudaOptions = options["cuda"] or CudaOptions()
        self.is_captured, self._is_strict = cuda.cuda_graph, cuda.strict
        self._tunes = tune and kind == "cpu"
        self._safe = partial(in_place, bindings=writes or {}, aliases=joined, survives_errors=survives_errors)
        self.in_place = self._safe(model) if writes else set()
        self._latest: tuple[object, tuple[bytes, bool | None]] = None, (b"", None)

    def open(self, memory: Memory, dims: Mapping[str, int] | None, *, captures: bool = False) -> Any:
        """Return a session.

        Args:
            memory: what will be bound to it, of which nothing is changed.
            dims: sizes of symbols; none where it has none, None where it is to take any.
            captures: whether its runs are captured as CUDA graphs.

        Raises:
            DeviceError: a node that must be on the device is not.
            RunError: onnxruntime refused the model.
        """
        device = memory.device
        checks = device.kind == "cuda" and dims is not None and (captures or self._is_strict)
        forms = self._tuned(memory, dims) if self._tunes and dims is not None else None
        model, plan = self._specialized(memory, dims, forms)
        session = open_session(model, device, dims=dims, capture=captures, record=checks, plan=plan, **self._options)
        if checks:
            check_assignment(session, str(device), provider_names(), self._opset)
        return session

    def _specialized(
        self, memory: Memory, dims: Mapping[str, int] | None, forms: Collection[str] | None = None
    ) -> tuple[bytes, bool | None]:
        """Return the model for some sizes, in forms in which it can write over what its other sessions do.

        Returns:
            The model, and whether its session plans its memory.
        """
        if dims is None or self._kind != "cpu":
            return self._bytes, None
        key = dict(dims), forms
        known, found = self._latest
        if key != known:
            proto = of_bytes(self._bytes)
            shapes = KnownShapes(proto, dims)
            plan = _plans(proto, shapes)
            found = for_sizes(self._bytes, memory.device, dims, forms, self._is_safe, shapes), plan
            if len(found[0]) <= KEPT_BYTES:
                self._latest = key, found
        return found

    def _is_safe(self, model: ModelProto) -> bool:
        return not self.in_place or self.in_place <= self._safe(model)

    def _tuned(self, memory: Memory, dims: Mapping[str, int]) -> frozenset[str]:
        """Return the forms that are fastest for some sizes."""
        options = self._options
        _, plan = self._specialized(memory, dims)
        return tuned(
            lambda forms: self._specialized(memory, dims, forms)[0],
            partial(open_session, device=memory.device, dims=dims, plan=plan, **options),
            {name: tensor.read() for name, tensor in memory.held(memory.state.current).items()},
            self._bytes + repr((sorted(dims.items()), options["threads"], options["spinning"])).encode(),
        )


def _plans(model: ModelProto, shapes: KnownShapes) -> bool:
    """Whether a session on a CPU plans its memory, which makes steps faster and costs what their values take."""
    made = [shapes.get(name) for node in model.graph.node for name in node.output if name]
    return sum(4 * math.prod(sizes) for sizes in made if sizes) <= MAX_PLANNED


def open_chain(models: Sequence[StepModel], memory: Memory, dims: Mapping[str, int] | None, *, is_first: bool) -> Chain:
    """Return the sessions of some stages for one size of the batch, or for any.

    Args:
        models: of the stages.
        memory: what is bound to their sessions.
        dims: see `StepModel.open`.
        is_first: whether this is the first size, whose runs are captured if that is asked for.
    """
    captures = is_first and dims is not None and models[0].is_captured
    return Chain([model.open(memory, dims, captures=captures) for model in models], memory, captures=captures)
