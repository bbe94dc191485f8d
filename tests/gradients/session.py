"""Models in onnxruntime, fed and read with NumPy arrays of any element type."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from tests.gradients.corrected import Array, evaluator
from tests.gradients.reference import FLOATS, Feeds, UncheckableError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_EXCHANGED = {  # the element types of which onnxruntime takes and gives NumPy arrays
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.BOOL,
    *(TensorProto.DataType.Value(f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)),
}
_INTEGERS = {TensorProto.DataType.Value(name) for name in ("INT2", "INT4", "UINT2", "UINT4")}


class Session:
    """A model in onnxruntime, on one thread; feeds are converted to the types of the inputs.

    Raises:
        UncheckableError: onnxruntime does not load or run the model.
    """

    def __init__(self, model: onnx.ModelProto, provider: str = "cpu", *, is_alone: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        if is_alone and provider != "cpu":  # no node may fall back to the CPU
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        model = exchangeable(model)
        try:
            self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, [PROVIDERS[provider]])
        except Exception as e:
            raise UncheckableError(f"onnxruntime does not load it: {type(e).__name__}: {e}") from e
        if self._session.get_providers()[0] != PROVIDERS[provider]:
            raise UncheckableError(f"onnxruntime has no {PROVIDERS[provider]}")
        self._types = input_types(model)
        self._outputs = [output.name for output in model.graph.output]
        self.gradients = gradient_names(model)

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        typed: dict[str, Any] = {name: _typed(feeds[name], dtype) for name, dtype in self._types.items()}
        try:
            outputs = self._session.run(self._outputs, typed)
        except Exception as e:
            raise UncheckableError(f"onnxruntime does not run it: {type(e).__name__}: {e}") from e
        return dict(zip(self._outputs, outputs, strict=True))


class ReferenceSession:
    """A model of gradients in onnx's reference, for models that onnxruntime does not know."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = evaluator(model)
        self._outputs = [output.name for output in model.graph.output]
        self._types = input_types(model)
        self.gradients = gradient_names(model)

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        typed = {name: _typed(feeds[name], dtype) for name, dtype in self._types.items()}
        try:
            outputs = self._evaluator.run(None, typed)
        except Exception as e:
            raise UncheckableError(f"the reference does not run the gradient: {type(e).__name__}: {e}") from e
        return dict(zip(self._outputs, outputs, strict=True))


class Itself:
    """A session in the place of the reference: exact enough for an operator that is linear in each input."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._session = Session(model)

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        return {name: y.astype(np.float64) for name, y in self._session(feeds).items()}


def gradient_names(model: onnx.ModelProto) -> list[str]:
    """Return the names of the inputs whose gradients the model computes."""
    names = [output.name for output in model.graph.output]
    return [name.removesuffix("_grad") for name in names if name.endswith("_grad")]


def input_types(model: onnx.ModelProto) -> dict[str, np.dtype[Any]]:
    """Return the NumPy type of every input; of a sequence, that of its tensors."""
    return {i.name: helper.tensor_dtype_to_np_dtype(element_of(i.type)) for i in model.graph.input}


def element_of(proto: onnx.TypeProto) -> int:
    """Return the element type of a tensor, or of the tensors in a sequence or optional value."""
    kind = proto.WhichOneof("value")
    if kind == "tensor_type":
        return int(proto.tensor_type.elem_type)
    return element_of(getattr(proto, kind).elem_type) if kind in {"sequence_type", "optional_type"} else 0


def _typed(value: Any, dtype: np.dtype[Any]) -> Any:
    return [np.asarray(v, dtype) for v in value] if isinstance(value, list) else np.asarray(value, dtype)


def exchangeable(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with types that NumPy lacks converted at its border, to float32 or int8, which hold them."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph, before, after = changed.graph, [], []
    for infos, nodes in ((graph.input, before), (graph.output, after)):
        for info in infos:
            tensor = info.type.tensor_type
            if not tensor.elem_type or tensor.elem_type in _EXCHANGED | {TensorProto.STRING}:
                continue
            inner = f"{info.name}.narrow"
            for node in graph.node:
                node.input[:] = [inner if name == info.name else name for name in node.input]
                node.output[:] = [inner if name == info.name else name for name in node.output]
            carrier = TensorProto.INT8 if tensor.elem_type in _INTEGERS else TensorProto.FLOAT
            ends, to = ((info.name, inner), tensor.elem_type) if nodes is before else ((inner, info.name), carrier)
            nodes.append(helper.make_node("Cast", ends[:1], ends[1:], to=to))
            tensor.elem_type = carrier
    inner = list(graph.node)
    graph.ClearField("node")
    graph.node.extend([*before, *inner, *after])
    return changed


def runs(model: onnx.ModelProto, feeds: Feeds) -> bool:
    """Whether onnxruntime's CPU provider runs the model."""
    try:
        Session(model)(feeds)
    except UncheckableError:
        return False
    return True


def feeds_in(element: int, feeds: Feeds) -> dict[str, Array]:
    """Return the feeds rounded to another float type."""
    with np.errstate(over="ignore"):
        return {name: x.astype(FLOATS[element]) if x.dtype in FLOATS.values() else x for name, x in feeds.items()}
